"""The values that windows are over, and what is worked out of all of them once."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.errors import FeatureError
from penstock.features.events import Ints
from penstock.features.exact import (
    Limbs,
    limbs,
    squares,
    standard_deviation,
    whole_limbs,
)
from penstock.features.ranges import RangeBest
from penstock.features.selecting import RangeOrder


class Stream:
    """The values of the events that count for a window: those that are not null."""

    def __init__(self, values: pl.Series, entity: Ints, name: str) -> None:
        self.name, self.kind = name, values.dtype
        self._kept: Ints | None = None
        if values.null_count():
            self._kept = np.flatnonzero(values.is_not_null().to_numpy())
            values, entity = values.gather(self._kept), entity[self._kept]
        self.values, self._entity = values, entity

    def narrowed(self, places: Ints) -> Ints:
        """Places among all events as places among these."""
        return places if self._kept is None else np.searchsorted(self._kept, places)

    def at(self, places: Ints) -> Ints:
        """Places among these as places among all events."""
        return places if self._kept is None else self._kept[places]

    @cached_property
    def numbers(self) -> NDArray[Any]:
        """Values as numbers: of times and booleans, what stands for them."""
        kind = self.kind
        if kind.is_temporal():
            return self.values.to_physical().cast(pl.Int64).to_numpy()
        if _is_wide(kind):
            raise FeatureError(f"{self.name}: {kind} is too wide; cast it to Int64 or Float64")
        if kind == pl.Boolean or kind.is_integer():
            wide = pl.UInt64 if kind == pl.UInt64 else pl.Int64
            return self.values.cast(wide).to_numpy()
        if kind.is_float() or kind.is_decimal():
            # 0.0 and -0.0 are equal, and which is the smaller would be chance.
            return self.values.cast(pl.Float64).to_numpy() + 0.0
        raise FeatureError(f"{self.name}: {kind} is no number; take Last, DistinctCount or TopK")

    @cached_property
    def floats(self) -> NDArray[np.float64]:
        """Numbers as floats, 0 for those that are not finite."""
        return np.where(self._is_finite, self._as_floats, 0.0)

    @cached_property
    def _as_floats(self) -> NDArray[np.float64]:
        return self.numbers.astype(np.float64)

    @cached_property
    def _is_finite(self) -> NDArray[np.bool_]:
        return np.isfinite(self._as_floats)

    @cached_property
    def infinite(self) -> Ints | None:
        """1 for NaN and infinity; None where there are none."""
        return None if self._is_finite.all() else (~self._is_finite).astype(np.int64)

    @cached_property
    def limbs(self) -> Limbs:
        if self.is_whole:
            return whole_limbs(self.numbers)
        return limbs(self.floats, self.name)

    def check_adds_up(self) -> None:
        """Refuse what has no sum.

        Raises
        ------
        FeatureError: they are times.
        """
        if self.kind.is_temporal() and self.kind != pl.Duration:
            raise FeatureError(
                f"{self.name}: {self.kind} has no sum, mean or deviation; take those of a duration"
            )

    @property
    def is_whole(self) -> bool:
        """Whether they are integers, whose sum is one."""
        return self.numbers.dtype.kind in "iu"

    @cached_property
    def running(self) -> Limbs:
        return self.limbs.running()

    @cached_property
    def squares(self) -> Limbs:
        return squares(self.floats, self.name)

    @cached_property
    def running_squares(self) -> Limbs:
        return self.squares.running()

    @cached_property
    def running_infinite(self) -> Limbs | None:
        found = self.infinite
        return None if found is None else Limbs({0: found}, len(found)).running()

    @cached_property
    def ordinals(self) -> NDArray[Any]:
        """Numbers in whose order the values are: themselves, or ranks of texts and the like."""
        kind = self.kind
        if _is_wide(kind) or not (
            kind.is_temporal() or kind.is_integer() or kind.is_float() or kind == pl.Boolean
        ):
            return self.ranks
        return self.numbers

    @cached_property
    def smallest(self) -> RangeBest:
        return RangeBest(self.ordinals, "min")

    @cached_property
    def largest(self) -> RangeBest:
        return RangeBest(self.ordinals, "max")

    @cached_property
    def example(self) -> Ints:
        """The place of a value of each rank."""
        places = np.zeros(int(self.ranks.max(initial=0)) + 1, np.int64)
        places[self.ranks] = np.arange(len(self.ranks))
        return places

    @cached_property
    def ranks(self) -> Ints:
        """Numbers that are equal, and ordered, as the values are."""
        return self.values.rank("dense").cast(pl.Int64).to_numpy()

    @cached_property
    def first(self) -> Ints:
        """The place of the first value of each one's entity."""
        places = np.arange(len(self._entity))
        begins = self._entity[1:] != self._entity[:-1]
        places[1:][~begins] = 0
        return np.maximum.accumulate(places)

    @cached_property
    def since_alike(self) -> RangeOrder:
        """Of each, 1 + the place within its entity of the last value before that is equal."""
        ranks = self.ranks
        order = np.argsort(self._entity * (int(ranks.max(initial=0)) + 1) + ranks, kind="stable")
        alike = ranks[order[1:]] == ranks[order[:-1]]
        alike &= self._entity[order[1:]] == self._entity[order[:-1]]
        since = np.zeros(len(order), np.int64)
        last, next_ = order[:-1][alike], order[1:][alike]
        since[next_] = last - self.first[last] + 1
        return RangeOrder(since)

    @cached_property
    def _sorted(self) -> tuple[Ints, NDArray[np.float64]]:
        values = self.numbers.astype(np.float64)
        order = np.lexsort((values, self._entity))
        return order, values[order]

    @property
    def in_order(self) -> NDArray[np.float64]:
        """Values in order of entity and value."""
        return self._sorted[1]

    @cached_property
    def places_in_order(self) -> RangeOrder:
        """Where each lies among the ordered ones of its entity."""
        order, _ = self._sorted
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order)) - self.first
        return RangeOrder(places)

    def gathered(self, places: Ints, is_null: NDArray[np.bool_]) -> pl.Series:
        """The values of places, null where there is none."""
        return self.values.gather(masked(pl.Series(places), is_null))

    def back(self, numbers: NDArray[Any], is_null: NDArray[np.bool_]) -> pl.Series:
        """Ordinals as values of the stream's type."""
        if self.ordinals is self.ranks:
            places = np.where(is_null, 0, numbers) if len(self.example) else numbers
            return self.gathered(self.example[places], is_null)
        series = pl.Series(numbers)
        if self.kind.is_temporal() or self.kind == pl.Boolean:
            series = series.cast(self.kind)
        return masked(series, is_null)


def masked(series: pl.Series, is_null: NDArray[np.bool_] | None) -> pl.Series:
    if is_null is None or not is_null.any():
        return series
    return pl.select(pl.when(pl.Series(~is_null)).then(series)).to_series()


def sum_of(stream: Stream, total: Limbs, infinite: NDArray[np.bool_] | None) -> pl.Series:
    stream.check_adds_up()
    if not stream.is_whole:
        return pl.Series(spoilt(total.total()[0], infinite))
    found = pl.Series(total.whole(stream.name))
    return found.cast(stream.kind) if stream.kind == pl.Duration else found


def mean_of(
    stream: Stream, total: Limbs, infinite: NDArray[np.bool_] | None, number: Ints
) -> pl.Series:
    stream.check_adds_up()
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total.total()[0] / number
    found = masked(pl.Series(spoilt(mean, infinite)), number == 0)
    return found.round().cast(stream.kind) if stream.kind == pl.Duration else found


def std_of(
    stream: Stream, total: Limbs, square: Limbs, infinite: NDArray[np.bool_] | None, number: Ints
) -> pl.Series:
    stream.check_adds_up()
    spread = standard_deviation(number, total.total(), square.total())
    return masked(pl.Series(spoilt(spread, infinite)), number < 2)


def spoilt(values: NDArray[np.float64], infinite: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """NaN where there was a NaN or infinity among the values."""
    return values if infinite is None else np.where(infinite, np.nan, values)


def _is_wide(kind: pl.DataType) -> bool:
    return isinstance(kind, pl.Int128 | pl.UInt128)
