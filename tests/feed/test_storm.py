"""Promise 8 under fire: jobs killed at any instant, a full disk, a small budget, many processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock import CacheOptions, Dataset, FetchOptions, Lake, load_dataset
from penstock.feed.cache import ShardCache, cached_bytes
from tests.conftest import S3Server
from tests.shards.test_shards import publish

ROWS, BLOCK = 20_000, 1_000


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Parquet file of 20 row groups; column `n` is the row's number, 40 others follow from it."""
    path = tmp_path_factory.mktemp("storm") / "table.parquet"
    numbers = np.arange(ROWS)
    columns = {f"x{place}": (numbers * (place + 1)).astype(np.float32) for place in range(40)}
    pq.write_table(pa.table({"n": numbers, **columns}), path, row_group_size=BLOCK)
    return path


def is_right(feed: Dataset) -> bool:
    """Whether an epoch has every row once, and each row's columns belong together."""
    seen = list[int]()
    with feed.shuffle(seed=1, mode="windowed", window=4).batch(500) as batches:
        for batch in batches:
            seen += batch["n"].tolist()
            for place in (0, 20, 39):
                if not np.array_equal(
                    batch[f"x{place}"], (batch["n"] * (place + 1)).astype(np.float32)
                ):
                    return False
    return sorted(seen) == list(range(ROWS))


def disk_bytes(folder: Path) -> int:
    """What a folder takes on disk now."""
    total = 0
    for path in [folder, *folder.rglob("*")]:
        with suppress(FileNotFoundError):
            total += path.stat().st_blocks * 512
    return total


def forked(job: Callable[[], bool]) -> int:
    """A process that runs a job and exits with 0 when it returns True."""
    number = os.fork()
    if number == 0:
        code = 9
        try:
            code = 0 if job() else 7
        finally:
            os._exit(code)
    return number


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """The bytes that a folder takes, looked at over and over."""
    sizes, is_over = [0], threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            sizes.append(disk_bytes(folder))
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield sizes
    finally:
        is_over.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("budget", [100 << 20, 1_500_000], ids=["roomy", "evicting"])
def test_three_hundred_kills_leave_a_cache_that_just_works(
    table: Path, tmp_path: Path, budget: int
) -> None:
    options = CacheOptions(tmp_path / "cache", budget)
    opened = load_dataset(str(table), cache=options)
    clock = random.Random(budget)
    kills = 0
    with watched(tmp_path / "cache") as sizes:
        while kills < 150:
            jobs = list[int]()
            for _ in range(2):
                jobs.append(forked(lambda: is_right(opened)))
            time.sleep(clock.uniform(0.005, 0.12))
            for job in jobs:
                os.kill(job, signal.SIGKILL)
                _, status = os.waitpid(job, 0)
                assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
                kills += 1
            if kills % 30 == 0:
                for path in (tmp_path / "cache").rglob("blocks-*"):
                    assert path.stat().st_size  # there, whatever became of its writers
                with load_dataset(str(table), cache=options) as feed:
                    assert is_right(feed)
    assert max(sizes) <= budget


def test_training_does_not_wait_for_the_cache_to_be_written(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, may_write, write = CacheOptions(tmp_path), threading.Event(), ShardCache.write

    def slow(cache: ShardCache, block: int, data: memoryview, checksum: int) -> bool:
        return may_write.wait(30) and write(cache, block, data, checksum)

    monkeypatch.setattr(ShardCache, "write", slow)
    feed = load_dataset(str(table), cache=options).shuffle(1, mode="windowed", window=4).batch(500)

    epochs = [sorted(n for batch in feed for n in batch["n"].tolist()) for _ in range(2)]
    on_disk = cached_bytes(options, feed.fingerprint, ROWS // BLOCK)
    may_write.set()
    feed.close()

    assert epochs == [list(range(ROWS))] * 2
    assert on_disk == 0
    assert cached_bytes(options, feed.fingerprint, ROWS // BLOCK) > ROWS * 40 * 4
    assert feed.metrics()["fetches"] == ROWS // BLOCK  # the second epoch found them in memory


_ENDS_AT_ONCE = """
import sys
from penstock import load_dataset
feed = load_dataset(sys.argv[1], cache=sys.argv[2]).shuffle(1, mode="windowed", window=4)
for batch in feed.batch(500):
    pass
print(feed.fingerprint)
"""


def test_a_process_that_ends_has_written_what_it_fetched(table: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _ENDS_AT_ONCE, str(table), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    cached = cached_bytes(CacheOptions(tmp_path), ended.stdout.strip(), ROWS // BLOCK)
    assert cached > ROWS * 40 * 4


@pytest.mark.slow
def test_parallel_jobs_share_a_folder_and_a_budget(table: Path, tmp_path: Path) -> None:
    opened = load_dataset(str(table), cache=CacheOptions(tmp_path / "cache", 2_000_000))
    with watched(tmp_path / "cache") as sizes:
        jobs = list[int]()
        for _ in range(4):
            jobs.append(forked(lambda: all(is_right(opened) for _ in range(3))))
        ends = [os.WEXITSTATUS(os.waitpid(job, 0)[1]) for job in jobs]
    assert ends == [0, 0, 0, 0]
    assert 0 < max(sizes) <= 2_000_000


def test_a_job_that_was_stopped_does_not_stop_others(table: Path, tmp_path: Path) -> None:
    options, quick = CacheOptions(tmp_path / "cache"), FetchOptions(stall_seconds=0.3)
    feed = load_dataset(str(table), cache=options, fetch=quick)
    layout = feed._opened.source.layout
    stopped = ShardCache(options, feed.fingerprint, layout)
    assert all(stopped.claim(block) for block in range(5))  # and never fetches them

    assert is_right(feed)

    stopped.close()
    feed.close()


def test_a_job_evicts_what_it_needs_latest(table: Path, tmp_path: Path) -> None:
    def read_again(budget: int) -> float:
        feed = load_dataset(str(table), cache=CacheOptions(tmp_path / str(budget), budget))
        feed = feed.shuffle(seed=1, mode="windowed", window=2).batch(500)
        for _ in range(6):
            for _ in feed:
                pass
        read = feed.metrics()["bytes_from_storage"]
        feed.close()
        return read

    whole = read_again(100 << 20)  # all of it is read once
    half = read_again(2_000_000)

    # Had what was used longest ago gone first, nearly all would be read in each of six epochs.
    assert half < whole * (1 + 5 * 0.75)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_costs_speed_and_one_warning(
    table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk can't be mounted here")
    try:
        feed = load_dataset(str(table), cache=CacheOptions(disk))
        assert is_right(feed)
        assert caplog.text.count("can't cache, streaming instead") == 1
        feed.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


_RANK = """
import sys
from penstock import CacheOptions, load_dataset
feed = load_dataset("shop/numbers", lake=sys.argv[1], cache=sys.argv[2])
feed = feed.shuffle(seed=1, mode=sys.argv[5], window=8).shard(int(sys.argv[3]), 4).batch(80)
rows = [int(-n) for batch in feed for n in batch["label"]]
feed.close()  # what was being brought for the next epoch is here then, and counted
print(int(feed.metrics()["bytes_from_storage"]), len(rows), sum(rows))
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "windowed"])
def test_four_processes_of_a_node_fetch_each_byte_once(
    s3_server: S3Server, s3_lake: Lake, tmp_path: Path, mode: str
) -> None:
    manifest = publish(s3_lake, rows=8000, block_bytes=8192, shard_bytes=65_536)
    command = [sys.executable, "-c", _RANK, s3_lake.uri, str(tmp_path / "cache")]
    environment = {**os.environ, **s3_server.environment}

    ranks = [
        subprocess.Popen([*command, str(n), "4", mode], env=environment, stdout=subprocess.PIPE)
        for n in range(4)
    ]
    told = [[int(n) for n in rank.communicate(timeout=60)[0].split()] for rank in ranks]

    blocks = load_dataset("shop/numbers", lake=s3_lake)._opened.source.block_bytes
    assert sum(fetched for fetched, _, _ in told) == int(blocks.sum())
    assert [count for _, count, _ in told] == [manifest.splits["train"] // 4] * 4
    assert sum(total for _, _, total in told) == sum(range(8000))
