"""Windows whose events are listed one by one, a bounded number at a time.

So it is done where some events of a window were not yet known at the row's time, and for the most
frequent values. What comes out has the same bits as that of whole ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from penstock.features.events import Ints
from penstock.features.exact import Limbs
from penstock.features.streams import Stream, masked, mean_of, std_of, sum_of
from penstock.features.windows import Window

_LISTED_AT_ONCE = 1 << 21
"""Events."""


@dataclass(frozen=True, slots=True)
class Lists:
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


NO_LISTS = Lists(*(np.zeros(0, np.int64) for _ in range(3)))


def listed(
    stream: Stream, low: Ints, high: Ints, time: Ints, known: Ints | None
) -> Iterator[Lists]:
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
        yield Lists(places, starts, number)
        start = stop


def _spread_out(lists: Lists, of_runs: Limbs) -> Limbs:
    """Sums of the rows that have events, as sums of all rows: 0 for the rest."""
    having = lists.having

    def spread(part: Ints) -> Ints:
        whole = np.zeros(len(lists.number), np.int64)
        whole[having] = part
        return whole

    return Limbs({place: spread(part) for place, part in of_runs.parts.items()}, len(lists.number))


def _listed_sum(lists: Lists, values: Limbs) -> Limbs:
    if not len(lists.having):
        return _spread_out(
            lists, Limbs({place: np.zeros(0, np.int64) for place in values.parts}, 0)
        )
    return _spread_out(lists, values.at(lists.places).of_runs(lists.starts[lists.having]))


def _listed_infinite(stream: Stream, lists: Lists) -> NDArray[np.bool_] | None:
    found = stream.infinite
    if found is None:
        return None
    return _listed_sum(lists, Limbs({0: found}, len(found))).parts[0] > 0


def _sum_listed(stream: Stream, lists: Lists, window: Window) -> pl.Series:
    total = _listed_sum(lists, stream.limbs)
    return sum_of(stream, total, _listed_infinite(stream, lists))


def _mean_listed(stream: Stream, lists: Lists, window: Window) -> pl.Series:
    total = _listed_sum(lists, stream.limbs)
    return mean_of(stream, total, _listed_infinite(stream, lists), lists.number)


def _std_listed(stream: Stream, lists: Lists, window: Window) -> pl.Series:
    total = _listed_sum(lists, stream.limbs)
    square = _listed_sum(lists, stream.squares)
    return std_of(stream, total, square, _listed_infinite(stream, lists), lists.number)


def _count_listed(stream: Stream, lists: Lists, window: Window) -> pl.Series:
    return pl.Series(lists.number)


def _best_listed(stream: Stream, lists: Lists, window: Window) -> pl.Series:
    is_float = stream.ordinals.dtype.kind == "f"
    smallest, largest = (np.fmin, np.fmax) if is_float else (np.minimum, np.maximum)
    best = smallest if window.function == "min" else largest
    numbers = np.zeros(len(lists.number), stream.ordinals.dtype)
    having = lists.having
    if len(having):
        numbers[having] = best.reduceat(stream.ordinals[lists.places], lists.starts[having])
    return stream.back(numbers, lists.number == 0)


def _first_listed(stream: Stream, lists: Lists, window: Window) -> pl.Series:
    return _end_listed(stream, lists, lists.starts)


def _last_listed(stream: Stream, lists: Lists, window: Window) -> pl.Series:
    return _end_listed(stream, lists, lists.starts + lists.number - 1)


def _end_listed(stream: Stream, lists: Lists, ends: Ints) -> pl.Series:
    places = np.zeros(len(ends), np.int64)
    places[lists.having] = lists.places[ends[lists.having]]
    return stream.gathered(places, lists.number == 0)


def _last_k_listed(stream: Stream, lists: Lists, window: Window) -> pl.Series:
    number = np.minimum(lists.number, window.k)
    row = np.repeat(np.arange(len(number)), number)
    skipped = lists.starts + lists.number - number
    inside = np.arange(len(row)) - (np.cumsum(number) - number)[row]
    places = lists.places[skipped[row] + inside]
    return grouped(stream.values.gather(places), number)


def grouped(values: pl.Series, number: Ints) -> pl.Series:
    """Values side by side as lists of so many each."""
    offsets = pa.array(np.append(0, np.cumsum(number)))
    return pl.Series(pa.LargeListArray.from_arrays(offsets, values.to_arrow()))


def _ordered(stream: Stream, lists: Lists) -> tuple[Ints, Ints]:
    """Each event's row and value's rank, in order of both."""
    ranks = stream.ranks
    packed = np.sort(lists.row * (len(ranks) + 1) + ranks[lists.places])
    return packed // (len(ranks) + 1), packed % (len(ranks) + 1)


def _distinct_listed(stream: Stream, lists: Lists, window: Window) -> pl.Series:
    row, rank = _ordered(stream, lists)
    is_new = np.ones(len(row), bool)
    is_new[1:] = (row[1:] != row[:-1]) | (rank[1:] != rank[:-1])
    return pl.Series(np.bincount(row[is_new], minlength=len(lists.number)))


def _top_k_listed(stream: Stream, lists: Lists, window: Window) -> pl.Series:
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
    values = stream.values.gather(stream.example[rank[keep]])
    return grouped(values + 0.0 if stream.kind.is_float() else values, number)


def _quantile_listed(stream: Stream, lists: Lists, window: Window) -> pl.Series:
    values = stream.numbers[lists.places].astype(np.float64)
    values = values[np.lexsort((values, lists.row))]
    having = lists.having
    start = lists.starts[having]
    found = np.zeros(len(lists.number))
    found[having] = interpolated(
        window.q, lists.number[having], lambda place: values[start + place]
    )
    return masked(pl.Series(found), lists.number == 0)


def interpolated(
    q: float, number: Ints, at: Callable[[Ints], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """A quantile of so many values each, `at` giving those at places in their order."""
    place = q * (number - 1)
    below = np.floor(place).astype(np.int64)
    low, high = at(below), at(np.minimum(below + 1, number - 1))
    # As numpy's: from the nearer end, so that a quantile never leaves its two values.
    part = place - below
    with np.errstate(invalid="ignore"):  # between infinities there is no number
        gap = high - low
        return np.where(part < 0.5, low + gap * part, high - gap * (1 - part))


LISTED: dict[str, Callable[[Stream, Lists, Window], pl.Series]] = {
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
