"""Into GPU memory: the feed beside a plain copy of page-locked memory, and a GPU's idle share.

    python -m benchmarks.feed_gpu [--rows 4000000]

Prints GB/s of float32 rows from RAM-cached, disk-cached and GPU-resident data beside a plain copy
of page-locked memory, then how long the GPU is idle while a small model trains. Needs a GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from penstock import Dataset, Lake, load_dataset
from penstock.shards import Packing, move_tag, write_dataset

WIDTH, BATCH = 256, 16_384


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4_000_000)
    rows = parser.parse_args().rows
    if not torch.cuda.is_available():
        sys.exit("no GPU is here")
    with tempfile.TemporaryDirectory() as folder:
        lake = _published(Path(folder), rows)
        feed = load_dataset("bench/gpu", lake=lake).shuffle(seed=1).batch(BATCH)
        feed = feed.to("torch", device="cuda")
        limit = _copy_limit()
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {rows:,} rows")
        print(f"page-locked copy, the limit   {limit:7.1f} GB/s  100 %")
        _epoch(feed)
        warm = max(_epoch(feed) for _ in range(3))
        print(f"feed, RAM-cached              {warm:7.1f} GB/s  {warm / limit:4.0%}")
        cold = max(_after(lambda: _drop_pages(Path(folder)), feed) for _ in range(2))
        print(f"feed, disk-cached             {cold:7.1f} GB/s  {cold / limit:4.0%}")
        resident = _resident(rows)
        print(f"gathered on the GPU           {resident:7.1f} GB/s  {resident / limit:4.0%}")
        print(f"GPU idle while a small model trains  {_idle_share(feed):.1%}")


def _published(folder: Path, rows: int) -> Lake:
    names = tuple(f"f{place:03d}" for place in range(WIDTH))

    def tables() -> Iterator[pa.Table]:
        random = np.random.default_rng(0)
        for start in range(0, rows, 65_536):
            count = min(65_536, rows - start)
            values = random.standard_normal((WIDTH, count), np.float32)
            columns: dict[str, Any] = dict(zip(names, values, strict=True))
            yield pa.table({**columns, "label": values[0]})

    lake = Lake(folder / "lake")
    schema = pa.schema([(name, pa.float32()) for name in (*names, "label")])
    write_dataset(
        lake,
        "bench/gpu",
        "a" * 32,
        {"train": tables()},
        schema,
        Packing(names),
        inputs={},
        details={},
    )
    move_tag(lake, "bench/gpu", "latest", "a" * 32)
    return lake


def _copy_limit() -> float:
    """GB/s of one large page-locked buffer to the device."""
    held = torch.empty(1 << 28, dtype=torch.float32, pin_memory=True)
    there = torch.empty_like(held, device="cuda")
    best = 0.0
    for _ in range(5):
        torch.cuda.synchronize()
        began = time.perf_counter()
        there.copy_(held, non_blocking=True)
        torch.cuda.synchronize()
        best = max(best, held.nbytes / (time.perf_counter() - began) / 1e9)
    return best


def _epoch(feed: Dataset) -> float:
    """GB/s of an epoch, all of it on the device at the end."""
    torch.cuda.synchronize()
    began, size = time.perf_counter(), 0
    for batch in feed:
        size += sum(tensor.nbytes for tensor in batch.values())
    torch.cuda.synchronize()
    return size / (time.perf_counter() - began) / 1e9


def _after(prepare: Callable[[], None], feed: Dataset) -> float:
    prepare()
    return _epoch(feed)


def _drop_pages(folder: Path) -> None:
    """Have the system forget the files' pages, so that the next epoch reads the disk."""
    for path in folder.rglob("*.arrow"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _resident(rows: int) -> float:
    """GB/s of gathering shuffled batches from data that lies on the device whole."""
    values = torch.randn(rows, WIDTH, device="cuda")
    order = torch.randperm(rows, device="cuda")
    torch.cuda.synchronize()
    began = time.perf_counter()
    for numbers in order.split(BATCH):
        torch.index_select(values, 0, numbers)
    torch.cuda.synchronize()
    return values.nbytes / (time.perf_counter() - began) / 1e9


def _idle_share(feed: Dataset) -> float:
    """Of an epoch's wall time, how much no kernel of the model was running."""
    model = torch.nn.Sequential(
        torch.nn.Linear(WIDTH, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 1)
    ).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    spans = list[tuple[Any, Any]]()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for batch in feed:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        loss = (model(batch["features"]).squeeze(1) - batch["label"]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        end.record()
        spans.append((start, end))
    torch.cuda.synchronize()
    wall = time.perf_counter() - began
    busy = sum(start.elapsed_time(end) for start, end in spans) / 1e3
    return max(0.0, 1 - busy / wall)


if __name__ == "__main__":
    main()
