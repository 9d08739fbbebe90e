"""What is in a table's columns: counts, nulls, spread, quantiles, frequent values.

One scan for all columns, in memory that a batch sets; a second one counts the frequent values.
Quantiles are a t-digest's, distinct values HyperLogLog's, frequent values Filtered Space-Saving's,
as DuckDB has them. A version's profile never changes: it is kept beside the table.

    profiles/<domain>/<table>/<version>.json         of all rows of a version
    profiles/<domain>/<table>/<version>.batch.json   of the rows that a version's commit brought in
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import polars as pl
import polars.selectors as cs

from penstock.contracts.conditions import looks_past_a_row
from penstock.errors import ContractError, SourceError, TableNotFound
from penstock.lake import Lake, checked_name
from penstock.quality.data import in_pieces, named, personal_in, personal_of, scanned, settled
from penstock.quality.history import VALIDATE, validations
from penstock.tables import Snapshot, Table
from penstock.tables.log import path_of, read_entry
from penstock.tables.sql import connect

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from penstock.quality.data import Data

Kind = Literal["number", "time", "text", "flag", "bytes", "list", "other"]
LEVELS = [step / 100 for step in range(101)]
"""Of the quantiles that a profile holds."""
MOST_FREQUENT = 50
_BATCH_ROWS = 1 << 17
_AT_ONCE = 32
"""Columns of a scan: of each the frequent values are held some megabytes at a time."""
_FEW = 1000
"""Numbers whose every value is counted, where no more differ."""
_LONGEST = 200
"""Characters of a frequent text that are kept."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """What is in one column. Numbers are floats; times are seconds since 1970, UTC."""

    kind: Kind
    type: str
    """As the table has it."""
    nulls: int = 0
    distinct: int = 0
    """About so many values differ (within 2 %); nulls are none."""
    nan: int = 0
    """Values that are no number, or infinite; not in what follows."""
    mean: float | None = None
    std: float | None = None
    zeros: int = 0
    quantiles: tuple[float, ...] = ()
    """At `LEVELS`; the first is the least value and the last the greatest. Of bytes and lists those
    of their lengths. Empty without values.
    """
    frequent: tuple[tuple[str, int], ...] = ()
    """Values of text and flags, and how often they are there, the most frequent first."""
    lengths: tuple[int, float, int] | None = None
    """Least, mean and greatest: characters of text, bytes, or items of lists."""
    is_masked: bool = False
    """A personal column: no values are kept, only how many."""

    def count(self, rows: int) -> int:
        """Values that are there, and are numbers where they should be."""
        return rows - self.nulls - self.nan


@dataclass(frozen=True, slots=True)
class Profile:
    """What is in the columns of some rows."""

    name: str
    rows: int
    columns: dict[str, ColumnProfile] = field(default_factory=dict[str, ColumnProfile])
    version: int | None = None
    made_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def to_json(self) -> str:
        """As it is kept in the lake."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: bytes | str) -> Profile:
        """Of what `to_json` gave."""
        value = json.loads(text)
        columns = dict[str, ColumnProfile]()
        for name, told in value.pop("columns").items():
            told["quantiles"] = tuple(told["quantiles"])
            told["frequent"] = tuple((text, count) for text, count in told["frequent"])
            told["lengths"] = None if told["lengths"] is None else tuple(told["lengths"])
            columns[name] = ColumnProfile(**told)
        return cls(**value, columns=columns)


def profile(
    data: Data,
    *,
    where: str | None = None,
    columns: Sequence[str] | None = None,
    personal: Collection[str] | None = None,
    name: str = "",
) -> Profile:
    """Profile a frame, file or table.

    Parameters
    ----------
    data: as `check` takes it.
    where: an SQL expression that picks the rows.
    columns: by default all.
    personal: columns of which no values are kept; by default those that a table's schema names so.

    Raises
    ------
    ContractError: a column isn't there, or `where` is not SQL of one row.
    """
    data = settled(data)
    frame = scanned(data)
    if personal is None:
        personal = personal_in(data)
    pieces = [piece.rows for piece in in_pieces(data, frame.collect_schema())]
    if where:
        frame, *pieces = (_picked(rows, where) for rows in (frame, *pieces))
    return _profiled(frame, columns, personal, name or named(data), pieces)


def profile_of(
    lake: Lake,
    table: str,
    version: int | str | None = None,
    *,
    batch: bool = False,
) -> Profile:
    """The profile of a table's version: the one that is kept, else it is made and kept.

    Parameters
    ----------
    version: a number or a tag; by default the newest.
    batch: of the rows that the version's commit brought in, not of all.

    Raises
    ------
    TableNotFound: there is no such table or version.
    """
    snapshot = Table(lake, table).snapshot(version)
    kept = lake.objects.get_or_none(_key(table, snapshot.version, batch=batch))
    personal = personal_of(snapshot)
    if kept is not None:
        return _masked(Profile.from_json(kept), personal)
    names = [name for name in snapshot.schema.names if not name.startswith("_")]
    rows = _brought_in(snapshot, names) if batch else snapshot.scan()
    pieces = [] if batch else in_pieces(snapshot, rows.collect_schema())
    made = _profiled(rows, names, personal, table, [piece.rows for piece in pieces])
    made = replace(made, version=snapshot.version)
    lake.objects.put(_key(table, snapshot.version, batch=batch), made.to_json().encode())
    return made


def batch_profiles(lake: Lake, table: str, limit: int = 50) -> list[Profile]:
    """The profiles of a validated table's newest batches, oldest first; missing ones are made.

    A version whose files vacuum has taken has none.
    """
    snapshot = Table(lake, table).snapshot()
    found = list[Profile]()
    for batch in islice(validations(snapshot), limit):
        try:
            found.append(profile_of(lake, table, batch.version, batch=True))
        except (TableNotFound, pl.exceptions.PolarsError, OSError):
            break  # its files are gone, and so are older ones'
    return found[::-1]


def _masked(profile: Profile, personal: Collection[str]) -> Profile:
    """Without values of columns that have become personal since it was made."""
    columns = {
        name: ColumnProfile(
            column.kind, column.type, column.nulls, column.distinct, column.nan, is_masked=True
        )
        if name in personal
        else column
        for name, column in profile.columns.items()
    }
    return replace(profile, columns=columns)


def _key(table: str, version: int, *, batch: bool) -> str:
    return f"profiles/{checked_name(table)}/{version}{'.batch' if batch else ''}.json"


def _brought_in(snapshot: Snapshot, names: list[str]) -> pl.LazyFrame:
    table = snapshot.table
    try:
        entry = read_entry(table.lake.objects, table.key, snapshot.version)
    except FileNotFoundError as error:
        raise TableNotFound(
            f"{table.name}: version {snapshot.version} is no longer in the log: "
            f"{path_of(table.key, snapshot.version)}"
        ) from error
    adds = {action["add"]["path"] for action in entry if action.get("add", {}).get("dataChange")}
    from urllib.parse import unquote

    paths = {unquote(path) for path in adds}
    frames = [snapshot.rows_of(file) for file in snapshot.files if file.path in paths]
    if not frames:
        return snapshot.read([], names)
    rows = pl.concat(frames)
    # Files of replaced rows are written anew, with rows of earlier batches in them.
    for action in entry:
        if str(action.get("txn", {}).get("appId", "")).startswith(VALIDATE):
            rows = rows.filter(pl.col("_batch") == action["txn"]["version"])
    return rows.select(names)


def _picked(frame: pl.LazyFrame, where: str) -> pl.LazyFrame:
    try:
        condition = pl.sql_expr(where)
        if looks_past_a_row(condition):
            raise ContractError(
                f"{where!r} says something of many rows; let it be of one row's columns"
            )
        picked = frame.filter(condition)
        picked.collect_schema()
    except pl.exceptions.PolarsError as error:
        reason = " ".join(str(error).split())[:300]
        raise ContractError(f"{where!r} is not SQL of these rows: {reason}") from error
    return picked


def _profiled(
    frame: pl.LazyFrame,
    names: Sequence[str] | None,
    personal: Collection[str],
    name: str,
    pieces: Sequence[pl.LazyFrame],
) -> Profile:
    """The profile of a frame's columns.

    Parameters
    ----------
    pieces: the same rows, to be read one after the other; none where the frame has no parts.
    """
    import duckdb

    schema = frame.collect_schema()
    names = list(schema) if names is None else list(names)
    if missing := [each for each in names if each not in schema]:
        known = ", ".join(schema)[:1000]
        raise ContractError(f"{name}: no column {', '.join(missing)}; there are {known}")
    kinds: dict[str, Kind] = {each: _kind(schema[each]) for each in names}
    # By place: a name may be anything, and DuckDB's don't tell cases apart.
    columns = dict[str, ColumnProfile]()
    try:
        rows = int(frame.select(pl.len()).collect(engine="streaming").item())
        for first in range(0, len(names), _AT_ONCE):
            some: dict[str, Kind] = {n: kinds[n] for n in names[first : first + _AT_ONCE]}
            columns |= _of_columns(pieces or [frame], schema, some, personal, rows)
    except pl.exceptions.PolarsError as error:
        raise _unread(name, str(error), personal) from error
    except duckdb.Error as error:  # of a stream that broke off; its last line is polars'
        raise _unread(name, str(error).rstrip().rsplit("\n", 1)[-1], personal) from error
    return Profile(name, rows, columns)


def _unread(name: str, error: str, personal: Collection[str]) -> SourceError:
    reason = "" if personal else f": {' '.join(error.split())[:300]}"
    return SourceError(f"{name}: can't be read{reason}")


def _of_columns(
    pieces: Sequence[pl.LazyFrame],
    schema: pl.Schema,
    kinds: dict[str, Kind],
    personal: Collection[str],
    rows: int,
) -> dict[str, ColumnProfile]:
    # By place: a name may be anything, and DuckDB's don't tell cases apart.
    values = [_plain(each, kind).alias(f"c{n}") for n, (each, kind) in enumerate(kinds.items())]
    plain = [piece.select(values) for piece in pieces]
    with connect() as connection:
        asked = list[str]()
        for place, (each, kind) in enumerate(kinds.items()):
            asked += _asked(f"c{place}", kind, is_masked=each in personal)
        found = _scan(connection, plain, f"SELECT {', '.join(asked)} FROM rows")
        counted = dict[str, str]()
        for place, (each, kind) in enumerate(kinds.items()):
            column = f"c{place}"
            if each in personal:
                continue
            if top := [text for text in found.get(f"{column}_top") or () if text is not None]:
                cut = f"left({column}, {_LONGEST})"
                listed = ", ".join(map(_quoted, top))
                counted[column] = f"CASE WHEN {cut} IN ({listed}) THEN {cut} END"
            elif kind in ("number", "time") and 0 < found[f"{column}_d"] <= _FEW:
                counted[column] = f"CASE WHEN isfinite({column}) THEN {column} END"
        counts = _counted(connection, plain, counted)
    return {
        each: _column(kind, str(schema[each]), rows, f"c{place}", found, counts, each in personal)
        for place, (each, kind) in enumerate(kinds.items())
    }


def _kind(kind: pl.DataType) -> Kind:
    if kind == pl.Boolean:
        return "flag"
    if kind.is_numeric():
        return "number"
    if isinstance(kind, pl.Date | pl.Datetime):
        return "time"
    if isinstance(kind, pl.String | pl.Categorical | pl.Enum):
        return "text"
    if kind == pl.Binary:
        return "bytes"
    return "list" if isinstance(kind, pl.List) else "other"


def _plain(name: str, kind: Kind) -> pl.Expr:
    """A column as DuckDB is to see it: a float, text, or the length of what has no order."""
    value = cs.by_name(name).as_expr()  # no pattern, whatever is in it
    match kind:
        case "number":
            return value.cast(pl.Float64)
        case "time":
            return value.cast(pl.Datetime("us")).dt.timestamp("us").cast(pl.Float64) / 1e6
        case "text" | "flag":
            return value.cast(pl.String)
        case "bytes":
            return value.bin.size().cast(pl.Int64)
        case "list":
            return value.list.len().cast(pl.Int64)
        case _:
            return pl.when(value.is_not_null()).then(pl.lit(1, pl.Int64))


def _asked(name: str, kind: Kind, *, is_masked: bool) -> list[str]:
    """Aggregates of a column."""
    asked = [f"count({name}) AS {name}_there"]
    if kind in ("number", "time"):
        # Not isfinite(), which takes NaN along with every aggregate's own filter.
        value = f"CASE WHEN isfinite({name}) THEN {name} END"
        asked += [f"count({value}) AS {name}_finite", f"approx_count_distinct({name}) AS {name}_d"]
        if not is_masked:
            asked += [
                f"avg({value}) AS {name}_mean",
                f"stddev_samp({value}) AS {name}_std",
                f"count_if({name} = 0) AS {name}_zeros",
                f"approx_quantile({value}, [{_levels()}]) AS {name}_q",
                f"min({value}) AS {name}_low",
                f"max({value}) AS {name}_high",
            ]
    elif kind in ("text", "flag"):
        asked.append(f"approx_count_distinct({name}) AS {name}_d")
        if not is_masked:
            cut = f"left({name}, {_LONGEST})"
            asked.append(f"approx_top_k({cut}, {MOST_FREQUENT}) AS {name}_top")
    length = f"length({name})" if kind == "text" else name
    if kind in ("text", "bytes", "list"):
        asked += [f"{how}({length}) AS {name}_{how}_length" for how in ("min", "avg", "max")]
    if kind in ("bytes", "list") and not is_masked:
        asked.append(f"approx_quantile({name}, [{_levels()}]) AS {name}_q")
    return asked


def _levels() -> str:
    return ", ".join(map(str, LEVELS))


def _scan(
    connection: duckdb.DuckDBPyConnection, pieces: Sequence[pl.LazyFrame], query: str
) -> dict[str, Any]:
    """The one row of a query over `rows`, which stream through, piece by piece."""
    import pyarrow as pa

    empty = cast("pa.Table", pl.DataFrame(schema=pieces[0].collect_schema()).to_arrow())

    def batches() -> Iterator[pa.RecordBatch]:
        for piece in pieces:
            for rows in piece.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=False):
                yield from rows.to_arrow().to_batches()

    reader = pa.RecordBatchReader.from_batches(empty.schema, batches())
    connection.register("rows", reader)
    cursor = connection.execute(query)
    assert cursor.description is not None
    names = [told[0] for told in cursor.description]
    (row,) = cursor.fetchall()
    connection.unregister("rows")
    return dict(zip(names, row, strict=True))


def _counted(
    connection: duckdb.DuckDBPyConnection, pieces: Sequence[pl.LazyFrame], values: dict[str, str]
) -> dict[str, dict[Any, int]]:
    """How often each value of some expressions is there, by column."""
    if not values:
        return {}
    asked = [f"histogram({value}) AS {name}" for name, value in values.items()]
    picked = [piece.select(*values) for piece in pieces]
    return _scan(connection, picked, f"SELECT {', '.join(asked)} FROM rows")


def _exact(counts: dict[float, int]) -> tuple[float, ...]:
    """At each level the least value that so large a share of the values is at most."""
    values = np.array(sorted(counts))
    shares = np.cumsum([counts[value] for value in values.tolist()])
    at = np.searchsorted(shares, np.array(LEVELS) * shares[-1] - 1e-9, side="left")
    return tuple(values[np.minimum(at, len(values) - 1)].tolist())


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _column(
    kind: Kind,
    type_name: str,
    rows: int,
    name: str,
    found: dict[str, Any],
    counts: dict[str, dict[Any, int]],
    is_masked: bool,
) -> ColumnProfile:
    there = int(found[f"{name}_there"])
    finite = int(found.get(f"{name}_finite", there))
    quantiles = tuple[float, ...]()
    if (middle := found.get(f"{name}_q")) is not None and finite:
        low, high = (
            (found[f"{name}_low"], found[f"{name}_high"])
            if f"{name}_low" in found
            else (float(found[f"{name}_{how}_length"]) for how in ("min", "max"))
        )
        inner = (float(min(max(value, low), high)) for value in middle[1:-1])
        quantiles = (low, *inner, high)
    if kind in ("number", "time") and (each := counts.pop(name, None)):
        quantiles = _exact(each)  # of few values, such as are there
    top = sorted((counts.get(name) or {}).items(), key=lambda item: (-item[1], item[0]))
    lengths = None
    if there and not is_masked and found.get(f"{name}_min_length") is not None:
        least, mean, most = (found[f"{name}_{how}_length"] for how in ("min", "avg", "max"))
        lengths = (int(least), float(mean), int(most))
    return ColumnProfile(
        kind=kind,
        type=type_name,
        nulls=rows - there,
        distinct=min(there, int(found.get(f"{name}_d") or 0)),
        nan=there - finite,
        mean=_finite(found.get(f"{name}_mean")),
        std=_finite(found.get(f"{name}_std")),
        zeros=int(found.get(f"{name}_zeros") or 0),
        quantiles=quantiles,
        frequent=tuple(top),
        lengths=lengths,
        is_masked=is_masked,
    )
