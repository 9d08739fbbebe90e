"""Whose turn it is in a mixture: shares kept exactly, and any place of it computed at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from penstock.errors import OrderError

_LONGEST_PERIOD = 10_000


def turns_of(count: int, weights: Sequence[float] | None) -> Turns:
    """Turns of so many sources by their weights; None: all have the same.

    Raises
    ------
    OrderError: there are not as many weights, or one of them isn't positive.
    """
    given = [1.0] * count if weights is None else list(weights)
    if len(given) != count:
        raise OrderError(f"{count} datasets need as many weights, got {len(given)}")
    if any(not weight > 0 or not math.isfinite(weight) for weight in given):
        raise OrderError(f"weights must be positive, got {given}; leave a dataset out instead")
    fractions = [Fraction(str(weight)) for weight in given]
    scale = math.lcm(*(fraction.denominator for fraction in fractions))
    shares = [int(fraction * scale) for fraction in fractions]
    divisor = math.gcd(*shares)
    shares = [share // divisor for share in shares]
    total = sum(shares)
    if total > _LONGEST_PERIOD:
        shares = [max(1, round(share * _LONGEST_PERIOD / total)) for share in shares]
    return Turns(tuple(shares))


@dataclass(frozen=True)
class Turns:
    """Whose turn it is, over one period that repeats."""

    shares: tuple[int, ...]
    """Turns of each source in a period."""

    @cached_property
    def source(self) -> NDArray[np.int64]:
        """(period,) whose turn it is; no source is ever a whole turn ahead of its share, or behind.

        By Tijdeman's rule ("The Chairman Assignment Problem", 1980).
        """
        count, period = len(self.shares), sum(self.shares)
        if count == 1:
            return np.zeros(period, np.int64)
        shares = np.array(self.shares, np.float64) / period
        slack = 1.0 / (2 * count - 2)
        had = np.zeros(count)
        turns = np.empty(period, np.int64)
        for turn in range(period):
            may = shares * (turn + 1) - had >= slack - 1e-9
            deadline = np.where(may, (had + 1 - slack) / shares, np.inf)
            chosen = int(np.argmin(deadline))
            turns[turn] = chosen
            had[chosen] += 1
        return turns

    @cached_property
    def before(self) -> NDArray[np.int64]:
        """(sources, period + 1) turns that each has had before each of the period's."""
        had = np.zeros((len(self.shares), len(self.source) + 1), np.int64)
        for source in range(len(self.shares)):
            had[source, 1:] = np.cumsum(self.source == source)
        return had

    def had(self, source: int, position: int) -> int:
        """Turns of a source before a position."""
        rounds, rest = divmod(position, len(self.source))
        return rounds * self.shares[source] + int(self.before[source, rest])

    def positions_to(self, source: int, turns: int) -> int:
        """The first position by which a source has had so many turns."""
        if not turns:
            return 0
        rounds, rest = divmod(turns - 1, self.shares[source])
        within = int(np.searchsorted(self.before[source], rest + 1, side="left"))
        return rounds * len(self.source) + within
