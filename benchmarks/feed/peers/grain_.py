"""Grain: a shuffled `MapDataset` of row numbers, batched and then mapped to whole batches.

Rows and tokens lie in `.npy` files mapped into memory, files in ArrayRecord, its own format.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import grain
import numpy as np
import torch
from array_record.python.array_record_module import ArrayRecordWriter
from numpy.typing import NDArray

from benchmarks.feed.data import BATCH, Data
from benchmarks.feed.peers import LOCAL, Batch, decode, packed, torch_loader, write_once

NAME = "Grain"
WORKS = LOCAL


def version() -> str:
    """The library's version."""
    return installed("grain")


def prepare(work: str, data: Data, folder: Path | str) -> None:
    """Write `.npy` files, or an ArrayRecord file that gives one record at a time."""
    if work in ("rows", "tokens"):
        torch_loader.prepare(work, data, folder)
        return

    def write(to: Path) -> None:
        writer = ArrayRecordWriter(str(to / "files.array_record"), "group_size:1,uncompressed")
        for file in data.files(work):
            writer.write(file)
        writer.close()

    write_once(folder, f"{work} {data}", write)


def epoch(
    work: str, folder: Path | str, *, workers: int, epoch: int, cache: Path
) -> Iterator[Batch]:
    """One epoch in a full shuffle, prefetched by its threads, and by processes if `workers`."""
    del cache
    size = 256 if work == "tokens" else BATCH[work]
    if work in ("rows", "tokens"):
        gather = _Rows(Path(folder)) if work == "rows" else _Tokens(Path(folder))
        batches = grain.MapDataset.range(len(gather)).shuffle(seed=epoch)
        batches = batches.batch(size, batch_fn=np.array).map(gather)
    else:
        source = grain.sources.ArrayRecordDataSource(str(Path(folder) / "files.array_record"))
        batches = grain.MapDataset.source(source).shuffle(seed=epoch)
        if work == "images":
            batches = batches.map(decode.image)
        batches = batches.batch(size, batch_fn=np.stack if work == "images" else list)
    # Of its 16 threads all but one would only wait for the interpreter, unless they decode.
    threads = 4 if work == "images" else 1
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=8)
    loaded = batches.to_iter_dataset(reading)
    if workers > 0:
        loaded = loaded.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    yield from packed(loaded) if work == "tokens" else map(_tensors, loaded)


class _Rows:
    """Row numbers to a batch's arrays."""

    def __init__(self, folder: Path) -> None:
        self.features = np.load(folder / "features.npy", mmap_mode="r")
        self.label = np.load(folder / "label.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.label)

    def __call__(self, numbers: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return {"features": self.features[numbers], "label": self.label[numbers]}


class _Tokens:
    """List numbers to those lists, joined."""

    def __init__(self, folder: Path) -> None:
        self.offsets = np.load(folder / "offsets.npy")
        self.values = np.load(folder / "values.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __call__(self, numbers: NDArray[np.int64]) -> NDArray[np.int32]:
        starts, stops = self.offsets[numbers], self.offsets[numbers + 1]
        return np.concatenate([self.values[a:b] for a, b in zip(starts, stops, strict=True)])


def _tensors(batch: Any) -> Any:
    if isinstance(batch, dict):
        return {name: torch.from_numpy(array) for name, array in batch.items()}
    return torch.from_numpy(batch) if isinstance(batch, np.ndarray) else batch
