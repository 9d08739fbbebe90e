"""One loader at one work, measured in a process of its own; prints a line of JSON.

python -m benchmarks.feed.measure penstock rows --folder data/bench --workers 0
"""

from __future__ import annotations

import argparse
import importlib
import itertools
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

from benchmarks.feed.data import SIDE, Data

LIMITS = {
    "index_select": ("rows",),
    "index_select_drawn": ("rows",),
    "decoder": ("images",),
    "raw": ("cold-blobs", "cold-rows"),
    "raw_kept": ("cold-blobs", "cold-rows"),
}
"""What no loader can beat, and at which works."""
PEERS = ("mosaic", "lit", "web", "hf", "grain_", "lance_", "torch_loader", "torch_batched")


def main() -> None:
    """Prepare or measure, as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loader")
    parser.add_argument("work")
    parser.add_argument("--folder", required=True, help="a local folder, or s3://bucket/prefix")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60, help="at which an epoch is broken off")
    parser.add_argument("--prepare", action="store_true", help="write the loader's format only")
    parser.add_argument("--data", default="{}", help="JSON of what differs from the usual sizes")
    told = parser.parse_args()
    given = json.loads(told.data)
    if given.get("flowers"):
        given["flowers"] = Path(given["flowers"])
    data = replace(Data(), **given)
    folder: Any = told.folder if "://" in told.folder else Path(told.folder)
    if told.loader in LIMITS:
        print(json.dumps(_limit(told.loader, told.work, data, told.folder, told.epochs)))
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
        epochs = _epochs(module, told.work, folder, told.workers, told.epochs, cache)
        result = _measured(epochs, told.seconds)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    print(json.dumps({"name": module.NAME, "version": module.version(), **result}))


def _measured(epochs: Iterator[Any], most_seconds: float) -> dict[str, Any]:
    """Seconds and samples of each epoch, and seconds to its first batch.

    A loader that is slow is broken off: what it fed until then gives its pace.
    """
    seconds, firsts, samples = list[float](), list[float](), list[int]()
    for epoch in epochs:
        began = time.perf_counter()
        fed, first, taken = 0, None, 0.0
        for batch in epoch():
            taken = time.perf_counter() - began
            first = first or taken
            fed += _size(batch)
            if taken > most_seconds:
                break
        seconds.append(time.perf_counter() - began if taken <= most_seconds else taken)
        firsts.append(first or 0.0)
        samples.append(fed)
        if sum(seconds) > most_seconds:
            break
    return _figures(seconds, samples, firsts)


def _figures(seconds: list[float], samples: list[int], firsts: list[float]) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"seconds": seconds, "samples": samples, "first_batch": firsts, "peak_mb": peak}


def _epochs(
    module: Any, work: str, folder: Any, workers: int, count: int, cache: Path
) -> Iterator[Any]:
    if module.__name__ == "benchmarks.feed.ours":  # what was opened for one epoch serves the next
        began = time.perf_counter()
        ds = module.opened(work, folder, cache)
        opening = time.perf_counter() - began
        for number in range(count):
            # What opening took counts in the first epoch, as it does with the peers.
            yield lambda number=number: _after(
                opening if number == 0 else 0.0,
                (module.handed_out(work, batch) for batch in ds),
            )
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


def _limit(which: str, work: str, data: Data, folder: str, epochs: int) -> dict[str, Any]:
    """Of a limit, what `_measured` tells of a loader."""
    from benchmarks.feed.peers import baselines

    name, run = {
        "index_select": ("torch.index_select from RAM", _selecting),
        "index_select_drawn": ("torch.randperm, index_select from RAM", _selecting),
        "decoder": ("cv2 alone, 2 threads, from RAM", _decoding),
        "raw": ("obstore alone, dropped", _fetching),
        "raw_kept": ("obstore alone, kept in RAM", _fetching),
    }[which]
    seconds = list(itertools.islice(run(baselines, which, work, data, folder), epochs))
    samples = [data.items(work)] * epochs
    return {"name": name, "version": "", **_figures(seconds, samples, [0.0] * epochs)}


def _selecting(baselines: Any, which: str, work: str, data: Data, folder: str) -> Iterator[float]:
    epoch = baselines.index_select(data, is_drawn=which.endswith("drawn"))
    while True:
        began = time.perf_counter()
        for _ in epoch():
            pass
        yield time.perf_counter() - began


def _decoding(baselines: Any, which: str, work: str, data: Data, folder: str) -> Iterator[float]:
    files = list(data.files(work))
    while True:
        yield len(files) / baselines.decoder_alone("cv2", files, size=SIDE)


def _fetching(baselines: Any, which: str, work: str, data: Data, folder: str) -> Iterator[float]:
    """The objects of the dataset that ours reads, with as many requests in flight as ours."""
    import obstore.store

    from penstock import FetchOptions

    store = obstore.store.from_url(
        folder.replace("/raw_kept/", "/penstock/").replace("/raw/", "/penstock/"),
        client_options={"allow_http": True},
    )
    keys, ranges = baselines.ranges_of(store)
    while True:
        yield baselines.obstore_raw(
            store, keys, ranges, FetchOptions().in_flight, is_kept=which == "raw_kept"
        )


if __name__ == "__main__":
    main()
