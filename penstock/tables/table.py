"""A Delta table of the lake: read at a version, written by whole commits.

A commit may carry an application transaction (an application's name and a batch number). A second
commit of the same number is refused, whether its writer had seen the first or not, so that a number
is committed once whatever runs twice.
"""

from __future__ import annotations

import itertools
import json
import logging
import random
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

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
from penstock.tables.log import Entry, path_of, put_entry
from penstock.tables.protocol import check_writable, metadata_with, protocol_for, protocol_with
from penstock.tables.staging import (
    StagedFile,
    StoredFile,
    discard,
)
from penstock.tables.version import Version

log = logging.getLogger(__name__)

_ATTEMPTS = 8
"""At new columns, where others add some too."""
_CHECKPOINT_EVERY = 100
_ALL_STATISTICS = {"delta.dataSkippingNumIndexedCols": "-1"}
"""Of every column, not of the first 32 alone: a time or a batch's number may come after them."""


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

        A text that is no tag may be a version (`v12`), or a time in ISO form (`2024-03-01`, of UTC
        unless it says another zone).

        Raises
        ------
        TableNotFound: there is no such table, or no such version of it.
        """
        if isinstance(version, str):
            version = self._meant(version)
        if isinstance(version, datetime):
            return self._as_of(version)
        found = self.snapshot_or_none()
        if found is None:
            near = did_you_mean(self.name, self.lake.table_names())
            raise TableNotFound(f"{self.lake.uri} has no table {self.name}.{near}")
        if version is None or version == found.version:
            return found
        absent = f"{self.name} has no version {version}; the newest is {found.version}"
        if not 0 <= version < found.version:
            raise TableNotFound(absent)
        try:
            return Snapshot(self, self._open(version), is_old=True)
        except DeltaError as error:
            raise TableNotFound(f"{absent}, and the log of old ones may be gone") from error

    def _meant(self, text: str) -> int | datetime:
        from penstock.tables.tags import meant_by

        return meant_by(self, text)

    def _as_of(self, time: datetime) -> Snapshot:
        if time.tzinfo is None:
            raise LakeError(f"{self.name}: as of {time}: say the time zone, such as UTC")
        newest = self.snapshot()
        last = newest.version
        try:
            newest.delta.load_as_version(time)
        except (DeltaError, OSError) as error:
            self.refuse(error)
        if newest.delta.version() == 0 and self._committed_at(0) > time:
            raise TableNotFound(f"{self.name} has no version as of {time}; its first is later")
        return Snapshot(self, newest.delta, is_old=newest.delta.version() < last)

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
        (int32, int64, float64; date, timestamp) has the table written anew; days that name
        partitions stay days.

        Parameters
        ----------
        of_rows: whether it is the schema of rows to write, for which a narrower type than the
            table's is as good, and not what the table is meant to be.

        Raises
        ------
        LakeError: a column is there with another type, or Delta has none such.
        """
        found = self.snapshot_or_none()
        if found is not None:
            return self._widened(found, schema, of_rows=of_rows)
        entry = first_entry(
            schema,
            name=self.name,
            partition_by=partition_by,
            description=description,
            configuration=_ALL_STATISTICS,
        )
        if self.lake.objects.put_if_absent(path_of(self.key, 0), entry):
            return self.snapshot()
        return self._widened(self.snapshot(), schema, of_rows=of_rows)  # another made it first

    def _widened(self, found: Snapshot, schema: pa.Schema, *, of_rows: bool) -> Snapshot:
        """With the columns and types of a schema; tried again where another writer came first."""
        schema = as_stored(schema)
        for attempt in itertools.count():
            missing, wider = self._lacking(found, schema, of_rows=of_rows)
            if not missing and not wider:
                return found
            try:
                if wider:
                    from penstock.tables.writing import widen

                    widen(self, {field.name: field.type for field in wider})
                else:
                    columns = Schema.from_arrow(pa.schema(missing)).fields
                    found.delta.alter.add_columns(list(columns))
            except (CommitConflict, CommitFailedError):
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(random.uniform(0, 0.02 * 2**attempt))
            except (DeltaError, OSError) as error:
                self.refuse(error)
            found = self.snapshot()
        raise AssertionError

    def _lacking(
        self, found: Snapshot, wanted: pa.Schema, *, of_rows: bool
    ) -> tuple[list[pa.Field], list[pa.Field]]:
        """Columns that are not there, and those that are there with a narrower type."""
        kinds = {field.name: field.type for field in found.schema}
        other = [f for f in wanted if kinds.get(f.name, f.type) != f.type]
        wider = [f for f in other if not (of_rows and _widens(f.type, kinds[f.name]))]
        # Readers take the text of a day, which older log entries have, for no time.
        days = [name for name in found.partition_columns if pa.types.is_date(kinds[name])]
        for field in wider:
            if field.name in days or not _widens(kinds[field.name], field.type):
                raise LakeError(
                    f"{self.name}: column {field.name} is {kinds[field.name]} in the table and "
                    f"{field.type} in its definition; give the new one another name"
                )
        return [field for field in wanted if field.name not in kinds], wider

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


class Snapshot(Version):
    """One version of a table, and the only thing a commit to it can be based on."""

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
        check_writable(self.delta, table.name)
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
            metadata=None if schema is None else metadata_with(self.delta, schema),
            protocol=None if schema is None else protocol_for(self.delta, schema),
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
        check_writable(self.delta, self.table.name)
        metadata = metadata_with(self.delta, self.schema)
        changed = metadata["configuration"] | dict(settings)
        metadata["configuration"] = {k: v for k, v in changed.items() if v is not None}
        entry = Entry(
            id=uuid.uuid4().hex,
            metadata=metadata,
            protocol=protocol_with(self.delta, writer_version, feature),
            said={"penstock.application": "configure"},
            configuration=dict(self.delta.metadata().configuration),
        )
        table, what = self.table, f"{self.table.name}: configure"
        version = put_entry(
            table.lake.objects, table.key, self.version, entry, is_alone=True, what=what
        )
        return table.snapshot(version)

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
    """A schema with the types that a Delta table gives its columns.

    Raises
    ------
    LakeError: it has none for one of them.
    """
    try:
        return pa.schema(Schema.from_arrow(schema))
    except Exception as error:  # deltalake raises plain ones
        raise LakeError(f"no Delta table has such columns: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0]


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
