"""What is in a table's columns: counts, nulls, spread, quantiles, frequent values.

One scan for all columns, in memory that a batch sets; a second one counts the frequent values.
Quantiles are a t-digest's, distinct values HyperLogLog's, frequent values Filtered Space-Saving's,
as DuckDB has them. A version's profile never changes: it is kept beside the table.

    profiles/<domain>/<table>/<version>.json         of all rows of a version
    profiles/<domain>/<table>/<version>.batch.json   of the rows that a version's commit brought in
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, cast

import polars as pl

from penstock.errors import ContractError, TableNotFound
from penstock.lake import Lake, checked_name
from penstock.quality.data import named, scanned
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
    """At `LEVELS`; the first is the least value and the last the greatest. Empty without values."""
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
    frame = scanned(data)
    if personal is None:
        table = data.snapshot() if isinstance(data, Table) else data
        personal = personal_of(table) if isinstance(table, Snapshot) else ()
    if where:
        frame = _picked(frame, where)
    return _profiled(frame, columns, personal, name or named(data))


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
    if kept is not None:
        return Profile.from_json(kept)
    names = [name for name in snapshot.schema.names if not name.startswith("_")]
    rows = _brought_in(snapshot, names) if batch else snapshot.scan()
    made = replace(_profiled(rows, names, personal_of(snapshot), table), version=snapshot.version)
    lake.objects.put(_key(table, snapshot.version, batch=batch), made.to_json().encode())
    return made


def batch_profiles(lake: Lake, table: str, limit: int = 50) -> list[Profile]:
    """The profiles of a validated table's newest batches, oldest first; missing ones are made.

    A version whose files vacuum has taken has none.
    """
    snapshot = Table(lake, table).snapshot()
    versions = [
        commit["version"]
        for commit in snapshot.history()
        if str(commit.get("penstock.application", "")).startswith("validate/")
    ][:limit]
    found = list[Profile]()
    for version in versions:
        try:
            found.append(profile_of(lake, table, version, batch=True))
        except (TableNotFound, pl.exceptions.PolarsError, OSError):
            break  # its files are gone, and so are older ones'
    return found[::-1]


def personal_of(snapshot: Snapshot) -> set[str]:
    """The columns of a table that are about a person."""
    return {f.name for f in snapshot.schema if (f.metadata or {}).get(b"personal") == b"true"}


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
    return pl.concat(frames).select(names)


def _picked(frame: pl.LazyFrame, where: str) -> pl.LazyFrame:
    try:
        picked = frame.filter(pl.sql_expr(where))
        picked.collect_schema()
    except pl.exceptions.PolarsError as error:
        reason = " ".join(str(error).split())[:300]
        raise ContractError(f"{where!r} is not SQL of these rows: {reason}") from error
    return picked


def _profiled(
    frame: pl.LazyFrame, names: Sequence[str] | None, personal: Collection[str], name: str
) -> Profile:
    schema = frame.collect_schema()
    names = list(schema) if names is None else list(names)
    if missing := [each for each in names if each not in schema]:
        known = ", ".join(schema)[:1000]
        raise ContractError(f"{name}: no column {', '.join(missing)}; there are {known}")
    kinds: dict[str, Kind] = {each: _kind(schema[each]) for each in names}
    # By place: a name may be anything, and DuckDB's don't tell cases apart.
    plain = frame.select(
        _plain(each, kind).alias(f"c{place}") for place, (each, kind) in enumerate(kinds.items())
    )
    with connect() as connection:
        asked = ["count(*) AS rows"]
        for place, (each, kind) in enumerate(kinds.items()):
            asked += _asked(f"c{place}", kind, is_masked=each in personal)
        found = _scan(connection, plain, f"SELECT {', '.join(asked)} FROM rows")
        frequent = {
            f"c{place}": [text for text in found[f"c{place}_top"] or [] if text is not None]
            for place, (each, kind) in enumerate(kinds.items())
            if kind in ("text", "flag") and each not in personal
        }
        counts = _counted(connection, plain, {c: top for c, top in frequent.items() if top})
    rows = int(found["rows"])
    columns = {
        each: _column(kind, str(schema[each]), rows, f"c{place}", found, counts, each in personal)
        for place, (each, kind) in enumerate(kinds.items())
    }
    return Profile(name, rows, columns)


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
    return "list" if isinstance(kind, pl.List | pl.Array) else "other"


def _plain(name: str, kind: Kind) -> pl.Expr:
    """A column as DuckDB is to see it: a float, text, or the length of what has no order."""
    value = pl.col(name)
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
            levels = ", ".join(map(str, LEVELS))
            asked += [
                f"avg({value}) AS {name}_mean",
                f"stddev_samp({value}) AS {name}_std",
                f"count_if({name} = 0) AS {name}_zeros",
                f"approx_quantile({value}, [{levels}]) AS {name}_q",
                f"min({value}) AS {name}_low",
                f"max({value}) AS {name}_high",
            ]
    elif kind in ("text", "flag"):
        asked.append(f"approx_count_distinct({name}) AS {name}_d")
        if not is_masked:
            asked.append(f"approx_top_k({name}, {MOST_FREQUENT}) AS {name}_top")
    length = f"length({name})" if kind == "text" else name
    if kind in ("text", "bytes", "list"):
        asked += [f"{how}({length}) AS {name}_{how}_length" for how in ("min", "avg", "max")]
    return asked


def _scan(connection: duckdb.DuckDBPyConnection, frame: pl.LazyFrame, query: str) -> dict[str, Any]:
    """The one row of a query over `rows`, which stream through."""
    import pyarrow as pa

    empty = cast("pa.Table", pl.DataFrame(schema=frame.collect_schema()).to_arrow())

    def batches() -> Iterator[pa.RecordBatch]:
        for rows in frame.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=False):
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
    connection: duckdb.DuckDBPyConnection, frame: pl.LazyFrame, frequent: dict[str, list[str]]
) -> dict[str, dict[str, int]]:
    """How often each of some values is there, by column."""
    if not frequent:
        return {}
    asked = [
        f"histogram(CASE WHEN {name} IN ({', '.join(map(_quoted, values))}) THEN {name} END) "
        f"AS {name}"
        for name, values in frequent.items()
    ]
    return _scan(connection, frame.select(*frequent), f"SELECT {', '.join(asked)} FROM rows")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _column(
    kind: Kind,
    type_name: str,
    rows: int,
    name: str,
    found: dict[str, Any],
    counts: dict[str, dict[str, int]],
    is_masked: bool,
) -> ColumnProfile:
    there = int(found[f"{name}_there"])
    finite = int(found.get(f"{name}_finite", there))
    quantiles = tuple[float, ...]()
    if (middle := found.get(f"{name}_q")) is not None and finite:
        low, high = found[f"{name}_low"], found[f"{name}_high"]
        inner = (min(max(value, low), high) for value in middle[1:-1])
        quantiles = (low, *inner, high)
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
        mean=found.get(f"{name}_mean"),
        std=found.get(f"{name}_std"),
        zeros=int(found.get(f"{name}_zeros") or 0),
        quantiles=quantiles,
        frequent=tuple(top),
        lengths=lengths,
        is_masked=is_masked,
    )
