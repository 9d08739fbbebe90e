"""A Delta table of the lake: read at a version, written by whole commits.

A commit may carry an application transaction (an application's name and a batch number). The log
itself refuses a second commit of the same number by a writer that had not seen the first; one
that has seen it is refused here, so that a number is committed once whatever runs twice.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn
from urllib.parse import quote

import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake import Transaction as DeltaTransaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from penstock.errors import CommitConflict, LakeError, StorageError, TableNotFound, did_you_mean
from penstock.lake import Lake, table_key
from penstock.tables.staging import StagedFile, discard


@dataclass(frozen=True, slots=True)
class Transaction:
    """The batch that a commit stands for."""

    application: str
    """Such as `ingest/retail/sales_raw`."""
    number: int
    """Starts at 1 and grows by one a batch."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A data file that a table's version names."""

    path: str
    size_bytes: int
    rows: int
    partition: Mapping[str, str]
    lowest: Mapping[str, Any]
    highest: Mapping[str, Any]

    def may_hold(self, column: str, values: Iterable[str]) -> bool:
        """Whether the file's statistics leave room for a row with one of these values."""
        low, high = self.lowest.get(column), self.highest.get(column)
        return low is None or high is None or any(low <= value <= high for value in values)


class Table:
    """A table of the lake by name; cheap, and opens nothing until asked."""

    def __init__(self, lake: Lake, name: str) -> None:
        self.lake, self.name = lake, name
        self.key, self.uri = table_key(name), lake.table_uri(name)

    def __repr__(self) -> str:
        return f"Table({self.lake.uri!r}, {self.name!r})"

    def snapshot(self, version: int | None = None) -> Snapshot:
        """The table as of a version; by default the newest.

        Raises
        ------
        TableNotFound: there is no such table, or no such version of it.
        """
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

    def snapshot_or_none(self) -> Snapshot | None:
        """The newest version; None when there is no such table."""
        try:
            return Snapshot(self, self._open(None))
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            self.refuse(error)

    def create(
        self, schema: pa.Schema, *, partition_by: Sequence[str] = (), description: str = ""
    ) -> Snapshot:
        """The table's newest version, after making the table, or adding columns that it lacks.

        Columns that `schema` no longer has stay, and are null in new rows.

        Raises
        ------
        LakeError: a column is there with another type.
        """
        found = self.snapshot_or_none()
        if found is not None:
            return self._widened(found, schema)
        try:
            DeltaTable.create(
                self.uri,
                schema=schema,
                mode="ignore",
                partition_by=list(partition_by) or None,
                name=self.name,
                description=description or None,
                storage_options=self.lake.storage_options,
            )
        except CommitFailedError:
            pass  # another process made it first
        except (DeltaError, OSError) as error:
            self.refuse(error)
        return self.snapshot()

    def _widened(self, found: Snapshot, schema: pa.Schema) -> Snapshot:
        known = {field.name: field.type for field in found.schema}
        missing = [field for field in schema if field.name not in known]
        for field in schema:
            if known.get(field.name, field.type) != field.type:
                raise LakeError(
                    f"{self.name}: column {field.name} is {known[field.name]} in the table and "
                    f"{field.type} in its definition; give the new one another name"
                )
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
        options = self.lake.storage_options
        return DeltaTable(self.uri, version=version, storage_options=options)

    def refuse(self, error: BaseException) -> NoReturn:
        """Raise a `StorageError` that names the table."""
        raise StorageError(f"{self.uri}: {str(error).splitlines()[0][:400]}") from error


class Snapshot:
    """One version of a table, and the only thing a commit to it can be based on."""

    def __init__(self, table: Table, delta: DeltaTable) -> None:
        self.table, self.delta = table, delta
        self.version = delta.version()

    @property
    def id(self) -> str:
        """The table's own id; two tables never share one, whatever their names."""
        return str(self.delta.metadata().id)

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns with their types, and descriptions as field metadata."""
        return pa.schema(self.delta.schema())

    @property
    def partition_columns(self) -> list[str]:
        """The columns whose values are in the folders' names."""
        return list(self.delta.metadata().partition_columns)

    @cached_property
    def files(self) -> list[StoredFile]:
        """The data files of this version."""
        actions = pa.table(self.delta.get_add_actions(flatten=True)).to_pylist()
        return [
            StoredFile(
                path=action["path"],
                size_bytes=action["size_bytes"],
                rows=action["num_records"],
                partition={name: str(v) for name, v in _prefixed(action, "partition.").items()},
                lowest=_prefixed(action, "min."),
                highest=_prefixed(action, "max."),
            )
            for action in actions
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
        if self.table.lake.is_local and quote(self.table.uri) != self.table.uri:
            # polars opens the path as the log's URL has it, percent signs and all.
            return pl.scan_pyarrow_dataset(self.dataset())
        return pl.scan_delta(self.delta)

    def dataset(self) -> pads.Dataset:
        """The rows as a pyarrow dataset, which DuckDB scans with pushdown."""
        return self.delta.to_pyarrow_dataset()

    def read(self, files: Iterable[StoredFile], columns: Sequence[str]) -> pl.LazyFrame:
        """Some columns of some data files; none may be a partition column."""
        paths = [f"{self.table.uri}/{file.path}" for file in files]
        if not paths:
            empty = pl.from_arrow(self.schema.empty_table().select(list(columns)))
            assert isinstance(empty, pl.DataFrame)
            return empty.lazy()
        options: Any = self.table.lake.storage_options or None
        return pl.scan_parquet(paths, storage_options=options, glob=False).select(columns)

    def transaction(self, application: str) -> int:
        """The newest batch number that the application has committed; 0 before its first."""
        return self.delta.transaction_version(application) or 0

    def history(self, limit: int | None = None) -> list[dict[str, Any]]:
        """What the newest commits say of themselves, newest first."""
        return self.delta.history(limit)

    def metadata(self, application: str, search: int = 50) -> dict[str, Any]:
        """What the newest commit of `application` noted; empty when there was none."""
        for commit in self.history(search):
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
    ) -> Snapshot:
        """Add and remove data files in one version; the table as of it.

        Parameters
        ----------
        transaction: committed at most once; see the module.
        application, note: kept in the commit, for `metadata`. `application` is the transaction's
            where there is one.

        Raises
        ------
        CommitConflict: the transaction is in the log already, or a file to remove was removed by
            another writer. Nothing was committed, and the staged files are deleted.
        StorageError: the lake can't be reached; whether it was committed is for a later look.
        """
        table = self.table
        if transaction and self.transaction(transaction.application) >= transaction.number:
            discard(table.lake, table.key, list(adds))
            raise CommitConflict(
                f"{table.name}: {transaction.application} batch {transaction.number} "
                "is in the table already"
            )
        if removes:
            # Rewritten by maintenance, whose commits the log lets pass beside this one.
            now = {file.path for file in table.snapshot().files}
            if any(file.path not in now for file in removes):
                discard(table.lake, table.key, list(adds))
                raise CommitConflict(f"{table.name}: a file to remove is gone; run it again")
        name = transaction.application if transaction else application
        commit_id = uuid.uuid4().hex
        properties = CommitProperties(
            custom_metadata={
                "penstock.application": name,
                "penstock.commit": commit_id,
                "penstock.note": json.dumps(dict(note or {})),
            },
            app_transactions=[DeltaTransaction(transaction.application, transaction.number)]
            if transaction
            else None,
        )
        now_ms = int(time.time() * 1000)
        actions: list[AddAction | RemoveAction] = [
            RemoveAction(file.path, True, now_ms, file.size_bytes, dict(file.partition))
            for file in removes
        ]
        actions += [
            AddAction(
                file.path, file.size_bytes, file.partition, file.modified_ms, True, file.statistics
            )
            for file in adds
        ]
        try:
            self.delta.create_write_transaction(
                actions,
                mode="append",
                schema=self.delta.schema(),
                partition_by=self.partition_columns or None,
                commit_properties=properties,
            )
        except CommitFailedError as error:
            discard(table.lake, table.key, list(adds))
            raise CommitConflict(
                f"{table.name}: {name or 'commit'}: {str(error).splitlines()[0]}"
            ) from error
        except (DeltaError, OSError) as error:
            # It may have been committed all the same, so what was staged stays.
            table.refuse(error)
        return self._committed(commit_id)

    def _committed(self, commit_id: str) -> Snapshot:
        """The version that a commit made, whatever others have committed since."""
        for commit in self.table.snapshot().history(100):
            if commit.get("penstock.commit") == commit_id:
                return self.table.snapshot(commit["version"])
        raise AssertionError(f"{self.table.name}: its log lacks the commit just made")

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


def changed_files(
    now: Snapshot, since_version: int | None
) -> tuple[list[StoredFile], list[StoredFile]]:
    """The data files that came and went between a version and `now`.

    With no earlier version, or one whose log is gone, every file counts as come.
    """
    if since_version is None:
        return now.files, []
    try:
        then = now.table.snapshot(since_version)
    except TableNotFound:
        return now.files, []
    return _difference(now.files, then.files), _difference(then.files, now.files)


def _difference(files: list[StoredFile], others: list[StoredFile]) -> list[StoredFile]:
    known = {file.path for file in others}
    return [file for file in files if file.path not in known]


def _prefixed(action: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name[len(prefix) :]: v for name, v in action.items() if name.startswith(prefix)}
