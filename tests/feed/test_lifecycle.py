"""What a training process is left with: no threads, no files, true numbers, and words for slips."""

from __future__ import annotations

import gc
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from deltalake import write_deltalake

from penstock import Dataset, Lake, interleave, load_dataset
from penstock.errors import DatasetNotFound, OrderError, StateError
from penstock.feed.workers import Workers
from tests.shards.test_shards import publish


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Three files of 100 rows, in blocks of 20."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    for part in range(3):
        table = pa.table({"n": np.arange(100) + 100 * part, "x": np.zeros(100, np.float32)})
        pq.write_table(table, folder / f"{part}.parquet", row_group_size=20)
    return folder


def iterated(parquet: Path, lake: Lake, cache: Path) -> None:
    """An epoch of what lies unpublished."""
    for _ in load_dataset(parquet, cache=cache).shuffle(seed=1).batch(50):
        pass


def failed(parquet: Path, lake: Lake, cache: Path) -> None:
    """A loop that raises."""
    with pytest.raises(ZeroDivisionError):
        for _ in load_dataset(parquet, cache=cache).batch(50):
            raise ZeroDivisionError


def indexed(parquet: Path, lake: Lake, cache: Path) -> None:
    """One row of a published dataset, and one of a Parquet folder."""
    load_dataset("shop/numbers", lake=lake)[3]
    load_dataset(parquet, cache=cache)[3]


@pytest.mark.parametrize("used", [iterated, failed, indexed])
def test_datasets_that_nobody_closes_leave_neither_threads_nor_files(
    parquet: Path, lake: Lake, tmp_path: Path, used: Callable[..., None]
) -> None:
    publish(lake)

    def held() -> tuple[set[str], int]:
        gc.collect()
        until = time.monotonic() + 10
        while (names := ours()) and time.monotonic() < until:
            time.sleep(0.02)
        return names, len([*Path("/proc/self/fd").iterdir()])

    used(parquet, lake, tmp_path / "cache")  # what is opened once for good is open now
    before = held()
    for _ in range(8):
        used(parquet, lake, tmp_path / "cache")

    names, files = held()
    assert names == set()
    assert files <= before[1]


def ours() -> set[str]:
    """Names of our threads that run."""
    return {t.name for t in threading.enumerate() if t.name.startswith("penstock-")}


def test_threads_without_work_end_and_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.feed.workers._IDLE_SECONDS", 0.01)
    workers, ran = Workers(2, "penstock-idle"), list[int]()
    for number in range(30):
        workers.submit(lambda number=number: ran.append(number))
        time.sleep(0.004 * (number % 5))  # some while one is about to end
    until = time.monotonic() + 10
    while (len(ran) < 30 or "penstock-idle-0" in ours()) and time.monotonic() < until:
        time.sleep(0.01)

    assert sorted(ran) == [*range(30)]
    assert not {name for name in ours() if name.startswith("penstock-idle")}
    workers.close()


def test_bytes_and_files_are_those_of_the_data(parquet: Path, tmp_path: Path) -> None:
    with load_dataset(parquet, cache=tmp_path / "cache").batch(50) as feed:
        list(feed)  # the cache has them now
    feed = load_dataset(parquet, cache=tmp_path / "cache").batch(50)
    list(feed)

    counted = feed.metrics()
    assert 0 < counted["bytes_from_disk"] <= 2 * 300 * (8 + 4) + 2 * 15 * 64
    assert "15 blocks of 3 files" in str(feed.explain())
    assert "in 3 files" in repr(feed)
    assert (
        load_dataset(parquet, cache=tmp_path / "cache")
        .shuffle(seed=1)
        .batch(100)
        .shuffle_quality()
        .shards_a_batch
        == 3
    )


def test_the_next_epochs_blocks_come_before_this_one_ends(
    parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = load_dataset(parquet, cache=tmp_path / "cache").shuffle(seed=1, mode="windowed")
    feed = feed.batch(20)
    wanted = list[np.ndarray]()
    want = feed.engine().store.want

    def noted(blocks: np.ndarray) -> None:
        wanted.append(blocks)
        want(blocks)

    monkeypatch.setattr(feed.engine().store, "want", noted)
    batches = iter(feed)
    for _ in range(len(feed)):  # the last batch is had, and the end not asked for
        next(batches)
    until = time.monotonic() + 10
    while sum(map(len, wanted)) <= 15 and time.monotonic() < until:
        time.sleep(0.01)

    assert sum(map(len, wanted)) > 15  # an epoch has so many blocks, each once


def test_a_limit_bounds_the_numbers_of_rows(parquet: Path, tmp_path: Path) -> None:
    few = load_dataset(parquet, cache=tmp_path / "cache").limit(10)

    assert len(few) == len(few[:]["n"]) == 10
    with pytest.raises(IndexError):
        few[10]


def test_a_map_keeps_the_rows_of_a_batch(parquet: Path, tmp_path: Path) -> None:
    feed = load_dataset(parquet, cache=tmp_path / "cache").batch(50)

    with pytest.raises(OrderError, match="25 rows for 50; a map keeps"):
        next(iter(feed.map(lambda batch: {"n": batch["n"][::2]})))


def test_nulls_that_become_zero_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pa.table({"n": [1, None, 3] * 20, "x": [1.0, None, 3.0] * 20})
    pq.write_table(table, tmp_path / "n.parquet", row_group_size=20)

    with caplog.at_level(logging.WARNING):
        found = load_dataset(tmp_path / "n.parquet", cache=tmp_path / "cache")[:]
        load_dataset(tmp_path / "n.parquet", cache=tmp_path / "cache").to("arrow")[:]

    assert found["n"][:3].tolist() == [1, 0, 3]
    assert [r.message for r in caplog.records if "nulls" in r.message] == [
        "column n has nulls, which come as 0: leave those rows out by a filter, or take arrow or "
        "polars batches, which keep nulls"
    ]


def test_versions_are_numbers_too_and_a_later_one_is_told(tmp_path: Path) -> None:
    for n in range(2):
        write_deltalake(str(tmp_path / "t"), pa.table({"n": [n]}), mode="append")

    assert load_dataset(tmp_path / "t", version=0, cache=tmp_path / "cache")[:]["n"].tolist() == [0]
    with pytest.raises(DatasetNotFound, match="no version 12; the newest is 1"):
        load_dataset(tmp_path / "t", version="12")
    with pytest.raises(OrderError, match="split is the name of one"):
        load_dataset(tmp_path / "t", split=None)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(parquet: Path, tmp_path: Path) -> None:
    feed = load_dataset(parquet, cache=tmp_path / "cache").batch(50).to("torch", device="cuda")

    with pytest.raises(OrderError, match="finds no GPU on this machine"):
        next(iter(feed))


# Mixtures whose weights change


def mixed(lake: Lake, shares: Any = (1, 1)) -> Any:
    """Of 1,000 rows, labelled by row, and 300; 4 steps of 50 an epoch."""
    parts: list[Dataset] = [load_dataset(n, lake=lake) for n in ("shop/numbers", "shop/others")]
    return interleave(parts, weights=list(shares), stop=4).batch(50)


@pytest.fixture
def two(lake: Lake) -> Lake:
    """shop/numbers of 1,000 rows, and shop/others of 300."""
    publish(lake)
    publish(lake, rows=300, name="shop/others", fingerprint="e" * 32)
    return lake


def labels(feed: Any) -> list[float]:
    """Every label of an epoch, in order."""
    return [float(label) for batch in feed for label in batch["label"]]


@pytest.mark.parametrize("in_workers", [False, True])
def test_new_weights_go_on_where_the_old_ones_left_each_source(two: Lake, in_workers: bool) -> None:
    feed = mixed(two)
    first = labels(mixed(two) if in_workers else feed)  # workers have copies of their own
    feed.set_weights([3, 1])
    feed.set_epoch(1)
    second = labels(feed)

    again = mixed(two)
    labels(again)
    again.set_weights([3, 1])
    assert labels(again) == second
    # Of 200 each: 100 + 150 of the one, 100 + 50 of the other, in order and none twice.
    assert sorted(np.abs(first + second).tolist()) == sorted([*range(250), *range(150)])


def test_weights_change_after_the_last_batch_though_the_end_was_not_asked_for(two: Lake) -> None:
    feed = mixed(two)
    for _ in zip(range(len(feed)), feed, strict=False):
        pass
    feed.set_weights([3, 1])

    assert len(labels(feed)) == 200
    assert feed.epoch == 2


def test_a_state_of_more_datasets_is_told_and_small(two: Lake) -> None:
    state = mixed(two).state_dict()
    parts = [load_dataset("shop/numbers", lake=two) for _ in range(40)]

    with pytest.raises(StateError, match="of 2 interleaved datasets, and these are 40"):
        interleave(parts, stop=4).batch(40).load_state_dict(state)
    assert len(json.dumps(interleave(parts, stop=4).batch(40).state_dict())) < 1000
