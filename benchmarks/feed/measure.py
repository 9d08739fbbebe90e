"""One loader at one work, measured in a process of its own; prints a line of JSON.

python -m benchmarks.feed.measure penstock rows --folder data/bench --workers 0
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.feed.data import Data

PEERS = ("mosaic", "lit", "web", "hf", "grain_", "lance_", "torch_loader", "torch_batched")


def main() -> None:
    """Prepare or measure, as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loader")
    parser.add_argument("work")
    parser.add_argument("--folder", required=True, help="a local folder, or s3://bucket/prefix")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--prepare", action="store_true", help="write the loader's format only")
    parser.add_argument("--data", default="{}", help="JSON of what differs from the usual sizes")
    told = parser.parse_args()
    given = json.loads(told.data)
    if given.get("flowers"):
        given["flowers"] = Path(given["flowers"])
    data = replace(Data(), **given)
    folder: Any = told.folder if "://" in told.folder else Path(told.folder)
    if told.loader == "index_select":
        print(json.dumps(_index_select(data, told.epochs)))
        return
    module = importlib.import_module(
        "benchmarks.feed.ours"
        if told.loader == "penstock"
        else f"benchmarks.feed.peers.{told.loader}"
    )
    if told.work not in module.WORKS:
        sys.exit(f"{module.NAME} has no {told.work}")
    if told.prepare:
        module.prepare(told.work, data, folder)
        return
    cache = Path(tempfile.mkdtemp(prefix="bench-cache-"))
    try:
        result = _measured(module, told.work, folder, told.workers, told.epochs, cache)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    print(json.dumps({"name": module.NAME, "version": module.version(), **result}))


def _measured(
    module: Any, work: str, folder: Any, workers: int, epochs: int, cache: Path
) -> dict[str, Any]:
    """Seconds of each epoch, and to its first batch."""
    seconds, firsts, samples = list[float](), list[float](), 0
    for epoch in _epochs(module, work, folder, workers, epochs, cache):
        began = time.perf_counter()
        samples, first = 0, None
        for batch in epoch():
            first = first or time.perf_counter() - began
            samples += _size(batch)
        seconds.append(time.perf_counter() - began)
        firsts.append(first or 0.0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"seconds": seconds, "first_batch": firsts, "samples": samples, "peak_mb": peak}


def _epochs(
    module: Any, work: str, folder: Any, workers: int, count: int, cache: Path
) -> Iterator[Any]:
    if module.__name__ == "benchmarks.feed.ours":  # what was opened for one epoch serves the next
        began = time.perf_counter()
        ds = module.opened(work, folder, cache)
        opening = time.perf_counter() - began
        for number in range(count):
            # What opening took counts in the first epoch, as it does with the peers.
            yield lambda number=number: _after(opening if number == 0 else 0.0, ds)
        ds.close()
        return
    for number in range(count):
        yield lambda number=number: module.epoch(
            work, folder, workers=workers, epoch=number, cache=cache
        )


def _after(seconds: float, batches: Any) -> Iterator[Any]:
    time.sleep(seconds)
    yield from batches


def _size(batch: Any) -> int:
    """Samples of a batch, in whatever form."""
    if isinstance(batch, dict):
        batch = next(iter(batch.values()))
    return len(batch)


def _index_select(data: Data, epochs: int) -> dict[str, Any]:
    from benchmarks.feed.peers.baselines import index_select

    seconds = list[float]()
    epoch = index_select(data)
    for _ in range(epochs):
        began = time.perf_counter()
        for _ in epoch():
            pass
        seconds.append(time.perf_counter() - began)
    return {
        "name": "torch.index_select, from RAM",
        "version": "",
        "seconds": seconds,
        "first_batch": [0.0] * epochs,
        "samples": data.rows,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


if __name__ == "__main__":
    main()
