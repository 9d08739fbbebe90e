"""Copies of the data files that a write changes rows of, and one commit that puts them in place.

One file at a time a worker, so that memory is a few files and never the table. A commit that
another writer forestalled is tried again with only the files copied that the other one touched.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import polars as pl
import pyarrow as pa

from penstock.errors import CommitConflict, ConstraintBroken, LakeError
from penstock.tables.deletions import Deletion
from penstock.tables.staging import StagedFile, Stager, StoredFile, discard, loosened
from penstock.tables.table import Snapshot, Table

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


@dataclass(slots=True)
class Copy:
    """What became of one data file: untouched, its other rows in new files, or rows marked gone."""

    staged: list[StagedFile] = field(default_factory=list[StagedFile])
    matched: int = 0
    """Rows that are not in the new files."""
    deletion: Deletion | None = None
    """All rows of the file that are gone, where it stays."""
    old: pl.DataFrame | None = None
    """Of the matched rows, what an upsert keeps."""


class Rewriting:
    """Copies of data files without some rows, and one commit that puts them in place.

    Parameters
    ----------
    changes: stages the files that tell what a commit does to the rows of those it takes out.
    """

    def __init__(
        self,
        table: Table,
        copy: Callable[[Snapshot, StoredFile], Copy],
        changes: Callable[[Snapshot, Sequence[StoredFile]], list[StagedFile]],
    ) -> None:
        self._table, self._copy, self._changes = table, copy, changes
        self._done: dict[str, Copy] = {}  # by the files' ids

    def run(
        self,
        application: str,
        adds: list[StagedFile],
        *,
        inserted: int = 0,
        kinds: Mapping[str, pa.DataType] | None = None,
        last: Callable[[Snapshot, Iterable[Copy]], tuple[list[StagedFile], int, int]] | None = None,
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
                    finishing, inserted, updated = last(snapshot, self._done.values())
                staged = [*adds, *self._copies(), *finishing]
                marked = self._marked(snapshot)
                schema = with_kinds(snapshot.schema, kinds) if kinds else None
                if not staged and not touched and schema is None:
                    return Written(snapshot)
                if schema is not None and schema == snapshot.schema:
                    raise CommitConflict(f"{self._table.name}: another writer widened it")
                changes = self._changes(snapshot, touched)
                is_unsure = True  # an error other than a conflict says nothing of the log
                try:
                    done = snapshot.commit(
                        [*staged, *marked],
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
                stays = {file.path for file in marked}
                return written(
                    done,
                    staged,
                    [file for file in touched if file.path not in stays],
                    inserted=inserted,
                    updated=updated,
                    deleted=matched - updated,
                )
        except BaseException:
            if not is_unsure:
                staged = [*adds, *self._copies(), *finishing, *changes]
                discard(self._table.lake, self._table.key, staged)
            raise
        raise AssertionError("the last attempt returns or raises")

    def _copied(self, snapshot: Snapshot) -> list[StoredFile]:
        """Copy the files of a version that weren't yet; those that have to go."""
        files = {file.id: file for file in snapshot.files}
        for gone in [name for name in self._done if name not in files]:
            discard(self._table.lake, self._table.key, self._done.pop(gone).staged)
        left = [file for name, file in files.items() if name not in self._done]
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="penstock-copy") as pool:
            futures = {file.id: pool.submit(self._copy, snapshot, file) for file in left}
        errors = list[BaseException]()
        for name, future in futures.items():
            if (error := future.exception()) is not None:
                errors.append(error)
            else:
                self._done[name] = future.result()
        if errors:
            raise errors[0]
        return [files[name] for name, copy in self._done.items() if copy.matched]

    def _copies(self) -> list[StagedFile]:
        return [file for copy in self._done.values() for file in copy.staged]

    def _marked(self, snapshot: Snapshot) -> list[StagedFile]:
        """Files that stay, with more of their rows gone; they are the table's, not to discard."""
        deletions = {name: copy.deletion for name, copy in self._done.items() if copy.deletion}
        if not deletions:
            return []
        names = {file.path: file.id for file in snapshot.files}
        return [
            replace(
                file,
                deletion=deletions[names[file.path]],
                statistics=loosened(file.statistics),
            )
            for file in snapshot.staged()
            if names[file.path] in deletions
        ]


def copied(
    snapshot: Snapshot,
    file: StoredFile,
    remaining: Callable[[pl.LazyFrame], pl.LazyFrame],
    schema: pa.Schema | None = None,
) -> list[StagedFile]:
    """A data file's remaining rows in a file of their own, portion by portion.

    Parameters
    ----------
    remaining: of some of the file's rows, those to copy, in their order.
    schema: of the copy, with wider types; by default it stays.
    """
    table = snapshot.table
    stager = Stager(
        table.lake,
        table.name,
        schema or snapshot.schema,
        partition=file.partition,
        file_bytes=1 << 62,
    )
    with stager:
        for portion in snapshot.portions_of(file):
            stager.write(remaining(portion).collect(engine="in-memory").to_arrow())
        return stager.finish()


def widened(snapshot: Snapshot, file: StoredFile, schema: pa.Schema) -> list[StagedFile]:
    """A data file's rows in wider types.

    Raises
    ------
    LakeError: a value has no exact counterpart.
    """
    try:
        return copied(snapshot, file, lambda rows: rows, schema)
    except pa.ArrowInvalid as error:
        name = snapshot.table.name
        raise LakeError(f"{name}: {file.path}: can't be widened: {error}") from error


def written(
    snapshot: Snapshot,
    adds: Sequence[StagedFile],
    removes: Sequence[StoredFile],
    *,
    inserted: int = 0,
    updated: int = 0,
    deleted: int = 0,
) -> Written:
    """What a commit with these files did."""
    return Written(
        snapshot,
        rows_inserted=inserted,
        rows_updated=updated,
        rows_deleted=deleted,
        files_added=len(adds),
        files_removed=len(removes),
        bytes_added=sum(file.size_bytes for file in adds),
    )


def with_kinds(schema: pa.Schema, kinds: Mapping[str, pa.DataType]) -> pa.Schema:
    """A schema with other types of some columns."""
    return pa.schema([f.with_type(kinds.get(f.name, f.type)) for f in schema])
