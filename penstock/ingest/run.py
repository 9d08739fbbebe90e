"""Run batches of a source until nothing is new: read, stage, and commit once a batch.

    plan ─▶ tasks ─▶ workers stage Parquet files ─▶ ledger rows staged ─▶ one commit notes them
                                                                             └─▶ ledger commit

Any number of runners may be at it: the log takes each batch number once, and the loser deletes
what it staged and goes on with the next batch.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl

from penstock.errors import CommitConflict
from penstock.ingest.discovery import Wanted, list_from, new_files, unknown
from penstock.ingest.formats import raw_schema
from penstock.ingest.ledger import (
    commit_results,
    ledger_table,
    mend_ledger,
    note,
    open_ledger,
    scan_ledger,
    stage_results,
)
from penstock.ingest.notifications import Arrivals, receive
from penstock.ingest.plan import Plan, plan_batch
from penstock.ingest.poison import Watch
from penstock.ingest.source import Source
from penstock.ingest.upstream import UpstreamSource
from penstock.ingest.work import Progress, Read, Reporter, read_all, with_columns
from penstock.lake import Lake
from penstock.storage.listing import without_credentials
from penstock.tables import Snapshot, Table, Transaction
from penstock.tables.rewrite import changes_without, rewrite_without
from penstock.tables.staging import SOURCE_FILE, discard
from penstock.telemetry import span

log = logging.getLogger(__name__)

_ATTEMPTS = 8


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
    rows_rescued: int = 0
    """With values that the contract has no column for, or that can't be taken apart."""
    bytes_read: int = 0
    failed: dict[str, str] = field(default_factory=dict[str, str])
    """Files that could not be read, with the reason."""
    version: int | None = None
    """The bronze table's newest version."""
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    """Spent listing and planning, reading and staging, committing."""
    lag_seconds: float | None = None
    """Age of the newest file, when its rows were committed."""


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
    done: list[tuple[Plan, Read]] = []
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
                read = _run_batch(lake, source, bronze, ledger, plan, clock, progress)
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
        done.append((plan, read))
        tried |= {result.file.path for result in read.results if result.error}
        if plan.is_last:  # nothing is left that a second look at the listing could find
            break
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


def _report(bronze: Snapshot, done: list[tuple[Plan, Read]], clock: _Clock) -> IngestReport:
    results = [result for _, read in done for result in read.results]
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
        rows_rescued=sum(read.rows_rescued for _, read in done),
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
    rows_read, rows_rescued, bytes_read, seconds by stage, lag_seconds (age of its newest file at
    the commit).

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
        noted.setdefault("rows_rescued", None)  # not counted by earlier versions
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
) -> Read:
    reporter = Reporter(plan, progress)
    watch = Watch(lake, source, plan)
    with span("ingest.read", files=len(plan.files)) as told, watch:
        read = read_all(lake, source, plan, reporter, watch)
        staged, results, added = [*read.staged], read.results, read.added
        told.set({"rows_read": sum(result.rows_read for result in results)})
    clock.lap("reading")
    try:
        if added:
            log.info("%s batch %d: new columns %s", source.table, plan.batch, ", ".join(added))
            bronze = bronze.table.create(with_columns(bronze.schema, added))
        replaced = [result.file.path for result in results if result.replaces]
        kept, removes = rewrite_without(bronze, SOURCE_FILE, replaced)
        changes = changes_without(bronze, SOURCE_FILE, replaced, removes, staged)
        staged += kept
        ledger_rows = stage_results(lake, source, plan, results)
    except BaseException:
        discard(lake, bronze.table.key, staged)
        raise
    transaction = Transaction(source.application, plan.batch)
    noted = note(plan, ledger_rows) | _measures(read) | {"seconds": clock.batch}
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
    return read


def _measures(read: Read) -> dict[str, Any]:
    results = read.results
    counts = dict.fromkeys(("loaded", "unchanged", "removed", "failed", "unavailable"), 0)
    for result in results:
        counts[result.status] += 1
    newest = max((r.file.changed_at for r in results if r.file.changed_at), default=None)
    return {
        "files": len(results),
        **counts,
        "rows_read": sum(result.rows_read for result in results),
        "rows_rescued": read.rows_rescued,
        "bytes_read": sum(result.file.size_bytes for result in results if result.error is None),
        "lag_seconds": (datetime.now(UTC) - newest).total_seconds() if newest else None,
    }
