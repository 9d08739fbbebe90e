"""The whole lake's upkeep.

Compaction and vacuum know here what a table alone can't: which of its versions published datasets
were made from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from penstock.errors import CommitConflict, LakeError, TableNotFound
from penstock.lake import Lake
from penstock.shards import open_manifest
from penstock.tables import Table, optimize, vacuum
from penstock.tables.upkeep import small_files

MANY = 8
"""Small files from which on a table is compacted."""


@dataclass(frozen=True, slots=True)
class Tended:
    """What became of one table."""

    table: str
    files_before: int = 0
    """Compacted."""
    files_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    files_deleted: int = 0
    bytes_deleted: int = 0
    versions_kept: int = 0
    problem: str = ""
    """Why it was left, if it was: tended to by the next run."""


def tend(lake: Lake, *, many: int = MANY, keep: timedelta = timedelta(days=7)) -> Iterator[Tended]:
    """Compact each table that has many small files, and vacuum it.

    Parameters
    ----------
    keep: files that left a table, or were staged, more recently stay.
    """
    pinned = pinned_versions(lake)
    for name in lake.table_names():
        try:
            yield _tended(Table(lake, name), many, keep, pinned.get(name, ()))
        except CommitConflict as error:
            yield Tended(name, problem=str(error))
        except TableNotFound:
            continue


def unfinished(table: Table) -> str:
    """Why a ledger must not be vacuumed now; empty for every other table.

    A run that was killed between its two commits left the ledger's rows staged; they look like an
    orphan's until the next run commits them.
    """
    base = table.name.removesuffix("__ledger")
    if base == table.name:
        return ""
    bronze, application = Table(table.lake, base).snapshot_or_none(), f"ingest/{base}"
    if bronze is None:
        return ""
    behind = bronze.transaction(application) - table.snapshot().transaction(application)
    if behind <= 0:
        return ""
    return f"{table.name} lacks {behind} batches that {base} has; run its ingest, which mends it"


def _tended(table: Table, many: int, keep: timedelta, pinned: tuple[int, ...]) -> Tended:
    if problem := unfinished(table):
        return Tended(table.name, problem=problem)
    compacted = None
    if small_files(table.snapshot()) >= many:
        compacted = optimize(table)
    gone = vacuum(table, keep=keep, pinned=pinned)
    return Tended(
        table.name,
        files_before=compacted.files_before if compacted else 0,
        files_after=compacted.files_after if compacted else 0,
        bytes_before=compacted.bytes_before if compacted else 0,
        bytes_after=compacted.bytes_after if compacted else 0,
        files_deleted=gone.files_deleted,
        bytes_deleted=gone.bytes_deleted,
        versions_kept=len(gone.versions_kept),
    )


def pinned_versions(lake: Lake) -> dict[str, tuple[int, ...]]:
    """The versions of tables that the lake's datasets were made from."""
    found: dict[str, set[int]] = {}
    for name in lake.dataset_names():
        for fingerprint in lake.objects.folders(f"datasets/{name}"):
            if fingerprint == "tags":
                continue
            try:
                inputs = open_manifest(lake, name, fingerprint).inputs
            except LakeError:
                continue  # not finished, or of a form not known: it pins nothing
            for table, pin in inputs.items():
                if isinstance(pin, dict) and "version" in pin:
                    found.setdefault(table, set()).add(int(pin["version"]))
    return {table: tuple(sorted(versions)) for table, versions in found.items()}
