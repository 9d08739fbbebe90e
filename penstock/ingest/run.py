"""Run batches of a source until nothing is new: read, stage, and commit once a batch.

    plan ─▶ tasks, in parallel ─▶ Parquet files + a result a file ─▶ results object ─▶ one commit
                                                                            └─▶ ledger commit

Any number of runners may be at it: the log takes each batch number once, and the loser deletes
what it staged and goes on with the next batch.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from penstock.errors import CommitConflict, UnreadableFile
from penstock.ingest.ledger import FileResult, mend_ledger, put_results, read_ledger
from penstock.ingest.plan import Plan, PlannedFile, Source, plan_batch
from penstock.ingest.read import raw_schema, read_file
from penstock.lake import Lake
from penstock.storage.sources import SourceFolder, without_credentials
from penstock.tables import Snapshot, StagedFile, Stager, Table, Transaction
from penstock.tables.rewrite import rewrite_without
from penstock.tables.staging import discard

log = logging.getLogger(__name__)

TASK_BYTES = 32 << 20
"""Source bytes that one task reads."""
_HELD_BYTES = 64 << 20
"""Bytes of one file kept in memory until it is known to be whole; a larger one is staged alone."""
_ATTEMPTS = 5
_PARALLEL_TASKS = min(8, (os.cpu_count() or 1) * 2)


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What a run of ingest did; all zeros when nothing was new."""

    table: str
    batches: tuple[int, ...] = ()
    files_loaded: int = 0
    rows_read: int = 0
    bytes_read: int = 0
    failed: dict[str, str] = field(default_factory=dict[str, str])
    """Files that could not be read, with the reason."""
    version: int | None = None
    """The bronze table's newest version."""


def ingest(
    lake: Lake, source: Source, *, max_files: int | None = None, max_batches: int | None = None
) -> IngestReport:
    """Bring every new or changed file of the source into its bronze table, exactly once.

    Parameters
    ----------
    max_files: files a batch; by default all that are new.
    max_batches: stop after so many; by default when nothing is new.

    Raises
    ------
    SourceError: the source can't be listed.
    StorageError: the lake can't be reached. What was committed stays, the rest is done next time.
    """
    table = Table(lake, source.table)
    description = f"Rows of {without_credentials(source.uri)} as they came, as text"
    done: list[tuple[Plan, Sequence[FileResult]]] = []
    tried, refused = set[str](), 0
    while max_batches is None or len(done) < max_batches:
        bronze = table.create(raw_schema(source), description=description)
        number = bronze.transaction(source.application) + 1
        if mend_ledger(lake, source) != number - 1:
            continue  # another run has committed since; a plan must not be made from an old ledger
        ledger = read_ledger(lake, source)
        plan = plan_batch(lake, source, number, ledger, max_files=max_files, tried=tried)
        if plan is None:
            break
        try:
            results = _run_batch(lake, source, bronze, plan)
        except CommitConflict as conflict:
            log.info("%s batch %d: %s", table.name, number, conflict)
            is_done = table.snapshot().transaction(source.application) >= number
            refused = 0 if is_done else refused + 1
            if refused == _ATTEMPTS:
                raise
            continue
        done.append((plan, results))
        tried |= {result.file.path for result in results if result.error}
    mend_ledger(lake, source)
    results = [result for _, batch in done for result in batch]
    snapshot = table.snapshot_or_none()
    return IngestReport(
        table=source.table,
        batches=tuple(plan.batch for plan, _ in done),
        files_loaded=sum(result.error is None for result in results),
        rows_read=sum(result.rows_read for result in results),
        bytes_read=sum(result.file.size_bytes for result in results if result.error is None),
        failed={result.file.path: result.error for result in results if result.error},
        version=snapshot.version if snapshot else None,
    )


def _run_batch(lake: Lake, source: Source, bronze: Snapshot, plan: Plan) -> list[FileResult]:
    folder = source.folder()
    results: list[FileResult] = []
    staged: list[StagedFile] = []
    with ThreadPoolExecutor(_PARALLEL_TASKS, thread_name_prefix="penstock-ingest") as pool:
        tasks = [
            pool.submit(_read_task, lake, source, folder, plan, files) for files in _tasks(plan)
        ]
    for task in tasks:  # all have ended, so that one's failure leaves nothing of another staged
        if task.exception() is None:
            staged += task.result()[0]
    try:
        for task in tasks:
            results += task.result()[1]
        replaced = [result.file.path for result in results if result.replaces]
        kept, removes = rewrite_without(bronze, "_source_file", replaced)
        staged += kept
        key = put_results(lake, source, plan, results)
    except BaseException:
        discard(lake, bronze.table.key, staged)
        raise
    transaction = Transaction(source.application, plan.batch)
    bronze.commit(
        staged, removes, transaction=transaction, note={"batch": plan.batch, "results": key}
    )
    for result in results:
        if result.error:
            log.warning("%s batch %d: %s", source.table, plan.batch, result.error)
    rows = sum(result.rows_read for result in results)
    log.info("%s batch %d: %d files, %d rows", source.table, plan.batch, len(results), rows)
    return results


def _tasks(plan: Plan) -> Iterator[list[PlannedFile]]:
    """The plan's files, in order, in runs of about `TASK_BYTES`."""
    task: list[PlannedFile] = []
    for file in plan.files:
        task.append(file)
        if sum(planned.size_bytes for planned in task) >= TASK_BYTES:
            yield task
            task = []
    if task:
        yield task


def _read_task(
    lake: Lake, source: Source, folder: SourceFolder, plan: Plan, files: Sequence[PlannedFile]
) -> tuple[list[StagedFile], list[FileResult]]:
    schema = raw_schema(source)
    results: list[FileResult] = []
    staged: list[StagedFile] = []
    with Stager(lake, source.table, schema) as shared:
        for file in files:
            try:
                rows, alone = _stage_file(lake, source, folder, plan, file, shared)
            except UnreadableFile as error:
                results.append(FileResult(file, 0, str(error), error.is_transient))
            else:
                staged += alone
                results.append(FileResult(file, rows))
        return [*staged, *shared.finish()], results


def _stage_file(
    lake: Lake,
    source: Source,
    folder: SourceFolder,
    plan: Plan,
    file: PlannedFile,
    shared: Stager,
) -> tuple[int, list[StagedFile]]:
    """Stage all of a file's rows or none; its row count, and files that hold it alone.

    A damaged file shows it only at its end, so rows are held back until then; those of a large
    file go into Parquet files of their own, which are deleted if it turns out damaged.
    """
    held: list[pa.Table] = []
    with Stager(lake, source.table, raw_schema(source)) as alone:
        for table in read_file(source, folder, file.path):
            held.append(_with_provenance(table, plan, file))
            if sum(piece.nbytes for piece in held) > _HELD_BYTES:
                for piece in held:
                    alone.write(piece)
                held = []
        _check_unchanged(folder, file)
        if alone.rows:
            for piece in held:
                alone.write(piece)
            return alone.rows, alone.finish()
    if held:  # in one call, so that a file's rows lie in one Parquet file
        shared.write(pa.concat_tables(held))
    return sum(piece.num_rows for piece in held), []


def _check_unchanged(folder: SourceFolder, file: PlannedFile) -> None:
    """That what was read is the state that was planned, which the ledger will name."""
    try:
        now = folder.stat(file.path)
    except OSError as error:
        message = f"{file.path}: it vanished while it was read"
        raise UnreadableFile(message, is_transient=True) from error
    if (now.size_bytes, now.tag) != (file.size_bytes, file.tag):
        message = f"{file.path}: it changed after it was listed"
        raise UnreadableFile(message, is_transient=True)


def _with_provenance(table: pa.Table, plan: Plan, file: PlannedFile) -> pa.Table:
    rows = table.num_rows
    columns = {
        "_source_file": pa.repeat(file.path, rows),
        "_ingested_at": pa.repeat(pa.scalar(plan.planned_at, pa.timestamp("us", "UTC")), rows),
        "_batch": pa.repeat(pa.scalar(plan.batch, pa.int64()), rows),
    }
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table
