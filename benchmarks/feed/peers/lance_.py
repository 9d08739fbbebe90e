"""Lance: `take` of a batch's random row numbers, and from S3 its torch dataset of random ranges.

Lance is not safe to fork, and its reads run in threads of its own, so `workers` here are threads
that each take a batch. From S3, where `take` of scattered rows would read the column over and over,
its `ShardedBatchSampler` shuffles ranges of a batch: the rows of a batch are neighbours.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from lance.sampler import ShardedBatchSampler
from lance.torch.data import LanceDataset

from benchmarks.feed.data import BATCH, Data
from benchmarks.feed.peers import COLD, LOCAL, Batch, packed, write_once
from benchmarks.feed.peers.arrow import batch_of, record_batches

NAME = "Lance"
WORKS = LOCAL | COLD


def version() -> str:
    """The library's version."""
    return lance.__version__


def prepare(work: str, data: Data, folder: Path | str) -> None:
    """Write one Lance dataset in its default file format."""

    def write(to: Path) -> None:
        batches = record_batches(work, data)
        first = next(batches)

        def all_batches() -> Iterator[pa.RecordBatch]:
            yield first
            yield from batches

        reader = pa.RecordBatchReader.from_batches(first.schema, all_batches())
        lance.write_dataset(reader, str(to / "data.lance"))

    write_once(folder, f"{work} {data}", write)


def epoch(
    work: str, folder: Path | str, *, workers: int, epoch: int, cache: Path
) -> Iterator[Batch]:
    """One epoch: a full shuffle locally, of ranges from S3 (which keeps nothing on disk)."""
    del cache
    if work in COLD:
        return _streamed(work, str(folder), epoch)
    batches = _taken(work, Path(folder), epoch, threads=max(1, workers))
    return packed(batches) if work == "tokens" else batches


def _taken(work: str, folder: Path, seed: int, threads: int) -> Iterator[Any]:
    dataset = lance.dataset(str(folder / "data.lance"))
    size = 256 if work == "tokens" else BATCH[work]
    order = np.random.default_rng(seed).permutation(dataset.count_rows())
    with ThreadPoolExecutor(threads) as pool:

        def batch(start: int) -> Any:
            table = dataset.take(pa.array(order[start : start + size]))
            return batch_of(work, table)

        waiting: deque[Future[Any]] = deque()
        for start in range(0, len(order), size):
            waiting.append(pool.submit(batch, start))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _streamed(work: str, folder: str, seed: int) -> Iterator[Any]:
    dataset = lance.dataset(
        f"{folder}/data.lance",
        storage_options={
            "aws_endpoint": os.environ["AWS_ENDPOINT_URL"],
            "allow_http": "true",
        },
    )
    yield from LanceDataset(
        dataset,
        batch_size=BATCH[work],
        sampler=ShardedBatchSampler(0, 1, randomize=True, seed=seed),
        to_tensor_fn=lambda batch, **_: batch_of(work, pa.table(batch)),
    )
