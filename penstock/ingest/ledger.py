"""Which files have been ingested: a Delta table beside the bronze one, a row for each file a batch.

The bronze commit notes where its batch's results lie (an object, put before the commit), so that
a process killed between the bronze commit and the ledger's costs nothing but the second commit:
whoever comes next makes it from that object, and reads no file again.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl
import pyarrow as pa

from penstock.errors import CommitConflict, LakeError
from penstock.ingest.plan import Plan, PlannedFile, Source
from penstock.lake import Lake
from penstock.tables import Snapshot, Stager, Table, Transaction

SCHEMA = pa.schema(
    [
        pa.field("batch", pa.int64()),
        pa.field("file", pa.string(), metadata={"comment": "path under the source's folder"}),
        pa.field("size_bytes", pa.int64()),
        pa.field("tag", pa.string(), metadata={"comment": "etag, or time of change"}),
        pa.field("status", pa.string(), metadata={"comment": "loaded, failed or unavailable"}),
        pa.field("rows_read", pa.int64()),
        pa.field("replaces", pa.bool_(), metadata={"comment": "rows of an older state went out"}),
        pa.field("error", pa.string()),
        pa.field("bronze_version", pa.int64(), metadata={"comment": "with the batch's rows in it"}),
        pa.field("ingested_at", pa.timestamp("us", "UTC")),
    ]
)


@dataclass(frozen=True, slots=True)
class FileResult:
    """What became of one file of a batch."""

    file: PlannedFile
    rows_read: int
    error: str | None = None
    is_transient: bool = False
    """Whether the error may pass without the file changing."""

    @property
    def status(self) -> str:
        """As the ledger has it."""
        if self.error is None:
            return "loaded"
        return "unavailable" if self.is_transient else "failed"

    @property
    def replaces(self) -> bool:
        """Whether rows of an earlier state go out; not for a new state that can't be read."""
        return self.error is None and self.file.replaces


def ledger_table(lake: Lake, source: Source) -> Table:
    """The ledger of a bronze table."""
    return Table(lake, f"{source.table}__ledger")


def read_ledger(lake: Lake, source: Source) -> pl.DataFrame:
    """Every file of every batch, oldest first; empty before the first."""
    snapshot = ledger_table(lake, source).snapshot_or_none()
    if snapshot is None:
        return pl.DataFrame(pl.from_arrow(SCHEMA.empty_table()))
    return snapshot.scan().collect().sort("batch", "file")


def put_results(lake: Lake, source: Source, plan: Plan, results: Sequence[FileResult]) -> str:
    """Write a batch's results before its commit; the object's key, for the commit to note."""
    key = f"sources/{source.table}/results/{plan.batch:08d}-{uuid.uuid4().hex}.json"
    lines = [
        {
            "file": result.file.path,
            "size_bytes": result.file.size_bytes,
            "tag": result.file.tag,
            "status": result.status,
            "rows_read": result.rows_read,
            "replaces": result.replaces,
            "error": result.error,
        }
        for result in results
    ]
    text = json.dumps({"ingested_at": plan.planned_at.isoformat(), "files": lines})
    lake.objects.put(key, text.encode())
    return key


def mend_ledger(lake: Lake, source: Source) -> int:
    """Bring the ledger up to the bronze table's newest batch, from the results put beside it.

    Returns
    -------
    The newest batch that the ledger has.
    """
    bronze = Table(lake, source.table).snapshot_or_none()
    if bronze is None:
        return 0
    ledger = ledger_table(lake, source).create(SCHEMA, description=f"Files of {source.table}")
    newest = bronze.transaction(source.application)
    for batch in range(ledger.transaction(source.application) + 1, newest + 1):
        version, key = _noted(bronze, source.application, batch)
        results = json.loads(lake.objects.get(key))
        when = datetime.fromisoformat(results["ingested_at"])
        rows: list[dict[str, Any]] = [
            {**line, "batch": batch, "bronze_version": version, "ingested_at": when}
            for line in results["files"]
        ]
        with Stager(lake, ledger.table.name, SCHEMA) as stager:
            stager.write(pa.Table.from_pylist(rows, schema=SCHEMA))
            staged = stager.finish()
        with contextlib.suppress(CommitConflict):  # another runner mended it first
            ledger.commit(staged, transaction=Transaction(source.application, batch))
        ledger = ledger.table.snapshot()
    return ledger.transaction(source.application)


def unread_files(ledger: pl.DataFrame) -> dict[str, str]:
    """Files whose newest state could not be read, with the reason."""
    newest = ledger.sort("batch").group_by("file").last().sort("file")
    unread = newest.filter(pl.col("status") != "loaded")
    return dict(zip(unread["file"], unread["error"], strict=True))


def _noted(bronze: Snapshot, application: str, batch: int) -> tuple[int, str]:
    """The version of a batch, and where its results lie."""
    for commit in bronze.history():
        if commit.get("penstock.application") != application:
            continue
        note = json.loads(commit["penstock.note"])
        if note["batch"] == batch:
            return commit["version"], note["results"]
    raise LakeError(
        f"{bronze.table.name}: its log has no commit of batch {batch}, which its ledger lacks"
    )
