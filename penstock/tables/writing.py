"""Rows into a table and out of it, each in one commit: append, overwrite, upsert, delete.

What changes rows that are there copies the data files that hold them (copy on write), one file at a
time, so that memory is a few files and never the table. A commit that another writer forestalled is
tried again with only the files copied that the other one touched.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa

from penstock.errors import CommitConflict, ConstraintBroken, LakeError
from penstock.tables.changes import ChangeWriter, staged_changes
from penstock.tables.staging import StagedFile, Stager, discard, partition_text
from penstock.tables.table import Snapshot, StoredFile, Table, as_stored

Rows = pl.DataFrame | pl.LazyFrame | pa.Table | pa.RecordBatch | Iterable[pa.RecordBatch]
"""What is written: a frame, an Arrow table, or a stream of Arrow batches."""
Predicate = str | pl.Expr
"""Which rows: SQL such as `quantity < 0`, or a polars expression. Null is false."""

_ATTEMPTS = 40
_WORKERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Written:
    """What one write did."""

    snapshot: Snapshot = field(repr=False)
    """The version that it made, or found nothing to change in."""
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_deleted: int = 0
    files_added: int = 0
    files_removed: int = 0
    bytes_added: int = 0

    @property
    def version(self) -> int:
        """The version that it made."""
        return self.snapshot.version


def append(table: Table, rows: Rows, *, partition_by: Sequence[str] = ()) -> Written:
    """Add rows; the table is made of their schema where there is none.

    Raises
    ------
    LakeError: a column has another type than the table's, or is not in it.
    """
    batches, schema = _batches(rows)
    snapshot = table.create(schema, partition_by=partition_by, of_rows=True)
    staged = _staged(snapshot, batches)
    try:
        done = snapshot.commit(staged, application="append", discards=False)
    except (CommitConflict, ConstraintBroken):
        discard(table.lake, table.key, staged)
        raise
    return _written(done, staged, [], inserted=sum(file.rows for file in staged))


def overwrite(table: Table, rows: Rows) -> Written:
    """All rows out and these in."""
    return replace_where(table, pl.lit(value=True), rows, is_checked=False)


def replace_where(
    table: Table, predicate: Predicate, rows: Rows, *, is_checked: bool = True
) -> Written:
    """The rows for which a predicate is true out and these in.

    Parameters
    ----------
    is_checked: whether the predicate must be true of the new rows too.

    Raises
    ------
    LakeError: it is not, and which row shows it. Nothing was changed.
    """
    matches = _expression(predicate)
    batches, schema = _batches(rows)
    snapshot = table.create(schema, of_rows=True)
    if is_checked:
        batches = _checked(batches, matches, f"{table.name}: replace_where({predicate})")
    staged = _staged(snapshot, batches)
    inserted = sum(file.rows for file in staged)
    rewriting = _Rewriting(
        table,
        lambda at, file: _without(at, file, matches),
        lambda at, files: staged_changes(at, files, matches, staged),
    )
    return rewriting.run("replace_where", staged, inserted=inserted)


def delete(table: Table, predicate: Predicate) -> Written:
    """The rows for which a predicate is true out. Files that hold none are not touched."""
    matches = _expression(predicate)
    rewriting = _Rewriting(
        table,
        lambda at, file: _without(at, file, matches),
        lambda at, files: staged_changes(at, files, matches, []),
    )
    return rewriting.run("delete", [])


def upsert(
    table: Table, rows: Rows, key: Sequence[str], *, delete_where: Predicate | None = None
) -> Written:
    """Rows by key: those that are there take the new values, others come in.

    Parameters
    ----------
    rows: held in memory; columns of the table that they lack stay as they were.
    key: columns that name a row, without nulls, each key once in `rows`.
    delete_where: of `rows`, those whose key goes out.

    Raises
    ------
    LakeError: a key is null or there twice. Nothing was changed.
    """
    given = _frame(rows)
    _check_key(table, given, list(key))
    snapshot = table.create(as_stored(given.to_arrow().schema), of_rows=True)
    doomed = _expression(delete_where) if delete_where is not None else pl.lit(value=False)
    merge = _Merge(table, given, list(key), given.filter(~doomed), snapshot.schema)
    rewriting = _Rewriting(table, merge.copy, merge.changes)
    return rewriting.run("upsert", [], last=merge.inserted)


def widen(table: Table, kinds: Mapping[str, pa.DataType]) -> Snapshot:
    """Columns with wider types: every file written anew, in one commit with the new schema.

    Raises
    ------
    LakeError: a value has no exact counterpart; nothing was changed.
    """

    def copy(snapshot: Snapshot, file: StoredFile) -> _Copy:
        try:
            rows = snapshot.rows_of(file)
            staged = _copied(snapshot, file, rows, _with_kinds(snapshot.schema, kinds))
        except pa.ArrowInvalid as error:
            raise LakeError(f"{table.name}: {file.path}: can't be widened: {error}") from error
        return _Copy(staged, file.rows)

    return _Rewriting(table, copy, lambda _, __: []).run("widen", [], kinds=kinds).snapshot


def _with_kinds(schema: pa.Schema, kinds: Mapping[str, pa.DataType]) -> pa.Schema:
    return pa.schema([f.with_type(kinds.get(f.name, f.type)) for f in schema])


@dataclass(slots=True)
class _Copy:
    """What became of one data file: untouched, or its other rows in new files."""

    staged: list[StagedFile] = field(default_factory=list[StagedFile])
    matched: int = 0
    """Rows that are not in the new files."""
    old: pl.DataFrame | None = None
    """Of those rows, what an upsert keeps."""


class _Rewriting:
    """Copies of data files without some rows, and one commit that puts them in place.

    Parameters
    ----------
    changes: stages the files that tell what a commit does to the rows of those it takes out.
    """

    def __init__(
        self,
        table: Table,
        copy: Callable[[Snapshot, StoredFile], _Copy],
        changes: Callable[[Snapshot, Sequence[StoredFile]], list[StagedFile]],
    ) -> None:
        self._table, self._copy, self._changes = table, copy, changes
        self._done: dict[str, _Copy] = {}

    def run(
        self,
        application: str,
        adds: list[StagedFile],
        *,
        inserted: int = 0,
        kinds: Mapping[str, pa.DataType] | None = None,
        last: Callable[[Iterable[_Copy]], tuple[list[StagedFile], int, int]] | None = None,
    ) -> Written:
        """Copy what has to be and commit, again where another writer came first.

        Parameters
        ----------
        kinds: types that columns have from now on, where they change.
        last: files to add once all copies are made, rows inserted and rows updated in them.
        """
        finishing, changes = list[StagedFile](), list[StagedFile]()
        is_unsure = False
        try:
            for attempt in range(_ATTEMPTS):
                snapshot = self._table.snapshot()
                touched = self._copied(snapshot)
                updated = 0
                if last is not None:
                    finishing, inserted, updated = last(self._done.values())
                copies = [file for copy in self._done.values() for file in copy.staged]
                staged = [*adds, *copies, *finishing]
                schema = _with_kinds(snapshot.schema, kinds) if kinds else None
                if not staged and not touched and schema is None:
                    return Written(snapshot)
                if schema is not None and schema == snapshot.schema:
                    raise CommitConflict(f"{self._table.name}: another writer widened it")
                changes = self._changes(snapshot, touched)
                is_unsure = True  # an error other than a conflict says nothing of the log
                try:
                    done = snapshot.commit(
                        staged,
                        touched,
                        application=application,
                        discards=False,
                        is_alone=True,
                        schema=schema,
                        changes=changes,
                        changes_data=kinds is None,
                    )
                except ConstraintBroken:
                    is_unsure = False
                    raise
                except CommitConflict:
                    is_unsure = False
                    if attempt == _ATTEMPTS - 1:
                        raise
                    discard(self._table.lake, self._table.key, [*finishing, *changes])
                    finishing, changes = [], []
                    time.sleep(random.uniform(0, min(2.0, 0.05 * 2**attempt)))
                    continue
                matched = sum(copy.matched for copy in self._done.values())
                return _written(
                    done,
                    staged,
                    touched,
                    inserted=inserted,
                    updated=updated,
                    deleted=matched - updated,
                )
        except BaseException:
            if not is_unsure:
                copies = [file for copy in self._done.values() for file in copy.staged]
                discard(self._table.lake, self._table.key, [*adds, *copies, *finishing, *changes])
            raise
        raise AssertionError("the last attempt returns or raises")

    def _copied(self, snapshot: Snapshot) -> list[StoredFile]:
        """Copy the files of a version that weren't yet; those that have to go."""
        files = {file.path: file for file in snapshot.files}
        for gone in [path for path in self._done if path not in files]:
            discard(self._table.lake, self._table.key, self._done.pop(gone).staged)
        left = [file for path, file in files.items() if path not in self._done]
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="penstock-copy") as pool:
            futures = {file.path: pool.submit(self._copy, snapshot, file) for file in left}
        errors = list[BaseException]()
        for path, future in futures.items():
            if (error := future.exception()) is not None:
                errors.append(error)
            else:
                self._done[path] = future.result()
        if errors:
            raise errors[0]
        return [files[path] for path, copy in self._done.items() if copy.matched]


class _Merge:
    """An upsert's rows, held against one data file after the other."""

    def __init__(
        self,
        table: Table,
        given: pl.DataFrame,
        key: list[str],
        kept: pl.DataFrame,
        schema: pa.Schema,
    ) -> None:
        self._table, self._key, self._kept, self._schema = table, key, kept, schema
        self._keys = given.select(key)
        self._missing = [name for name in schema.names if name not in given.columns]
        self._first = self._keys[key[0]].sort()

    def copy(self, snapshot: Snapshot, file: StoredFile) -> _Copy:
        """The file without the rows whose key is given."""
        if not self._may_match(file):
            return _Copy()
        rows, keys = snapshot.rows_of(file), self._keys.lazy()
        wanted = [*self._key, *self._missing]
        found = rows.select(wanted).join(keys, on=self._key, how="semi").collect()
        if found.is_empty():
            return _Copy()
        others = rows.join(keys, on=self._key, how="anti", maintain_order="left")
        staged = _copied(snapshot, file, others) if found.height < file.rows else []
        return _Copy(staged, found.height, found)

    def _may_match(self, file: StoredFile) -> bool:
        """Whether the file's range of the key's first column holds any of ours."""
        low, high = file.lowest.get(self._key[0]), file.highest.get(self._key[0])
        if low is None or high is None or self._first.dtype.is_temporal():
            return True
        at = self._first.search_sorted(low, side="left")
        return bool(at < len(self._first) and self._first[at] <= high)

    def changes(self, snapshot: Snapshot, files: Sequence[StoredFile]) -> list[StagedFile]:
        """Files of what an upsert does to rows: old and new values, rows that go and come."""
        if not snapshot.has_change_feed or not files:
            return []
        key, keys = self._key, self._keys.lazy()
        kept = self._kept.lazy()
        with ChangeWriter(snapshot) as writer:
            found = list[pl.DataFrame]()
            for file in files:
                rows = snapshot.rows_of(file).join(keys, on=key, how="semi")
                writer.write(rows.join(kept, on=key, how="semi"), "update_preimage")
                writer.write(rows.join(kept, on=key, how="anti"), "delete")
                found.append(rows.select(*key, *self._missing).collect())
            old = pl.concat(found).lazy()
            new = (
                kept.join(old, on=key, how="inner")
                if self._missing
                else kept.join(old, on=key, how="semi")
            )
            writer.write(new, "update_postimage")
            writer.write(kept.join(old, on=key, how="anti"), "insert")
            return writer.finish()

    def inserted(self, copies: Iterable[_Copy]) -> tuple[list[StagedFile], int, int]:
        """Files with the new values of rows that were there, and of others."""
        old = [copy.old for copy in copies if copy.old is not None]
        snapshot = self._table.snapshot()
        rows, updated = self._kept, 0
        if old:
            found = pl.concat(old)
            updated = rows.join(found, on=self._key, how="semi").height
            if self._missing:
                rows = rows.join(found, on=self._key, how="left", maintain_order="left")
        batches = iter(rows.to_arrow().to_batches(1 << 17))
        return _staged(snapshot, batches), rows.height - updated, updated


def _without(snapshot: Snapshot, file: StoredFile, matches: pl.Expr) -> _Copy:
    rows = snapshot.rows_of(file)
    matched = int(rows.filter(matches).select(pl.len()).collect().item())
    if matched in (0, file.rows):
        return _Copy(matched=matched)
    return _Copy(_copied(snapshot, file, rows.filter(~matches)), matched)


def _copied(
    snapshot: Snapshot, file: StoredFile, rows: pl.LazyFrame, schema: pa.Schema | None = None
) -> list[StagedFile]:
    """A data file's remaining rows in a file of their own."""
    table = snapshot.table
    stager = Stager(
        table.lake,
        table.name,
        schema or snapshot.schema,
        partition=file.partition,
        file_bytes=1 << 62,
    )
    with stager:
        for frame in rows.collect_batches(maintain_order=True):
            stager.write(frame.to_arrow())
        return stager.finish()


def _staged(snapshot: Snapshot, batches: Iterator[pa.RecordBatch]) -> list[StagedFile]:
    """Rows in files beside the table, those of a partition together."""
    table, columns = snapshot.table, snapshot.partition_columns
    stagers: dict[tuple[str | None, ...], Stager] = {}
    try:
        for batch in batches:
            _check_columns(snapshot, batch.schema)
            for values, rows in _by_partition(batch, columns):
                if values not in stagers:
                    partition = dict(zip(columns, values, strict=True))
                    stagers[values] = Stager(
                        table.lake, table.name, snapshot.schema, partition=partition
                    )
                stagers[values].write(rows)
        return [file for stager in stagers.values() for file in stager.finish()]
    except BaseException:
        for stager in stagers.values():
            stager.abandon()
        raise


def _by_partition(
    batch: pa.RecordBatch, columns: list[str]
) -> Iterator[tuple[tuple[str | None, ...], pa.Table]]:
    if not columns:
        yield (), pa.table(batch)
        return
    frame = pl.DataFrame(pl.from_arrow(batch))
    for values, rows in frame.partition_by(columns, as_dict=True, maintain_order=True).items():
        yield tuple(partition_text(value) for value in values), rows.to_arrow()


def _check_columns(snapshot: Snapshot, schema: pa.Schema) -> None:
    unknown = [name for name in schema.names if name not in snapshot.schema.names]
    if unknown:
        raise LakeError(
            f"{snapshot.table.name}: no column {', '.join(unknown)}; it has "
            f"{', '.join(snapshot.schema.names)}"
        )


def _checked(
    batches: Iterator[pa.RecordBatch], matches: pl.Expr, what: str
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        wrong = pl.DataFrame(pl.from_arrow(batch)).filter(~matches)
        if wrong.height:
            raise LakeError(
                f"{what}: {wrong.height:,} of the new rows are outside of what is replaced, such "
                f"as {wrong.row(0, named=True)}"
            )
        yield batch


def _check_key(table: Table, rows: pl.DataFrame, key: list[str]) -> None:
    if missing := [name for name in key if name not in rows.columns]:
        raise LakeError(f"{table.name}: upsert: the rows have no column {', '.join(missing)}")
    if rows.select(pl.any_horizontal(pl.col(key).is_null().any())).item():
        raise LakeError(f"{table.name}: upsert: a key ({', '.join(key)}) is null")
    twice = rows.filter(pl.struct(key).is_duplicated()).select(key).unique()
    if twice.height:
        raise LakeError(
            f"{table.name}: upsert: {twice.height:,} keys are there twice, such as "
            f"{twice.row(0, named=True)}; keep one row of each"
        )


def _expression(predicate: Predicate) -> pl.Expr:
    expression = pl.sql_expr(predicate) if isinstance(predicate, str) else predicate
    return expression.fill_null(value=False)


def _batches(rows: Rows) -> tuple[Iterator[pa.RecordBatch], pa.Schema]:
    """Rows as a stream, and their schema as Delta has it."""
    batches, schema = _stream(rows)
    return batches, as_stored(schema)


def _stream(rows: Rows) -> tuple[Iterator[pa.RecordBatch], pa.Schema]:
    match rows:
        case pl.LazyFrame():
            empty = rows.head(0).collect().to_arrow().schema
            return _of_frames(rows.collect_batches(maintain_order=True)), empty
        case pl.DataFrame():
            table = rows.to_arrow()
            return iter(table.to_batches(1 << 17)), table.schema
        case pa.Table():
            return iter(rows.to_batches(1 << 17)), rows.schema
        case pa.RecordBatch():
            return iter([rows]), rows.schema
        case _:
            stream: Any = iter(rows)
            first = next(stream, None)
            if first is None:
                raise LakeError("there is no batch to write, and so no schema")
            return _chained(first, stream), first.schema


def _of_frames(frames: Iterable[pl.DataFrame]) -> Iterator[pa.RecordBatch]:
    for frame in frames:
        yield from frame.to_arrow().to_batches(1 << 17)


def _chained(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def _frame(rows: Rows) -> pl.DataFrame:
    match rows:
        case pl.DataFrame():
            return rows
        case pl.LazyFrame():
            return rows.collect()
        case _:
            batches, schema = _stream(rows)
            return pl.DataFrame(pl.from_arrow(pa.Table.from_batches([*batches], schema)))


def _written(
    snapshot: Snapshot,
    adds: Sequence[StagedFile],
    removes: Sequence[StoredFile],
    *,
    inserted: int = 0,
    updated: int = 0,
    deleted: int = 0,
) -> Written:
    return Written(
        snapshot,
        rows_inserted=inserted,
        rows_updated=updated,
        rows_deleted=deleted,
        files_added=len(adds),
        files_removed=len(removes),
        bytes_added=sum(file.size_bytes for file in adds),
    )


def facts(written: Written) -> Mapping[str, int]:
    """A write's counts by name."""
    names = ("rows_inserted", "rows_updated", "rows_deleted", "files_added", "files_removed")
    return {name: getattr(written, name) for name in (*names, "bytes_added", "version")}
