"""Why a training row has the values that it has: which source rows gave them, and why none newer.

For one row at a time, by looking at every row of its entities; the join itself keeps no account.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from penstock.errors import FeatureError
from penstock.features.events import sortable
from penstock.features.join import CREATED, EVENT, KnownAt, Prepared, join_views
from penstock.features.preparing import TIME, as_number
from penstock.features.view import FeatureView
from penstock.features.windows import Window, length_text

if TYPE_CHECKING:
    from penstock.features.frame import TrainingFrame

_NEWER = 5
"""Rows passed over that are told of, those nearest in time."""
_ORIGIN = ("_source_file", "_source_row", "_batch")


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row of a view's source."""

    event_time: datetime
    created_time: datetime | None
    origin: Mapping[str, Any]
    """Its file, row and batch, where the source tells."""

    def __str__(self) -> str:
        created = f", created {self.created_time}" if self.created_time else ""
        file, row = self.origin.get("_source_file"), self.origin.get("_source_row")
        return f"{self.event_time}{created}" + (f" ({file}, row {row})" if file else "")


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A newer row that did not count, and why."""

    row: SourceRow
    reason: str


@dataclass(frozen=True, slots=True)
class WindowTold:
    """What a window of the row held."""

    feature: str
    after: datetime
    until: datetime
    """Included; `after` is not."""
    events: int
    hidden: int
    """Events in it that were not known yet."""


@dataclass(frozen=True, slots=True)
class ViewTold:
    """One view's part of a training row."""

    view: str
    source: str
    version: int | None
    """Of the source's table; None where the source is no table."""
    entity: Mapping[str, Any]
    values: Mapping[str, Any]
    chosen: SourceRow | None
    """The row that gave the values that are no windows."""
    why: str
    passed_over: Sequence[PassedOver]
    windows: Sequence[WindowTold]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A row of a training frame, view by view; `print` it."""

    row: int
    time: datetime
    views: Sequence[ViewTold]

    def __str__(self) -> str:
        lines = [f"row {self.row:,} as of {self.time}"]
        for told in self.views:
            version = "" if told.version is None else f" version {told.version}"
            entity = ", ".join(f"{key} {value}" for key, value in told.entity.items())
            lines.append(f"\n{told.view} of {told.source}{version}, {entity}")
            lines += [f"  {name} = {value}" for name, value in told.values.items()]
            if told.why:
                lines.append(
                    f"  from {told.chosen}: {told.why}" if told.chosen else f"  {told.why}"
                )
            lines += [f"  not {each.row}: {each.reason}" for each in told.passed_over]
            for window in told.windows:
                hidden = f", {window.hidden} more not known yet" if window.hidden else ""
                lines.append(
                    f"  {window.feature}: {window.events} events after {window.after} up to "
                    f"{window.until}{hidden}"
                )
        return "\n".join(lines)


def explain(frame: TrainingFrame, row: int) -> Explanation:
    """See `TrainingFrame.explain_row`.

    Raises
    ------
    FeatureError: the spine has no such row.
    """
    found = frame.spine.slice(row, 1).collect() if row >= 0 else frame.spine.clear().collect()
    if not found.height:
        raise FeatureError(f"{frame.name} has no row {row:,}; the first is 0")
    wanted = found.select(*frame.joins.spine_columns)
    time = wanted[TIME][0]
    unit_us = frame.joins.unit_us
    told: list[ViewTold] = []
    for keys, group in frame.joins.groups:
        entity = wanted.select(keys)
        for prepared in group:
            view = prepared.view
            # By keys as the join compares them; the rest of a source row is only shown.
            mine = [pl.col(key).cast(entity.schema[key]) == entity[key][0] for key in keys]
            rows = prepared.rows.filter(*mine).collect()
            values, _ = join_views(
                entity,
                wanted[TIME].to_numpy(),
                [(prepared, lambda rows=rows: rows)],
                frame.known_at,
                unit_us,
            )
            seen = _seen(frame, prepared, mine)
            told.append(
                ViewTold(
                    view.table,
                    view.source,
                    frame.versions.get(view.source),
                    entity.to_dicts()[0],
                    values.to_dicts()[0],
                    *_newest(view, seen, time, frame.known_at, unit_us),
                    [_window(window, seen, view, time, frame) for window in view.windows],
                )
            )
    return Explanation(row, _moment(time, unit_us), told)


def _seen(frame: TrainingFrame, prepared: Prepared, mine: Sequence[pl.Expr]) -> pl.DataFrame:
    """Every row of the entity: times as integers, and where it came from; newest first."""
    view = prepared.view
    scan = frame.scans[view.table]
    unit_us = frame.joins.unit_us
    kinds = scan.collect_schema()
    origin = [name for name in _ORIGIN if name in kinds]
    created = pl.lit(None, pl.Int64)
    if view.created_time is not None:
        created = as_number(view.created_time, kinds[view.created_time], unit_us)
    event = as_number(view.event_time, kinds[view.event_time], unit_us)
    columns = [event.alias(EVENT), created.alias(CREATED)]
    counted = [
        window.expression.polars().is_not_null().fill_null(value=False)
        & (window.where.polars().fill_null(value=False) if window.where else pl.lit(True))
        for window in view.windows
    ]
    named = [each.alias(f"_{number}") for number, each in enumerate(counted)]
    found = (
        scan.filter(view.filter.polars(), *mine)
        .select(*columns, *origin, *named, pl.struct(prepared.tied).alias("_tied"))
        .filter(pl.col(EVENT).is_not_null())
        .collect()
    )
    by = pl.DataFrame([found[EVENT], found[CREATED], *sortable(found["_tied"].struct.unnest())])
    order = by.select(pl.arg_sort_by(by.columns)).to_series()
    return found.drop("_tied")[order.reverse()]


def _newest(
    view: FeatureView, rows: pl.DataFrame, time: int, known_at: KnownAt, unit_us: float
) -> tuple[SourceRow | None, str, list[PassedOver]]:
    if not view.values:
        return None, "", []
    waits = known_at == "created" and view.created_time is not None
    newer: list[PassedOver] = []
    for found in rows.iter_rows(named=True):
        row = _source_row(found, unit_us)
        event, created = found[EVENT], found[CREATED]
        if event > time:
            newer.append(PassedOver(row, "it happened after the row's time"))
        elif waits and created is None:
            newer.append(PassedOver(row, "nobody knows when it became known"))
        elif waits and created > time:
            newer.append(PassedOver(row, "it was known only after the row's time"))
        elif view.ttl_us is not None and time - event > round(view.ttl_us / unit_us):
            age = length_text(round((time - event) * unit_us))
            newer.append(PassedOver(row, f"it is {age} old, beyond the TTL of {view.ttl}"))
            return None, "no row counts", newer[-_NEWER:]
        else:
            return row, "the newest that was known", newer[-_NEWER:]
    return None, "no row counts" if newer else "the source has no row of it", newer[-_NEWER:]


def _window(
    window: Window, rows: pl.DataFrame, view: FeatureView, time: int, frame: TrainingFrame
) -> WindowTold:
    unit_us = frame.joins.unit_us
    length, every, lag = (
        round(us / unit_us) for us in (window.length_us, window.every_us, window.lag_us)
    )
    until = (time // every * every if every else time) - lag
    number = view.windows.index(window)
    inside = rows.filter(
        pl.col(EVENT) > until - length, pl.col(EVENT) <= until, pl.col(f"_{number}")
    )
    hidden = 0
    if frame.known_at == "created" and view.created_time is not None:
        hidden = inside.filter(pl.col(CREATED).is_null() | (pl.col(CREATED) > time)).height
    return WindowTold(
        window.name,
        _moment(until - length, unit_us),
        _moment(until, unit_us),
        inside.height - hidden,
        hidden,
    )


def _source_row(found: Mapping[str, Any], unit_us: float) -> SourceRow:
    created = found[CREATED]
    return SourceRow(
        _moment(found[EVENT], unit_us),
        None if created is None else _moment(created, unit_us),
        {name: found[name] for name in _ORIGIN if name in found},
    )


_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""What a datetime holds: years 1 to 9999."""


def _moment(time: int, unit_us: float) -> datetime:
    us = min(max(round(time * unit_us), _FIRST_US), _LAST_US)
    seconds, rest = divmod(us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
