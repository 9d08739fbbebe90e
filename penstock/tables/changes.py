"""What each version did to rows, as Delta's change data feed has it.

A version that only adds or only takes away whole files tells its changes by them. One that copies
the rest of a file's rows would pass those for new, so it names files of its changes besides, under
`_change_data/` (https://github.com/delta-io/delta/blob/master/PROTOCOL.md#change-data-files).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Literal

import polars as pl
import pyarrow as pa

from penstock.errors import LakeError
from penstock.tables.change_feed import CHANGE_FEED, KIND, ChangeFeed
from penstock.tables.staging import StagedFile, Stager, StoredFile, partition_text
from penstock.tables.table import Snapshot, Table
from penstock.tables.version import PLACE

Change = Literal["insert", "update_preimage", "update_postimage", "delete"]
_FOLDER = "_change_data/"


def enable_change_feed(table: Table) -> Snapshot:
    """Versions from now on tell their changes of rows; writers then need Delta's version 4."""
    snapshot = table.snapshot()
    if not snapshot.has_change_feed:
        return snapshot.configure({CHANGE_FEED: "true"}, writer_version=4, feature="changeDataFeed")
    return snapshot


def changes(table: Table, first: int, last: int | None = None) -> Iterator[pa.RecordBatch]:
    """The rows that versions `first` to `last` inserted, updated and deleted, as a stream.

    Returns
    -------
    Batches of the table's columns and `_change_type` (insert, update_preimage, update_postimage,
    delete), `_commit_version` and `_commit_timestamp`.

    Raises
    ------
    LakeError: the table had no change feed at version `first`.
    TableNotFound: there is no such version.
    """
    if not table.snapshot(first).has_change_feed:
        raise LakeError(
            f"{table.name}: version {first} has no change feed; enable_change_feed(table) has the "
            "versions after it tell their changes"
        )
    newest = table.snapshot()
    last = newest.version if last is None else last
    if not first <= last <= newest.version:
        raise LakeError(
            f"{table.name}: changes of versions {first} to {last}: the first comes after the last, "
            f"or that after the newest, {newest.version}"
        )
    lake = table.lake
    feed = ChangeFeed(table.name, newest.delta, lake.objects, table.key, lake.storage_options)
    yield from feed.rows(first, last)


class ChangeWriter:
    """Stages files of changes. A context manager: leaving it by an error deletes them."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._schema = snapshot.schema.append(pa.field(KIND, pa.string()))
        self._stagers: dict[tuple[str | None, ...], Stager] = {}

    def __enter__(self) -> ChangeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is not None:
            for stager in self._stagers.values():
                stager.abandon()

    def write(self, rows: pl.LazyFrame, kind: Change) -> None:
        """Rows of the table that a commit does this to."""
        for frame in rows.collect_batches():
            marked = frame.with_columns(pl.lit(kind).alias(KIND))
            for values, part in _by_partition(marked, self._snapshot.partition_columns):
                self._stager(values).write(part.to_arrow())

    def finish(self) -> list[StagedFile]:
        """All that was staged."""
        return [file for stager in self._stagers.values() for file in stager.finish()]

    def _stager(self, values: tuple[str | None, ...]) -> Stager:
        if values not in self._stagers:
            table, columns = self._snapshot.table, self._snapshot.partition_columns
            partition = dict(zip(columns, values, strict=True))
            self._stagers[values] = Stager(
                table.lake, table.name, self._schema, partition=partition, subfolder=_FOLDER
            )
        return self._stagers[values]


def staged_changes(
    snapshot: Snapshot,
    removes: Sequence[StoredFile],
    matches: pl.Expr,
    inserts: Sequence[StagedFile],
) -> list[StagedFile]:
    """Files of the changes of a commit that takes rows out of `removes` and adds `inserts`.

    Returns
    -------
    None where the table has no change feed, or `removes` is empty: then what is added tells all.
    """
    if not snapshot.has_change_feed or not removes:
        return []
    with ChangeWriter(snapshot) as writer:
        for file in removes:
            writer.write(snapshot.rows_of(file).filter(matches), "delete")
        for file in inserts:
            writer.write(snapshot.rows_of(file.as_stored()), "insert")
        return writer.finish()


def changes_of_files(
    snapshot: Snapshot, adds: Sequence[StagedFile], removes: Sequence[StoredFile]
) -> list[StagedFile]:
    """Files of the changes of a commit that takes whole files out and adds others, of which some
    have deletion vectors: readers of a feed don't look for those.
    """
    come, go = {file.path: file.as_stored() for file in adds}, {file.path: file for file in removes}
    with ChangeWriter(snapshot) as writer:
        for path, file in go.items():
            writer.write(_rows_without(snapshot, file, come.get(path)), "delete")
        for path, file in come.items():
            writer.write(_rows_without(snapshot, file, go.get(path)), "insert")
        return writer.finish()


def _rows_without(snapshot: Snapshot, file: StoredFile, other: StoredFile | None) -> pl.LazyFrame:
    """A data file's rows, without those that it has with another vector too."""
    if other is None:
        return snapshot.rows_of(file)
    gone = pl.Series(snapshot.places_gone(other), dtype=pl.UInt32)
    rows = snapshot.rows_of(file, with_places=True)
    return rows.filter(pl.col(PLACE).is_in(pl.lit(gone).implode())).drop(PLACE)


def _by_partition(
    frame: pl.DataFrame, columns: list[str]
) -> Iterator[tuple[tuple[str | None, ...], pl.DataFrame]]:
    if not columns:
        yield (), frame
        return
    for values, rows in frame.partition_by(columns, as_dict=True).items():
        yield tuple(partition_text(value) for value in values), rows
