"""Windows as of each spine row's own time, over sorted events.

The events of a window lie side by side, from `low` up to `high`. Sums, counts and means are
differences of running totals, minima and maxima range queries, first and last a place: none costs
more for a longer window. Where some events of a window were not yet known at the row's time, and
for functions that have to see every value, the events of such rows are listed one by one instead
(a bounded number at a time), which gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import FeatureError
from penstock.features.events import Events, Ints, SpineRows
from penstock.features.exact import Limbs, limbs, squares, standard_deviation
from penstock.features.ranges import RangeBest
from penstock.features.windows import Counted, Window

_LISTED_AT_ONCE = 1 << 21
"""Events."""
_SEES_ALL = ("last_k", "distinct_count", "quantile", "top_k")


def aggregate(
    events: Events,
    values: Mapping[Counted, pl.Series],
    spine: SpineRows,
    windows: Sequence[Window],
    unit_us: float,
) -> list[pl.Series]:
    """A column a window, in the order of `spine`.

    Parameters
    ----------
    values: what windows are over, in the order of `events`, null where an event does not count.
    unit_us: microseconds in a unit of the times.
    """
    bounds = _Bounds(events, spine, unit_us)
    streams = dict[Counted, _Stream]()
    found: list[pl.Series] = []
    for window in windows:
        if window.counted not in streams:
            streams[window.counted] = _Stream(values[window.counted], window.name)
        found.append(_computed(window, streams[window.counted], bounds).alias(window.name))
    return found


class _Bounds:
    """Where each spine row's window begins and ends among all events."""

    def __init__(self, events: Events, spine: SpineRows, unit_us: float) -> None:
        self.events, self._spine, self._unit_us = events, spine, unit_us
        self._found = dict[tuple[int, int, int], _Range]()
        self._ends = dict[tuple[int, int], tuple[Ints, Ints]]()

    def of(self, window: Window) -> _Range:
        about = (window.length_us, window.every_us, window.lag_us)
        if about not in self._found:
            self._found[about] = self._between(*(round(us / self._unit_us) for us in about))
        return self._found[about]

    def _between(self, length: int, every: int, lag: int) -> _Range:
        events, spine = self.events, self._spine
        if (every, lag) not in self._ends:
            end = (spine.time // every * every if every else spine.time) - lag
            self._ends[every, lag] = end, events.before(spine, end)
        end, high = self._ends[every, lag]
        low = events.before(spine, end - length)
        if events.known is None:
            return _Range(low, high, None, spine.time)
        # From `sure` on some are hidden. If all are, the window ends there; if it is mixed, its
        # events are listed.
        sure = np.clip(self._wholly_known, low, high)
        mixed = np.flatnonzero(sure < high)
        if len(mixed):
            earliest = self._earliest_known.over(sure[mixed], high[mixed])
            mixed = mixed[earliest <= spine.time[mixed]]
        is_mixed = np.zeros(len(low), bool)
        is_mixed[mixed] = True
        return _Range(low, np.where(is_mixed, high, sure), is_mixed, spine.time)

    @cached_property
    def _wholly_known(self) -> Ints:
        return self.events.wholly_known(self._spine)

    @cached_property
    def _earliest_known(self) -> RangeBest:
        assert self.events.known is not None
        return RangeBest(self.events.known, "min")


@dataclass(frozen=True, slots=True)
class _Range:
    """A window of each spine row: events [low, high)."""

    low: Ints
    high: Ints
    is_mixed: NDArray[np.bool_] | None
    """Rows for which only those events count that were known by `time`."""
    time: Ints


class _Stream:
    """The values of the events that count for a window: those that are not null."""

    def __init__(self, values: pl.Series, name: str) -> None:
        self.name, self.kind = name, values.dtype
        self._kept: Ints | None = None
        if values.null_count():
            self._kept = np.flatnonzero(values.is_not_null().to_numpy())
            values = values.gather(self._kept)
        self.values = values

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
        if kind == pl.Boolean or kind.is_integer():
            wide = pl.UInt64 if kind == pl.UInt64 else pl.Int64
            return self.values.cast(wide).to_numpy()
        if kind.is_float() or kind.is_decimal():
            return self.values.cast(pl.Float64).to_numpy()
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
            return Limbs({0: self.numbers.astype(np.int64)}, len(self.numbers))
        return limbs(self.floats, self.name)

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
    def smallest(self) -> RangeBest:
        return RangeBest(self.numbers, "min")

    @cached_property
    def largest(self) -> RangeBest:
        return RangeBest(self.numbers, "max")

    @cached_property
    def ranks(self) -> Ints:
        """Numbers that are equal, and ordered, as the values are."""
        return self.values.rank("dense").cast(pl.Int64).to_numpy()

    def back(self, numbers: NDArray[Any], is_null: NDArray[np.bool_] | None) -> pl.Series:
        """Numbers as values of the stream's type."""
        series = pl.Series(numbers)
        if self.kind.is_temporal() or self.kind == pl.Boolean:
            series = series.cast(self.kind)
        return _masked(series, is_null)


def _masked(series: pl.Series, is_null: NDArray[np.bool_] | None) -> pl.Series:
    if is_null is None or not is_null.any():
        return series
    return pl.select(pl.when(pl.Series(~is_null)).then(series)).to_series()


def _computed(window: Window, stream: _Stream, bounds: _Bounds) -> pl.Series:
    range_ = bounds.of(window)
    low, high = stream.narrowed(range_.low), stream.narrowed(range_.high)
    listed: Ints | None = None
    if window.function in _SEES_ALL:
        listed = np.arange(len(low))
    elif range_.is_mixed is not None:
        listed = np.flatnonzero(range_.is_mixed)
    if listed is None or (not len(listed) and window.function not in _SEES_ALL):
        return _FAST[window.function](stream, low, high)
    known = bounds.events.known if range_.is_mixed is not None else None
    pieces = [
        _LISTED[window.function](stream, each, window)
        for each in _lists(stream, low[listed], high[listed], range_.time[listed], known)
    ]
    slow = pl.concat(pieces) if pieces else None
    if len(listed) == len(low):
        return slow if slow is not None else _LISTED[window.function](stream, _NONE, window)
    assert slow is not None
    fast = _FAST[window.function](stream, low, high)
    return fast.scatter(listed, slow.cast(fast.dtype))


# Whole ranges: (stream, low, high) to a column.


def _sum(stream: _Stream, low: Ints, high: Ints) -> pl.Series:
    return _sum_of(stream, stream.running.between(low, high), _infinite(stream, low, high))


def _mean(stream: _Stream, low: Ints, high: Ints) -> pl.Series:
    return _mean_of(stream.running.between(low, high), _infinite(stream, low, high), high - low)


def _std(stream: _Stream, low: Ints, high: Ints) -> pl.Series:
    return _std_of(
        stream.running.between(low, high),
        stream.running_squares.between(low, high),
        _infinite(stream, low, high),
        high - low,
    )


def _infinite(stream: _Stream, low: Ints, high: Ints) -> NDArray[np.bool_] | None:
    running = stream.running_infinite
    return None if running is None else running.between(low, high).parts[0] > 0


def _sum_of(stream: _Stream, total: Limbs, infinite: NDArray[np.bool_] | None) -> pl.Series:
    if stream.is_whole:
        return pl.Series(total.parts[0])
    return pl.Series(_spoilt(total.total()[0], infinite))


def _mean_of(total: Limbs, infinite: NDArray[np.bool_] | None, number: Ints) -> pl.Series:
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total.total()[0] / number
    return _masked(pl.Series(_spoilt(mean, infinite)), number == 0)


def _std_of(
    total: Limbs, square: Limbs, infinite: NDArray[np.bool_] | None, number: Ints
) -> pl.Series:
    spread = standard_deviation(number, total.total(), square.total())
    return _masked(pl.Series(_spoilt(spread, infinite)), number < 2)


def _spoilt(values: NDArray[np.float64], infinite: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """NaN where there was a NaN or infinity among the values."""
    return values if infinite is None else np.where(infinite, np.nan, values)


def _count(stream: _Stream, low: Ints, high: Ints) -> pl.Series:
    del stream
    return pl.Series(high - low)


def _best(stream: _Stream, best: RangeBest, low: Ints, high: Ints) -> pl.Series:
    having = np.flatnonzero(high > low)
    numbers = np.zeros(len(low), stream.numbers.dtype)
    numbers[having] = best.over(low[having], high[having])
    return stream.back(numbers, high <= low)


def _min(stream: _Stream, low: Ints, high: Ints) -> pl.Series:
    return _best(stream, stream.smallest, low, high)


def _max(stream: _Stream, low: Ints, high: Ints) -> pl.Series:
    return _best(stream, stream.largest, low, high)


def _gathered(stream: _Stream, places: Ints, is_null: NDArray[np.bool_]) -> pl.Series:
    return stream.values.gather(_masked(pl.Series(places), is_null))


def _first(stream: _Stream, low: Ints, high: Ints) -> pl.Series:
    return _gathered(stream, low, high <= low)


def _last(stream: _Stream, low: Ints, high: Ints) -> pl.Series:
    return _gathered(stream, high - 1, high <= low)


_FAST: dict[str, Callable[[_Stream, Ints, Ints], pl.Series]] = {
    "sum": _sum,
    "count": _count,
    "mean": _mean,
    "std": _std,
    "min": _min,
    "max": _max,
    "first": _first,
    "last": _last,
}


# Lists of events, row by row: (stream, lists, window) to a column.


@dataclass(frozen=True, slots=True)
class _Lists:
    """The events of some rows: those of row i are `places[starts[i] : starts[i] + number[i]]`."""

    places: Ints
    starts: Ints
    number: Ints

    @property
    def having(self) -> Ints:
        """Rows that have an event."""
        return np.flatnonzero(self.number)

    @property
    def row(self) -> Ints:
        """The row of each event."""
        return np.repeat(np.arange(len(self.number)), self.number)


_NONE = _Lists(*(np.zeros(0, np.int64) for _ in range(3)))


def _lists(
    stream: _Stream, low: Ints, high: Ints, time: Ints, known: Ints | None
) -> Iterator[_Lists]:
    """Rows in their order, so many at once as have `_LISTED_AT_ONCE` events, and at least one."""
    ends = np.cumsum(high - low)
    start = 0
    while start < len(low):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _LISTED_AT_ONCE, "right")))
        a, b = low[start:stop], high[start:stop]
        number = b - a
        starts = np.cumsum(number) - number
        row = np.repeat(np.arange(len(number)), number)
        places = np.arange(len(row)) - starts[row] + a[row]
        if known is not None:
            keep = known[stream.at(places)] <= time[start:stop][row]
            places, row = places[keep], row[keep]
            number = np.bincount(row, minlength=len(number))
            starts = np.cumsum(number) - number
        yield _Lists(places, starts, number)
        start = stop


def _spread_out(lists: _Lists, of_runs: Limbs) -> Limbs:
    """Sums of the rows that have events, as sums of all rows: 0 for the rest."""
    having = lists.having

    def spread(part: Ints) -> Ints:
        whole = np.zeros(len(lists.number), np.int64)
        whole[having] = part
        return whole

    return Limbs({place: spread(part) for place, part in of_runs.parts.items()}, len(lists.number))


def _listed_sum(lists: _Lists, values: Limbs) -> Limbs:
    if not len(lists.having):
        return _spread_out(
            lists, Limbs({place: np.zeros(0, np.int64) for place in values.parts}, 0)
        )
    return _spread_out(lists, values.at(lists.places).of_runs(lists.starts[lists.having]))


def _listed_infinite(stream: _Stream, lists: _Lists) -> NDArray[np.bool_] | None:
    found = stream.infinite
    if found is None:
        return None
    return _listed_sum(lists, Limbs({0: found}, len(found))).parts[0] > 0


def _sum_listed(stream: _Stream, lists: _Lists, window: Window) -> pl.Series:
    total = _listed_sum(lists, stream.limbs)
    return _sum_of(stream, total, _listed_infinite(stream, lists))


def _mean_listed(stream: _Stream, lists: _Lists, window: Window) -> pl.Series:
    total = _listed_sum(lists, stream.limbs)
    return _mean_of(total, _listed_infinite(stream, lists), lists.number)


def _std_listed(stream: _Stream, lists: _Lists, window: Window) -> pl.Series:
    total = _listed_sum(lists, stream.limbs)
    square = _listed_sum(lists, stream.squares)
    return _std_of(total, square, _listed_infinite(stream, lists), lists.number)


def _count_listed(stream: _Stream, lists: _Lists, window: Window) -> pl.Series:
    return pl.Series(lists.number)


def _best_listed(stream: _Stream, lists: _Lists, window: Window) -> pl.Series:
    is_float = stream.numbers.dtype.kind == "f"
    smallest, largest = (np.fmin, np.fmax) if is_float else (np.minimum, np.maximum)
    best = smallest if window.function == "min" else largest
    numbers = np.zeros(len(lists.number), stream.numbers.dtype)
    having = lists.having
    if len(having):
        numbers[having] = best.reduceat(stream.numbers[lists.places], lists.starts[having])
    return stream.back(numbers, lists.number == 0)


def _first_listed(stream: _Stream, lists: _Lists, window: Window) -> pl.Series:
    return _end_listed(stream, lists, lists.starts)


def _last_listed(stream: _Stream, lists: _Lists, window: Window) -> pl.Series:
    return _end_listed(stream, lists, lists.starts + lists.number - 1)


def _end_listed(stream: _Stream, lists: _Lists, ends: Ints) -> pl.Series:
    places = np.zeros(len(ends), np.int64)
    places[lists.having] = lists.places[ends[lists.having]]
    return _gathered(stream, places, lists.number == 0)


def _last_k_listed(stream: _Stream, lists: _Lists, window: Window) -> pl.Series:
    number = np.minimum(lists.number, window.k)
    row = np.repeat(np.arange(len(number)), number)
    skipped = lists.starts + lists.number - number
    inside = np.arange(len(row)) - (np.cumsum(number) - number)[row]
    places = lists.places[skipped[row] + inside]
    return _grouped(stream.values.gather(places), number)


def _grouped(values: pl.Series, number: Ints) -> pl.Series:
    """Values side by side as lists of so many each."""
    offsets = pa.array(np.append(0, np.cumsum(number)))
    return pl.Series(pa.LargeListArray.from_arrays(offsets, values.to_arrow()))


def _ordered(stream: _Stream, lists: _Lists) -> tuple[Ints, Ints]:
    """Each event's row and value's rank, in order of both."""
    ranks = stream.ranks
    packed = np.sort(lists.row * (len(ranks) + 1) + ranks[lists.places])
    return packed // (len(ranks) + 1), packed % (len(ranks) + 1)


def _distinct_listed(stream: _Stream, lists: _Lists, window: Window) -> pl.Series:
    row, rank = _ordered(stream, lists)
    is_new = np.ones(len(row), bool)
    is_new[1:] = (row[1:] != row[:-1]) | (rank[1:] != rank[:-1])
    return pl.Series(np.bincount(row[is_new], minlength=len(lists.number)))


def _top_k_listed(stream: _Stream, lists: _Lists, window: Window) -> pl.Series:
    row, rank = _ordered(stream, lists)
    is_new = np.ones(len(row), bool)
    is_new[1:] = (row[1:] != row[:-1]) | (rank[1:] != rank[:-1])
    begins = np.flatnonzero(is_new)
    times = np.diff(np.append(begins, len(row)))
    row, rank = row[begins], rank[begins]
    order = np.lexsort((rank, -times, row))
    row, rank = row[order], rank[order]
    first = np.searchsorted(row, row)
    keep = np.arange(len(row)) - first < window.k
    number = np.bincount(row[keep], minlength=len(lists.number))
    # A value of each rank.
    example = np.zeros(int(stream.ranks.max(initial=0)) + 1, np.int64)
    example[stream.ranks] = np.arange(len(stream.ranks))
    return _grouped(stream.values.gather(example[rank[keep]]), number)


def _quantile_listed(stream: _Stream, lists: _Lists, window: Window) -> pl.Series:
    values = stream.numbers[lists.places].astype(np.float64)
    values = values[np.lexsort((values, lists.row))]
    having = lists.having
    place = window.q * (lists.number[having] - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, lists.number[having] - 1)
    start = lists.starts[having]
    low, high = values[start + below], values[start + above]
    found = np.zeros(len(lists.number))
    # As numpy's: from the nearer end, so that a quantile never leaves its two values.
    part = place - below
    with np.errstate(invalid="ignore"):  # between infinities there is no number
        gap = high - low
        found[having] = np.where(part < 0.5, low + gap * part, high - gap * (1 - part))
    return _masked(pl.Series(found), lists.number == 0)


_LISTED: dict[str, Callable[[_Stream, _Lists, Window], pl.Series]] = {
    "sum": _sum_listed,
    "count": _count_listed,
    "mean": _mean_listed,
    "std": _std_listed,
    "min": _best_listed,
    "max": _best_listed,
    "first": _first_listed,
    "last": _last_listed,
    "last_k": _last_k_listed,
    "distinct_count": _distinct_listed,
    "quantile": _quantile_listed,
    "top_k": _top_k_listed,
}
