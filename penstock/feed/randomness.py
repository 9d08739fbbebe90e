"""Random numbers for augmentation that depend on (seed, epoch, row) alone.

A row's numbers are the same whichever batch, rank or worker it comes in, so that a resumed run sees
the very augmentations that it would have seen. Numbers are hashes of a counter (Salmon et al.,
"Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from penstock.feed.permutation import mixed

_STEP = np.uint64(0x9E3779B97F4A7C15)


@dataclass(slots=True)
class RowRandom:
    """Random numbers for the rows of a batch; each call draws the next ones of every row."""

    seed: int
    epoch: int
    rows: NDArray[np.int64]
    """(rows,) stored row numbers."""
    _drawn: int = field(default=0, init=False)

    def uniform(
        self, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = ()
    ) -> NDArray[np.float64]:
        """(rows, *shape) in [low, high)."""
        return low + (high - low) * self._unit(shape)

    def random(self, shape: tuple[int, ...] = ()) -> NDArray[np.float64]:
        """(rows, *shape) in [0, 1), by numpy's name for it."""
        return self._unit(shape)

    def integers(self, low: int, high: int, shape: tuple[int, ...] = ()) -> NDArray[np.int64]:
        """(rows, *shape) in [low, high)."""
        return low + np.floor(self._unit(shape) * (high - low)).astype(np.int64)

    def normal(
        self, mean: float = 0.0, std: float = 1.0, shape: tuple[int, ...] = ()
    ) -> NDArray[np.float64]:
        """(rows, *shape), normally distributed (Box and Muller, 1958)."""
        radius = np.sqrt(-2.0 * np.log1p(-self._unit(shape)))
        angle = 2 * np.pi * self._unit(shape)
        return mean + std * radius * np.cos(angle)

    def generator(self, place: int) -> np.random.Generator:
        """A numpy generator of one row of the batch, for what is not drawn a batch at a time."""
        key = np.array([self._key(), self.rows[place]], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def _unit(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """(rows, *shape) in [0, 1), of 53 bits."""
        count = int(np.prod(shape, dtype=np.int64))
        of_row = mixed(self.rows.astype(np.uint64) * _STEP + np.uint64(self._key()))
        counter = np.arange(self._drawn, self._drawn + count, dtype=np.uint64) + np.uint64(1)
        self._drawn += count
        bits = mixed(of_row[:, None] + counter[None, :] * _STEP)
        return ((bits >> np.uint64(11)) * 2.0**-53).reshape(len(self.rows), *shape)

    def _key(self) -> int:
        return xxhash.xxh3_64_intdigest(f"{self.seed}/{self.epoch}".encode())
