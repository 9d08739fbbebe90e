"""Counts and order statistics of any range of values, after a few passes over them all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.features.events import Ints


class RangeOrder:
    """How many values of a range lie below a bound, and its k-th smallest, whatever its length.

    A wavelet matrix (Claude, Navarro and Ordonez, "The wavelet matrix", 2015): values are parted by
    one bit after the other, the highest first, keeping their order otherwise; of each level is
    kept how many zeros come before each place, by which a range is followed down.

    Parameters
    ----------
    values: (n,) integers from 0 on; a level for each bit of the largest.
    """

    def __init__(self, values: Ints) -> None:
        self._most = int(values.max(initial=0)) + 1
        self._levels: list[tuple[int, NDArray[np.signedinteger]]] = []
        left = values.astype(np.uint32 if self._most < 1 << 32 else np.uint64)
        count = np.int32 if len(values) < 1 << 31 else np.int64
        for bit in range(self._most.bit_length() - 1, -1, -1):
            is_zero = (left >> bit) & 1 == 0
            zeros = np.zeros(len(values) + 1, count)
            np.cumsum(is_zero, out=zeros[1:])
            self._levels.append((bit, zeros))
            left = np.concatenate((left[is_zero], left[~is_zero]))

    def below(self, low: Ints, high: Ints, bound: Ints) -> Ints:
        """(ranges,) how many values of each [low, high) are below its bound."""
        bound = np.minimum(bound, self._most)
        found = np.zeros(len(low), np.int64)
        for bit, zeros in self._levels:
            a, b = zeros[low].astype(np.int64), zeros[high].astype(np.int64)
            is_one = (bound >> bit) & 1 == 1
            found += np.where(is_one, b - a, 0)
            low = np.where(is_one, low - a + zeros[-1], a)
            high = np.where(is_one, high - b + zeros[-1], b)
        return found

    def smallest(self, low: Ints, high: Ints, k: Ints) -> Ints:
        """(ranges,) the value of each [low, high) that k others are before; 0 <= k < high - low."""
        found = np.zeros(len(low), np.int64)
        for bit, zeros in self._levels:
            a, b = zeros[low].astype(np.int64), zeros[high].astype(np.int64)
            is_one = k >= b - a
            k = np.where(is_one, k - (b - a), k)
            found += is_one.astype(np.int64) << bit
            low = np.where(is_one, low - a + zeros[-1], a)
            high = np.where(is_one, high - b + zeros[-1], b)
        return found
