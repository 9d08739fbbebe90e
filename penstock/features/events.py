"""A view's rows in order of entity and time, and where each spine row's time falls among them.

(entity, time) is packed into one int64 that sorts as the pair does, so that to sort is one sort of
integers, and to find the rows known by a time one binary search. Everything is arrays: no row is
touched alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Entities:
    """The entities of a spine, numbered from 0.

    Parameters
    ----------
    keys: the spine's key columns; a row with a null among them is of no entity (-1).

    Attributes
    ----------
    count: numbers are below it.
    of_spine: (rows,) the entity of each row of the spine.
    """

    def __init__(self, keys: pl.DataFrame) -> None:
        self._names = keys.columns
        self._first: int | None = None
        self._numbers: pl.DataFrame | None = None
        (kind, *more) = keys.dtypes
        column = keys.to_series(0)
        low, high = (column.min(), column.max()) if kind.is_integer() and not more else (None, None)
        if isinstance(low, int) and isinstance(high, int) and _is_dense(low, high, keys.height):
            self._first, self.count = low, high - low + 1  # a number is its own place
        else:
            known = keys.unique().drop_nulls().sort(keys.columns)
            self._numbers = known.with_row_index("_entity")
            self.count = known.height
        self.of_spine = self.numbered(keys)

    def names(self, numbers: Ints) -> pl.DataFrame:
        """The keys of entities by their numbers, which sort as the keys do."""
        if self._numbers is None:
            return pl.DataFrame({self._names[0]: numbers + (self._first or 0)})
        return self._numbers.drop("_entity")[numbers]

    def numbered(self, keys: pl.DataFrame) -> Ints:
        """(rows,) the entity of each row; -1 where it is none of the spine's."""
        if self._numbers is None:
            first = self._first or 0
            number = keys.to_series(0).cast(pl.Int64, strict=False) - first
            inside = number.is_between(0, self.count - 1)
            return number.set(~inside, -1).fill_null(-1).to_numpy()
        found = keys.join(self._numbers, on=self._names, how="left", maintain_order="left")
        return found["_entity"].cast(pl.Int64).fill_null(-1).to_numpy()


def _is_dense(low: int, high: int, rows: int) -> bool:
    return high - low < 4 * rows + 1_000_000 and abs(low) < 1 << 62


class Packing:
    """Makes one int64 of an entity's number and a time.

    Times before all of `times` pack as 0 of the entity, those after them as the last: for binary
    searches among `times` that is all that matters. Where numbers and times together are too wide
    for 63 bits, times are counted in the largest unit that divides them all (most are whole
    seconds), and where that is not enough, ranked.
    """

    def __init__(self, times: Ints, entities: int) -> None:
        self._first = int(times.min()) if len(times) else 0
        last = int(times.max()) if len(times) else 0
        self._ranked: Ints | None = None
        self._unit = 1
        self._width = last - self._first + 2
        if self._is_wide(entities) and last - self._first < 1 << 63:
            self._unit = max(1, int(np.gcd.reduce(times - self._first)))
            self._width = (last - self._first) // self._unit + 2
        if self._is_wide(entities):
            ordered = np.sort(times)
            self._ranked = ordered[np.append(True, ordered[1:] != ordered[:-1])]
            self._width = len(self._ranked) + 1

    def _is_wide(self, entities: int) -> bool:
        return self._width * (entities + 1) >= 1 << 63

    def pack(self, entities: Ints, times: Ints) -> Ints:
        """(rows,) int64."""
        if self._ranked is not None:
            place = np.searchsorted(self._ranked, times, "right")
        else:
            last = self._first + (self._width - 2) * self._unit
            place = np.clip(times, self._first, last)
            place -= self._first
            if self._unit > 1:
                place //= self._unit
            place += times >= self._first
        return entities * self._width + place


def earlier(times: Ints, by: int | Ints) -> Ints:
    """Times so much earlier (later where it is below zero), at most the first or last there is."""
    last = np.iinfo(np.int64)
    with np.errstate(over="ignore"):
        moved = times - by
    wrapped = np.where(np.asarray(by) >= 0, moved > times, moved < times)
    return np.where(wrapped, np.where(np.asarray(by) >= 0, last.min, last.max), moved)


@dataclass(frozen=True, slots=True)
class SpineRows:
    """A spine's rows in order of entity and time."""

    entity: Ints
    time: Ints
    place: Ints
    """Of each in the spine."""

    @classmethod
    def of(cls, entities: Entities, time: Ints) -> SpineRows:
        """Sorted, which makes searches many times as fast."""
        entity = entities.of_spine
        packed = Packing(time, entities.count).pack(entity, time)
        place = np.argsort(packed)
        return cls(entity[place], time[place], place)


class Events:
    """A view's rows in order of entity, event time, created time and values.

    Parameters
    ----------
    entity: (rows,) each row's entity; below 0 where it is none of the spine's.
    entities: how many the spine has.
    event, created: (rows,) times in one unit.
    ties: columns by which rows alike in everything else are ordered, so that it is no matter in
        which order files came.
    waits: whether a row counts from its created time on only.
    """

    def __init__(
        self,
        entity: Ints,
        entities: int,
        event: Ints,
        created: Ints | None,
        ties: pl.DataFrame,
        *,
        waits: bool,
    ) -> None:
        rows: Ints | None = None
        if len(entity) and int(entity.min()) < 0:
            rows = np.flatnonzero(entity >= 0)
            entity, event = entity[rows], event[rows]
            created = None if created is None else created[rows]
        self._entities = entities
        self._packing = Packing(event, self._entities)
        packed = self._packing.pack(entity, event)
        order: Ints | None = None
        if len(packed) and not bool((packed[1:] >= packed[:-1]).all()):
            order = np.argsort(packed)
            packed = packed[order]
        order = _settled(order, packed, rows, created, ties)
        self.packed = packed
        self.event = _taken(event, order)
        self.entity = _taken(entity, order)
        self.row = _row_numbers(rows, order, len(packed))
        """Where each lay in the view."""
        self.known: Ints | None = None
        """The time from which each counts; None where that is its event time."""
        if waits and created is not None:
            self.known = np.maximum(self.event, _taken(created, order))

    def __len__(self) -> int:
        return len(self.packed)

    def before(self, spine: SpineRows, times: Ints) -> Ints:
        """How many events, of all, come before or at the time of each spine row's entity."""
        found = np.searchsorted(self.packed, self._packing.pack(spine.entity, times), "right")
        return np.where(spine.entity < 0, 0, found)

    @cached_property
    def _known_packing(self) -> Packing:
        assert self.known is not None
        return Packing(self.known, self._entities)

    @cached_property
    def _packed_known(self) -> Ints:
        assert self.known is not None
        return self._known_packing.pack(self.entity, self.known)

    @cached_property
    def _all_known(self) -> Ints:
        """Up to each event, by when all of its entity's events until then were known."""
        return np.maximum.accumulate(self._packed_known)

    def wholly_known(self, spine: SpineRows) -> Ints:
        """How many events, of all, come before the entity's first that was not known by its time.

        Nothing before it is hidden; some that come after it may be known.
        """
        wanted = self._known_packing.pack(spine.entity, spine.time)
        return np.where(spine.entity < 0, 0, np.searchsorted(self._all_known, wanted, "right"))

    def newest(self, spine: SpineRows) -> Ints:
        """The place here of the newest event known by each spine row's time; -1 for none."""
        found = np.where(spine.entity < 0, -1, self.before(spine, spine.time) - 1)
        found = self._own(found, spine.entity)
        if self.known is None or not len(self):
            return found
        # Few were not known by then: those step back, event by event, as long as that helps.
        hidden = np.flatnonzero((found >= 0) & (self.known[found] > spine.time))
        while len(hidden):
            found[hidden] = self._own(found[hidden] - 1, spine.entity[hidden])
            behind = found[hidden]
            still = hidden[(behind >= 0) & (self.known[behind] > spine.time[hidden])]
            if len(still) > len(hidden) // 2:
                rest = SpineRows(spine.entity[still], spine.time[still], spine.place[still])
                found[still] = self._newest_of_many(rest)
                break
            hidden = still
        return found

    def _newest_of_many(self, spine: SpineRows) -> Ints:
        """The same however many lie hidden between: in order of the time from which events are
        known, the furthest place reached so far is the newest known (a running maximum).
        """
        by_known = np.argsort(self._packed_known)
        reached = np.maximum.accumulate(by_known)
        wanted = self._known_packing.pack(spine.entity, spine.time)
        last = np.searchsorted(self._packed_known[by_known], wanted, "right") - 1
        return self._own(np.where(last < 0, -1, reached[last]), spine.entity)

    def _own(self, places: Ints, entity: Ints) -> Ints:
        """Places, -1 where they are of another entity."""
        if not len(self):
            return np.full(len(places), -1, np.int64)
        return np.where((places >= 0) & (self.entity[places] == entity), places, -1)


def _settled(
    order: Ints | None, packed: Ints, rows: Ints | None, created: Ints | None, ties: pl.DataFrame
) -> Ints | None:
    """The order with rows of one entity and event time ordered among themselves."""
    places = _in_runs(packed[1:] == packed[:-1])
    if not len(places):
        return order
    order = np.arange(len(packed)) if order is None else order.copy()
    if created is not None:
        chosen = order[places]
        chosen = chosen[np.lexsort((created[chosen], packed[places]))]
        order[places] = chosen
        # Few are alike in both times, and to order by values takes long.
        alike = packed[places[1:]] == packed[places[:-1]]
        alike &= created[chosen[1:]] == created[chosen[:-1]]
        places = places[_in_runs(alike)]
    if len(places) and ties.width:
        chosen = order[places]
        values = sortable(ties[chosen if rows is None else rows[chosen]])
        by = {"_packed": packed[places]}
        if created is not None:
            by["_created"] = created[chosen]
        sorted_by = pl.DataFrame([*pl.DataFrame(by), *values])
        index = sorted_by.select(pl.arg_sort_by(sorted_by.columns)).to_series().to_numpy()
        order[places] = chosen[index]
    return order


def _in_runs(is_as_before: NDArray[np.bool_]) -> Ints:
    """Places of rows that are like the one before them or the one after."""
    tied = np.zeros(len(is_as_before) + 1, bool)
    tied[1:] |= is_as_before
    tied[:-1] |= is_as_before
    return np.flatnonzero(tied)


def _taken(values: Ints, order: Ints | None) -> Ints:
    return values if order is None else values[order]


def _row_numbers(rows: Ints | None, order: Ints | None, count: int) -> Ints:
    if rows is None:
        return np.arange(count) if order is None else order
    return rows if order is None else rows[order]


def sortable(frame: pl.DataFrame) -> list[pl.Series]:
    """Columns by which rows are ordered, whatever order they are in."""
    columns = list[pl.Series]()
    for number, column in enumerate(frame):
        by = column.rank("dense") if column.dtype.is_nested() else column
        columns.append(by.alias(f"{number}"))
        if column.dtype.is_float():  # 0.0 and -0.0 are equal
            sign = pl.Series(f"{number}-", np.signbit(column.fill_null(0.0).to_numpy()))
            columns.append(sign)
    return columns
