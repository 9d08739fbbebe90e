"""Hugging Face datasets: a memory-mapped Arrow file locally, streamed Parquet from S3.

Read as an `IterableDataset` (shards in random order, ten at a time into a shuffle buffer), which
its documentation advises over shuffling a `Dataset` and is far quicker; and in its `arrow` format,
as its `torch` format makes an array of every row.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from benchmarks.feed.data import BATCH, Data
from benchmarks.feed.peers import COLD, LOCAL, Batch, packed, write_once
from benchmarks.feed.peers.arrow import batch_of, record_batches

NAME = "Hugging Face datasets"
WORKS = LOCAL | COLD

_FILES = 8
"""Parquet files of a cold work."""
_SHARDS = 64
"""Parts of a local file, to shuffle and to share among workers."""
_BUFFER = {"rows": 100_000, "cold-rows": 100_000}
"""Rows in the shuffle buffer; 1,000, its default, for what is larger than rows."""

# It sleeps for 5 s at the end of a streamed epoch, against a crash of Arrow's threads at exit.
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0


def version() -> str:
    """The library's version."""
    return datasets.__version__


def prepare(work: str, data: Data, folder: Path | str) -> None:
    """Write an Arrow file as its own cache holds them, or 8 Parquet files."""

    def write(to: Path) -> None:
        if work in COLD:
            _write_parquet(work, data, to)
            return
        batches = record_batches(work, data)
        first = next(batches)
        with pa.ipc.new_stream(to / "data.arrow", first.schema) as writer:
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch)

    write_once(folder, f"{work} {data}", write)


def epoch(
    work: str, folder: Path | str, *, workers: int, epoch: int, cache: Path
) -> Iterator[Batch]:
    """One epoch; a full shuffle only of what the buffer holds."""
    del cache  # streaming keeps nothing
    if work in COLD:
        dataset = _streamed(str(folder))
    else:
        whole = datasets.Dataset.from_file(str(Path(folder) / "data.arrow"))
        dataset = whole.to_iterable_dataset(num_shards=min(_SHARDS, len(whole)))
    dataset = dataset.shuffle(seed=epoch, buffer_size=_BUFFER.get(work, 1000))
    batches: Any = _Batches(work, dataset.with_format("arrow"))
    if workers > 0:
        batches = DataLoader(batches, batch_size=None, num_workers=workers)
    yield from packed(batches) if work == "tokens" else batches


def _streamed(folder: str) -> datasets.IterableDataset:
    dataset = datasets.load_dataset(
        "parquet",
        data_files=f"{folder}/*.parquet",
        split="train",
        streaming=True,
        storage_options={
            "key": os.environ["AWS_ACCESS_KEY_ID"],
            "secret": os.environ["AWS_SECRET_ACCESS_KEY"],
            "client_kwargs": {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]},
        },
    )
    assert isinstance(dataset, datasets.IterableDataset)
    return dataset


class _Batches(IterableDataset[Any]):
    """Batches of a dataset, of this worker's share of it where torch runs several."""

    def __init__(self, work: str, dataset: datasets.IterableDataset) -> None:
        self.work = work
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        share = self.dataset
        if worker is not None:
            share = share.shard(num_shards=worker.num_workers, index=worker.id)
        for table in share.iter(256 if self.work == "tokens" else BATCH[self.work]):
            yield batch_of(self.work, table)


def _write_parquet(work: str, data: Data, to: Path) -> None:
    table = pa.Table.from_batches(list(record_batches(work, data)))
    for number in range(_FILES):
        start, stop = (len(table) * n // _FILES for n in (number, number + 1))
        pq.write_table(
            table.slice(start, stop - start),
            to / f"{number:05d}.parquet",
            row_group_size=100 if work == "cold-blobs" else 25_000,
        )
