"""The order of samples: a pure function from (dataset, seed, epoch, step) to sample numbers.

Nothing is drawn from a generator whose stream a release may change, and no state is kept a sample:
a permutation is a keyed bijection (`permutation.py`), so that any step's samples are computed
without the steps before it.

A windowed epoch is dealt to lanes:

    blocks, permuted ─▶ one line of samples ─▶ cut into equal lanes ─▶ windows of blocks in each
    step s = the s-th stretch of every lane, lane by lane; ranks take contiguous parts of a step

so that a node reads the blocks of its own lanes alone, and another number of ranks changes who gets
a sample and not when.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xxhash
from numpy.typing import NDArray

from penstock.errors import OrderError
from penstock.feed.permutation import mixed, permuted, permuted_within, shuffled

_MOST_LANES = 64
_FEW_IN_A_LANE = 1024
"""Positions up to which all lanes at once are quicker than one after another."""
_BLOCKS_A_LANE = 256
"""A dataset has more than eight lanes once each would have so many blocks."""


@dataclass(frozen=True, slots=True)
class Sequential:
    """Samples as they are stored."""


@dataclass(frozen=True, slots=True)
class Full:
    """A permutation of all samples."""

    seed: int


@dataclass(frozen=True, slots=True)
class Windowed:
    """Blocks permuted over the epoch, then samples within windows of `window` blocks.

    Random enough for training when a window holds a few thousand batches, and sequential enough
    that each block is fetched once (Xu et al., "CorgiPile", SIGMOD 2022). An epoch's first windows
    are smaller, so that the first batch does not wait for a whole one.
    """

    seed: int
    window: int = 64
    """Blocks open at once over all lanes; the memory this costs is `window` times a block's."""

    def __post_init__(self) -> None:
        if self.window < 1:
            raise OrderError(f"window must be at least 1 block, got {self.window}")


Shuffle = Sequential | Full | Windowed


@dataclass(frozen=True)
class Order:
    """The order of one epoch.

    Parameters
    ----------
    fingerprint: the dataset's, so that two datasets are not shuffled alike.
    block_rows: (blocks,) samples of each stored block.
    global_batch: samples a step takes over all ranks.
    drop_last: whether a last step with fewer samples is left out.
    """

    fingerprint: str
    block_rows: NDArray[np.int64]
    shuffle: Shuffle
    epoch: int
    global_batch: int
    drop_last: bool = False
    limit: int | None = None
    """Samples of the epoch's order that are used; all by default."""

    def __post_init__(self) -> None:
        if self.global_batch < 1:
            raise OrderError(f"a batch must have at least 1 row, got {self.global_batch}")

    @cached_property
    def total(self) -> int:
        """Samples there are."""
        return int(self.block_rows.sum())

    @property
    def rows(self) -> int:
        """Samples that the epoch uses."""
        return self.total if self.limit is None else min(self.total, self.limit)

    @property
    def steps(self) -> int:
        """Steps of the epoch."""
        whole, rest = divmod(self.rows, self.global_batch)
        return whole + (1 if rest and not self.drop_last else 0)

    @cached_property
    def lanes(self) -> int:
        """Canonical lanes; a function of the batch and the blocks, and of no number of ranks."""
        if not isinstance(self.shuffle, Windowed):
            return 1
        most = min(_MOST_LANES, max(8, len(self.block_rows) // _BLOCKS_A_LANE), self.shuffle.window)
        lanes = self.global_batch & -self.global_batch  # the largest power of two that divides it
        while lanes > most:
            lanes //= 2
        return lanes

    def rows_at(self, step: int) -> NDArray[np.int64]:
        """The sample numbers of one step, in the order in which ranks split them.

        Computed without the steps before it, so that to resume is to call this with another `step`.

        Returns
        -------
        (global_batch,) int64; shorter at the last step of an epoch unless `drop_last`.

        Raises
        ------
        OrderError: `step` lies past the end of the epoch.
        """
        if not 0 <= step < self.steps:
            raise OrderError(f"step {step} is outside the epoch's {self.steps} steps")
        start = step * self.global_batch
        return self.rows_of(np.arange(start, min(start + self.global_batch, self.rows)))

    def rows_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sample numbers at positions of the epoch, an int64 for each."""
        match self.shuffle:
            case Sequential():
                return positions
            case Full():
                return permuted(positions, self.total, self._key("rows"))
            case Windowed():
                return self._windowed(positions)

    def rows_of_steps(self, steps: range, part: tuple[int, int]) -> NDArray[np.int64]:
        """Sample numbers of a rank's part of whole steps, one step after another.

        What `rows_of` says of the same positions, sooner: within a lane they follow each other.

        Parameters
        ----------
        part: the rank and the number of ranks.
        """
        rank, ranks = part
        each = self.global_batch // ranks
        is_windowed = isinstance(self.shuffle, Windowed) and self.lanes % ranks == 0
        if not is_windowed or len(steps) * (self.global_batch // self.lanes) <= _FEW_IN_A_LANE:
            starts = np.arange(steps.start, steps.stop, steps.step) * self.global_batch
            return self.rows_of((starts[:, None] + (rank * each + np.arange(each))).ravel())
        share, lanes = self.global_batch // self.lanes, self.lanes // ranks
        starts = np.arange(steps.start, steps.stop, steps.step) * share
        within = (starts[:, None] + np.arange(share)).ravel()
        out = np.empty((len(steps), lanes, share), np.int64)
        for place in range(lanes):
            line = within + (rank * lanes + place) * self._lane_rows
            out[:, place] = self._of_rising(line).reshape(len(steps), share)
        return out.ravel()

    def sequence(self, first_step: int, part: tuple[int, int]) -> NDArray[np.int64]:
        """Blocks in the order in which a rank needs them.

        Parameters
        ----------
        first_step: blocks that only steps before it need are left out.
        part: the rank and the number of ranks.
        """
        if isinstance(self.shuffle, Full):
            return np.arange(len(self.block_rows))
        if isinstance(self.shuffle, Sequential):
            start = first_step * self.global_batch
            ends = np.cumsum(self.block_rows)
            first = int(np.searchsorted(ends, start, side="right"))
            return np.arange(first, int(np.searchsorted(ends, self.rows, side="left")) + 1)[
                : len(ends) - first
            ]
        rank, ranks = part
        blocks, ends = self._layout
        rows, share = self._lane_rows, self.global_batch // self.lanes
        of_rank = np.arange(rank * self.lanes // ranks, -(-(rank + 1) * self.lanes // ranks))
        found = list[NDArray[np.int64]]()
        turns = list[NDArray[np.int64]]()
        used = -(-self.rows // self.lanes)
        for lane in of_rank.tolist():
            start, stop = lane * rows + first_step * share, lane * rows + min(rows, used)
            first = int(np.searchsorted(ends, start, side="right"))
            last = int(np.searchsorted(ends, stop, side="left"))
            slots = np.arange(first, min(last + 1, len(ends)))
            found.append(blocks[slots])
            turns.append(ends[slots] - self.block_rows[blocks[slots]] - lane * rows)
        line = np.concatenate(found)[np.argsort(np.concatenate(turns), kind="stable")]
        _, once = np.unique(line, return_index=True)
        return line[np.sort(once)]

    def block_turns(self) -> NDArray[np.int64]:
        """When each block is first needed, as a number to compare: (blocks,) int64."""
        if isinstance(self.shuffle, Full):
            return np.zeros(len(self.block_rows), np.int64)
        if isinstance(self.shuffle, Sequential):
            return np.arange(len(self.block_rows))
        blocks, ends = self._layout
        turns = np.empty(len(blocks), np.int64)
        # All lanes go on at once: what counts is how far into its lane a block starts.
        turns[blocks] = (ends - self.block_rows[blocks]) % max(1, self._lane_rows)
        return turns

    def _windowed(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        starts, sizes, keys = self._windows
        line = self._line_of(positions)
        window = np.searchsorted(starts, line, side="right") - 1
        inside = permuted_within(line - starts[window], window, sizes, keys) + starts[window]
        inside += self._shift[np.searchsorted(self._layout[1], inside, side="right")]
        return inside

    def _of_rising(self, line: NDArray[np.int64]) -> NDArray[np.int64]:
        """`_of_line` of places in rising order, window by window."""
        starts, sizes, keys = self._windows
        ends = self._layout[1]
        window = int(np.searchsorted(starts, line[0], side="right")) - 1
        out, done = np.empty(len(line), np.int64), 0
        while done < len(line):
            start, size = int(starts[window]), int(sizes[window])
            stop = int(np.searchsorted(line, start + size, side="left"))
            inside = permuted(line[done:stop] - start, size, int(keys[window]))
            inside += start
            first, last = np.searchsorted(ends, [start, start + size - 1], side="right")
            slot = np.searchsorted(ends[first:last], inside, side="right")
            inside += self._shift[first : last + 1][slot]
            out[done:stop], done, window = inside, stop, window + 1
        return out

    def _line_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where on the line of permuted blocks a position of the epoch is read, before windows."""
        lanes, rows = self.lanes, self._lane_rows
        share = self.global_batch // lanes
        in_steps = rows // share * share  # of each lane, what whole steps take
        # Floor division by one number is quick; numpy's remainder is not.
        step = positions // self.global_batch
        place = positions - step * self.global_batch
        lane = place // share
        line = lane * (rows - share) + step * share + place
        if len(positions) and int(positions.max()) >= in_steps * lanes:
            tail = positions - in_steps * lanes
            late = np.flatnonzero(tail >= 0)
            # What is left of every lane, then what did not divide among them.
            rest, left = rows - in_steps, tail[late]
            lane = np.minimum(left // max(rest, 1), lanes)
            from_lane = lane * rows + in_steps + left % max(rest, 1)
            line[late] = np.where(
                left < rest * lanes, from_lane, left - rest * lanes + rows * lanes
            )
        return line

    @cached_property
    def _lane_rows(self) -> int:
        return self.total // self.lanes

    @cached_property
    def _layout(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The blocks in the epoch's order, and where each ends on the line."""
        blocks = shuffled(len(self.block_rows), self._key("blocks"))
        return blocks, np.cumsum(self.block_rows[blocks])

    @cached_property
    def _shift(self) -> NDArray[np.int64]:
        """From a sample's place on the line to its number, for each block of the line."""
        blocks, ends = self._layout
        first = np.cumsum(self.block_rows) - self.block_rows
        return first[blocks] - (ends - self.block_rows[blocks])

    @cached_property
    def _windows(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
        """Where each window starts on the line, its samples, and its key."""
        window = self.shuffle.window if isinstance(self.shuffle, Windowed) else 1
        blocks = max(1, window // self.lanes)
        ends, rows = self._layout[1], self._lane_rows
        starts = list[NDArray[np.int64]]()
        for lane in range(self.lanes + 1):
            start, stop = lane * rows, min((lane + 1) * rows, self.total)
            if lane == self.lanes:
                stop = self.total  # what did not divide among the lanes
            if start >= stop:
                continue
            first = int(np.searchsorted(ends, start, side="right"))
            last = int(np.searchsorted(ends, stop, side="left"))
            cuts = ends[first + _ramp(blocks, last - first + 1) - 1]
            starts.append(np.concatenate([[start], cuts[cuts < stop]]))
        begun = np.concatenate(starts) if starts else np.zeros(0, np.int64)
        sizes = np.diff(begun, append=self.total)
        keys = mixed(np.arange(len(begun), dtype=np.uint64) + np.uint64(self._key("windows")))
        return begun, sizes, keys

    def _key(self, purpose: str) -> int:
        seed = 0 if isinstance(self.shuffle, Sequential) else self.shuffle.seed
        text = f"{self.fingerprint}/{seed}/{self.epoch}/{purpose}"
        return xxhash.xxh3_64_intdigest(text.encode())


def _ramp(blocks: int, count: int) -> NDArray[np.int64]:
    """Ends of windows over `count` blocks: 1, 2, 4, ... up to `blocks` a window."""
    sizes = list[int]()
    while sum(sizes) < count and 2 ** len(sizes) < blocks:
        sizes.append(2 ** len(sizes))
    start = sum(sizes)
    ends = np.concatenate(
        [np.cumsum(sizes, dtype=np.int64), np.arange(start + blocks, count + 1, blocks)]
    )
    return ends[ends <= count].astype(np.int64)
