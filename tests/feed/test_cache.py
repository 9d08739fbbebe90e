"""Promise 8: the cache is never wrong and never too big, and a kill leaves it usable."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from penstock import CacheOptions, Lake, load_dataset
from penstock.errors import ShardError
from tests.conftest import S3Server
from tests.shards.test_shards import FINGERPRINT, publish


@pytest.fixture
def remote(s3_lake: Lake) -> Lake:
    """A lake in S3 with a published dataset."""
    publish(s3_lake)
    return s3_lake


def labels(lake: Lake, cache: CacheOptions) -> list[float]:
    """The labels of a shuffled epoch."""
    feed = load_dataset("shop/numbers", lake=lake, cache=cache).shuffle(seed=1).batch(100)
    try:
        return np.concatenate([batch["label"] for batch in feed]).tolist()
    finally:
        feed.close()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The lengths of all ranged reads from storage."""
    from penstock.storage.objects import ObjectStore

    lengths: list[int] = []
    get_range = ObjectStore.get_range_async

    async def counted(store: ObjectStore, key: str, start: int, length_bytes: int) -> object:
        lengths.append(length_bytes)
        return await get_range(store, key, start, length_bytes)

    monkeypatch.setattr(ObjectStore, "get_range_async", counted)
    yield lengths


def _disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))


def test_a_second_epoch_reads_nothing_from_storage(
    remote: Lake, tmp_path: Path, fetched: list[int]
) -> None:
    cache = CacheOptions(tmp_path / "cache")
    first = labels(remote, cache)
    cold = len(fetched)

    second = labels(remote, cache)

    assert cold >= 2
    assert len(fetched) == cold
    assert first == second
    assert sorted(first) == sorted(-float(n) for n in range(1000))


def test_the_cache_stays_within_its_budget(
    remote: Lake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, budget = tmp_path / "cache", 40_000
    with caplog.at_level(logging.WARNING):
        served = labels(remote, CacheOptions(folder, budget))

    assert sorted(served) == sorted(-float(n) for n in range(1000))
    assert 0 < _disk_bytes(folder) <= budget
    assert [record.message for record in caplog.records].count(caplog.records[0].message) == 1
    assert "budget of 40000 bytes is used up" in caplog.text


def test_a_dataset_that_nobody_has_open_makes_room(remote: Lake, tmp_path: Path) -> None:
    publish(remote, name="shop/others", fingerprint="e" * 32)
    folder = tmp_path / "cache"
    labels(remote, CacheOptions(folder))
    budget = _disk_bytes(folder) + 20_000
    other = load_dataset("shop/others", lake=remote, cache=CacheOptions(folder, budget)).batch(100)

    assert len(list(other)) == 10
    other.close()

    assert not (folder / "penstock" / FINGERPRINT).exists()
    assert _disk_bytes(folder) <= budget


def test_what_else_lies_in_the_folder_is_left_alone(remote: Lake, tmp_path: Path) -> None:
    folder = tmp_path / "nvme"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "model.pt").write_bytes(b"weeks of work")

    labels(remote, CacheOptions(folder, budget_bytes=30_000))

    assert (folder / "checkpoints" / "model.pt").read_bytes() == b"weeks of work"


def test_a_folder_that_cannot_be_made_costs_speed_and_nothing_else(
    remote: Lake, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")

    assert len(labels(remote, CacheOptions(tmp_path / "file"))) == 1000


@pytest.mark.parametrize("harm", ["emptied", "deleted"])
def test_a_cache_file_that_someone_harmed_is_fetched_again(
    remote: Lake, tmp_path: Path, harm: str
) -> None:
    folder = tmp_path / "cache"
    expected = labels(remote, CacheOptions(folder))
    for path in (folder / "penstock" / FINGERPRINT).glob("*.arrow"):
        path.write_bytes(b"") if harm == "emptied" else path.unlink()

    assert labels(remote, CacheOptions(folder)) == expected


def test_a_dataset_in_use_is_never_evicted(remote: Lake, tmp_path: Path) -> None:
    publish(remote, name="shop/others", fingerprint="e" * 32)
    folder = tmp_path / "cache"
    held = load_dataset("shop/numbers", lake=remote, cache=folder).batch(100)
    list(held)
    held.engine().store.flush()
    budget = _disk_bytes(folder) + 20_000

    other = load_dataset("shop/others", lake=remote, cache=CacheOptions(folder, budget)).batch(100)
    assert len(list(other)) == 10

    assert (folder / "penstock" / FINGERPRINT).exists()
    assert _disk_bytes(folder) <= budget
    held.close()
    other.close()


def test_a_cache_file_cut_short_is_fetched_again(
    remote: Lake, tmp_path: Path, fetched: list[int]
) -> None:
    folder = tmp_path / "cache"
    expected = labels(remote, CacheOptions(folder))
    for path in (folder / "penstock" / FINGERPRINT).glob("*.arrow"):
        os.truncate(path, 5000)
    fetched.clear()

    assert labels(remote, CacheOptions(folder)) == expected
    assert fetched


def test_marks_of_an_earlier_boot_count_for_nothing(
    remote: Lake, tmp_path: Path, fetched: list[int]
) -> None:
    folder = tmp_path / "cache"
    expected = labels(remote, CacheOptions(folder))
    (folder / "penstock" / FINGERPRINT / "boot").write_text("another boot")
    for path in (folder / "penstock" / FINGERPRINT).glob("*.arrow"):
        path.write_bytes(bytes(path.stat().st_size))  # what a power cut can leave of a file
    fetched.clear()

    assert labels(remote, CacheOptions(folder)) == expected
    assert fetched


def test_a_disk_that_is_full_costs_speed_and_nothing_else(
    remote: Lake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("penstock.feed.cache.os.posix_fallocate", full)
    with caplog.at_level(logging.WARNING):
        served = labels(remote, CacheOptions(tmp_path / "cache"))

    assert sorted(served) == sorted(-float(n) for n in range(1000))
    assert caplog.text.count("can't cache, streaming instead") == 1


def test_a_corrupted_object_is_never_served_nor_cached(remote: Lake, tmp_path: Path) -> None:
    key = f"datasets/shop/numbers/{FINGERPRINT}/shard-00000.arrow"
    data = bytearray(remote.objects.get(key))
    data[len(data) // 2] ^= 1
    remote.objects.put(key, bytes(data))

    with pytest.raises(ShardError, match="not what was published"):
        labels(remote, CacheOptions(tmp_path / "cache"))


_JOB = """
import sys
from penstock import Lake, load_dataset
feed = load_dataset("shop/numbers", lake=Lake(sys.argv[1]), cache=sys.argv[2]).shuffle(seed=1)
labels = [float(x) for batch in feed.batch(50) for x in batch["label"]]
assert sorted(labels) == sorted(-float(n) for n in range(1000)), "wrong rows"
"""


@pytest.mark.slow
def test_jobs_killed_at_random_moments_leave_a_cache_that_others_share(
    s3_server: S3Server, remote: Lake, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", _JOB, remote.uri, str(cache)]
    environment = {**os.environ, **s3_server.environment}
    clock = random.Random(3)
    for _ in range(8):
        jobs = [subprocess.Popen(command, env=environment) for _ in range(2)]
        time.sleep(clock.uniform(0.3, 1.0))
        for job in jobs:
            os.kill(job.pid, signal.SIGKILL)
            job.wait()

    jobs = [subprocess.Popen(command, env=environment) for _ in range(3)]

    assert [job.wait(timeout=60) for job in jobs] == [0, 0, 0]
