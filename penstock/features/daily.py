"""Tables computed a day at a time from a source's events, and recomputed only where it matters.

Each commit notes the source's version that it read, the days it covers, and the days left stale.
A day is stale when rows that its windows reach came or went since (by the data files that came
and went in the source's log), when it was left so before, or when the definition changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from penstock.errors import TableNotFound
from penstock.features.windows import Windows, windows_sql
from penstock.lake import Lake
from penstock.tables import Snapshot, StagedFile, Stager, Table, sql
from penstock.tables.staging import discard
from penstock.tables.table import StoredFile, changed_files

PARTITION = "date"
"""The partition column: the day that a row's time ends."""
TIME = "event_time"
"""A row's time: the midnight (UTC) that ends its day."""
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class DailyTable:
    """How a table is computed from a source's events, a row an entity a day."""

    table: str
    source: str
    keys: tuple[str, ...]
    event_time: str
    windows: Windows
    lookahead_days: int
    """Days after a row's time that must be over before it may be computed: a label's horizon."""
    extra: tuple[tuple[str, str], ...] = ()
    """Columns beside the windows': a name, and an SQL expression over them and `t`."""
    description: str = ""

    @property
    def application(self) -> str:
        """The name of its transactions in the log."""
        return f"materialize/{self.table}"

    def fingerprint(self) -> str:
        """16 hex digits that change when the definition does."""
        return xxhash.xxh3_64_hexdigest(json.dumps(asdict(self), sort_keys=True).encode())


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
    touched = _touched(definition, source, [*came, *went])
    left = {date.fromisoformat(day) for day in note["left"]}
    return left | (touched & (every | before)) | (every ^ before)


def _touched(definition: DailyTable, source: Snapshot, files: Sequence[StoredFile]) -> set[date]:
    """Days with a window that reaches an event in one of the files."""
    if not files:
        return set()
    # The time of an event, moved to the end of its day, as in `windows_sql`.
    day = (
        pl.col(definition.event_time)
        .dt.offset_by("-1us")
        .dt.truncate("1d")
        .dt.date()
        .alias(PARTITION)
    )
    events = source.read(files, [definition.event_time]).select(day.unique()).collect()
    back, ahead = definition.windows.population_days, definition.lookahead_days
    return {
        reached
        for event in events[PARTITION].drop_nulls().to_list()
        for reached in _days(event - ahead * _ONE_DAY, event + (back - 1) * _ONE_DAY)
    }


def _possible(definition: DailyTable, source: Snapshot) -> _Range | None:
    """From the first event's day to the last whose look ahead is over, from statistics alone."""
    time = definition.event_time
    low = [file.lowest[time] for file in source.files if file.lowest[time] is not None]
    high = [file.highest[time] for file in source.files if file.highest[time] is not None]
    if not low:
        return None
    first, last = _day_of(min(low)), _day_of(max(high)) - definition.lookahead_days * _ONE_DAY
    return _Range(first, last) if first <= last else None


def _compute(
    lake: Lake,
    definition: DailyTable,
    source: Snapshot,
    table: Snapshot,
    days: Sequence[date],
    staged: list[StagedFile],
) -> int:
    """Stage the days' rows, a Parquet file a day; how many source rows were read."""
    if not days:
        return 0
    earliest = _end_of(days[0]) - definition.windows.population_days * _ONE_DAY
    latest = _end_of(days[-1]) + definition.lookahead_days * _ONE_DAY
    time = pc.field(definition.event_time)
    events = source.dataset().filter((time > earliest) & (time <= latest))
    ends = [int(_end_of(day).timestamp()) * 1_000_000 for day in days]
    with sql.connect() as connection:
        connection.register("events", events)
        connection.register("days", pa.table({"t": pa.array(ends, pa.int64())}))
        query = windows_sql(definition.windows, definition.keys, definition.event_time)
        extra = "".join(f", {expression} AS {name}" for name, expression in definition.extra)
        reader = connection.sql(f"SELECT *{extra} FROM ({query})").to_arrow_reader(1 << 16)
        for day, rows in _by_day(reader, table.schema):
            partition = {PARTITION: day.isoformat()}
            with Stager(lake, definition.table, table.schema, partition=partition) as stager:
                for piece in rows:
                    stager.write(piece)
                staged += stager.finish()
    return source.dataset().count_rows(filter=(time > earliest) & (time <= latest))


def _by_day(
    reader: pa.RecordBatchReader, schema: pa.Schema
) -> Iterator[tuple[date, list[pa.Table]]]:
    """Rows ordered by `t`, parted where it changes; a day's rows are held together."""
    open_day, held = None, list[pa.Table]()
    for batch in reader:
        times = batch["t"].to_numpy()
        for t in np.unique(times).tolist():
            day = (datetime.fromtimestamp(t / 1e6, UTC) - _ONE_DAY).date()
            if open_day not in (None, day):
                yield open_day, held
                held = []
            open_day = day
            held.append(_finished(batch.filter(pa.array(times == t)), schema))
    if open_day is not None:
        yield open_day, held


def _finished(batch: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    table = pa.table(batch)
    times = table["t"].cast(pa.timestamp("us", "UTC"))
    table = table.append_column(TIME, times)
    wanted = [name for name in schema.names if name in table.column_names]
    columns: list[Any] = []
    for name in wanted:
        values, kind = table[name], schema.field(name).type
        is_time = pa.types.is_timestamp(kind) and pa.types.is_integer(values.type)
        columns.append(values.cast(pa.int64()).cast(kind) if is_time else values.cast(kind))
    return pa.table(columns, names=wanted)


def _schema(definition: DailyTable, source: Snapshot) -> pa.Schema:
    keys = [source.schema.field(key) for key in definition.keys]
    time = pa.field(TIME, pa.timestamp("us", "UTC"), metadata={"comment": "the day's end"})
    columns = [
        pa.field(
            column.name,
            pa.int64() if column.function == "count" else pa.float64(),
            metadata={"comment": f"{column.function} of {column.expression} over {column.days} d"},
        )
        for column in definition.windows.columns
    ]
    extra = [pa.field(name, _EXTRA_TYPES[name]) for name, _ in definition.extra]
    return pa.schema([*keys, time, *columns, *extra, pa.field(PARTITION, pa.date32())])


_EXTRA_TYPES: dict[str, pa.DataType] = {
    "label_source": pa.string(),
    "confidence": pa.float64(),
    "created_time": pa.timestamp("us", "UTC"),
}


def _day_of(time: datetime) -> date:
    """The day at or before whose end the time lies."""
    return (time.astimezone(UTC) - timedelta(microseconds=1)).date()


def _end_of(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + _ONE_DAY


def _days(first: date, last: date) -> Iterator[date]:
    return (first + n * _ONE_DAY for n in range((last - first).days + 1))
