"""load_dataset: every row once, the same order on any number of ranks, resume to the sample."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from penstock import Dataset, Lake, interleave, load_dataset
from penstock.errors import DatasetNotFound, OrderError, ShardError, StateError
from tests.shards.test_shards import FINGERPRINT, publish

SHUFFLES = ["none", "full", "windowed"]


@pytest.fixture
def numbers(lake: Lake) -> Dataset:
    """A published dataset whose `features[:, 0]` is the row's number."""
    publish(lake)
    return load_dataset("shop/numbers", lake=lake)


def shuffled(dataset: Dataset, how: str, seed: int = 1) -> Dataset:
    """The dataset, shuffled in one of the ways."""
    if how == "none":
        return dataset
    return dataset.shuffle(seed, mode=how, window=3)


def rows_of(dataset: Dataset) -> list[list[int]]:
    """The row numbers of each batch of an epoch."""
    return [batch["features"][:, 0].astype(int).tolist() for batch in dataset]


@pytest.mark.parametrize("how", SHUFFLES)
def test_an_epoch_has_every_row_once(numbers: Dataset, how: str) -> None:
    batches = rows_of(shuffled(numbers, how).batch(64))

    assert sorted(n for batch in batches for n in batch) == list(range(1000))
    assert [len(batch) for batch in batches] == [64] * 15 + [40]


@pytest.mark.parametrize("how", SHUFFLES)
def test_all_columns_of_a_row_stay_together(numbers: Dataset, how: str) -> None:
    for batch in shuffled(numbers, how).batch(100):
        number = batch["features"][:, 0]
        assert batch["key"].tolist() == [f"key-{int(n)}" for n in number]
        assert np.array_equal(batch["label"], -number)
        assert np.array_equal(batch["at"], number.astype(np.int64) * 1_000_000)
        missing = np.isnan(batch["features"][:, 1])
        assert np.array_equal(missing, number % 7 == 0)


@pytest.mark.parametrize("how", SHUFFLES)
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_ranks_merged_give_the_order_of_one(numbers: Dataset, how: str, ranks: int) -> None:
    feed = shuffled(numbers, how).batch(64)
    alone = rows_of(feed)

    parts = [rows_of(feed.shard(rank, ranks)) for rank in range(ranks)]

    assert {len(part) for part in parts} == {len(alone)}
    merged = [[n for part in parts for n in part[step]] for step in range(len(alone))]
    assert merged == alone


def test_every_rank_gets_as_many_rows_when_they_do_not_divide(numbers: Dataset) -> None:
    # 1000 rows in steps of 9: the last has one row, too few for three ranks, and is left out.
    feed = numbers.batch(9)
    parts = [rows_of(feed.shard(rank, 3)) for rank in range(3)]

    assert [len(part) for part in parts] == [111, 111, 111]
    assert len(feed.shard(0, 3)) == 111
    assert len({tuple(map(len, part)) for part in parts}) == 1


def test_a_batch_that_does_not_divide_among_ranks_is_refused(numbers: Dataset) -> None:
    with pytest.raises(OrderError, match="a batch of 10 rows does not divide among 3 ranks"):
        list(numbers.batch(10).shard(0, 3))


@pytest.mark.parametrize("how", SHUFFLES)
@pytest.mark.parametrize("stop", [0, 1, 7, 15, 16])
def test_a_resumed_loader_continues_at_the_next_sample(
    numbers: Dataset, how: str, stop: int
) -> None:
    feed = shuffled(numbers, how).batch(64)
    whole = rows_of(feed) + rows_of(feed)
    feed.set_epoch(0)
    iterator = iter(feed)
    before = [next(iterator)["features"][:, 0].astype(int).tolist() for _ in range(stop)]
    state = feed.state_dict()
    iterator.close()

    again = shuffled(numbers, how).batch(64)
    again.load_state_dict(state)
    after = rows_of(again) + rows_of(again)

    assert before + after == whole


def test_a_state_taken_on_one_rank_resumes_on_four(numbers: Dataset) -> None:
    feed = numbers.shuffle(seed=5).batch(64)
    iterator = iter(feed)
    for _ in range(6):
        next(iterator)
    state, rest = feed.state_dict(), [b["features"][:, 0].astype(int).tolist() for b in iterator]

    parts = []
    for rank in range(4):
        resumed = numbers.shuffle(seed=5).batch(64).shard(rank, 4)
        resumed.load_state_dict(state)
        parts.append(rows_of(resumed))

    assert [[n for part in parts for n in part[step]] for step in range(len(rest))] == rest


def test_a_state_is_small_and_survives_json(numbers: Dataset) -> None:
    import json

    state = numbers.shuffle(seed=5, mode="windowed").batch(64).state_dict()

    assert len(json.dumps(state)) < 1000
    assert json.loads(json.dumps(state)) == state


@pytest.mark.parametrize("change", ["batch", "seed", "split", "limit"])
def test_a_state_of_other_settings_is_refused(lake: Lake, change: str) -> None:
    publish(lake)
    feed = load_dataset("shop/numbers", lake=lake).shuffle(seed=1).batch(32)
    state = feed.state_dict()
    other = {
        "batch": feed.batch(64),
        "seed": feed.shuffle(seed=2),
        "split": load_dataset("shop/numbers", split="test", lake=lake).shuffle(seed=1).batch(32),
        "limit": feed.limit(10),
    }[change]

    with pytest.raises(StateError, match="the state was taken with"):
        other.load_state_dict(state)


def test_each_pass_is_an_epoch_of_its_own_and_can_be_asked_for(numbers: Dataset) -> None:
    feed = numbers.shuffle(seed=1).batch(1000)
    first, second = rows_of(feed), rows_of(feed)
    feed.set_epoch(0)

    assert first != second
    assert rows_of(feed) == first


def test_breaking_off_starts_the_epoch_again(numbers: Dataset) -> None:
    feed = numbers.shuffle(seed=1).batch(100)
    for batch in feed:
        first = batch["features"][:, 0].tolist()
        break

    assert next(iter(feed))["features"][:, 0].tolist() == first


def test_forms_hold_the_same_values(numbers: Dataset) -> None:
    feed = numbers.shuffle(seed=1).batch(100)
    (as_numpy, as_torch, as_arrow, as_polars) = (
        next(iter(feed.to(form))) for form in ("numpy", "torch", "arrow", "polars")
    )

    assert isinstance(as_torch["features"], torch.Tensor)
    assert np.array_equal(as_torch["features"].numpy(), as_numpy["features"], equal_nan=True)
    assert as_torch["label"].dtype == torch.float32
    assert isinstance(as_arrow, pa.RecordBatch)
    assert as_arrow.schema.field("at").type == pa.timestamp("us", "UTC")
    assert as_arrow.column("key").to_pylist() == as_numpy["key"].tolist()
    assert isinstance(as_polars, pl.DataFrame)
    assert as_polars["label"].to_list() == as_numpy["label"].tolist()


def test_rows_by_number(numbers: Dataset) -> None:
    assert len(numbers) == 1000
    assert numbers[7]["key"].tolist() == ["key-7"]
    assert numbers[-1]["key"].tolist() == ["key-999"]
    assert numbers[[5, 900, 5]]["key"].tolist() == ["key-5", "key-900", "key-5"]
    assert numbers[990:]["label"].tolist() == [-float(n) for n in range(990, 1000)]
    assert numbers[[]]["features"].shape == (0, 2)
    with pytest.raises(IndexError, match="1,000 rows"):
        numbers[1000]


def test_columns_and_limit(lake: Lake) -> None:
    publish(lake)
    feed = load_dataset("shop/numbers", columns=["label"], lake=lake).limit(150).batch(100)

    batches = list(feed)

    assert [list(batch) for batch in batches] == [["label"], ["label"]]
    assert [len(batch["label"]) for batch in batches] == [100, 50]
    with pytest.raises(OrderError, match="no column lable; there are"):
        load_dataset("shop/numbers", columns=["lable"], lake=lake)


def test_what_it_tells_of_itself(numbers: Dataset) -> None:
    assert numbers.features == ["x", "y"]
    assert numbers.stats["mean"][0] == pytest.approx(499.5)
    assert "train: 1,000, test: 50" in repr(numbers)
    assert FINGERPRINT in numbers._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name_or_uri": "shop/number"}, "no dataset shop/number. Did you mean shop/numbers?"),
        ({"split": "trian"}, "no split trian. Did you mean train?"),
        ({"version": "lastest"}, "no tag lastest. Did you mean latest?"),
        ({"version": "0" * 32}, f"no version {'0' * 32}"),
    ],
)
def test_what_is_not_there_is_told_with_what_is_near(
    lake: Lake, arguments: dict[str, str], message: str
) -> None:
    publish(lake)

    with pytest.raises(DatasetNotFound, match=message.replace("?", r"\?")):
        load_dataset(**{"name_or_uri": "shop/numbers", "lake": lake, **arguments})


def test_a_dataset_opens_by_its_uri(lake: Lake) -> None:
    publish(lake)

    assert len(load_dataset(f"{lake.uri}/datasets/shop/numbers", split="test")) == 50


def test_a_batch_size_must_be_given(numbers: Dataset) -> None:
    with pytest.raises(OrderError, match=r"say how many rows a batch has"):
        next(iter(numbers))


def test_bytes_that_are_not_what_was_published_are_never_served(lake: Lake) -> None:
    manifest = publish(lake)
    path = Path(lake.uri) / "datasets/shop/numbers" / FINGERPRINT / manifest.shards[0].file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    with pytest.raises(ShardError, match="not what was published"):
        list(load_dataset("shop/numbers", lake=lake).batch(100))


def test_a_shard_cut_short_is_told(lake: Lake) -> None:
    manifest = publish(lake)
    path = Path(lake.uri) / "datasets/shop/numbers" / FINGERPRINT / manifest.shards[0].file
    path.write_bytes(path.read_bytes()[:3000])

    with pytest.raises(ShardError):
        list(load_dataset("shop/numbers", lake=lake).batch(100))


def test_threads_end_with_the_loop(numbers: Dataset) -> None:
    def feeding() -> int:
        return sum(thread.name == "penstock-feed" for thread in threading.enumerate())

    feed = numbers.batch(10)
    for _ in feed:
        break
    gc.collect()
    assert feeding() == 0
    with pytest.raises(ZeroDivisionError):
        for _ in feed:
            raise ZeroDivisionError
    gc.collect()
    assert feeding() == 0


def test_a_script_that_stops_inside_the_loop_exits(lake: Lake) -> None:
    publish(lake)
    script = (
        "import sys, penstock\n"
        f"feed = penstock.load_dataset('shop/numbers', lake={lake.uri!r}).batch(10)\n"
        "iterator = iter(feed)\nnext(iterator)\nsys.exit(3)"
    )

    assert subprocess.run([sys.executable, "-c", script], timeout=30, check=False).returncode == 3


def test_a_dataset_pickles_small(numbers: Dataset) -> None:
    feed = numbers.shuffle(seed=1).batch(100)
    expected = rows_of(feed)
    feed.set_epoch(0)

    data = pickle.dumps(feed)

    assert len(data) < 20_000
    assert rows_of(pickle.loads(data)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataloader_around_it_gives_the_same_batches(
    numbers: Dataset, workers: int, context: str
) -> None:
    feed = numbers.shuffle(seed=1).batch(100).to("torch")
    expected = [batch["label"].tolist() for batch in feed]
    feed.set_epoch(0)

    loader = DataLoader(
        feed,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context if workers else None,
    )

    assert [batch["label"].tolist() for batch in loader] == expected


def test_a_dataloader_without_to_torch_is_refused_and_not_fed_rows(numbers: Dataset) -> None:
    loader = DataLoader(numbers.batch(100), batch_size=None)

    with pytest.raises(OrderError, match="take rows by number before"):
        next(iter(loader))


@pytest.mark.slow
@pytest.mark.parametrize("mixes", [False, True])
def test_forked_workers_do_not_write_into_one_anothers_batches(tmp_path: Path, mixes: bool) -> None:
    columns = {f"x{n}": np.arange(80_000, dtype=np.float32) for n in range(8)}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet", row_group_size=20_000)
    dataset = load_dataset(tmp_path / "rows.parquet", cache=tmp_path / "cache").shuffle(seed=1)
    whole = interleave([dataset]) if mixes else dataset
    feed = whole.batch(8_000).to("torch")
    assert sum(len(batch["x0"]) for batch in feed) == 80_000  # leaves memory to be used again

    for _ in range(2):
        loader = DataLoader(
            feed, batch_size=None, num_workers=2, multiprocessing_context="fork", prefetch_factor=4
        )
        rows = [batch["x0"] for batch in loader]
        assert len(np.unique(np.concatenate(rows))) == 80_000


def labels_of(feed: Iterable[Any], most: int = 1 << 30) -> list[int]:
    """The labels, a row each, of a pass that counts its batches."""
    return [int(n) for _, batch in zip(range(most), feed, strict=False) for n in batch["label"]]


def mixed_or_not(numbers: Dataset, mixes: bool) -> Any:
    """Ten batches an epoch, of a mixture of one or of the dataset itself."""
    shuffled = numbers.shuffle(seed=1)
    return (interleave([shuffled]) if mixes else shuffled).batch(100).to("torch")


@pytest.mark.parametrize("mixes", [False, True])
def test_whoever_counts_batches_has_each_epoch_too(numbers: Dataset, mixes: bool) -> None:
    feed = mixed_or_not(numbers, mixes)
    expected = [[int(n) for batch in feed for n in batch["label"]] for _ in range(3)]
    feed.set_epoch(0)

    assert [labels_of(feed, len(feed)) for _ in range(3)] == expected
    assert expected[0] != expected[1] != expected[2]


@pytest.mark.parametrize("mixes", [False, True])
def test_a_trainer_tells_the_number_of_each_epoch(numbers: Dataset, mixes: bool) -> None:
    feed = mixed_or_not(numbers, mixes)
    epochs = [labels_of(feed) for _ in range(4)]

    def told(epoch: int, batches: int = 100) -> list[int]:
        feed.batch_sampler.sampler.set_epoch(epoch)  # as Lightning does it
        return labels_of(feed, batches)

    assert told(0, 3) == epochs[0][:300]
    state = feed.state_dict()
    assert told(1, 3) == epochs[1][:300]
    # A state loaded within the epoch that the trainer begins with: what is left of it.
    feed.load_state_dict(state)
    assert told(0) == epochs[0][300:]
    # A state of the last batch that the trainer took, which goes on with the next epoch.
    feed.load_state_dict(state)
    assert told(1, 3) == epochs[1][:300]
    # A state of a later epoch, loaded before a trainer that begins at 0.
    feed.set_epoch(2)
    labels_of(feed, 3)
    later = feed.state_dict()
    feed.set_epoch(0)
    feed.load_state_dict(later)
    assert told(0) == epochs[2][300:]
    assert told(1) == epochs[3]


def test_it_is_a_context_manager(numbers: Dataset) -> None:
    with numbers.batch(100) as feed:
        assert len(list(feed)) == 10


_RANK = """
import sys
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.data import DataLoader
from penstock import load_dataset

def main(rank, lake, file, given):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    feed = load_dataset("shop/numbers", lake=lake).batch(100).to("torch")
    loader = DataLoader(feed, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    for source in (loader, given):  # one made here, and one that came pickled
        rows = [int(n) for batch in source for n in batch["features"][:, 0]]
        gathered = [None, None]
        dist.all_gather_object(gathered, rows)
        assert sorted(gathered[0] + gathered[1]) == list(range(1000)), [len(g) for g in gathered]
    dist.destroy_process_group()  # its threads abort a process that ends before they do

if __name__ == "__main__":
    given = load_dataset("shop/numbers", lake=sys.argv[1]).batch(100).to("torch")
    mp.spawn(main, args=(sys.argv[1], sys.argv[2], given), nprocs=2)
"""


@pytest.mark.slow
def test_spawned_workers_feed_the_rank_that_they_work_for(lake: Lake, tmp_path: Path) -> None:
    publish(lake)
    script = tmp_path / "job.py"
    script.write_text(_RANK)
    command = [sys.executable, str(script), lake.uri, str(tmp_path / "rendezvous")]

    subprocess.run(command, check=True, timeout=120)
