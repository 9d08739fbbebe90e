"""Sums of floats that no order of addition changes, over ranges of sorted events.

Each float is written as integers of 32 bits in fixed places (limbs), worth 2^64, 2^32, 1, 2^-32,
2^-64 and 2^-96. Integers are added without error and in any order, so running totals of them give
the sum over any range by one subtraction, exact but for what lies below the last place; int64 wraps
around, which a subtraction undoes, and a limb has room for 2^32 values. A small superaccumulator
(Neal, "Fast exact summation using small and large superaccumulators", 2015) with fixed places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import FeatureError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_WIDTH = 32
_PLACES = (64, 32, 0, -32, -64, -96)
"""Powers of two that a unit of each limb is worth."""
_LARGEST = 2.0**94
_LARGEST_SQUARED = 2.0**47


@dataclass(frozen=True, slots=True)
class Limbs:
    """Values, or sums of them, as integers by place; places where all are zero are left out."""

    parts: Mapping[int, Ints]
    rows: int

    def _each(self, change: Callable[[Ints], Ints], rows: int) -> Limbs:
        return Limbs({place: change(part) for place, part in self.parts.items()}, rows)

    def running(self) -> Limbs:
        """Totals of all values before each place: one longer."""
        return self._each(_running, self.rows + 1)

    def between(self, low: Ints, high: Ints) -> Limbs:
        """Of running totals: the sums over [low, high)."""
        return self._each(lambda part: part[high] - part[low], len(low))

    def of_runs(self, starts: Ints) -> Limbs:
        """Of values: the sums of runs that begin at `starts`, none of them empty."""
        return self._each(lambda part: np.add.reduceat(part, starts), len(starts))

    def at(self, places: Ints) -> Limbs:
        """Of values: those at some places."""
        return self._each(lambda part: part[places], len(places))

    def whole(self, name: str) -> Ints:
        """Of integers: the sum.

        Raises
        ------
        FeatureError: it does not fit 64 bits.
        """
        low, high = self.parts[0], self.parts.get(_WIDTH)
        if high is None:
            return low
        high = high + (low >> _WIDTH)
        if len(high) and not -(1 << 31) <= int(high.min()) <= int(high.max()) < 1 << 31:
            raise FeatureError(
                f"{name}: a total does not fit 64 bits; cast what is summed to Float64"
            )
        return (high << _WIDTH) + (low & ((1 << _WIDTH) - 1))

    def total(self) -> tuple[Floats, Floats]:
        """As the sum of a float and a much smaller one, the nearest that there are."""
        normal = dict[int, Floats]()
        carried: Ints | None = None
        for place in reversed(_PLACES):
            part = self.parts.get(place)
            if part is None and carried is None:
                continue
            whole = sum((each for each in (part, carried) if each is not None), np.int64(0))
            carried = None
            if place != _PLACES[0]:
                carried = np.asarray(whole >> _WIDTH)
                whole = whole - (carried << _WIDTH)
                carried = carried if carried.any() else None
            normal[place] = np.asarray(whole).astype(np.float64) * 2.0**place
        high, low = np.zeros(self.rows), np.zeros(self.rows)
        # Only the highest may be below zero: what it loses to the next ones is lost exactly.
        for place in sorted(normal, reverse=True):
            high, lost = two_sum(high, normal[place])
            low = low + lost
        return two_sum(high, low)


def _running(part: Ints) -> Ints:
    totals = np.empty(len(part) + 1, np.int64)
    totals[0] = 0
    np.cumsum(part, out=totals[1:])
    return totals


def limbs(values: Floats, name: str, *, largest: float = _LARGEST) -> Limbs:
    """Finite values as limbs.

    Raises
    ------
    FeatureError: one is too large.
    """
    worst = float(np.abs(values).max()) if len(values) else 0.0
    if worst >= largest:
        raise FeatureError(
            f"{name}: a value of {worst:.3g} is beyond {largest:.3g}, up to which sums are exact; "
            "give it in a larger unit, or leave such events out by where="
        )
    parts = dict[int, Ints]()
    rest = values
    for place in _PLACES:
        if worst < 2.0 ** (place - 1):
            continue
        unit = 2.0**place
        part = rest * (1 / unit)
        np.rint(part, out=part)
        parts[place] = part.astype(np.int64)
        part *= unit
        rest = np.subtract(rest, part, out=part)  # exact: multiples of the value's last bit
        if not rest.any():
            break
    return Limbs(parts, len(values))


def whole_limbs(values: NDArray[np.integer[Any]]) -> Limbs:
    """Integers as limbs: one, where no sum of them leaves int64, else two."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    if max(-low, high) * max(1, len(values)) < 1 << 62:
        return Limbs({0: values.astype(np.int64)}, len(values))
    mask = values.dtype.type((1 << _WIDTH) - 1)
    parts = {_WIDTH: (values >> _WIDTH).astype(np.int64), 0: (values & mask).astype(np.int64)}
    return Limbs(parts, len(values))


def added(one: Limbs, other: Limbs) -> Limbs:
    """The sum, place by place."""
    parts = dict(one.parts)
    for place, part in other.parts.items():
        parts[place] = parts[place] + part if place in parts else part
    return Limbs(parts, one.rows)


def squares(values: Floats, name: str) -> Limbs:
    """The squares of finite values, without rounding: a product and what its rounding lost."""
    worst = float(np.abs(values).max()) if len(values) else 0.0
    if worst >= _LARGEST_SQUARED:
        raise FeatureError(
            f"{name}: a value of {worst:.3g} is beyond {_LARGEST_SQUARED:.3g}, up to which "
            "standard deviations are exact; give it in a larger unit"
        )
    product, lost = _two_square(values)
    return added(limbs(product, name), limbs(lost, name))


def standard_deviation(
    number: Ints, total: tuple[Floats, Floats], square: tuple[Floats, Floats]
) -> Floats:
    """Over n - 1, from exact sums in twice a float's precision; NaN below two."""
    n = number.astype(np.float64)
    # sum of squares - total^2 / n, each as high + low (Dekker, 1971).
    high, low = two_product(total[0], total[0])
    low = low + 2.0 * total[0] * total[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_high = high / n
        back_high, back_low = two_product(mean_high, n)
        mean_low = ((high - back_high) - back_low + low) / n
        left, lost = two_sum(square[0], -mean_high)
        spread = left + (lost + square[1] - mean_low)
        variance = np.maximum(spread, 0.0) / (n - 1)
    return np.where(number > 1, np.sqrt(variance), np.nan)


def two_sum(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """a + b, and what its rounding lost (Knuth)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def two_product(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """a * b, and what its rounding lost (Dekker, Veltkamp)."""
    product = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    lost = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, lost


def _two_square(a: Floats) -> tuple[Floats, Floats]:
    product = a * a
    high, low = _halves(a)
    lost = high * high
    lost -= product
    lost += 2.0 * (high * low)
    low *= low
    lost += low
    return product, lost


def _halves(a: Floats) -> tuple[Floats, Floats]:
    scaled = a * 134_217_729.0  # 2^27 + 1
    high = scaled - a
    np.subtract(scaled, high, out=high)
    return high, np.subtract(a, high, out=scaled)
