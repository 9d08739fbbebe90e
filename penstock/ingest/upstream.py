"""Tables as sources: a database's by a high-water mark, a Delta table's by its change feed.

What such a source gives is cut into stretches: past the mark that was reached last, up to the one
that the table had when the batch was planned. To the ledger a stretch is a file, and so it comes in
exactly once.
"""

from __future__ import annotations

import contextlib
import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import pyarrow as pa

from penstock.errors import MissingExtra, SourceError, UnreadableFile
from penstock.ingest.source import Source
from penstock.storage.objects import ObjectStore, resolve_options
from penstock.storage.sources import LISTING, without_credentials
from penstock.tables.log import read_entry

CHANGES = ("_change_type", "_commit_version", "_commit_timestamp")
"""Columns of a change feed, for contracts that name them."""
_BATCH_ROWS = 1 << 16
_UUID_GROUPS = ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))
"""Of its hexadecimal digits: where each starts, and its length."""


class Upstream:
    """A table that rows are taken from, in the place of a folder."""

    identity: str

    def list(self, pattern: str = "", *, after: str = "") -> pl.DataFrame:
        """One row: the table's name, and as its tag the mark that it has reached.

        Raises
        ------
        SourceError: the table can't be reached, or isn't there.
        """
        reached = self.reached()
        rows = [] if reached is None else [(self.name, 0, reached, datetime.now(UTC), None)]
        return pl.DataFrame(rows, schema=LISTING, orient="row")

    @property
    @abstractmethod
    def name(self) -> str:
        """As stretches of it are called."""

    @abstractmethod
    def reached(self) -> str | None:
        """The mark now, as JSON; None where there is no row."""

    @abstractmethod
    def read(self, after: Any, upto: Any) -> Iterator[pa.RecordBatch]:
        """The rows past one mark (None: from the start) up to another."""


@dataclass(frozen=True, slots=True)
class UpstreamSource(Source):
    """A source that is a table and not a folder. Patterns and formats don't apply."""

    def __post_init__(self) -> None:
        Source.__post_init__(self)
        if self.on_delete != "keep" or self.pattern != "**/*" or self.format is not None:
            raise SourceError(
                f"{self.table}: on_delete, pattern and format are for folders, not for a table"
            )

    def is_read(self) -> pl.Expr:
        """Each stretch is."""
        return pl.lit(value=True)

    def stretch(self, ledger: pl.DataFrame, listing: pl.DataFrame) -> pl.DataFrame:
        """What came since the newest stretch in the ledger: a listing of one row, or none."""
        loaded = ledger.filter(status="loaded")
        after = json.loads(loaded["tag"][-1])[1] if loaded.height else None
        stretches = [
            (f"{name}/{_shown(after)}..{_shown(json.loads(tag))}", 0, _tag(after, tag), at, None)
            for name, _, tag, at, _ in listing.rows()
            if json.loads(tag) != after
        ]
        return pl.DataFrame(stretches, schema=LISTING, orient="row")


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
    row inserted or changed, such as `updated_at`. A row where it is null is never seen."""
    settle: timedelta = timedelta(0)
    """Of a mark of times: how long to wait until no transaction brings an older one."""

    def __post_init__(self) -> None:
        UpstreamSource.__post_init__(self)
        for name in ("relation", "mark"):
            if not getattr(self, name):
                raise SourceError(f"{self.table}: a database source needs its {name}")
        if self.mark not in self.contract.raw_names:
            raise SourceError(f"{self.table}: the contract has no column {self.mark}, the mark")

    def folder(self) -> Any:
        """The table, in the place of a folder."""
        return _Relation(self)


@dataclass(frozen=True, slots=True)
class DeltaSource(UpstreamSource):
    """Rows that were inserted into a Delta table, and by its change feed, changed and deleted.

    The first batch has all rows of the table's newest version. After that the table needs
    `delta.enableChangeDataFeed`. A row whose value was updated comes again; one that was deleted
    comes only where the contract names the column `_change_type` (`insert`, `update_postimage`,
    `delete`).
    """

    def folder(self) -> Any:
        """The table, in the place of a folder."""
        return _Feed(self)


class _Relation(Upstream):
    """A table of a database, through ADBC or DuckDB."""

    def __init__(self, source: DatabaseSource) -> None:
        self._source = source
        self.identity = f"{without_credentials(source.uri)}#{source.relation}"

    @property
    def name(self) -> str:
        return self._source.relation

    def reached(self) -> str | None:
        mark = _quoted(self._source.mark)
        query = f"SELECT max({mark}) AS mark FROM {_relation(self._source.relation)}"
        try:
            with contextlib.closing(_connected(self._source)) as connection:
                (value,) = next(iter(_stream(connection, query, [])))["mark"].to_pylist()
        except _failures() as error:
            raise SourceError(f"{self.identity}: {_first_line(error)}") from error
        if value is None:
            return None
        if self._source.settle and isinstance(value, datetime):
            newest = datetime.now(UTC) - self._source.settle
            value = min(value, newest if value.tzinfo else newest.replace(tzinfo=None))
        return json.dumps(_as_json(value, self.identity))

    def read(self, after: Any, upto: Any) -> Iterator[pa.RecordBatch]:
        source, mark = self._source, _quoted(self._source.mark)
        sign = "?" if "driver" in source.options else "${}"
        bounds = [*([] if after is None else [_value(after)]), _value(upto)]
        tests = [
            f"{mark} {test} {sign.format(place)}"
            for place, test in enumerate(([] if after is None else [">"]) + ["<="], start=1)
        ]
        query = f"SELECT * FROM {_relation(source.relation)} WHERE {' AND '.join(tests)}"
        try:
            with contextlib.closing(_connected(source)) as connection:
                yield from _stream(connection, query, bounds)
        except _failures() as error:
            message = f"{self.identity}: {_first_line(error)}"
            raise UnreadableFile(message, is_transient=True) from error


class _Feed(Upstream):
    """A Delta table's change feed."""

    def __init__(self, source: DeltaSource) -> None:
        self._source = source
        self._uri = source.uri.rstrip("/")
        self.identity = without_credentials(self._uri)

    @property
    def name(self) -> str:
        return self._uri.rsplit("/", 1)[-1]

    def reached(self) -> str:
        return str(self._table().version())

    def read(self, after: Any, upto: Any) -> Iterator[pa.RecordBatch]:
        from deltalake.exceptions import DeltaError

        try:
            if after is None:
                yield from self._whole(upto)
            else:
                yield from self._changes(after + 1, upto)
        except (DeltaError, OSError) as error:
            message = f"{self.identity}: {_first_line(error)}"
            raise UnreadableFile(message, is_transient=True) from error

    def _whole(self, version: int) -> Iterator[pa.RecordBatch]:
        table = self._table(version)
        at = pa.scalar(table.history(1)[0]["timestamp"] * 1000, pa.timestamp("us", "UTC"))
        said = (pa.scalar("insert"), pa.scalar(version, pa.int64()), at)
        for batch in table.to_pyarrow_dataset().to_batches(batch_size=_BATCH_ROWS):
            for name, value in zip(CHANGES, said, strict=True):
                batch = batch.append_column(name, pa.repeat(value, batch.num_rows))
            yield from self._wanted(batch)

    def _changes(self, first: int, last: int) -> Iterator[pa.RecordBatch]:
        configuration = self._table(first).metadata().configuration
        if configuration.get("delta.enableChangeDataFeed") != "true":
            self._check_appends(first, last)
        feed = self._table().load_cdf(starting_version=first, ending_version=last)
        for batch in feed:
            yield from self._wanted(pa.record_batch(batch))

    def _check_appends(self, first: int, last: int) -> None:
        """Without a feed, only a version that takes no file away tells which rows are new."""
        objects = ObjectStore(self._uri, resolve_options(self._uri, self._source.options or None))
        for version in range(first, last + 1):
            actions = read_entry(objects, "", version)
            changes = [
                kind
                for action in actions
                for kind in ("add", "remove")
                if action.get(kind, {}).get("dataChange")
            ]
            if "remove" in changes and not any("cdc" in action for action in actions):
                raise UnreadableFile(
                    f"{self.identity}: version {version} changed rows, without a change feed: set "
                    " delta.enableChangeDataFeed on the table; what the version changed comes "
                    f"in with a new bronze table ({self._source.table} under another name)"
                )

    def _wanted(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """The rows that are taken, without a feed's columns where the contract has none."""
        named = self._source.contract.raw_names
        kept = ["insert", "update_postimage"]
        kept += ["delete"] if CHANGES[0] in named else []
        rows = pl.DataFrame(pl.from_arrow(batch)).filter(pl.col(CHANGES[0]).is_in(kept))
        rows = rows.drop([name for name in CHANGES if name not in named])
        yield from rows.to_arrow().to_batches()

    def _table(self, version: int | None = None) -> Any:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        options = resolve_options(self._uri, self._source.options or None)
        try:
            return DeltaTable(self._uri, version=version, storage_options=dict(options))
        except (DeltaError, OSError) as error:
            raise SourceError(f"{self.identity}: no Delta table: {_first_line(error)}") from error


def stretch_of(tag: str) -> tuple[Any, Any]:
    """The marks that a planned stretch lies between."""
    after, upto = json.loads(tag)
    return after, upto


def _tag(after: Any, reached: str) -> str:
    return json.dumps([after, json.loads(reached)])


def _shown(mark: Any) -> str:
    if isinstance(mark, dict):
        return str(next(iter(mark.values())))
    return "" if mark is None else str(mark)


def _as_json(value: Any, identity: str) -> Any:
    """A mark as JSON that says its type, so that it is given back to the database as such."""
    match value:
        case bool() | float():
            pass
        case int() | str():
            return value
        case datetime():
            return {"time": value.isoformat()}
        case _ if hasattr(value, "isoformat"):
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


def _stream(connection: Any, query: str, bounds: list[Any]) -> Iterator[pa.RecordBatch]:
    if hasattr(connection, "register"):  # DuckDB
        yield from connection.sql(query, params=bounds).to_arrow_reader(_BATCH_ROWS)
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


def _first_line(error: BaseException) -> str:
    return (str(error) or repr(error)).strip().splitlines()[0][:400]
