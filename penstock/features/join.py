"""The point-in-time join of rows that fit in memory: to each row of a spine what was known by then.

A row of a view counts from the later of its event time and its created time on. Of those that count
by a spine row's time the one with the newest event time wins, ties going to the newest created
time; if it is older than the view's TTL, there is no value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl

from penstock.engines import Threads
from penstock.features.aggregating import aggregate
from penstock.features.events import Entities, Events, Ints, SpineRows, earlier
from penstock.features.view import FeatureView
from penstock.features.windows import Counted

KnownAt = Literal["event", "created"]
EVENT, CREATED = "_event", "_created"
"""Columns of times, in units of the join."""


@dataclass(slots=True)
class Joined:
    """What a view's join came to, in rows."""

    view: str
    rows_read: int = 0
    without_created_time: int = 0
    """Rows of the view left out as nobody knows when they became known."""
    matched: int = 0
    """Rows of the spine that got the values of a row (views that are windows alone: all rows of
    known entities)."""
    unmatched: int = 0
    """Rows of the spine for which nothing was known, or nothing young enough for the TTL."""

    def add(self, other: Joined) -> None:
        """Count another part of the same join in."""
        self.rows_read += other.rows_read
        self.without_created_time += other.without_created_time
        self.matched += other.matched
        self.unmatched += other.unmatched


@dataclass(frozen=True, slots=True)
class Prepared:
    """A view, and how its rows are read: keys, times as integers, features, what windows count."""

    view: FeatureView
    rows: pl.LazyFrame = field(repr=False)
    counted: dict[Counted, str]
    """The column of what each window is over."""
    tied: Sequence[pl.Expr] = field(default=(), repr=False)
    """Of the source: by what rows alike in their times are ordered."""


def join_views(
    keys: pl.DataFrame,
    time: Ints,
    views: Sequence[tuple[Prepared, Callable[[], pl.DataFrame]]],
    known_at: KnownAt,
    unit_us: float,
    *,
    engine: Threads | None = None,
) -> tuple[pl.DataFrame, list[Joined]]:
    """The features of views of one entity, in the order of the spine.

    Parameters
    ----------
    keys: the spine's keys; a row with a null among them gets no value.
    time: (rows,) the spine's times.
    views: each with what reads its rows.
    engine: works on that many views at once; by default one a core.
    unit_us: microseconds in a unit of the times.
    """
    entities = Entities(keys)
    spine = SpineRows.of(entities, time)

    def joined(
        view: tuple[Prepared, Callable[[], pl.DataFrame]],
    ) -> tuple[list[pl.Series], Joined]:
        prepared, read = view
        return ViewRows(entities, prepared, read(), known_at, unit_us).at(spine)

    found = list((engine or Threads()).run(joined, views))
    columns = [column for columns, _ in found for column in columns]
    return pl.DataFrame(columns), [report for _, report in found]


class ViewRows:
    """A view's rows in order, ready to be looked up for any spine of the same entities.

    Parameters
    ----------
    frame: what `prepared.rows` reads, or those of some entities.
    """

    def __init__(
        self,
        entities: Entities,
        prepared: Prepared,
        frame: pl.DataFrame,
        known_at: KnownAt,
        unit_us: float,
    ) -> None:
        view = prepared.view
        self._prepared, self._unit_us, self._entities = prepared, unit_us, entities.count
        self._report = Joined(view.table, rows_read=frame.height)
        waits = known_at == "created" and view.created_time is not None
        if frame[EVENT].null_count():
            frame = frame.filter(pl.col(EVENT).is_not_null())
        if waits and (unknown := frame[CREATED].null_count()):
            self._report.without_created_time = unknown
            frame = frame.filter(pl.col(CREATED).is_not_null())
        created = None
        if view.created_time is not None:
            created = frame[CREATED].fill_null(np.iinfo(np.int64).min).to_numpy()
        keys = list(view.entity.keys)
        self._frame = frame
        self.events = Events(
            entities.numbered(frame.select(keys)),
            entities.count,
            frame[EVENT].to_numpy(),
            created,
            frame.drop([*keys, EVENT, CREATED], strict=False),
            waits=waits,
        )

    @cached_property
    def _counted(self) -> dict[Counted, pl.Series]:
        order = pl.Series(self.events.row)
        return {
            counted: self._frame[name].gather(order)
            for counted, name in self._prepared.counted.items()
        }

    def at(self, spine: SpineRows) -> tuple[list[pl.Series], Joined]:
        """A column a feature, in the order that the spine's rows have in it."""
        view, report = self._prepared.view, replace(self._report)
        columns = dict[str, pl.Series]()
        if view.values:
            taken = pl.Series(self._newest(spine, report), dtype=pl.Int64)
            taken = taken.set(taken < 0, None)
            names = [value.name for value in view.values]
            found = self._frame.select(pl.col(names).gather(taken))
            columns |= {series.name: series for series in found}
            for value in view.values:
                if value.absent is not None:
                    columns[value.name] = _filled(columns[value.name], taken, value.absent)
        if view.windows:
            if not view.values:
                has_events = np.zeros(self._entities, bool)
                has_events[self.events.entity] = True
                report.matched = int(has_events[spine.entity[spine.entity >= 0]].sum())
                report.unmatched = len(spine.entity) - report.matched
            back = np.empty(len(spine.place), np.int64)
            back[spine.place] = np.arange(len(back))
            windows = aggregate(self.events, self._counted, spine, view.windows, self._unit_us)
            columns |= {series.name: series.gather(back) for series in windows}
        ordered = [name for name in view.feature_names if name in columns]
        return [columns[name] for name in ordered], report

    def _newest(self, spine: SpineRows, report: Joined) -> Ints:
        """The row that gives each spine row its values; -1 for none."""
        newest, ttl_us = self.events.newest(spine), self._prepared.view.ttl_us
        if ttl_us is not None and len(self.events):
            oldest = earlier(spine.time, round(ttl_us / self._unit_us))
            newest = np.where(self.events.event[newest] < oldest, -1, newest)
        report.matched = int((newest >= 0).sum())
        report.unmatched = len(newest) - report.matched
        rows = np.full(len(newest), -1, np.int64)
        if len(self.events):
            rows[spine.place] = np.where(newest < 0, -1, self.events.row[newest])
        return rows


def _filled(values: pl.Series, taken: pl.Series, absent: object) -> pl.Series:
    """Values, with what stands for no row where none was taken."""
    known = pl.Series([absent], dtype=values.dtype)
    own = pl.Series(np.arange(len(values))).set(taken.is_null(), len(values))
    return pl.concat([values, known.alias(values.name)]).gather(own)
