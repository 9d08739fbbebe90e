"""Rows out of a table by copying the data files that hold them (copy on write)."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from penstock.tables.changes import staged_changes
from penstock.tables.staging import StagedFile, Stager, StoredFile
from penstock.tables.table import Snapshot

WITHIN = "//"
"""Between an archive's name and a member's, in `_source_file`; no path has it."""


def origin(column: str) -> pl.Expr:
    """The source's own file of each row: of an archive's member, the archive."""
    return pl.col(column).str.split_exact(WITHIN, 1).struct.field("field_0").alias(column)


def _of(column: str, values: Sequence[str]) -> pl.Expr:
    return origin(column).is_in(list(values))


def changes_without(
    snapshot: Snapshot,
    column: str,
    values: Sequence[str],
    removes: Sequence[StoredFile],
    adds: Sequence[StagedFile],
) -> list[StagedFile]:
    """For the change feed of a table that has one: what `rewrite_without` takes out of `removes`,
    and what a commit adds besides.
    """
    return staged_changes(snapshot, removes, _of(column, values), adds)


def rewrite_without(
    snapshot: Snapshot, column: str, values: Sequence[str]
) -> tuple[list[StagedFile], list[StoredFile]]:
    """Take rows out by copying the files that hold them: files to add, and files to remove.

    Only data files whose statistics leave room for one of the values are read.
    """
    if not values:
        return [], []
    kept_rows = ~_of(column, values)
    within = [f"{value}{WITHIN}" for value in values]
    touched = [
        file
        for file in snapshot.files
        if file.may_hold(column, values) or file.may_hold(column, within, is_prefix=True)
    ]
    table = snapshot.table
    with Stager(table.lake, table.name, snapshot.schema) as stager:
        for file in touched:
            for rows in snapshot.portions_of(file):
                kept = rows.filter(kept_rows).collect(engine="in-memory")
                stager.write(kept.to_arrow())
        return stager.finish(), touched
