"""What no loader can beat: the heart of a work with nothing around it."""

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


def index_select(data: Data, *, is_drawn: bool) -> Callable[[], Iterator[RowBatch]]:
    """A shuffled epoch of `rows` out of RAM, whose arrays are made before it starts.

    is_drawn: whether each epoch draws its order, as every loader has to; else one is made before.
    """
    features, label = map(torch.from_numpy, made.row_arrays(data.rows))
    drawn = torch.randperm(data.rows)

    def epoch() -> Iterator[RowBatch]:
        order = torch.randperm(data.rows) if is_drawn else drawn
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
    store: Any,
    keys: Sequence[str],
    ranges: Sequence[tuple[int, int]],
    in_flight: int,
    *,
    is_kept: bool,
) -> float:
    """Seconds in which these ranges are fetched with `in_flight` requests at once.

    is_kept: whether all that was fetched stays in memory, as somebody wants it; else it is dropped.
    """
    kept = list[Any]()

    async def fetch(gate: asyncio.Semaphore, key: str, start: int, stop: int) -> None:
        async with gate:
            found = await obstore.get_range_async(store, key, start=start, end=stop)
        if is_kept:
            kept.append(found)

    async def fetch_all() -> None:
        gate = asyncio.Semaphore(in_flight)
        each = (fetch(gate, key, *cut) for key, cut in zip(keys, ranges, strict=True))
        await asyncio.gather(*each)

    started = time.perf_counter()
    asyncio.run(fetch_all())
    return time.perf_counter() - started
