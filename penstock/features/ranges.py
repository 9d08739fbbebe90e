"""The smallest or largest value of any range, after one pass over the values."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_BLOCK = 16


class RangeBest:
    """Answers for many ranges at once, whatever their length.

    Blocks of 16 values: the best from a block's start to each place and from each place to its end,
    and a sparse table over whole blocks (Bender and Farach-Colton, 2000). A range within one block
    is walked.

    Parameters
    ----------
    values: (n,) numbers; NaN is passed over.
    """

    def __init__(self, values: NDArray[Any], which: Literal["min", "max"]) -> None:
        is_float = values.dtype.kind == "f"
        if which == "min":
            self._best: Any = np.fmin if is_float else np.minimum
        else:
            self._best = np.fmax if is_float else np.maximum
        self._values = values
        size = -(-len(values) // _BLOCK) * _BLOCK
        padded = np.empty(size, values.dtype)
        padded[: len(values)] = values
        padded[len(values) :] = values[-1] if len(values) else 0
        blocks = padded.reshape(-1, _BLOCK)
        self._from_start, self._to_end = blocks.copy(), blocks.copy()
        for i in range(1, _BLOCK):
            before, here = self._from_start[:, i - 1], self._from_start[:, i]
            self._best(before, here, out=here)
        for i in range(_BLOCK - 2, -1, -1):
            after, here = self._to_end[:, i + 1], self._to_end[:, i]
            self._best(after, here, out=here)
        self._levels = [self._from_start[:, -1].copy()]
        while len(self._levels[-1]) > (step := 1 << (len(self._levels) - 1)):
            last = self._levels[-1]
            self._levels.append(self._best(last[:-step], last[step:]))

    def over(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[Any]:
        """The best of each [low, high), none of which is empty."""
        last = high - 1
        first_block, last_block = low // _BLOCK, last // _BLOCK
        found = np.empty(len(low), self._values.dtype)
        within = first_block == last_block
        self._walk(found, np.flatnonzero(within), low, high)
        apart = np.flatnonzero(~within)
        if len(apart):
            a, b = low[apart], last[apart]
            best = self._best(
                self._to_end.reshape(-1)[a],
                self._from_start.reshape(-1)[b],
            )
            start, stop = first_block[apart] + 1, last_block[apart]
            self._add_blocks(best, start, stop)
            found[apart] = best
        return found

    def _walk(
        self,
        found: NDArray[Any],
        rows: NDArray[np.int64],
        low: NDArray[np.int64],
        high: NDArray[np.int64],
    ) -> None:
        at, end = low[rows], high[rows]
        best = self._values[at]
        left = np.arange(len(rows))
        for _ in range(_BLOCK - 1):
            at = at + 1
            keep = at < end
            left, at, end = left[keep], at[keep], end[keep]
            if not len(left):
                break
            best[left] = self._best(best[left], self._values[at])
        found[rows] = best

    def _add_blocks(
        self, best: NDArray[Any], start: NDArray[np.int64], stop: NDArray[np.int64]
    ) -> None:
        """Take the whole blocks [start, stop) in."""
        count = stop - start
        level = np.zeros(len(count), np.int64)
        level[count > 0] = np.frexp(count[count > 0].astype(np.float64))[1] - 1
        for number, table in enumerate(self._levels):
            rows = np.flatnonzero((level == number) & (count > 0))
            if len(rows):
                one = table[start[rows]]
                other = table[stop[rows] - (1 << number)]
                best[rows] = self._best(best[rows], self._best(one, other))
