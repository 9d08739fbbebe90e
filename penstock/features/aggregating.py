"""Windows as of each spine row's own time, over sorted events.

The events of a window lie side by side, from `low` up to `high`. Sums, counts and means are
differences of running totals, minima and maxima range queries, distinct counts and quantiles range
counts, first and last a place: none costs more for a longer window. Only the most frequent values,
and windows of which some events were not yet known at the row's time, are listed event by event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.features.events import Events, Ints, SpineRows, earlier
from penstock.features.listing import LISTED, NO_LISTS, grouped, interpolated, listed
from penstock.features.ranges import RangeBest
from penstock.features.streams import Stream, masked, mean_of, std_of, sum_of
from penstock.features.windows import Counted, Window


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
    streams = dict[Counted, Stream]()
    found: list[pl.Series] = []
    for window in windows:
        if window.counted not in streams:
            streams[window.counted] = Stream(values[window.counted], events.entity, window.name)
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
            end = earlier(spine.time, np.mod(spine.time, every)) if every else spine.time
            end = earlier(end, lag)
            self._ends[every, lag] = end, events.before(spine, end)
        end, high = self._ends[every, lag]
        low = events.before(spine, earlier(end, length))
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


def _computed(window: Window, stream: Stream, bounds: _Bounds) -> pl.Series:
    range_ = bounds.of(window)
    low, high = stream.narrowed(range_.low), stream.narrowed(range_.high)
    known = bounds.events.known if range_.is_mixed is not None else None
    one_by_one = LISTED[window.function]
    if window.function == "top_k":
        rows = np.arange(len(low))
    elif range_.is_mixed is not None:
        rows = np.flatnonzero(range_.is_mixed)
    else:
        rows = low[:0]
    pieces = [
        one_by_one(stream, each, window)
        for each in listed(stream, low[rows], high[rows], range_.time[rows], known)
    ]
    if len(rows) == len(low):
        return pl.concat(pieces) if pieces else one_by_one(stream, NO_LISTS, window)
    fast = _WHOLE[window.function](stream, low, high, window)
    if not pieces:
        return fast
    taken = np.arange(len(low))
    taken[rows] = len(low) + np.arange(len(rows))
    return pl.concat([fast, *(piece.cast(fast.dtype) for piece in pieces)]).gather(taken)


# Whole ranges: (stream, low, high, window) to a column.


def _sum(stream: Stream, low: Ints, high: Ints, window: Window) -> pl.Series:
    return sum_of(stream, stream.running.between(low, high), _infinite(stream, low, high))


def _mean(stream: Stream, low: Ints, high: Ints, window: Window) -> pl.Series:
    total = stream.running.between(low, high)
    return mean_of(stream, total, _infinite(stream, low, high), high - low)


def _std(stream: Stream, low: Ints, high: Ints, window: Window) -> pl.Series:
    return std_of(
        stream,
        stream.running.between(low, high),
        stream.running_squares.between(low, high),
        _infinite(stream, low, high),
        high - low,
    )


def _infinite(stream: Stream, low: Ints, high: Ints) -> NDArray[np.bool_] | None:
    running = stream.running_infinite
    return None if running is None else running.between(low, high).parts[0] > 0


def _count(stream: Stream, low: Ints, high: Ints, window: Window) -> pl.Series:
    return pl.Series(high - low)


def _best(stream: Stream, best: RangeBest, low: Ints, high: Ints) -> pl.Series:
    having = np.flatnonzero(high > low)
    numbers = np.zeros(len(low), stream.ordinals.dtype)
    numbers[having] = best.over(low[having], high[having])
    return stream.back(numbers, high <= low)


def _min(stream: Stream, low: Ints, high: Ints, window: Window) -> pl.Series:
    return _best(stream, stream.smallest, low, high)


def _max(stream: Stream, low: Ints, high: Ints, window: Window) -> pl.Series:
    return _best(stream, stream.largest, low, high)


def _first(stream: Stream, low: Ints, high: Ints, window: Window) -> pl.Series:
    return stream.gathered(low, high <= low)


def _last(stream: Stream, low: Ints, high: Ints, window: Window) -> pl.Series:
    return stream.gathered(high - 1, high <= low)


def _last_k(stream: Stream, low: Ints, high: Ints, window: Window) -> pl.Series:
    number = np.clip(high - low, 0, window.k)
    row = np.repeat(np.arange(len(number)), number)
    inside = np.arange(len(row)) - (np.cumsum(number) - number)[row]
    return grouped(stream.values.gather((high - number)[row] + inside), number)


def _distinct_count(stream: Stream, low: Ints, high: Ints, window: Window) -> pl.Series:
    """Of the values in a window, those whose like came last before its start, or never."""
    number = np.zeros(len(low), np.int64)
    having = np.flatnonzero(high > low)
    low, high = low[having], high[having]
    first = low - stream.first[low]
    number[having] = stream.since_alike.below(low, high, first + 1)
    return pl.Series(number)


def _quantile(stream: Stream, low: Ints, high: Ints, window: Window) -> pl.Series:
    found = np.zeros(len(low))
    having = np.flatnonzero(high > low)
    low, high = low[having], high[having]
    if len(having):
        found[having] = interpolated(
            window.q,
            high - low,
            lambda place: stream.in_order[
                stream.first[low] + stream.places_in_order.smallest(low, high, place)
            ],
        )
    return masked(pl.Series(found), is_null=_is_absent(len(found), having))


def _is_absent(count: int, having: Ints) -> NDArray[np.bool_]:
    absent = np.ones(count, bool)
    absent[having] = False
    return absent


_WHOLE: dict[str, Callable[[Stream, Ints, Ints, Window], pl.Series]] = {
    "sum": _sum,
    "count": _count,
    "mean": _mean,
    "std": _std,
    "min": _min,
    "max": _max,
    "first": _first,
    "last": _last,
    "last_k": _last_k,
    "distinct_count": _distinct_count,
    "quantile": _quantile,
}
