"""A database's table as a source, through ADBC or DuckDB, by a mark that only grows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import pyarrow as pa

from penstock.errors import MissingExtra, SourceError, UnreadableFile
from penstock.ingest.upstream import BATCH_ROWS, Upstream, UpstreamSource, first_line
from penstock.storage.listing import without_credentials

_AS_THEY_ARE = {
    "bigint",
    "boolean",
    "bytea",
    "character varying",
    "character",
    "date",
    "double precision",
    "integer",
    "json",
    "jsonb",
    "numeric",
    "real",
    "smallint",
    "text",
    "timestamp with time zone",
    "timestamp without time zone",
    "uuid",
}
"""Types of PostgreSQL, and arrays of them, that Arrow has too; of others the text is taken."""
_UUID_GROUPS = ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))
"""Of its hexadecimal digits: where each starts, and its length."""


@dataclass(frozen=True, slots=True)
class DatabaseSource(UpstreamSource):
    """Rows of a database's table or view, by a column that only grows.

    `uri` is `postgresql://host/database`, `sqlite:///file.db` or `duckdb:///file.db`; with
    `options={"driver": ...}` any ADBC driver's. Credentials belong in the environment
    (`PGPASSWORD`, `~/.pgpass`).

    Raises
    ------
    SourceError: a setting can't be.
    """

    relation: str = ""
    """The table or view, with its schema: `public.orders`."""
    mark: str = ""
    """The high-water mark: a column of whole numbers, times, dates or text that grows with each
    row inserted or changed, such as `updated_at`. A row where it is null is never seen, and one in
    the future is when its time has come."""
    settle: timedelta = timedelta(0)
    """Of a mark of times or dates: how long to wait until no transaction brings an older one.
    Times without a zone are taken as UTC."""

    def __post_init__(self) -> None:
        UpstreamSource.__post_init__(self)
        for name in ("relation", "mark"):
            if not getattr(self, name):
                raise SourceError(f"{self.table}: a database source needs its {name}")
        if self.mark not in self.contract.raw_names:
            raise SourceError(f"{self.table}: the contract has no column {self.mark}, the mark")
        if self.settle < timedelta(0):
            raise SourceError(f"{self.table}: settle can't be negative")

    def folder(self) -> Any:
        """The table, in the place of a folder."""
        return _Relation(self)


class _Relation(Upstream):
    """A table of a database, through ADBC or DuckDB."""

    def __init__(self, source: DatabaseSource) -> None:
        self._source = source
        self.identity = f"{without_credentials(source.uri)}#{source.relation}"

    @property
    def name(self) -> str:
        return self._source.relation

    @property
    def of(self) -> str:
        return f"{self._source.relation} by {self._source.mark}"

    def reached(self, after: Any) -> Any:
        source, mark = self._source, _quoted(self._source.mark)
        of = f"FROM {_relation(source.relation)}"
        try:
            with contextlib.closing(_connected(source)) as connection:
                value = _one(connection, f"SELECT max({mark}) AS mark {of}", [])
                if value is None:
                    return None
                self._check_mark(connection, value, mark, of)
                bound = self._bound(value)
                tests, bounds = self._between(after, bound)
                where = f"WHERE {' AND '.join(tests)}" if tests else ""
                value = _one(connection, f"SELECT max({mark}) AS mark {of} {where}", bounds)
        except (*_failures(), ValueError, OverflowError) as error:
            raise SourceError(f"{self.identity}: {first_line(error)}") from error
        return None if value is None else _as_json(value, self.identity)

    def _check_mark(self, connection: Any, value: Any, mark: str, of: str) -> None:
        """Raise `SourceError` where marks can't be put in order, or a setting makes no sense."""
        _as_json(value, self.identity)
        if self._source.settle and not isinstance(value, date):
            raise SourceError(
                f"{self.identity}: settle is for a mark of times or dates; {self._source.mark} has "
                f"{type(value).__name__}, such as {value!r}"
            )
        if urlsplit(self._source.uri).scheme.startswith("postgres"):
            kind = _one(connection, f"SELECT pg_typeof(max({mark}))::text AS kind {of}", [])
            if kind == "numeric":
                raise SourceError(
                    f"{self.identity}: {self._source.mark} is numeric, which has no counterpart "
                    "here; take a view with it as bigint, or another mark"
                )
        if self._is_sqlite:  # any value may be of any type
            query = f"SELECT count(DISTINCT typeof({mark})) AS n {of} WHERE {mark} IS NOT NULL"
            if _one(connection, query, []) > 1:
                raise SourceError(
                    f"{self.identity}: {self._source.mark} has values of several types, which no "
                    "order puts in a row; mend them, or take another mark"
                )

    @property
    def _is_sqlite(self) -> bool:
        source = self._source
        return urlsplit(source.uri).scheme == "sqlite" and "driver" not in source.options

    def _bound(self, value: Any) -> Any:
        """The greatest mark that counts yet; None for all."""
        now = datetime.now(UTC) - self._source.settle
        match value:
            case datetime():
                return now if value.tzinfo else now.replace(tzinfo=None)
            case date():
                return now.date()
            case _:
                return None

    def _between(self, after: Any, upto: Any) -> tuple[list[str], list[Any]]:
        """Tests of the mark, and the values bound to them."""
        mark, sign = _quoted(self._source.mark), "${}"
        if "driver" in self._source.options:
            sign = "?"
        told = [(">", None if after is None else _value(after)), ("<=", upto)]
        told = [(test, value) for test, value in told if value is not None]
        tests = [f"{mark} {test} {sign.format(n)}" for n, (test, _) in enumerate(told, start=1)]
        return tests, [value for _, value in told]

    def read(self, after: Any, upto: Any) -> Iterator[pa.RecordBatch]:
        source = self._source
        tests, bounds = self._between(after, _value(upto))
        try:
            with contextlib.closing(_connected(source)) as connection:
                columns = _columns(connection, source)
                query = f"SELECT {columns} FROM {_relation(source.relation)}"
                query += f" WHERE {' AND '.join(tests)}"
                if not self._is_sqlite:
                    yield from _stream(connection, query, bounds)
                    return
                # The driver takes a column's type from its first rows, so there is one of texts.
                named = _of_sqlite(connection, source)
                first = ", ".join("x''" if kind == "BLOB" else "''" for _, kind in named)
                batches = _stream(connection, f"SELECT {first} UNION ALL {query}", bounds)
                names = [name[1:-1].replace('""', '"') for name, _ in named]
                for place, batch in enumerate(batches):
                    yield batch.slice(0 if place else 1).rename_columns(names)
        except _failures() as error:
            message = f"{self.identity}: {first_line(error)}"
            raise UnreadableFile(message, is_transient=True) from error


def _as_json(value: Any, identity: str) -> Any:
    """A mark as JSON that says its type, so that it is given back to the database as such."""
    match value:
        case bool() | float():
            pass
        case int() | str():
            return value
        case datetime():
            return {"time": value.isoformat()}
        case date():
            return {"date": value.isoformat()}
        case _:
            pass
    raise SourceError(
        f"{identity}: a mark is of whole numbers, times, dates or text, not {type(value).__name__}"
    )


def _value(mark: Any) -> Any:
    if isinstance(mark, dict):
        ((kind, text),) = mark.items()
        whole = datetime.fromisoformat(text)
        return whole if kind == "time" else whole.date()
    return mark


def _connected(source: DatabaseSource) -> Any:
    """A connection; ADBC's, or DuckDB's for its own files."""
    scheme = urlsplit(source.uri).scheme
    path = source.uri.partition("://")[2].removeprefix("/") if "://" in source.uri else ""
    if scheme == "duckdb":
        import duckdb

        return duckdb.connect(path, read_only=True)
    try:
        if "driver" in source.options:
            from adbc_driver_manager import dbapi

            given = dict(source.options)
            return dbapi.connect(given.pop("driver"), db_kwargs={"uri": source.uri, **given})
        if scheme in ("postgresql", "postgres"):
            from adbc_driver_postgresql import dbapi as postgresql

            return postgresql.connect(source.uri)
        if scheme == "sqlite":
            from adbc_driver_sqlite import dbapi as sqlite

            return sqlite.connect(f"file:{path}?mode=ro")
    except ModuleNotFoundError as error:
        raise MissingExtra("adbc_driver_manager", "databases") from error
    raise SourceError(
        f"{without_credentials(source.uri)}: its scheme is none of postgresql, sqlite and duckdb; "
        'name another ADBC driver with options={"driver": ...}'
    )


def _one(connection: Any, query: str, bounds: list[Any]) -> Any:
    """The only value of a query's only row."""
    (value,) = next(iter(_stream(connection, query, bounds))).column(0).to_pylist()
    return value


def _columns(connection: Any, source: DatabaseSource) -> str:
    """What to select, so that every value comes as itself or as its text."""
    match urlsplit(source.uri).scheme:
        case "postgresql" | "postgres" if "driver" not in source.options:
            query = (
                "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute WHERE "
                "attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
            )
            named = _pairs(connection, query, [_relation(source.relation)])
            return ", ".join(
                _quoted(name)
                if kind.removesuffix("[]") in _AS_THEY_ARE
                else f"{_quoted(name)}::text AS {_quoted(name)}"
                for name, kind in named
            )
        case "sqlite" if "driver" not in source.options:
            named = _of_sqlite(connection, source)
            return ", ".join(f"CAST({name} AS {kind}) {name}" for name, kind in named)
        case _:
            return "*"


def _of_sqlite(connection: Any, source: DatabaseSource) -> list[tuple[str, str]]:
    """Columns, quoted, and what each value of them is cast to: a column may have many types."""
    query = "SELECT name, upper(type) FROM pragma_table_info($1)"
    named = _pairs(connection, query, [source.relation.split(".")[-1]])
    return [(_quoted(name), "BLOB" if kind == "BLOB" else "TEXT") for name, kind in named]


def _pairs(connection: Any, query: str, bounds: list[Any]) -> list[tuple[str, str]]:
    found = list[tuple[str, str]]()
    for batch in _stream(connection, query, bounds):
        names, kinds = (column.to_pylist() for column in batch.columns)
        found += zip(names, kinds, strict=True)
    return found


def _stream(connection: Any, query: str, bounds: list[Any]) -> Iterator[pa.RecordBatch]:
    if hasattr(connection, "register"):  # DuckDB
        yield from connection.sql(query, params=bounds).to_arrow_reader(BATCH_ROWS)
        return
    with connection.cursor() as cursor:
        cursor.execute(query, bounds or None)
        for batch in cursor.fetch_record_batch():
            yield pa.record_batch([_plain(c) for c in batch.columns], names=batch.schema.names)


def _plain(column: pa.Array) -> pa.Array:
    """A column of a type that Arrow lacks (decimals of any length, JSON), as it is stored."""
    if not isinstance(column, pa.ExtensionArray):
        return column
    if column.type.extension_name != "arrow.uuid":
        return column.storage
    digits = pl.Series(pl.from_arrow(column.storage.cast(pa.binary()))).bin.encode("hex")
    groups = [digits.str.slice(at, length) for at, length in _UUID_GROUPS]
    return pl.select(pl.concat_str(groups, separator="-")).to_series().to_arrow()


def _failures() -> tuple[type[BaseException], ...]:
    """What connections raise."""
    import duckdb

    found: list[type[BaseException]] = [duckdb.Error, OSError]
    with contextlib.suppress(ModuleNotFoundError):
        from adbc_driver_manager import dbapi

        found.append(dbapi.Error)
    return tuple(found)


def _relation(name: str) -> str:
    return ".".join(_quoted(part) for part in name.split("."))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
