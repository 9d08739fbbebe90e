"""Which files have been ingested: a Delta table beside the bronze one, a row for each file a batch.

A batch's ledger rows are staged before its bronze commit, which notes where they lie, so that a
process killed between the two commits costs nothing but the second: whoever comes next makes it
from that note, and reads no file again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import polars as pl
import pyarrow as pa

from penstock.errors import CommitConflict, LakeError
from penstock.ingest.plan import Plan, PlannedFile
from penstock.ingest.source import Source
from penstock.lake import Lake
from penstock.tables import Snapshot, StagedFile, Stager, Table, Transaction

Status = Literal["loaded", "unchanged", "removed", "failed", "unavailable"]

SCHEMA = pa.schema(
    [
        pa.field("batch", pa.int64()),
        pa.field("file", pa.string(), metadata={"comment": "path under the source's folder"}),
        pa.field("size_bytes", pa.int64()),
        pa.field("tag", pa.string(), metadata={"comment": "etag, or times of change"}),
        pa.field("checksum", pa.string(), metadata={"comment": "XXH3 of the file, 128 bits"}),
        pa.field(
            "status",
            pa.string(),
            metadata={"comment": "loaded, unchanged, removed, failed or unavailable"},
        ),
        pa.field("rows_read", pa.int64()),
        pa.field("replaces", pa.bool_(), metadata={"comment": "rows of an older state went out"}),
        pa.field("error", pa.string()),
        pa.field("changed_at", pa.timestamp("us", "UTC")),
        pa.field("ingested_at", pa.timestamp("us", "UTC")),
    ]
)


@dataclass(frozen=True, slots=True)
class FileResult:
    """What became of one file of a batch."""

    file: PlannedFile
    status: Status
    rows_read: int = 0
    error: str | None = None
    checksum: str | None = None

    @property
    def replaces(self) -> bool:
        """Whether rows of an earlier state go out; not for a new state that can't be read."""
        is_replaced = self.status == "loaded" and self.file.action == "replace"
        return is_replaced or self.status == "removed"


def ledger_table(lake: Lake, source: Source) -> Table:
    """The ledger of a bronze table."""
    return Table(lake, f"{source.table}__ledger")


def open_ledger(lake: Lake, source: Source) -> Snapshot:
    """The ledger, made where there is none."""
    return ledger_table(lake, source).create(SCHEMA, description=f"Files of {source.table}")


def scan_ledger(lake: Lake, source: Source, snapshot: Snapshot | None = None) -> pl.LazyFrame:
    """Every file of every batch, read when collected; of none before the first.

    Parameters
    ----------
    snapshot: of the ledger; by default the newest.
    """
    snapshot = snapshot or ledger_table(lake, source).snapshot_or_none()
    if snapshot is None:
        return pl.DataFrame(pl.from_arrow(SCHEMA.empty_table())).lazy()
    return snapshot.scan()


def read_ledger(lake: Lake, source: Source) -> pl.DataFrame:
    """Every file of every batch, oldest first; empty before the first."""
    return scan_ledger(lake, source).collect().sort("batch", "file")


def stage_results(
    lake: Lake, source: Source, plan: Plan, results: Sequence[FileResult]
) -> StagedFile:
    """Write a batch's ledger rows before its commit, which is to note the file."""
    rows = [
        (
            plan.batch,
            result.file.path,
            result.file.size_bytes,
            result.file.tag,
            result.checksum,
            result.status,
            result.rows_read,
            result.replaces,
            result.error,
            result.file.changed_at,
            plan.planned_at,
        )
        for result in results
    ]
    columns = [list(column) for column in zip(*rows, strict=True)]
    with Stager(lake, ledger_table(lake, source).name, SCHEMA) as stager:
        stager.write(pa.table(columns, schema=SCHEMA))
        (staged,) = stager.finish()
    return staged


def mend_ledger(
    lake: Lake, source: Source, bronze: Snapshot, ledger: Snapshot | None = None
) -> Snapshot:
    """Bring the ledger up to the bronze table's batch, from what was staged beside it.

    Parameters
    ----------
    bronze: the version to bring it up to.
    ledger: as it was opened just now; by default it is opened.

    Returns
    -------
    The ledger, which may have later batches too.
    """
    ledger = ledger or open_ledger(lake, source)
    newest = bronze.transaction(source.application)
    for batch in range(ledger.transaction(source.application) + 1, newest + 1):
        staged = StagedFile(**_noted(bronze, source.application, batch))
        _commit(ledger, source, batch, staged)
        ledger = ledger.table.snapshot()
    return ledger


def commit_results(ledger: Snapshot, source: Source, plan: Plan, staged: StagedFile) -> None:
    """Bring a batch that was just committed into the ledger, as it was when it was planned."""
    _commit(ledger, source, plan.batch, staged)


def _commit(ledger: Snapshot, source: Source, batch: int, staged: StagedFile) -> None:
    transaction = Transaction(source.application, batch)
    with contextlib.suppress(CommitConflict):  # another runner did it first, with the same file
        ledger.commit([staged], transaction=transaction, discards=False)


def note(plan: Plan, staged: StagedFile) -> dict[str, Any]:
    """What a bronze commit notes of its batch."""
    return {"batch": plan.batch, "ledger": asdict(staged)}


def unread_files(ledger: pl.DataFrame) -> dict[str, str]:
    """Files whose newest state could not be read, with the reason."""
    newest = ledger.unique("file", keep="last", maintain_order=False).sort("file")
    unread = newest.filter(pl.col("status").is_in(["failed", "unavailable"]))
    return dict(zip(unread["file"], unread["error"], strict=True))


def _noted(bronze: Snapshot, application: str, batch: int) -> dict[str, Any]:
    """Where the ledger rows of a batch lie."""
    for commit in bronze.history():
        if commit.get("penstock.application") != application:
            continue
        noted = json.loads(commit["penstock.note"])
        if noted.get("batch") == batch:
            return noted["ledger"]
    raise LakeError(
        f"{bronze.table.name}: its log has no commit of batch {batch}, which its ledger lacks"
    )
