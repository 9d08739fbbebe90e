"""From the order to batches: plan the coming steps, have their blocks here, gather them.

    order ─▶ chunk of steps ─▶ plan ─▶ want blocks ─▶ wait ─▶ gather pieces of it ─▶ steps

Steps are planned many at a time and gathered several at a time, so that small batches cost no more
a row than large ones. The first chunk is one step, so that the first batch comes at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.feed.ahead import Ahead
from penstock.feed.blocks import BlockStore
from penstock.feed.feeder import Caller
from penstock.feed.order import Order
from penstock.feed.samples import Plan, Samples
from penstock.feed.world import World

_CHUNK_BYTES = 32 << 20
"""Of steps that are planned together."""
_CHUNK_SAMPLES = 1 << 17
_PIECE_BYTES = 8 << 20
"""Of steps that are gathered together and handed over at once."""
_MOST_STEPS = 256
_PLANNED = 2
"""Chunks whose blocks are on their way while one is gathered."""


@dataclass(frozen=True, slots=True)
class Step:
    """One rank's part of a step."""

    number: int
    columns: dict[str, Any]
    rows: NDArray[np.int64] | None
    """Stored rows, where somebody asked for them."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """What one process feeds of an epoch: some steps, one rank's part of each."""

    order: Order
    world: World
    steps: range

    @property
    def each(self) -> int:
        """Samples of a whole step."""
        return self.order.global_batch // self.world.size

    def part(self, steps: range) -> tuple[NDArray[np.int64], list[int]]:
        """Sample numbers of some steps, and how many each step has."""
        order, world = self.order, self.world
        counts, part = [self.each] * len(steps), (world.rank, world.size)
        last_rows = order.rows - steps[-1] * order.global_batch
        if last_rows >= order.global_batch:
            return order.rows_of_steps(steps, part), counts
        # The epoch's last step: its rows are shared out anew, equally.
        counts[-1] = last_rows // world.size
        first = steps[-1] * order.global_batch + world.rank * counts[-1]
        rest = order.rows_of(np.arange(first, first + counts[-1]))
        return np.concatenate([order.rows_of_steps(steps[:-1], part), rest]), counts


class Steps(Protocol):
    """Some steps, and which samples of a source each of them has."""

    @property
    def steps(self) -> range: ...
    @property
    def each(self) -> int: ...
    def part(self, steps: range) -> tuple[NDArray[np.int64], list[int]]: ...


def fed(
    stretch: Steps,
    samples: Samples,
    store: BlockStore,
    ahead: Ahead | None,
    caller: Caller,
    *,
    with_rows: bool = False,
) -> Iterator[list[Step]]:
    """The steps of a stretch, a chunk at a time; blocks are given up when it ends or is closed."""
    planned = deque[tuple[range, list[int], Plan, bool]]()
    chunks = _chunks(stretch, samples.bytes_a_sample)
    is_first = True  # the first batch waits for nothing but its own blocks
    try:
        while True:
            while len(planned) < _PLANNED:
                steps = next(chunks, None)
                if steps is None:
                    break
                numbers, counts = stretch.part(steps)
                plan = samples.plan(numbers)
                missing = int((~store.here(plan.blocks)).sum())
                is_wanted = missing <= store.most_coming
                if is_wanted:
                    store.want(plan.blocks)
                planned.append((steps, counts, plan, is_wanted))
                if ahead is not None and is_wanted and not is_first:
                    ahead.reached(plan.blocks)
                if not is_wanted or is_first:
                    break
            if not planned:
                return
            steps, counts, plan, is_wanted = planned[0]
            if is_wanted:
                store.wait(plan.blocks, caller.is_gone)
                if ahead is not None and is_first:
                    ahead.reached(plan.blocks)
                samples.open(plan.blocks)
                yield from _gathered(steps, counts, plan, samples, with_rows)
            else:
                columns, rows = _in_groups(plan, samples, store, caller, with_rows)
                yield list(_cut(steps, counts, columns, rows))
            planned.popleft()
            is_first = False
            if is_wanted:
                store.release(plan.blocks)
    finally:
        for _, _, plan, is_wanted in planned:
            if is_wanted:
                store.release(plan.blocks)
        if ahead is not None:
            ahead.close()


def _gathered(
    steps: range, counts: list[int], plan: Plan, samples: Samples, with_rows: bool
) -> Iterator[list[Step]]:
    """A chunk's steps, gathered so many at a time as make up a piece."""
    most = max(1, _PIECE_BYTES // max(1, samples.bytes_a_sample * max(counts, default=1)))
    at = 0
    for start in range(0, len(steps), most):
        some = counts[start : start + most]
        stop = at + sum(some)
        chosen, block_of = plan.samples[at:stop], plan.block_of[at:stop]
        columns = samples.gather(chosen, block_of)
        rows = samples.rows_of(chosen, block_of) if with_rows else None
        yield list(_cut(steps[start : start + most], some, columns, rows))
        at = stop


def _chunks(stretch: Steps, bytes_a_sample: int) -> Iterator[range]:
    """Steps in groups: one, two, four, ... up to what a chunk may take."""
    most = min(_CHUNK_SAMPLES // stretch.each, _CHUNK_BYTES // (stretch.each * bytes_a_sample))
    most, size, at = max(1, min(_MOST_STEPS, most)), 1, 0
    while at < len(stretch.steps):
        yield stretch.steps[at : at + size]
        at, size = at + size, min(most, size * 2)


def _in_groups(
    plan: Plan,
    samples: Samples,
    store: BlockStore,
    caller: Caller,
    with_rows: bool,
) -> tuple[dict[str, Any], NDArray[np.int64] | None]:
    """A plan whose blocks are too many to be here at once, some of them at a time."""
    pieces, rows, places = list[dict[str, Any]](), list[NDArray[np.int64]](), list[NDArray[Any]]()
    for start in range(0, len(plan.blocks), store.most_coming):
        blocks = plan.blocks[start : start + store.most_coming]
        first, last = blocks[0], blocks[-1]
        chosen = np.flatnonzero((plan.block_of >= first) & (plan.block_of <= last))
        part = samples.plan(plan.samples[chosen])
        store.want(part.blocks)
        try:
            store.wait(part.blocks, caller.is_gone)
            samples.open(part.blocks)
            pieces.append(samples.gather(part.samples, part.block_of))
            rows.append(samples.rows_of(part.samples, part.block_of))
        finally:
            store.release(part.blocks)
        places.append(chosen)
    back = np.empty(len(plan.samples), np.int64)
    back[np.concatenate(places)] = np.arange(len(plan.samples))
    columns = {name: _joined([piece[name] for piece in pieces], back) for name in pieces[0]}
    return columns, np.concatenate(rows)[back] if with_rows else None


def _joined(pieces: list[Any], back: NDArray[np.int64]) -> Any:
    if isinstance(pieces[0], pa.Array):
        return pa.concat_arrays(pieces).take(pa.array(back))
    return np.concatenate(pieces)[back]


def _cut(
    steps: range, counts: list[int], columns: dict[str, Any], rows: NDArray[np.int64] | None
) -> Iterator[Step]:
    at = 0
    for step, count in zip(steps, counts, strict=True):
        piece = {name: values[at : at + count] for name, values in columns.items()}
        yield Step(step, piece, None if rows is None else rows[at : at + count])
        at += count
