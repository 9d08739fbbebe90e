"""Run batches of a source until nothing is new: read, stage, and commit once a batch.

    plan ─▶ tasks ─▶ workers stage Parquet files ─▶ ledger rows staged ─▶ one commit notes them
                                                                             └─▶ ledger commit

Any number of runners may be at it: the log takes each batch number once, and the loser deletes
what it staged and goes on with the next batch.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from penstock.errors import CommitConflict, UnreadableFile
from penstock.ingest.discovery import Wanted, list_from, new_files, unknown
from penstock.ingest.formats import raw_schema, with_partitions
from penstock.ingest.ledger import (
    FileResult,
    commit_results,
    ledger_table,
    mend_ledger,
    note,
    open_ledger,
    scan_ledger,
    stage_results,
)
from penstock.ingest.notifications import Arrivals, receive
from penstock.ingest.plan import Plan, PlannedFile, plan_batch
from penstock.ingest.poison import Watch
from penstock.ingest.read import (
    SMALL_BYTES,
    TooLarge,
    failed,
    read_large,
    read_small,
    read_stretch,
)
from penstock.ingest.source import Source
from penstock.ingest.spread import SpreadWriter
from penstock.ingest.upstream import Upstream, UpstreamSource
from penstock.lake import Lake
from penstock.storage.sources import SourceFolder, without_credentials
from penstock.tables import Snapshot, StagedFile, Stager, Table, Transaction
from penstock.tables.rewrite import changes_without, rewrite_without
from penstock.tables.staging import FILE_BYTES, SOURCE_FILE, discard
from penstock.telemetry import span

log = logging.getLogger(__name__)

TASK_BYTES = 16 << 20
"""Source bytes of small files that are read together."""
_TASK_FILES = 4000
_LINEAGE = ("_source_file", "_source_row", "_ingested_at", "_batch")
_ATTEMPTS = 8
_WORKERS = min(8, max(2, os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What a run of ingest did; all zeros when nothing was new."""

    table: str
    batches: tuple[int, ...] = ()
    files_loaded: int = 0
    files_unchanged: int = 0
    """Touched, with the same content as before."""
    files_removed: int = 0
    rows_read: int = 0
    bytes_read: int = 0
    failed: dict[str, str] = field(default_factory=dict[str, str])
    """Files that could not be read, with the reason."""
    version: int | None = None
    """The bronze table's newest version."""
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    """Spent listing and planning, reading and staging, committing."""
    lag_seconds: float | None = None
    """Age of the newest file, when its rows were committed."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is."""

    batch: int
    files_done: int
    files: int
    rows_read: int
    bytes_read: int


def ingest(
    lake: Lake,
    source: Source,
    *,
    max_files: int | None = None,
    max_batches: int | None = None,
    retry: bool = False,
    full: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> IngestReport:
    """Bring every new or changed file of the source into its bronze table, exactly once.

    Parameters
    ----------
    max_files: files a batch, if fewer than the source says.
    max_batches: stop after so many; by default when nothing is new.
    retry: read files again that could not be read before.
    full: list the whole folder, though the source has a lookback or notifications.
    progress: told after each file, from the threads that read.

    Raises
    ------
    SourceError: the source can't be listed.
    StorageError: the lake can't be reached. What was committed stays, the rest is done next time.
    """
    with span("ingest", table=source.table) as told:
        report = _ingested(
            lake,
            source,
            max_files=max_files,
            max_batches=max_batches,
            retry=retry,
            full=full,
            progress=progress,
        )
        told.set(
            {
                "batches": len(report.batches),
                "files_loaded": report.files_loaded,
                "files_failed": len(report.failed),
                "rows_read": report.rows_read,
                "bytes_read": report.bytes_read,
                "lag_seconds": report.lag_seconds,
            }
        )
        return report


def _ingested(
    lake: Lake,
    source: Source,
    *,
    max_files: int | None,
    max_batches: int | None,
    retry: bool,
    full: bool,
    progress: Callable[[Progress], None] | None,
) -> IngestReport:
    table = Table(lake, source.table)
    description = f"Rows of {without_credentials(source.uri)} as they came, as text"
    done: list[tuple[Plan, Sequence[FileResult]]] = []
    clock = _Clock()
    tried, refused = set[str](), 0
    found: _Found | None = None
    with ThreadPoolExecutor(2, thread_name_prefix="penstock-look") as pool:  # a round trip each
        is_full = full or retry
        looked = None
        opened = pool.submit(open_ledger, lake, source)
        if not _needs_ledger(source) or (is_full and source.lookback is not None):

            def scanned() -> pl.LazyFrame:
                return scan_ledger(lake, source, opened.result())

            wanted = unknown(source, scanned, is_retry=retry)
            looked = pool.submit(
                copy_context().run, _look, source, None, is_full=is_full, wanted=wanted
            )
        bronze = table.create(raw_schema(source), description=description)
    ledger = opened.result()
    is_fresh = True
    while max_batches is None or len(done) < max_batches:
        if not is_fresh:
            bronze, ledger = bronze.advanced(), ledger.advanced()
        is_fresh = False
        number = bronze.transaction(source.application) + 1
        ledger = mend_ledger(lake, source, bronze, ledger)
        if ledger.transaction(source.application) != number - 1:
            continue  # another run has committed since; a plan must not be made from an old ledger
        known = scan_ledger(lake, source, ledger)
        if found is None:
            if looked is not None:
                found = looked.result()
            else:
                wanted = unknown(source, known, is_retry=retry)
                found = _look(source, known, is_full=is_full, wanted=wanted)
        plan = plan_batch(
            lake,
            source,
            number,
            known,
            found.listing,
            max_files=max_files,
            tried=tried,
            is_retry=retry,
            gone=found.gone,
        )
        clock.lap("planning")
        if plan is None:
            is_fresh = True
            break
        try:
            with span("ingest.batch", table=source.table, batch=number, files=len(plan.files)):
                results = _run_batch(lake, source, bronze, ledger, plan, clock, progress)
        except CommitConflict as conflict:
            log.info("%s batch %d: %s", table.name, number, conflict)
            is_done = table.snapshot().transaction(source.application) >= number
            refused = 0 if is_done else refused + 1
            if refused == _ATTEMPTS:
                raise
            time.sleep(random.uniform(0, 0.05 * 2**refused))
            continue
        refused = 0
        clock.begin()
        if plan.is_resumed and isinstance(source, UpstreamSource):
            found = looked = None  # what was seen began before that stretch
        done.append((plan, results))
        tried |= {result.file.path for result in results if result.error}
    if not is_fresh:  # stopped before it was seen that nothing is left
        bronze = bronze.advanced()
        ledger = mend_ledger(lake, source, bronze, ledger.advanced())
    if found is not None and found.arrivals is not None:
        known = scan_ledger(lake, source, ledger)
        left = new_files(source, found.listing, known, gone=found.gone)
        found.arrivals.acknowledge(left["path"])
    clock.lap("committing")
    return _report(bronze, done, clock)


def waiting_files(lake: Lake, source: Source) -> pl.DataFrame:
    """Files of the source that the ledger doesn't have in their present state.

    Raises
    ------
    SourceError: the source can't be listed.
    """
    ledger = scan_ledger(lake, source)
    found = _look(source, ledger, only_looks=True, wanted=unknown(source, ledger))
    return new_files(source, found.listing, ledger, gone=found.gone)


def _needs_ledger(source: Source) -> bool:
    """Whether what to look for depends on what is known."""
    return source.lookback is not None or isinstance(source, UpstreamSource)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a look at a source shows."""

    listing: pl.DataFrame
    """Of a long one, what may be new."""
    gone: frozenset[str] | None = None
    """Files known to be gone, where the listing isn't whole."""
    arrivals: Arrivals | None = None


def _look(
    source: Source,
    ledger: pl.LazyFrame | None,
    *,
    is_full: bool = False,
    only_looks: bool = False,
    wanted: Wanted | None = None,
) -> _Found:
    """See what is there; the ledger is for a lookback alone."""
    with span("ingest.look", table=source.table) as told:
        found = _seen(source, ledger, is_full=is_full, only_looks=only_looks, wanted=wanted)
        told.set({"files": found.listing.height})
        return found


def _seen(
    source: Source,
    ledger: pl.LazyFrame | None,
    *,
    is_full: bool,
    only_looks: bool,
    wanted: Wanted | None,
) -> _Found:
    folder = source.folder()
    if source.notifications and not is_full:
        arrivals = receive(source.notifications, folder, source.pattern, only_looks=only_looks)
        return _Found(arrivals.listing, arrivals.gone, arrivals)
    if isinstance(source, UpstreamSource):
        assert ledger is not None
        return _Found(folder.list(after=source.reached(ledger)))
    after = "" if is_full or ledger is None else list_from(source, ledger)
    return _Found(folder.list(source.pattern, after=after, wanted=wanted))


class _Clock:
    """Seconds of each stage of a run."""

    def __init__(self) -> None:
        self.seconds, self.batch = dict[str, float](), dict[str, float]()
        self._last = time.perf_counter()

    def begin(self) -> None:
        """The next batch begins."""
        self.batch = {}

    def lap(self, stage: str) -> None:
        """Count the time since the last lap to a stage."""
        now = time.perf_counter()
        for seconds in (self.seconds, self.batch):
            seconds[stage] = round(seconds.get(stage, 0.0) + now - self._last, 6)
        self._last = now


def _report(
    bronze: Snapshot, done: list[tuple[Plan, Sequence[FileResult]]], clock: _Clock
) -> IngestReport:
    results = [result for _, batch in done for result in batch]
    by_status = {"loaded": 0, "unchanged": 0, "removed": 0, "failed": 0, "unavailable": 0}
    for result in results:
        by_status[result.status] += 1
    newest = max((r.file.changed_at for r in results if r.file.changed_at), default=None)
    return IngestReport(
        table=bronze.table.name,
        batches=tuple(plan.batch for plan, _ in done),
        files_loaded=by_status["loaded"],
        files_unchanged=by_status["unchanged"],
        files_removed=by_status["removed"],
        rows_read=sum(result.rows_read for result in results),
        bytes_read=sum(result.file.size_bytes for result in results if result.error is None),
        failed={result.file.path: result.error for result in results if result.error},
        version=bronze.version,
        seconds={stage: round(seconds, 3) for stage, seconds in clock.seconds.items()},
        lag_seconds=(datetime.now(UTC) - newest).total_seconds() if newest else None,
    )


def batches(lake: Lake, source: Source, limit: int | None = None) -> list[dict[str, Any]]:
    """What each batch did, newest first, as its commit noted it.

    Returns
    -------
    For each: batch, version, committed_at (UTC), files, loaded, unchanged, removed, failed,
    rows_read, bytes_read, seconds by stage, lag_seconds (age of its newest file at the commit).

    Raises
    ------
    TableNotFound: nothing was ingested yet.
    """
    found = list[dict[str, Any]]()
    for commit in Table(lake, source.table).snapshot().history(limit):
        if commit.get("penstock.application") != source.application:
            continue
        noted = json.loads(commit["penstock.note"])
        noted.pop("ledger")
        at = datetime.fromtimestamp(commit["timestamp"] / 1000, UTC)
        found.append({"version": commit["version"], "committed_at": at.isoformat(), **noted})
    return found


def _run_batch(
    lake: Lake,
    source: Source,
    bronze: Snapshot,
    ledger: Snapshot,
    plan: Plan,
    clock: _Clock,
    progress: Callable[[Progress], None] | None,
) -> list[FileResult]:
    reporter = _Reporter(plan, progress)
    watch = Watch(lake, source, plan)
    with span("ingest.read", files=len(plan.files)) as told, watch:
        staged, results, added = _read_all(lake, source, plan, reporter, watch)
        told.set({"rows_read": sum(result.rows_read for result in results)})
    clock.lap("reading")
    try:
        if added:
            log.info("%s batch %d: new columns %s", source.table, plan.batch, ", ".join(added))
            bronze = bronze.table.create(_with_columns(bronze.schema, added))
        replaced = [result.file.path for result in results if result.replaces]
        kept, removes = rewrite_without(bronze, SOURCE_FILE, replaced)
        changes = changes_without(bronze, SOURCE_FILE, replaced, removes, staged)
        staged += kept
        ledger_rows = stage_results(lake, source, plan, results)
    except BaseException:
        discard(lake, bronze.table.key, staged)
        raise
    transaction = Transaction(source.application, plan.batch)
    noted = note(plan, ledger_rows) | _measures(results) | {"seconds": clock.batch}
    with span("ingest.commit", files=len(staged)):
        try:
            bronze.commit(staged, removes, transaction=transaction, note=noted, changes=changes)
        except CommitConflict:
            discard(lake, ledger_table(lake, source).key, [ledger_rows])
            raise
        commit_results(ledger, source, plan, ledger_rows)
    watch.forget()
    clock.lap("committing")
    for result in results:
        if result.error:
            log.warning("%s batch %d: %s", source.table, plan.batch, result.error)
    rows = sum(result.rows_read for result in results)
    log.info("%s batch %d: %d files, %d rows", source.table, plan.batch, len(results), rows)
    return results


def _measures(results: Sequence[FileResult]) -> dict[str, Any]:
    counts = dict.fromkeys(("loaded", "unchanged", "removed", "failed", "unavailable"), 0)
    for result in results:
        counts[result.status] += 1
    newest = max((r.file.changed_at for r in results if r.file.changed_at), default=None)
    return {
        "files": len(results),
        **counts,
        "rows_read": sum(result.rows_read for result in results),
        "bytes_read": sum(result.file.size_bytes for result in results if result.error is None),
        "lag_seconds": (datetime.now(UTC) - newest).total_seconds() if newest else None,
    }


class _Reporter:
    """Adds up what threads have read, for whoever watches."""

    def __init__(self, plan: Plan, tell: Callable[[Progress], None] | None) -> None:
        self._plan, self._tell, self._lock = plan, tell, threading.Lock()
        self._files = self._rows = self._bytes = 0

    def read(self, result: FileResult) -> None:
        """One more file is done."""
        if self._tell is None:
            return
        with self._lock:
            self._files += 1
            self._rows += result.rows_read
            self._bytes += result.file.size_bytes
            done = Progress(
                self._plan.batch, self._files, len(self._plan.files), self._rows, self._bytes
            )
            self._tell(done)


def _read_all(
    lake: Lake, source: Source, plan: Plan, reporter: _Reporter, watch: Watch
) -> tuple[list[StagedFile], list[FileResult], list[str]]:
    """Every file of the plan read and staged, its result, in the plan's order, and new columns."""
    folder = source.folder()
    known = [*watch.poisoned]
    known += [result for file in plan.files if (result := _without_reading(file))]
    suspects = watch.suspects
    first = {file.path for group in suspects for file in group}
    apart = first | {result.file.path for result in known}
    tasks = deque(_tasks(source, [file for file in plan.files if file.path not in apart]))
    workers = [
        _Worker(lake, source, folder, plan, reporter, watch)
        for _ in range(max(1, min(_WORKERS, len(tasks))))
    ]
    staged: list[StagedFile] = []
    with ThreadPoolExecutor(len(workers), thread_name_prefix="penstock-ingest") as pool:
        alone = deque(task for group in suspects for task in _tasks(source, group))
        futures = [pool.submit(workers[0].run, alone)]
        wait(futures)  # nothing else is read meanwhile, so that it is known what kills
        if futures[0].exception() is None:
            futures += [pool.submit(worker.run, tasks) for worker in workers]
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:  # all have ended, so nothing is staged behind our back
        for worker in workers:
            worker.abandon()
        raise errors[0]
    for worker in workers:
        staged += worker.staged
        known += worker.results
    place = {file.path: number for number, file in enumerate(plan.files)}
    added = sorted({name for worker in workers for name in worker.added})
    return staged, sorted(known, key=lambda result: place[result.file.path]), added


def _with_columns(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """A schema and text columns that it lacks."""
    known = {name.lower() for name in schema.names}
    new = [pa.field(name, pa.string()) for name in names if name.lower() not in known]
    return pa.schema([*schema, *new])


def _without_reading(file: PlannedFile) -> FileResult | None:
    if file.problem:
        return FileResult(file, "failed", error=f"{file.path}: {file.problem}")
    return FileResult(file, "removed") if file.action == "remove" else None


def _tasks(source: Source, files: Sequence[PlannedFile]) -> Iterator[list[PlannedFile]]:
    """Files in order: small ones together, each large one alone."""
    task: list[PlannedFile] = []
    held = 0
    for file in files:
        if _is_alone(source, file):
            yield [file]
            continue
        task.append(file)
        held += file.size_bytes
        if held >= TASK_BYTES or len(task) == _TASK_FILES:
            yield task
            task, held = [], 0
    if task:
        yield task


def _is_alone(source: Source, file: PlannedFile) -> bool:
    """Whether it is read as a stream."""
    return isinstance(source, UpstreamSource) or file.size_bytes > SMALL_BYTES


class _Worker:
    """A thread's share of a batch: tasks taken one after the other, staged into its own files."""

    def __init__(
        self,
        lake: Lake,
        source: Source,
        folder: SourceFolder | Upstream,
        plan: Plan,
        reporter: _Reporter,
        watch: Watch,
    ) -> None:
        self._watch = watch
        self._lake, self._source, self._folder, self._plan = lake, source, folder, plan
        self._reporter = reporter
        self._schema = raw_schema(source)
        self._key = Table(lake, source.table).key
        self._shared: dict[pa.Schema, Stager] = {}
        """By schema: files with columns that others lack lie in Parquet files of their own."""
        # Of text as it came, bounds tell readers little, and take a fifth of the writing.
        contract = source.contract
        self._bounded = [*_LINEAGE, contract.column(contract.event_time).raw_name]
        self.added = set[str]()
        self.staged: list[StagedFile] = []
        self.results: list[FileResult] = []

    def run(self, tasks: deque[list[PlannedFile]]) -> None:
        """Do tasks until there is none left.

        Raises whatever went wrong, with what was staged left to `abandon`.
        """
        try:
            while tasks:
                try:
                    files = tasks.popleft()
                except IndexError:
                    break
                with self._watch.reading(files):
                    if len(files) == 1 and _is_alone(self._source, files[0]):
                        self._large(files[0])
                    else:
                        self._small(files)
            self.staged += [file for stager in self._shared.values() for file in stager.finish()]
            self._shared = {}
        except BaseException:
            tasks.clear()  # nobody needs the rest
            raise

    def abandon(self) -> None:
        """Delete what was staged."""
        for stager in self._shared.values():
            stager.abandon()
        discard(self._lake, self._key, self.staged)

    def _small(self, files: Sequence[PlannedFile]) -> None:
        assert not isinstance(self._folder, Upstream)
        for found in read_small(self._source, self._folder, files):
            match found:
                case FileResult():
                    self._done(found)
                case TooLarge():
                    self._large(found.file)
                case _:  # in one call, so that each file's rows lie in one Parquet file
                    self._stager(found).write(self._complete(found))

    def _large(self, file: PlannedFile) -> None:
        """A damaged file shows it only at its end, so its rows go into Parquet files of their own,
        which are deleted then.
        """
        result: FileResult | None = None
        with SpreadWriter(self._stager_of, FILE_BYTES) as writer:
            try:
                for found in self._read(file):
                    if isinstance(found, FileResult):
                        result = found
                    else:
                        writer.write(self._complete(found))
                self.staged += writer.finish()
            except BaseException as error:
                discard(self._lake, self._key, writer.staged())
                if not isinstance(error, UnreadableFile):
                    raise
                result = failed(file, error)
        assert result is not None
        self._done(result)

    def _read(self, file: PlannedFile) -> Iterator[pa.Table | FileResult]:
        if isinstance(self._folder, Upstream):
            return read_stretch(self._source, self._folder, file)
        return read_large(self._source, self._folder, file)

    def _done(self, result: FileResult) -> None:
        self.results.append(result)
        self._reporter.read(result)

    def _stager_of(self, columns: pa.Schema) -> Stager:
        schema = self._schema_of(columns)
        return Stager(
            self._lake, self._source.table, schema, file_bytes=1 << 62, bounded=self._bounded
        )

    def _stager(self, table: pa.Table) -> Stager:
        schema = self._schema_of(table.schema)
        if schema not in self._shared:
            self._shared[schema] = Stager(
                self._lake, self._source.table, schema, bounded=self._bounded
            )
        return self._shared[schema]

    def _schema_of(self, columns: pa.Schema) -> pa.Schema:
        """The bronze table's columns, and those that are new in these rows."""
        new = [name for name in columns.names if name not in self._schema.names]
        self.added.update(new)
        return _with_columns(self._schema, new)

    def _complete(self, table: pa.Table) -> pa.Table:
        if not isinstance(self._folder, Upstream):
            table = with_partitions(self._source, table)
        rows, plan = len(table), self._plan
        when = pa.scalar(plan.planned_at, pa.timestamp("us", "UTC"))
        table = table.append_column("_ingested_at", pa.repeat(when, rows))
        return table.append_column("_batch", pa.repeat(pa.scalar(plan.batch, pa.int64()), rows))
