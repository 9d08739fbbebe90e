"""What no loader can beat: the same work with nothing around it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import obstore
import torch

from benchmarks.feed import data as made
from benchmarks.feed.data import BATCH, Data
from benchmarks.feed.peers import RowBatch
from benchmarks.feed.peers.decode import DECODERS

RANGE_BYTES = 2_000_000


def index_select(data: Data) -> Callable[[], Iterator[RowBatch]]:
    """A shuffled epoch of `rows` out of RAM, whose arrays and order are made before it starts."""
    features, label = map(torch.from_numpy, made.row_arrays(data.rows))
    order = torch.randperm(data.rows)

    def epoch() -> Iterator[RowBatch]:
        for numbers in order.split(BATCH["rows"]):
            yield {
                "features": torch.index_select(features, 0, numbers),
                "label": torch.index_select(label, 0, numbers),
            }

    return epoch


def decoder_alone(
    name: str, jpegs: Sequence[bytes], threads: int = 2, size: int | None = None
) -> float:
    """Images a second of one decoder over a thread pool; with a size, resized to its square too."""
    decode = DECODERS[name]
    with ThreadPoolExecutor(threads) as pool:
        runs = [jpegs[start :: threads * 8] for start in range(threads * 8)]

        def run(files: Sequence[bytes]) -> None:
            for file in files:
                decode(file, size)

        started = time.perf_counter()
        for _ in pool.map(run, runs):
            pass
        return len(jpegs) / (time.perf_counter() - started)


def ranges_of(
    store: Any, prefix: str = "", range_bytes: int = RANGE_BYTES
) -> tuple[list[str], list[tuple[int, int]]]:
    """Every object under a prefix cut into ranges: the key of each, and its (start, stop)."""
    keys: list[str] = []
    ranges: list[tuple[int, int]] = []
    for page in obstore.list(store, prefix):
        for entry in page:
            for start in range(0, entry["size"], range_bytes):
                keys.append(entry["path"])
                ranges.append((start, min(start + range_bytes, entry["size"])))
    return keys, ranges


def obstore_raw(
    store: Any, keys: Sequence[str], ranges: Sequence[tuple[int, int]], in_flight: int
) -> float:
    """Bytes a second of these ranges fetched with `in_flight` requests at once, and dropped."""

    async def fetch(gate: asyncio.Semaphore, key: str, start: int, stop: int) -> int:
        async with gate:
            return len(await obstore.get_range_async(store, key, start=start, end=stop))

    async def fetch_all() -> int:
        gate = asyncio.Semaphore(in_flight)
        each = (fetch(gate, key, *cut) for key, cut in zip(keys, ranges, strict=True))
        return sum(await asyncio.gather(*each))

    started = time.perf_counter()
    fetched = asyncio.run(fetch_all())
    return fetched / (time.perf_counter() - started)
