"""Tables computed a day at a time from a source's events, and recomputed only where it matters.

Each commit notes the source's version that it read, the days it covers, and the days left stale.
A day is stale when rows that its windows reach came or went since (by the data files that came
and went in the source's log), when it was left so before, or when the definition changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import xxhash

from penstock.errors import FeatureError, TableNotFound
from penstock.features import registry
from penstock.features.events import Entities, Events, Ints, SpineRows
from penstock.features.join import EVENT, Prepared, ViewRows
from penstock.features.preparing import prepare
from penstock.features.spilling import BATCH, Parted, Spill
from penstock.features.view import FeatureView
from penstock.features.windows import DAY_US
from penstock.lake import Lake
from penstock.tables import Snapshot, StagedFile, Stager, Table
from penstock.tables.differences import changed_files
from penstock.tables.staging import StoredFile, discard

PARTITION = "date"
"""The partition column: the day that a row's time ends."""
TIME = "event_time"
"""A row's time: the midnight (UTC) that ends its day."""
ROWS_AT_ONCE = 2_000_000
"""Events, or rows of the table, that are held together."""
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class DailyTable:
    """How a table is computed from a source's events, a row an entity a day."""

    view: FeatureView
    """Whose features, as of each day's end."""
    population_days: int | None
    """Entities with an event in so many days before have a row; None: with any event before."""
    lookahead_days: int = 0
    """Days after a row's time that must be over before it may be computed: a label's horizon."""
    is_label: bool = False
    """Whether rows say who labelled them, how surely and when that could be known."""

    @property
    def table(self) -> str:
        """Its name."""
        return self.view.table

    @property
    def source(self) -> str:
        """The table of events."""
        return self.view.source

    @property
    def event_time(self) -> str:
        """Of the source's rows."""
        return self.view.event_time

    @property
    def description(self) -> str:
        """The view's."""
        return self.view.description

    @property
    def application(self) -> str:
        """The name of its transactions in the log."""
        return f"materialize/{self.table}"

    def beyond(self) -> dict[str, Any]:
        """What the definition says that is not the view's."""
        return {"population": f"{self.population_days}d"} if self.is_label else {}

    def fingerprint(self) -> str:
        """16 hex digits that change when the definition does."""
        view = self.view
        said = [view.fingerprint(), self.population_days, self.lookahead_days, self.is_label]
        return xxhash.xxh3_64_hexdigest(json.dumps(said, sort_keys=True).encode())


@dataclass(frozen=True, slots=True)
class Materialized:
    """What recomputing some days of a table came to."""

    table: str
    days: int
    rows: int
    size_bytes: int
    rows_in: int
    """Source rows whose windows reach into the days."""
    version: int
    source_version: int


@dataclass(frozen=True, slots=True)
class _Range:
    """Days that can be computed, both ends included."""

    first: date
    last: date

    def days(self) -> set[date]:
        return set(_days(self.first, self.last))


def stale_days(lake: Lake, definition: DailyTable) -> list[date]:
    """The days whose rows are missing or out of date, in order; none before the source exists."""
    source = Table(lake, definition.source).snapshot_or_none()
    if source is None:
        return []
    return sorted(_stale(lake, definition, source))


def materialize(lake: Lake, definition: DailyTable, days: Iterable[date]) -> Materialized:
    """Recompute the days from the source's newest version, all of them in one commit.

    A day that can't be computed yet (a label whose window is open) ends up without rows.

    Raises
    ------
    TableNotFound: there is no source table.
    CommitConflict: another run recomputed days of the table meanwhile; nothing was committed.
    """
    source = Table(lake, definition.source).snapshot()
    wanted = sorted(set(days))
    table = Table(lake, definition.table).create(
        _schema(definition, source), partition_by=[PARTITION], description=definition.description
    )
    if not wanted:
        return Materialized(definition.table, 0, 0, 0, 0, table.version, source.version)
    left = _stale(lake, definition, source) - set(wanted)
    possible = _possible(definition, source)
    computable = [day for day in wanted if possible and possible.first <= day <= possible.last]
    staged: list[StagedFile] = []
    try:
        rows_in = _compute(lake, definition, source, table, computable, staged)
        note = {
            "definition": definition.fingerprint(),
            "source_id": source.id,
            "source_version": source.version,
            "first": possible.first.isoformat() if possible else None,
            "last": possible.last.isoformat() if possible else None,
            "left": [day.isoformat() for day in sorted(left)],
        }
        values = [day.isoformat() for day in wanted]
    except BaseException:
        discard(lake, table.table.key, staged)
        raise
    kind = "labels" if definition.is_label else "features"
    said = definition.view.definition()
    registry.record(lake, definition.table, kind, said | definition.beyond())
    done = table.replace_partitions(values, staged, application=definition.application, note=note)
    return Materialized(
        table=definition.table,
        days=len(wanted),
        rows=sum(file.rows for file in staged),
        size_bytes=sum(file.size_bytes for file in staged),
        rows_in=rows_in,
        version=done.version,
        source_version=source.version,
    )


def _stale(lake: Lake, definition: DailyTable, source: Snapshot) -> set[date]:
    possible = _possible(definition, source)
    every = possible.days() if possible else set[date]()
    try:
        note = Table(lake, definition.table).snapshot().metadata(definition.application)
    except TableNotFound:
        return every
    before = set[date]()
    if note.get("first"):
        first, last = date.fromisoformat(note["first"]), date.fromisoformat(note["last"])
        before = _Range(first, last).days()
    is_same = note.get("definition") == definition.fingerprint()
    if not is_same or note["source_id"] != source.id:
        return every | before  # days of the old definition that the new one has not go too
    came, went = changed_files(source, note["source_version"])
    touched = _touched(definition, source, [*came, *went], every | before)
    left = {date.fromisoformat(day) for day in note["left"]}
    return left | (touched & (every | before)) | (every ^ before)


def _touched(
    definition: DailyTable, source: Snapshot, files: Sequence[StoredFile], every: set[date]
) -> set[date]:
    """Days with a window that reaches an event in one of the files."""
    if not files:
        return set()
    # The time of an event, moved to the end of its day.
    day = (
        pl.col(definition.event_time)
        .dt.offset_by("-1us")
        .dt.truncate("1d")
        .dt.date()
        .alias(PARTITION)
    )
    events = source.read(files, [definition.event_time]).select(day.unique()).collect()
    dates = np.unique(events[PARTITION].drop_nulls().to_numpy()).astype("datetime64[D]")
    if not len(dates):
        return set()
    back, ahead = definition.population_days, definition.lookahead_days
    last = max(every, default=date.max)
    reached = set[date]()
    for event in dates.tolist():
        until = last if back is None else event + (back - 1) * _ONE_DAY
        reached.update(_days(event - ahead * _ONE_DAY, until))
    return reached


def _possible(definition: DailyTable, source: Snapshot) -> _Range | None:
    """From the first event's day to the last whose look ahead is over, from statistics alone."""
    low, high = source.bounds(definition.event_time)
    if low is None:
        return None
    first, last = _day_of(low), _day_of(high)
    if definition.lookahead_days:  # a label needs whole days
        is_over = _end_of(last) == _aware(high)
        last -= (definition.lookahead_days + (not is_over)) * _ONE_DAY
    return _Range(first, last) if first <= last else None


def _compute(
    lake: Lake,
    definition: DailyTable,
    source: Snapshot,
    table: Snapshot,
    days: Sequence[date],
    staged: list[StagedFile],
) -> int:
    """Stage the days' rows, a Parquet file a day and part; how many source rows were read."""
    if not days:
        return 0
    ends = np.array([int(_end_of(day).timestamp()) * 1_000_000 for day in days])
    read = 0
    for prepared, frame in _parts(definition, source, days):
        read += frame.height
        for rows in _rows(definition, prepared, frame, ends):
            cut = rows.with_columns(pl.col(TIME).rle_id().alias("_run"))
            for _, of_day in sorted(cut.partition_by("_run", as_dict=True).items()):
                end = of_day[TIME][0]
                partition = {PARTITION: (end - _ONE_DAY).date().isoformat()}
                with Stager(lake, definition.table, table.schema, partition=partition) as stager:
                    stager.write(of_day.drop("_run").to_arrow())
                    staged += stager.finish()
    return read


def _parts(
    definition: DailyTable, source: Snapshot, days: Sequence[date]
) -> Iterator[tuple[Prepared, pl.DataFrame]]:
    """The events that the days' windows reach, all at once or parted by entity."""
    event = pl.col(EVENT)
    prepared = prepare(definition.view, source.scan())
    wanted = event <= _us(_end_of(days[-1]) + definition.lookahead_days * _ONE_DAY)
    if definition.population_days is not None:
        wanted &= event > _us(_end_of(days[0]) - definition.population_days * _ONE_DAY)
    rows, keys = prepared.rows.filter(wanted), list(definition.view.entity.keys)
    parts = -(-source.rows // ROWS_AT_ONCE)
    if parts <= 1:
        yield prepared, rows.collect()
        return
    with Spill() as spill:
        parted = Parted(spill, keys, parts)
        parted.write(rows.collect_batches(chunk_size=BATCH))
        for part in range(parts):
            taken = parted.take(part)
            if taken is not None:
                yield prepared, taken


def _rows(
    definition: DailyTable, prepared: Prepared, frame: pl.DataFrame, ends: Ints
) -> Iterator[pl.DataFrame]:
    """Rows in order of time and keys, some days at a time."""
    view = definition.view
    frame = frame.drop_nulls([*view.entity.keys, EVENT])
    if not frame.height:
        return
    entities = Entities(frame.select(view.entity.keys))
    known = ViewRows(entities, prepared, frame, "created", unit_us=1.0)
    for entity, time in _population(definition, known.events, ends):
        order = np.lexsort((time, entity))
        columns, _ = known.at(SpineRows(entity[order], time[order], order))
        times = pl.Series(TIME, time).cast(pl.Datetime("us", "UTC"))
        made = entities.names(entity).with_columns(times, *columns)
        if definition.is_label:
            closed = pl.col(TIME) + pl.duration(days=definition.lookahead_days)
            made = made.with_columns(
                pl.lit("outcome").alias("label_source"),
                pl.lit(1.0).alias("confidence"),
                closed.alias("created_time"),
            )
        yield made


def _population(definition: DailyTable, events: Events, ends: Ints) -> Iterator[tuple[Ints, Ints]]:
    """The entities that have a row, and its time, in order of time; whole days at once."""
    first_end = -(-events.event // DAY_US) * DAY_US
    is_new = np.ones(len(first_end), bool)
    is_new[1:] = (first_end[1:] != first_end[:-1]) | (events.entity[1:] != events.entity[:-1])
    entity, begins = events.entity[is_new], first_end[is_new]
    # An event counts until the entity's next one does, or its time is over.
    until = np.full(len(begins), ends[-1])
    until[:-1] = np.where(entity[1:] == entity[:-1], begins[1:] - DAY_US, ends[-1])
    if definition.population_days is not None:
        until = np.minimum(until, begins + (definition.population_days - 1) * DAY_US)
    low, high = np.searchsorted(ends, begins), np.searchsorted(ends, until, "right")
    opened = np.bincount(low, minlength=len(ends) + 1)
    closed = np.bincount(np.maximum(high, low), minlength=len(ends) + 1)
    per_day = np.cumsum(opened - closed)[: len(ends)]
    start = 0
    while start < len(ends):
        rows = np.cumsum(per_day[start:])
        stop = start + max(1, int(np.searchsorted(rows, ROWS_AT_ONCE, "right")))
        a, b = np.clip(low, start, stop), np.clip(high, start, stop)
        number = np.maximum(b - a, 0)
        which = np.repeat(np.arange(len(number)), number)
        inside = np.arange(len(which)) - (np.cumsum(number) - number)[which]
        day = a[which] + inside
        order = np.lexsort((entity[which], day))
        yield entity[which][order], ends[day][order]
        start = stop


def _schema(definition: DailyTable, source: Snapshot) -> pa.Schema:
    """The table's columns: what no rows at all come to."""
    view = definition.view
    prepared = prepare(view, source.scan())
    empty = prepared.rows.clear().collect()
    entities = Entities(empty.select(view.entity.keys))
    nothing = np.zeros(0, np.int64)
    columns, _ = ViewRows(entities, prepared, empty, "created", unit_us=1.0).at(
        SpineRows(nothing, nothing, nothing)
    )
    told = {window.name: window.describe() for window in view.windows}
    keys = [source.schema.field(key) for key in view.entity.keys]
    time = pa.field(TIME, pa.timestamp("us", "UTC"), metadata={"comment": "the day's end"})
    features = [
        pa.field(
            series.name,
            _stored(series.to_arrow().type, f"{view.table}: {series.name}"),
            metadata={"comment": told[series.name]} if series.name in told else None,
        )
        for series in columns
    ]
    extra = [pa.field(name, kind) for name, kind in _EXTRA_TYPES.items()]
    return pa.schema(
        [
            *keys,
            time,
            *features,
            *(extra if definition.is_label else []),
            pa.field(PARTITION, pa.date32()),
        ]
    )


def _stored(kind: pa.DataType, name: str) -> pa.DataType:
    """The type as a Delta table has it.

    Raises
    ------
    FeatureError: it has none.
    """
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_large_list(kind):
        return pa.list_(_stored(kind.value_type, name))
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if pa.types.is_dictionary(kind):
        return _stored(kind.value_type, name)
    if kind in _WIDER:
        return _WIDER[kind]
    if pa.types.is_time(kind) or pa.types.is_duration(kind) or pa.types.is_null(kind):
        raise FeatureError(
            f"{name} is {kind}, which no Delta table holds; cast it to a number or text"
        )
    return kind


_WIDER = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64()}
"""Delta has no unsigned integers."""


_EXTRA_TYPES: dict[str, pa.DataType] = {
    "label_source": pa.string(),
    "confidence": pa.float64(),
    "created_time": pa.timestamp("us", "UTC"),
}


def _us(time: datetime) -> int:
    return int(time.timestamp()) * 1_000_000


def _day_of(time: datetime) -> date:
    """The day at or before whose end the time lies."""
    return (_aware(time) - timedelta(microseconds=1)).date()


def _aware(time: datetime) -> datetime:
    """In UTC; so are times without a zone."""
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _end_of(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + _ONE_DAY


def _days(first: date, last: date) -> Iterator[date]:
    return (first + n * _ONE_DAY for n in range((last - first).days + 1))
