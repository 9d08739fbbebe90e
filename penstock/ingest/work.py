"""A batch's files read and staged: small ones together, each large one as a stream of its own.

Workers take tasks one after the other, each into Parquet files of its own.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import pyarrow as pa

from penstock.errors import UnreadableFile
from penstock.ingest.formats import raw_schema, with_partitions
from penstock.ingest.ledger import FileResult
from penstock.ingest.plan import Plan, PlannedFile
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
from penstock.storage.sources import SourceFolder
from penstock.tables import StagedFile, Stager, Table
from penstock.tables.staging import FILE_BYTES, ROW_GROUP_ROWS, discard

TASK_BYTES = 16 << 20
"""Source bytes of small files that are read together; fewer where workers would wait for one."""
_FEWEST_BYTES = 4 << 20
_TASK_FILES = 4000
_TASKS = 4
"""A worker, so that none has much left to do when the others are done."""
_HELD_BYTES = 32 << 20
"""Of rows, as Arrow has them, that wait for others to fill a row group with."""
_LINEAGE = ("_source_file", "_source_row", "_ingested_at", "_batch")
_WORKERS = min(8, max(2, os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is."""

    batch: int
    files_done: int
    files: int
    rows_read: int
    bytes_read: int


class Reporter:
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


@dataclass(frozen=True, slots=True)
class Read:
    """What came of reading a batch's files."""

    staged: list[StagedFile]
    results: list[FileResult]
    """A file each, in the plan's order."""
    added: list[str]
    """Columns that the bronze table lacks."""
    rows_rescued: int
    """With something in `_rescued`."""


def read_all(lake: Lake, source: Source, plan: Plan, reporter: Reporter, watch: Watch) -> Read:
    """Every file of the plan read and staged."""
    folder = source.folder()
    known = [*watch.poisoned]
    known += [result for file in plan.files if (result := _without_reading(file))]
    suspects = watch.suspects
    first = {file.path for group in suspects for file in group}
    apart = first | {result.file.path for result in known}
    rest = [file for file in plan.files if file.path not in apart]
    tasks = deque(_tasks(source, rest))
    # As many as fill files of their own.
    count = max(1, min(_WORKERS, len(tasks)))
    workers = [Worker(lake, source, folder, plan, reporter, watch) for _ in range(count)]
    if count > 1 and not isinstance(folder, Upstream) and folder.is_local:
        share = sum(file.size_bytes for file in rest) // (_TASKS * count)
        tasks = deque(_tasks(source, rest, max(_FEWEST_BYTES, min(TASK_BYTES, share))))
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
    results = sorted(known, key=lambda result: place[result.file.path])
    return Read(staged, results, added, sum(worker.rescued for worker in workers))


def with_columns(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """A schema and text columns that it lacks."""
    known = {name.lower() for name in schema.names}
    new = [pa.field(name, pa.string()) for name in names if name.lower() not in known]
    return pa.schema([*schema, *new])


def _without_reading(file: PlannedFile) -> FileResult | None:
    if file.problem:
        return FileResult(file, "failed", error=f"{file.path}: {file.problem}")
    return FileResult(file, "removed") if file.action == "remove" else None


def _tasks(
    source: Source, files: Sequence[PlannedFile], size_bytes: int = TASK_BYTES
) -> Iterator[list[PlannedFile]]:
    """Files in order: small ones together, each large one alone."""
    task: list[PlannedFile] = []
    held = 0
    for file in files:
        if _is_alone(source, file):
            yield [file]
            continue
        task.append(file)
        held += file.size_bytes
        if held >= size_bytes or len(task) == _TASK_FILES:
            yield task
            task, held = [], 0
    if task:
        yield task


def _is_alone(source: Source, file: PlannedFile) -> bool:
    """Whether it is read as a stream."""
    return isinstance(source, UpstreamSource) or file.size_bytes > SMALL_BYTES


class Worker:
    """A thread's share of a batch: tasks taken one after the other, staged into its own files."""

    def __init__(
        self,
        lake: Lake,
        source: Source,
        folder: SourceFolder | Upstream,
        plan: Plan,
        reporter: Reporter,
        watch: Watch,
    ) -> None:
        self._watch = watch
        self._lake, self._source, self._folder, self._plan = lake, source, folder, plan
        self._reporter = reporter
        self._schema = raw_schema(source)
        self._key = Table(lake, source.table).key
        self._shared: dict[pa.Schema, Stager] = {}
        """By schema: files with columns that others lack lie in Parquet files of their own."""
        self._held: dict[pa.Schema, list[pa.Table]] = {}
        self._held_bytes = 0
        # Of text as it came, bounds tell readers little, and take a fifth of the writing.
        contract = source.contract
        self._bounded = [*_LINEAGE, contract.column(contract.event_time).raw_name]
        self.added = set[str]()
        self.staged: list[StagedFile] = []
        self.results: list[FileResult] = []
        self.rescued = 0

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
            self._write_all_held()
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
                case _:
                    self.rescued += _rescued(found)
                    self._hold(self._complete(found))

    def _hold(self, table: pa.Table) -> None:
        """Write rows when there is a row group of them, each file's into one Parquet file."""
        held = self._held.get(table.schema, [])
        if held and sum(map(len, held)) + len(table) > ROW_GROUP_ROWS:
            self._write_held(table.schema)
        self._held.setdefault(table.schema, []).append(table)
        self._held_bytes += table.nbytes
        if self._held_bytes > _HELD_BYTES:
            self._write_all_held()

    def _write_held(self, schema: pa.Schema) -> None:
        table = pa.concat_tables(self._held.pop(schema))
        self._held_bytes -= table.nbytes
        self._stager(table).write(table.unify_dictionaries())

    def _write_all_held(self) -> None:
        for schema in list(self._held):
            self._write_held(schema)

    def _large(self, file: PlannedFile) -> None:
        """A damaged file shows it only at its end, so its rows go into Parquet files of their own,
        which are deleted then.
        """
        result: FileResult | None = None
        rescued = 0
        with SpreadWriter(self._stager_of, FILE_BYTES) as writer:
            try:
                for found in self._read(file):
                    if isinstance(found, FileResult):
                        result = found
                    else:
                        rescued += _rescued(found)
                        writer.write(self._complete(found))
                self.staged += writer.finish()
                self.rescued += rescued
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
        return with_columns(self._schema, new)

    def _complete(self, table: pa.Table) -> pa.Table:
        if not isinstance(self._folder, Upstream):
            table = with_partitions(self._source, table)
        rows, plan = len(table), self._plan
        when = pa.scalar(plan.planned_at, pa.timestamp("us", "UTC"))
        table = table.append_column("_ingested_at", pa.repeat(when, rows))
        return table.append_column("_batch", pa.repeat(pa.scalar(plan.batch, pa.int64()), rows))


def _rescued(table: pa.Table) -> int:
    return len(table) - table["_rescued"].null_count
