"""A Delta table of the lake: read at a version, written by whole commits.

A commit may carry an application transaction (an application's name and a batch number). A second
commit of the same number is refused, whether its writer had seen the first or not, so that a number
is committed once whatever runs twice.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import quote, unquote

import numpy as np
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from penstock.errors import (
    CommitConflict,
    ConstraintBroken,
    LakeError,
    StorageError,
    TableNotFound,
    did_you_mean,
)
from penstock.lake import Lake, table_key
from penstock.storage.objects import persistently
from penstock.tables.creating import first_entry
from penstock.tables.deletions import ENABLED, FEATURE, Deletion, deletions_at, places_of
from penstock.tables.log import Entry, commit_info, path_of, put_entry
from penstock.tables.staging import (
    StagedFile,
    StoredFile,
    discard,
    partition_text,
    statistics_json,
)

if TYPE_CHECKING:
    import pyarrow.dataset as pads
    from numpy.typing import NDArray

T = TypeVar("T")

log = logging.getLogger(__name__)

_CHECKPOINT_EVERY = 100
_READ_AT_ONCE = 8
"""Log entries."""
_WRITER_FEATURES = {
    "appendOnly",
    "invariants",
    "timestampNtz",
    "changeDataFeed",
    "checkConstraints",
    FEATURE,
}
"""That are kept to here, or ask nothing of who adds and removes whole files."""
_READER_FEATURES = {"timestampNtz", FEATURE}
_WRITER_VERSION = 4
"""Up to which an older protocol asks for no more than those, and generated columns."""
_FEATURES_VERSIONS = (3, 7)
"""Of the protocol for readers and writers, from which it names what it asks for."""
_ASKED_FOR_SINCE = {"appendOnly": 2, "invariants": 2, "checkConstraints": 3, "changeDataFeed": 4}
"""Of writers, by versions from before."""
_ALL_STATISTICS = {"delta.dataSkippingNumIndexedCols": "-1"}
"""Of every column, not of the first 32 alone: a time or a batch's number may come after them."""
CHANGE_FEED = "delta.enableChangeDataFeed"
CONSTRAINT = "delta.constraints."
PLACE = "__penstock_place"
"""The column of rows' places in their data file."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """The batch that a commit stands for."""

    application: str
    """Such as `ingest/retail/sales_raw`."""
    number: int
    """Starts at 1 and grows by one a batch."""


class Table:
    """A table of the lake by name; cheap, and opens nothing until asked."""

    def __init__(self, lake: Lake, name: str) -> None:
        self.lake, self.name = lake, name
        self.key, self.uri = table_key(name), lake.table_uri(name)

    def __repr__(self) -> str:
        return f"Table({self.lake.uri!r}, {self.name!r})"

    def snapshot(self, version: int | datetime | str | None = None) -> Snapshot:
        """The table as of a version, a time (the newest version then), or a tag; by default now.

        Raises
        ------
        TableNotFound: there is no such table, or no such version of it.
        """
        if isinstance(version, datetime):
            return self._as_of(version)
        if isinstance(version, str):
            version = self._tagged(version)
        found = self.snapshot_or_none()
        if found is None:
            near = did_you_mean(self.name, self.lake.table_names())
            raise TableNotFound(f"{self.lake.uri} has no table {self.name}.{near}")
        if version is None or version == found.version:
            return found
        try:
            return Snapshot(self, self._open(version))
        except DeltaError as error:
            raise TableNotFound(
                f"{self.name} has no version {version}; the newest is {found.version}"
            ) from error

    def _tagged(self, name: str) -> int:
        from penstock.tables.tags import version_of

        return version_of(self, name)

    def _as_of(self, time: datetime) -> Snapshot:
        if time.tzinfo is None:
            raise LakeError(f"{self.name}: as of {time}: say the time zone, such as UTC")
        newest = self.snapshot()
        try:
            newest.delta.load_as_version(time)
        except (DeltaError, OSError) as error:
            self.refuse(error)
        if newest.delta.version() == 0 and self._committed_at(0) > time:
            raise TableNotFound(f"{self.name} has no version as of {time}; its first is later")
        return Snapshot(self, newest.delta)

    def _committed_at(self, version: int) -> datetime:
        for commit in self._open(version).history(1):
            return datetime.fromtimestamp(commit["timestamp"] / 1000, UTC)
        raise TableNotFound(f"{self.name}: its log has no version {version}")

    def snapshot_or_none(self) -> Snapshot | None:
        """The newest version; None when there is no such table."""
        try:
            return Snapshot(self, self._open(None))
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            self.refuse(error)

    def create(
        self,
        schema: pa.Schema,
        *,
        partition_by: Sequence[str] = (),
        description: str = "",
        of_rows: bool = False,
    ) -> Snapshot:
        """The table's newest version, after making the table, or adding columns that it lacks.

        Columns that `schema` no longer has stay, and are null in new rows. One whose type widens
        (int32, int64, float64; date, timestamp) has the table written anew.

        Parameters
        ----------
        of_rows: whether it is the schema of rows to write, for which a narrower type than the
            table's is as good, and not what the table is meant to be.

        Raises
        ------
        LakeError: a column is there with another type.
        """
        found = self.snapshot_or_none()
        if found is not None:
            return self._widened(found, schema, of_rows=of_rows)
        try:
            entry = first_entry(
                schema,
                name=self.name,
                partition_by=partition_by,
                description=description,
                configuration=_ALL_STATISTICS,
            )
        except (DeltaError, OSError) as error:
            self.refuse(error)
        if self.lake.objects.put_if_absent(path_of(self.key, 0), entry):
            return self.snapshot()
        return self._widened(self.snapshot(), schema, of_rows=of_rows)  # another made it first

    def _widened(self, found: Snapshot, schema: pa.Schema, *, of_rows: bool) -> Snapshot:
        known = {field.name: field.type for field in found.schema}
        missing = [field for field in schema if field.name not in known]
        other = [f for f in schema if known.get(f.name, f.type) != f.type]
        wider = [f for f in other if not (of_rows and _widens(f.type, known[f.name]))]
        for field in wider:
            if not _widens(known[field.name], field.type):
                raise LakeError(
                    f"{self.name}: column {field.name} is {known[field.name]} in the table and "
                    f"{field.type} in its definition; give the new one another name"
                )
        if wider:
            from penstock.tables.writing import widen

            found = widen(self, {field.name: field.type for field in wider})
        if not missing:
            return found
        try:
            found.delta.alter.add_columns(list(Schema.from_arrow(pa.schema(missing)).fields))
        except CommitFailedError:
            pass  # another process added them first
        except (DeltaError, OSError) as error:
            self.refuse(error)
        return self.snapshot()

    def _open(self, version: int | None) -> DeltaTable:
        return persistently(lambda: self._opened(version))

    def _opened(self, version: int | None) -> DeltaTable:
        options = self.lake.storage_options
        try:
            return DeltaTable(self.uri, version=version, storage_options=options)
        except (DeltaError, OSError) as error:
            if "body error" not in str(error):
                raise
            self.refuse(error, is_transient=True)

    def refuse(self, error: BaseException, *, is_transient: bool = False) -> NoReturn:
        """Raise a `StorageError` that names the table."""
        # deltalake tells a tale of several lines, in colour.
        lines = re.sub(r"\x1b\[\d+m|↳", "", str(error)).split()
        text = " ".join(lines)[:400]
        if "RequestTimeTooSkewed" in str(error):
            text = f"this machine's clock is not the server's; set it ({text})"
        raise StorageError(f"{self.uri}: {text}", is_transient=is_transient) from error


class Snapshot:
    """One version of a table, and the only thing a commit to it can be based on.

    Parameters
    ----------
    delta: the table as deltalake opened it; by default that of `version`, opened when asked for.
    """

    def __init__(
        self, table: Table, delta: DeltaTable | None = None, *, version: int | None = None
    ) -> None:
        self.table, self._delta = table, delta
        if delta is not None:
            version = delta.version()
        assert version is not None
        self.version = version
        self._transactions = dict[str, int]()

    @property
    def delta(self) -> DeltaTable:
        """This version, as deltalake has it."""
        if self._delta is None:
            opened = self.table.snapshot(self.version)
            self._delta = opened.delta
        return self._delta

    def _asked(self, ask: Callable[[DeltaTable], T]) -> T:
        """What deltalake says, for which it may have to read more of the log."""
        delta = self.delta

        def asked() -> T:
            try:
                return ask(delta)
            except (DeltaError, OSError) as error:
                self.table.refuse(error, is_transient="body error" in str(error))

        return persistently(asked)

    def advanced(self) -> Snapshot:
        """The newest version, for less than opening it; this one is not to be used any more."""
        delta = self.delta

        def advance() -> None:
            try:
                delta.update_incremental()
            except (DeltaError, OSError) as error:
                self.table.refuse(error, is_transient="body error" in str(error))

        persistently(advance)
        return Snapshot(self.table, delta)

    @property
    def id(self) -> str:
        """The table's own id; two tables never share one, whatever their names."""
        return str(self.delta.metadata().id)

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns with their types, and descriptions as field metadata."""
        return pa.schema(self.delta.schema())

    @cached_property
    def _kinds(self) -> pl.Schema:
        return pl.Schema(self.schema)

    @property
    def has_change_feed(self) -> bool:
        """Whether commits have to tell which rows they change."""
        return self.delta.metadata().configuration.get(CHANGE_FEED, "").lower() == "true"

    @property
    def has_deletion_vectors(self) -> bool:
        """Whether an upsert leaves data files as they are, and marks rows of them as gone."""
        return self.delta.metadata().configuration.get(ENABLED, "").lower() == "true"

    @cached_property
    def _deletions(self) -> dict[str, Deletion]:
        if FEATURE not in (self.delta.protocol().reader_features or []):
            return {}
        return deletions_at(self.table.lake, self.table.key, self.version)

    @property
    def constraints(self) -> dict[str, str]:
        """Rules that every row keeps, as SQL, by name."""
        found = self.delta.metadata().configuration.items()
        return {
            name.removeprefix(CONSTRAINT): rule
            for name, rule in found
            if name.startswith(CONSTRAINT)
        }

    @property
    def partition_columns(self) -> list[str]:
        """The columns whose values are in the folders' names."""
        return list(self.delta.metadata().partition_columns)

    @cached_property
    def files(self) -> list[StoredFile]:
        """The data files of this version."""
        self._check_readable()
        actions = self._actions(flatten=True)
        gone, files = self._deletions, list[StoredFile]()
        for action in actions:
            path = unquote(action["path"])
            deletion = gone.get(path)
            rows = action["num_records"]
            rows = self._counted(path) if rows is None else rows
            files.append(
                StoredFile(
                    path=path,
                    size_bytes=action["size_bytes"],
                    rows=rows - (deletion.rows if deletion else 0),
                    partition=_partition(_prefixed(action, "partition.")),
                    lowest=_prefixed(action, "min."),
                    highest=_prefixed(action, "max."),
                    deletion=deletion,
                )
            )
        return files

    def _counted(self, path: str) -> int:
        """The rows of a data file of which the log doesn't tell; another engine wrote it."""
        file = StoredFile(path, 0, 0, {}, {}, {})
        return int(self._stored([file]).select(pl.len()).collect().item())

    def _actions(self, *, flatten: bool) -> list[dict[str, Any]]:
        """What the log says of each data file."""
        found = self._asked(lambda delta: delta.get_add_actions(flatten=flatten))
        return pl.DataFrame(found).to_dicts()  # pyarrow's would import pandas where it is installed

    def bounds(self, column: str) -> tuple[Any, Any]:
        """The least and the greatest value of a column, from statistics where all files have them;
        None and None where there is no value.
        """
        known: list[Any] = []
        for file in self.files:
            if file.deletion is not None:  # perhaps of a row that is gone
                known.append(None)
            known += [file.lowest.get(column), file.highest.get(column)]
        if None in known:
            value = pl.col(column)
            low, high = value.min().alias("low"), value.max().alias("high")
            return self.scan().select(low, high).collect(engine="streaming").row(0)
        return (min(known), max(known)) if known else (None, None)

    def staged(self) -> list[StagedFile]:
        """The data files of this version as a commit would add them anew."""
        self._check_readable()
        gone, now_ms = self._deletions, int(time.time() * 1000)
        return [
            StagedFile(
                path=path,
                size_bytes=action["size_bytes"],
                rows=rows,
                partition=_partition(action.get("partition") or {}),
                statistics=statistics_json(
                    rows,
                    action.get("null_count") or {},
                    action.get("min") or {},
                    action.get("max") or {},
                    is_tight=path not in gone,
                ),
                modified_ms=now_ms,
                deletion=gone.get(path),
            )
            for action in self._actions(flatten=False)
            for path in [unquote(action["path"])]
            for known in [action["num_records"]]
            for rows in [self._counted(path) if known is None else known]
        ]

    @property
    def rows(self) -> int:
        """Rows in this version, from the log alone."""
        return sum(file.rows for file in self.files)

    @property
    def size_bytes(self) -> int:
        """Bytes of this version's data files, from the log alone."""
        return sum(file.size_bytes for file in self.files)

    def scan(self) -> pl.LazyFrame:
        """The rows as a polars frame, read when collected."""
        # polars opens a path as the log's URL has it, percent signs and all, and finds no deletion
        # vector of a file whose name it writes otherwise than the log does.
        is_quoted = self.table.lake.is_local and quote(self.table.uri) != self.table.uri
        if not is_quoted and not self._deletions:
            return pl.scan_delta(self.delta)
        if not self.partition_columns or not self.files:
            return self.read(self.files, self.schema.names)
        return pl.concat([self.rows_of(file) for file in self.files])

    def dataset(self) -> pads.Dataset:
        """The rows as a pyarrow dataset.

        Raises
        ------
        LakeError: the table has deletion vectors, which no such dataset can apply.
        """
        if FEATURE in (self.delta.protocol().reader_features or []):
            raise LakeError(
                f"{self.table.name}: it has deletion vectors, which pyarrow datasets don't apply; "
                "read it with scan(), a polars frame, or `penstock sql`"
            )
        import pyarrow.dataset as pads  # 0.02 s that most don't need

        # deltalake takes a bound that a file doesn't have for one that no value keeps to.
        whole = self.delta.to_pyarrow_dataset()
        files = {file.path: file for file in self.files}
        fragments = [
            whole.format.make_fragment(
                each.path, whole.filesystem, self._holds(files[unquote(each.path)])
            )
            for each in whole.get_fragments()
        ]
        return pads.FileSystemDataset(fragments, whole.schema, whole.format, whole.filesystem)

    def _holds(self, file: StoredFile) -> Any:
        """What is true of all rows of a data file, as pyarrow has it."""
        import pyarrow.dataset as pads

        said: Any = pads.scalar(value=True)
        for field in self.schema:
            name = pads.field(field.name)
            if field.name in file.partition:
                (value,) = _parsed(file.partition[field.name], field.type)
                said &= name.is_null() if not value.is_valid else name == value
                continue
            low, high = file.lowest.get(field.name), file.highest.get(field.name)
            # Of floats NaN is outside of all bounds, and those of texts may be cut.
            tests = (pa.types.is_integer, pa.types.is_date, pa.types.is_timestamp)
            if low is None or high is None or not any(test(field.type) for test in tests):
                continue
            if pa.types.is_timestamp(field.type):  # of which deltalake cuts what is under 1 ms
                if high.year == datetime.max.year:
                    continue
                high += timedelta(milliseconds=1)
            least, most = (pa.scalar(value, field.type) for value in (low, high))
            # In these words: of others that say the same, Arrow sees nothing to leave out.
            said &= (name >= least) | name.is_null()
            said &= (name <= most) | name.is_null()
        return said

    def relation(self) -> pads.Dataset | pl.LazyFrame:
        """The rows as DuckDB scans them with pushdown."""
        has_vectors = FEATURE in (self.delta.protocol().reader_features or [])
        return self.scan() if has_vectors else self.dataset()

    def read(self, files: Iterable[StoredFile], columns: Sequence[str]) -> pl.LazyFrame:
        """Some columns of some data files; none may be a partition column.

        Files from before a column was added have nulls in it.
        """
        frames = list[pl.LazyFrame]()
        for deletion, run in itertools.groupby(files, key=lambda file: file.deletion):
            if deletion is None:
                frames.append(self._stored([*run]).select(columns))
            else:
                frames += [self._placed(file).select(columns) for file in run]
        if not frames:
            return pl.LazyFrame(schema=self._kinds).select(columns)
        return frames[0] if len(frames) == 1 else pl.concat(frames)

    def _stored(self, files: Sequence[StoredFile], **options: Any) -> pl.LazyFrame:
        """All that is in some data files, gone or not."""
        partitions = set(self.partition_columns)
        schema = {name: kind for name, kind in self._kinds.items() if name not in partitions}
        stored: Any = self.table.lake.storage_options or None
        return pl.scan_parquet(
            [f"{self.table.uri}/{file.path}" for file in files],
            storage_options=stored,
            glob=False,
            schema=schema,
            missing_columns="insert",
            hive_partitioning=False,
            **options,
        )

    def _placed(self, file: StoredFile) -> pl.LazyFrame:
        """A data file's rows and their places in it, without those that are gone."""
        rows = self._stored([file], row_index_name=PLACE)
        if file.deletion is None:
            return rows
        gone = pl.Series(self.places_gone(file), dtype=pl.UInt32)
        return rows.filter(~pl.col(PLACE).is_in(pl.lit(gone).implode()))

    def places_gone(self, file: StoredFile) -> NDArray[np.uint64]:
        """Places in a data file whose rows are gone, ascending."""
        if file.deletion is None:
            return np.empty(0, np.uint64)
        return places_of(file.deletion, self.table.lake.objects, self.table.key)

    def rows_of(self, file: StoredFile, *, with_places: bool = False) -> pl.LazyFrame:
        """A data file's rows, partition columns too.

        Parameters
        ----------
        with_places: whether a last column, `PLACE`, says where in the file each one is.
        """
        partitions = set(self.partition_columns)
        names = [name for name in self.schema.names if name not in partitions]
        places = [PLACE] if with_places else []
        rows = self._placed(file) if with_places else self.read([file], names)
        rows = rows.select(*names, *places)
        if not partitions:
            return rows
        kinds = {name: self.schema.field(name).type for name in partitions}
        values = [
            # A partition's value, from how the log writes it.
            pl.lit(pl.Series(name, _parsed(file.partition.get(name), kind)))
            for name, kind in kinds.items()
        ]
        return rows.with_columns(values).select(*self.schema.names, *places)

    def transaction(self, application: str) -> int:
        """The newest batch number that the application has committed; 0 before its first."""
        if application not in self._transactions:  # for which deltalake reads the log again
            found = self._asked(lambda delta: delta.transaction_version(application))
            self._transactions[application] = found or 0
        return self._transactions[application]

    def history(self, limit: int | None = None) -> list[dict[str, Any]]:
        """What the newest commits say of themselves, newest first, as far back as the log goes."""
        return [*itertools.islice(self.commits(), limit)]

    def commits(self) -> Iterator[dict[str, Any]]:
        """The same, read as they are asked for, some at a time; deltalake would hold the GIL."""
        objects, key = self.table.lake.objects, self.table.key
        with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="penstock-log") as pool:
            for newest in range(self.version, -1, -_READ_AT_ONCE):
                versions = range(newest, max(-1, newest - _READ_AT_ONCE), -1)
                texts = pool.map(objects.get_or_none, (path_of(key, v) for v in versions))
                for version, text in zip(versions, texts, strict=True):
                    if text is None:
                        return
                    yield {"version": version, **commit_info(text)}

    def metadata(self, application: str, search: int = 50) -> dict[str, Any]:
        """What the newest commit of `application` noted; empty when there was none."""
        for commit in itertools.islice(self.commits(), search):
            if commit.get("penstock.application") == application:
                return json.loads(commit.get("penstock.note") or "{}")
        return {}

    def commit(
        self,
        adds: Sequence[StagedFile],
        removes: Sequence[StoredFile] = (),
        *,
        transaction: Transaction | None = None,
        application: str = "",
        note: Mapping[str, Any] | None = None,
        discards: bool = True,
        is_alone: bool = False,
        changes_data: bool = True,
        schema: pa.Schema | None = None,
        changes: Sequence[StagedFile] = (),
    ) -> Snapshot:
        """Add and remove data files in one version; the table as of it.

        Parameters
        ----------
        transaction: committed at most once; see the module.
        application, note: kept in the commit, for `metadata`. `application` is the transaction's
            where there is one.
        discards: whether `adds` are deleted when they are refused; not where another writer may
            commit the same ones.
        is_alone: whether it is refused if anything was committed since this version.
        changes_data: false where the same rows come and go, in other files.
        schema: the table's from now on; by default it stays.
        changes: files of the rows that change, where the table has a change feed and files are
            copied; see `changes.staged_changes`.

        Raises
        ------
        CommitConflict: the transaction is in the log already, or a file to remove was removed by
            another writer. Nothing was committed, and the staged files are deleted.
        ConstraintBroken: a row of `adds` breaks a constraint of the table. Likewise.
        LakeError: the table asks of writers what isn't done here.
        StorageError: the lake can't be reached; whether it was committed is for a later look.
        """
        table = self.table

        def give_up() -> None:
            if discards:
                discard(table.lake, table.key, [*adds, *changes])

        if transaction and self.transaction(transaction.application) >= transaction.number:
            give_up()
            raise CommitConflict(
                f"{table.name}: {transaction.application} batch {transaction.number} "
                "is in the table already"
            )
        self._check_writable()
        if changes_data and self.constraints:
            try:
                # Of a file that is in the table rows only go.
                here = {file.path for file in removes}
                self._check_constraints([file for file in adds if file.path not in here])
            except ConstraintBroken:
                give_up()
                raise
        has_marks = any(file.deletion for file in (*adds, *removes))
        if self.has_change_feed and changes_data and has_marks and not changes:
            from penstock.tables.changes import changes_of_files

            changes = changes_of_files(self, adds, removes)
        name = transaction.application if transaction else application
        entry = Entry(
            id=uuid.uuid4().hex,
            adds=adds,
            removes=removes,
            transaction=(transaction.application, transaction.number) if transaction else None,
            said={
                "penstock.application": name,
                "penstock.note": json.dumps(dict(note or {})),
            },
            changes_data=changes_data,
            metadata=None if schema is None else self._metadata(schema),
            changes=changes,
            configuration=dict(self.delta.metadata().configuration),
        )
        what = f"{table.name}: {name or 'commit'}"
        try:
            version = put_entry(
                table.lake.objects, table.key, self.version, entry, is_alone=is_alone, what=what
            )
        except CommitConflict:
            give_up()
            raise
        if version % _CHECKPOINT_EVERY == 0:
            self._checkpoint(version)
        return Snapshot(table, version=version)  # many callers need no more than that it is done

    def configure(
        self, settings: Mapping[str, str | None], *, writer_version: int, feature: str
    ) -> Snapshot:
        """Set properties of the table, null to take one away; the table as of then.

        Parameters
        ----------
        writer_version, feature: of Delta's protocol, that writers then need; readers as well where
            the version is 7.

        Raises
        ------
        CommitConflict: another writer came first.
        """
        self._check_writable()
        metadata = self._metadata(self.schema)
        changed = metadata["configuration"] | dict(settings)
        metadata["configuration"] = {k: v for k, v in changed.items() if v is not None}
        entry = Entry(
            id=uuid.uuid4().hex,
            metadata=metadata,
            protocol=self._protocol(writer_version, feature),
            said={"penstock.application": "configure"},
            configuration=dict(self.delta.metadata().configuration),
        )
        table, what = self.table, f"{self.table.name}: configure"
        version = put_entry(
            table.lake.objects, table.key, self.version, entry, is_alone=True, what=what
        )
        return table.snapshot(version)

    def _protocol(self, writer_version: int, feature: str) -> dict[str, Any]:
        """What the table asks of readers and writers, and a feature."""
        now = self.delta.protocol()
        readers, writers = set(now.reader_features or []), set(now.writer_features or [])
        reader, writer = now.min_reader_version, max(writer_version, now.min_writer_version)
        if writer_version == _FEATURES_VERSIONS[1]:
            if not writers:
                since = _ASKED_FOR_SINCE.items()
                writers = {name for name, first in since if first <= now.min_writer_version}
            reader, readers = _FEATURES_VERSIONS[0], readers | {feature}
        asked: dict[str, Any] = {"minReaderVersion": reader, "minWriterVersion": writer}
        if readers:
            asked["readerFeatures"] = sorted(readers)
        if writers or writer == _FEATURES_VERSIONS[1]:
            asked["writerFeatures"] = sorted({*writers, feature})
        return asked

    def _metadata(self, schema: pa.Schema) -> dict[str, Any]:
        """The table's metadata as the log has it, with another schema."""
        now = self.delta.metadata()
        return {
            "id": str(now.id),
            "name": now.name,
            "description": now.description,
            "format": {"provider": "parquet", "options": {}},
            "schemaString": Schema.from_arrow(schema).to_json(),
            "partitionColumns": list(now.partition_columns),
            "createdTime": now.created_time,
            "configuration": dict(now.configuration),
        }

    def _check_readable(self) -> None:
        """Raise `LakeError` where data files alone don't say which rows and columns there are."""
        protocol, settings = self.delta.protocol(), self.delta.metadata().configuration
        unknown = set(protocol.reader_features or []) - _READER_FEATURES
        if settings.get("delta.columnMapping.mode", "none") != "none":
            unknown.add("columnMapping")
        if unknown:
            raise LakeError(
                f"{self.table.name}: it was made by another engine and asks of its readers "
                f"{', '.join(sorted(unknown))}, which isn't done here; copy it into a table without"
            )

    def _check_writable(self) -> None:
        """Raise `LakeError` where the table asks of writers what isn't done here."""
        protocol = self.delta.protocol()
        unknown = set(protocol.writer_features or []) - _WRITER_FEATURES
        version = 0 if protocol.writer_features else protocol.min_writer_version
        if version == _WRITER_VERSION and b"delta.generationExpression" in self._schema_json():
            unknown.add("generatedColumns")
        if unknown or version > _WRITER_VERSION:
            asked = ", ".join(sorted(unknown)) or f"writer version {version}"
            raise LakeError(
                f"{self.table.name}: it was made by another engine and asks of its writers "
                f"{asked}, which Penstock doesn't do; write to it with that engine"
            )

    def _schema_json(self) -> bytes:
        return self.delta.schema().to_json().encode()

    def _check_constraints(self, adds: Sequence[StagedFile]) -> None:
        """Raise `ConstraintBroken` if a row that comes in breaks one."""
        for name, rule in self.constraints.items():
            is_broken = ~pl.sql_expr(rule).fill_null(value=False)
            for file in adds:
                rows = self.rows_of(file.as_stored()).filter(is_broken).head(1).collect()
                if rows.height:
                    raise ConstraintBroken(
                        f"{self.table.name}: constraint {name} ({rule}) is broken by "
                        f"{rows.row(0, named=True)}; nothing was committed"
                    )

    def _checkpoint(self, version: int) -> None:
        """Best effort: readers start from it, and the next one does as well."""
        try:
            DeltaTable(
                self.table.uri, version=version, storage_options=self.table.lake.storage_options
            ).create_checkpoint()
        except (DeltaError, OSError) as error:
            log.warning("%s: no checkpoint of version %d: %s", self.table.name, version, error)

    def replace_partitions(
        self,
        values: Sequence[str],
        adds: Sequence[StagedFile],
        *,
        application: str,
        note: Mapping[str, Any] | None = None,
    ) -> Snapshot:
        """Everything in the partitions `values` out and `adds` in, in one version.

        Commits of one application are numbered, so that of two at once over the same empty
        partition, which have no file to remove, one is refused all the same.
        """
        column = self.partition_columns[0]
        wanted = set(values)
        removes = [file for file in self.files if file.partition[column] in wanted]
        following = Transaction(application, self.transaction(application) + 1)
        return self.commit(adds, removes, transaction=following, note=note)


def as_stored(schema: pa.Schema) -> pa.Schema:
    """A schema with the types that a Delta table gives its columns."""
    return pa.schema(Schema.from_arrow(schema))


_WIDER: dict[pa.DataType, tuple[pa.DataType, ...]] = {
    pa.int8(): (pa.int16(), pa.int32(), pa.int64(), pa.float64()),
    pa.int16(): (pa.int32(), pa.int64(), pa.float64()),
    pa.int32(): (pa.int64(), pa.float64()),
    pa.int64(): (pa.float64(),),
    pa.float32(): (pa.float64(),),
    pa.date32(): (pa.timestamp("us", "UTC"), pa.timestamp("us")),
}


def _widens(old: pa.DataType, new: pa.DataType) -> bool:
    """Whether every value of the old type is one of the new."""
    return pa.types.is_null(old) or new in _WIDER.get(old, ())


def changed_files(
    now: Snapshot, since_version: int | None
) -> tuple[list[StoredFile], list[StoredFile]]:
    """The data files that came and went between a version and `now`, with other rows.

    Files that were only written anew (`optimize`) are neither, as far as the log tells; a file that
    came and was written anew since counts as come, and may be gone. With no earlier version, or one
    whose log is gone, every file counts as come.
    """
    if since_version is None:
        return now.files, []
    try:
        then = now.table.snapshot(since_version)
    except TableNotFound:
        return now.files, []
    came, went = _difference(now.files, then.files), _difference(then.files, now.files)
    if not came or not went:  # nothing was written anew
        return came, went
    moved = _moved(now.table, since_version, now.version)
    return (
        [file for file in came if file.path not in moved],
        [file for file in went if file.path not in moved],
    )


def _moved(table: Table, since_version: int, version: int) -> set[str]:
    """Files that came or went only by commits that changed no rows; none if one came so and then
    changed, or the log of a version is gone.
    """
    moved, changed = set[str](), set[str]()
    for number in range(since_version + 1, version + 1):
        text = table.lake.objects.get_or_none(path_of(table.key, number))
        if text is None:
            return set()
        for line in text.splitlines():
            action = json.loads(line)
            named = action.get("add") or action.get("remove")
            if named:
                (changed if named["dataChange"] else moved).add(unquote(named["path"]))
    # What was added with new rows and then moved is to be found nowhere else: keep all of it.
    return moved - changed if not moved & changed else set()


def _difference(files: list[StoredFile], others: list[StoredFile]) -> list[StoredFile]:
    known = {file.id for file in others}
    return [file for file in files if file.id not in known]


def _parsed(text: str | None, kind: pa.DataType) -> pa.Array:
    """A partition's value; times are written without their zone, which is UTC."""
    if pa.types.is_timestamp(kind) and kind.tz and text and not text.endswith("Z"):
        text += "Z"
    return pa.array([text], pa.string()).cast(kind)


def _partition(values: Mapping[str, Any]) -> dict[str, str | None]:
    return {name: partition_text(value) for name, value in values.items()}


def _prefixed(action: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name[len(prefix) :]: v for name, v in action.items() if name.startswith(prefix)}
