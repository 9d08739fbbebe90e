"""One version of a table: what its log says, and its rows for polars, pyarrow and DuckDB."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote

import numpy as np
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from pyarrow import fs as pafs

from penstock.engines import Threads
from penstock.errors import LakeError
from penstock.storage.objects import persistently
from penstock.tables.change_feed import CHANGE_FEED
from penstock.tables.deletions import ENABLED, FEATURE, Deletion, deletions_at, places_of
from penstock.tables.log import commit_info, path_of
from penstock.tables.protocol import check_readable
from penstock.tables.staging import (
    ROW_GROUP_ROWS,
    StagedFile,
    StoredFile,
    partition_text,
    partition_value,
    row_groups,
    statistics_json,
)

if TYPE_CHECKING:
    import pyarrow.dataset as pads
    from numpy.typing import NDArray

    from penstock.tables.table import Table

T = TypeVar("T")
_READ_AT_ONCE = 8
"""Log entries, or twice as many as portions of files."""
PORTION_BYTES = 8 << 20
_PORTION_ROWS = 1 << 19
"""Of a portion, however few bytes they are."""
_PACKED = 4
"""Times as large as stored, that a file's bytes may be."""
CONSTRAINT = "delta.constraints."
_NARROWER = pl.ScanCastOptions(integer_cast=["upcast", "allow-float"], float_cast="upcast")
"""Files that came in while another writer widened a column hold narrower numbers than it says."""
PLACE = "__penstock_place"
"""The column of rows' places in their data file."""


class Version:
    """What the log says of one version of a table, and its rows.

    Parameters
    ----------
    delta: the table as deltalake opened it; by default that of `version`, opened when asked for.
    is_old: whether there are newer ones, so that files of it may have been vacuumed.
    """

    def __init__(
        self,
        table: Table,
        delta: DeltaTable | None = None,
        *,
        version: int | None = None,
        is_old: bool = False,
    ) -> None:
        self.table, self._delta, self._is_old = table, delta, is_old
        if delta is not None:
            version = delta.version()
        assert version is not None
        self.version = version
        self._transactions = dict[str, int]()

    @property
    def delta(self) -> DeltaTable:
        """This version, as deltalake has it."""
        if self._delta is None:
            opened = self.table.snapshot(self.version)
            self._delta = opened.delta
        return self._delta

    def _asked(self, ask: Callable[[DeltaTable], T]) -> T:
        """What deltalake says, for which it may have to read more of the log."""
        delta = self.delta

        def asked() -> T:
            try:
                return ask(delta)
            except (DeltaError, OSError) as error:
                self.table.refuse(error, is_transient="body error" in str(error))

        return persistently(asked)

    @property
    def id(self) -> str:
        """The table's own id; two tables never share one, whatever their names."""
        return str(self.delta.metadata().id)

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns with their types, and descriptions as field metadata."""
        return pa.schema(self.delta.schema())

    @cached_property
    def _kinds(self) -> pl.Schema:
        return pl.Schema(self.schema)

    @property
    def has_change_feed(self) -> bool:
        """Whether commits have to tell which rows they change."""
        return self.delta.metadata().configuration.get(CHANGE_FEED, "").lower() == "true"

    @property
    def has_deletion_vectors(self) -> bool:
        """Whether an upsert leaves data files as they are, and marks rows of them as gone."""
        return self.delta.metadata().configuration.get(ENABLED, "").lower() == "true"

    @cached_property
    def _deletions(self) -> dict[str, Deletion]:
        if FEATURE not in (self.delta.protocol().reader_features or []):
            return {}
        return deletions_at(self.table.lake, self.table.key, self.version)

    @property
    def constraints(self) -> dict[str, str]:
        """Rules that every row keeps, as SQL, by name."""
        found = self.delta.metadata().configuration.items()
        return {
            name.removeprefix(CONSTRAINT): rule
            for name, rule in found
            if name.startswith(CONSTRAINT)
        }

    @property
    def partition_columns(self) -> list[str]:
        """The columns whose values are in the folders' names."""
        return list(self.delta.metadata().partition_columns)

    @cached_property
    def files(self) -> list[StoredFile]:
        """The data files of this version."""
        check_readable(self.delta, self.table.name)
        actions = self._actions(flatten=True)
        gone, files = self._deletions, list[StoredFile]()
        for action in actions:
            path = unquote(action["path"])
            deletion = gone.get(path)
            rows = action["num_records"]
            rows = self._counted(path) if rows is None else rows
            files.append(
                StoredFile(
                    path=path,
                    size_bytes=action["size_bytes"],
                    rows=rows - (deletion.rows if deletion else 0),
                    partition=_partition(_prefixed(action, "partition.")),
                    lowest=_prefixed(action, "min."),
                    highest=_prefixed(action, "max."),
                    deletion=deletion,
                )
            )
        return files

    def _counted(self, path: str) -> int:
        """The rows of a data file of which the log doesn't tell; another engine wrote it."""
        file = StoredFile(path, 0, 0, {}, {}, {})
        return int(self._stored([file]).select(pl.len()).collect().item())

    def _actions(self, *, flatten: bool) -> list[dict[str, Any]]:
        """What the log says of each data file."""
        found = self._asked(lambda delta: delta.get_add_actions(flatten=flatten))
        return pl.DataFrame(found).to_dicts()  # pyarrow's would import pandas where it is installed

    def bounds(self, column: str) -> tuple[Any, Any]:
        """The least and the greatest value of a column, from statistics where all files have them;
        None and None where there is no value.
        """
        known: list[Any] = []
        for file in self.files:
            if file.deletion is not None:  # perhaps of a row that is gone
                known.append(None)
            known += [file.lowest.get(column), file.highest.get(column)]
        if None in known:
            value = pl.col(column)
            low, high = value.min().alias("low"), value.max().alias("high")
            return self.scan().select(low, high).collect(engine="streaming").row(0)
        return (min(known), max(known)) if known else (None, None)

    def staged(self) -> list[StagedFile]:
        """The data files of this version as a commit would add them anew."""
        check_readable(self.delta, self.table.name)
        gone, now_ms = self._deletions, int(time.time() * 1000)
        return [
            StagedFile(
                path=path,
                size_bytes=action["size_bytes"],
                rows=rows,
                partition=_partition(action.get("partition") or {}),
                statistics=statistics_json(
                    rows,
                    action.get("null_count") or {},
                    action.get("min") or {},
                    action.get("max") or {},
                    is_tight=path not in gone,
                ),
                modified_ms=now_ms,
                deletion=gone.get(path),
            )
            for action in self._actions(flatten=False)
            for path in [unquote(action["path"])]
            for known in [action["num_records"]]
            for rows in [self._counted(path) if known is None else known]
        ]

    @property
    def rows(self) -> int:
        """Rows in this version, from the log alone."""
        return sum(file.rows for file in self.files)

    @property
    def size_bytes(self) -> int:
        """Bytes of this version's data files, from the log alone."""
        return sum(file.size_bytes for file in self.files)

    def scan(self) -> pl.LazyFrame:
        """The rows as a polars frame, read when collected.

        Raises
        ------
        LakeError: files of the version were vacuumed.
        """
        self._check_there()
        # polars opens a path as the log's URL has it, percent signs and all, and finds no deletion
        # vector of a file whose name it writes otherwise than the log does.
        is_quoted = self.table.lake.is_local and quote(self.table.uri) != self.table.uri
        if not is_quoted and not self._deletions:
            return pl.scan_delta(self.delta)
        if not self.partition_columns or not self.files:
            return self.read(self.files, self.schema.names)
        return pl.concat([self.rows_of(file) for file in self.files])

    def dataset(self) -> pads.Dataset:
        """The rows as a pyarrow dataset.

        Raises
        ------
        LakeError: the table has deletion vectors, which no such dataset can apply; or files of the
            version were vacuumed.
        """
        self._check_there()
        if FEATURE in (self.delta.protocol().reader_features or []):
            raise LakeError(
                f"{self.table.name}: it has deletion vectors, which pyarrow datasets don't apply; "
                "read it with scan(), a polars frame, or `penstock sql`"
            )
        import pyarrow.dataset as pads  # 0.02 s that most don't need

        from penstock.tables.arrow_files import called, files_of

        lake, folder = self.table.lake, self.table.lake.objects.local_path(self.table.key)
        filesystem = pafs.LocalFileSystem() if lake.is_local else files_of(lake)

        def path(file: StoredFile) -> str:
            if folder is not None:
                return str(folder / file.path)
            return called(f"{self.table.key}/{file.path}", file.size_bytes)

        # deltalake takes a bound that a file doesn't have for one that no value keeps to.
        whole = self.delta.to_pyarrow_dataset(filesystem=filesystem)
        fragments = [
            whole.format.make_fragment(path(file), filesystem, self._holds(file))
            for file in self.files
        ]
        return pads.FileSystemDataset(fragments, whole.schema, whole.format, filesystem)

    def _check_there(self) -> None:
        """Raise `LakeError` where a data file of an old version is gone."""
        if not self._is_old:
            return
        objects, folder = self.table.lake.objects, f"{self.table.key}/"
        actions = self._asked(lambda delta: delta.get_add_actions())
        named = [folder + unquote(path) for path in pl.DataFrame(actions)["path"]]
        listed = {found.key for found in objects.list(self.table.key)}
        gone = [key for key in named if key not in listed and not objects.exists(key)]
        if gone:
            raise LakeError(
                f"{self.table.name}: version {self.version} can't be read: {len(gone):,} of its "
                f"{len(named):,} files were vacuumed; read a newer version, and tag those that are "
                "to stay"
            )

    def _holds(self, file: StoredFile) -> Any:
        """What is true of all rows of a data file, as pyarrow has it."""
        import pyarrow.dataset as pads

        said: Any = pads.scalar(value=True)
        for field in self.schema:
            name = pads.field(field.name)
            if field.name in file.partition:
                (value,) = partition_value(file.partition[field.name], field.type)
                said &= name.is_null() if not value.is_valid else name == value
                continue
            low, high = file.lowest.get(field.name), file.highest.get(field.name)
            # Of floats NaN is outside of all bounds, and those of texts may be cut.
            tests = (pa.types.is_integer, pa.types.is_date, pa.types.is_timestamp)
            if low is None or high is None or not any(test(field.type) for test in tests):
                continue
            if pa.types.is_timestamp(field.type):  # of which deltalake cuts what is under 1 ms
                if high.year == datetime.max.year:
                    continue
                high += timedelta(milliseconds=1)
            least, most = (pa.scalar(value, field.type) for value in (low, high))
            # In these words: of others that say the same, Arrow sees nothing to leave out.
            said &= (name >= least) | name.is_null()
            said &= (name <= most) | name.is_null()
        return said

    def relation(self) -> pads.Dataset | pl.LazyFrame:
        """The rows as DuckDB scans them with pushdown."""
        has_vectors = FEATURE in (self.delta.protocol().reader_features or [])
        return self.scan() if has_vectors else self.dataset()

    def read(self, files: Iterable[StoredFile], columns: Sequence[str]) -> pl.LazyFrame:
        """Some columns of some data files; none may be a partition column.

        Files from before a column was added have nulls in it.
        """
        frames = list[pl.LazyFrame]()
        for deletion, run in itertools.groupby(files, key=lambda file: file.deletion):
            if deletion is None:
                frames.append(self._stored([*run]).select(columns))
            else:
                frames += [self._placed(file).select(columns) for file in run]
        if not frames:
            return pl.LazyFrame(schema=self._kinds).select(columns)
        return frames[0] if len(frames) == 1 else pl.concat(frames)

    def _stored(self, files: Sequence[StoredFile], **options: Any) -> pl.LazyFrame:
        """All that is in some data files, gone or not."""
        partitions = set(self.partition_columns)
        schema = {name: kind for name, kind in self._kinds.items() if name not in partitions}
        stored: Any = self.table.lake.storage_options or None
        return pl.scan_parquet(
            [f"{self.table.uri}/{file.path}" for file in files],
            storage_options=stored,
            glob=False,
            schema=schema,
            missing_columns="insert",
            cast_options=_NARROWER,
            hive_partitioning=False,
            **options,
        )

    def _placed(self, file: StoredFile) -> pl.LazyFrame:
        """A data file's rows and their places in it, without those that are gone."""
        return _rows_without(self._stored([file], row_index_name=PLACE), self.places_gone(file))

    def places_gone(self, file: StoredFile) -> NDArray[np.uint64]:
        """Places in a data file whose rows are gone, ascending."""
        if file.deletion is None:
            return np.empty(0, np.uint64)
        return places_of(file.deletion, self.table.lake.objects, self.table.key)

    def rows_of(self, file: StoredFile, *, with_places: bool = False) -> pl.LazyFrame:
        """A data file's rows, partition columns too.

        Parameters
        ----------
        with_places: whether a last column, `PLACE`, says where in the file each one is.
        """
        if with_places:
            return self._whole(file, self._placed(file), [PLACE])
        partitions = set(self.partition_columns)
        names = [name for name in self.schema.names if name not in partitions]
        return self._whole(file, self.read([file], names), [])

    def portions_of(
        self, file: StoredFile, size_bytes: int = PORTION_BYTES, *, with_places: bool = False
    ) -> Iterator[pl.LazyFrame]:
        """The same, some row groups after the other: who collects them holds one portion, where
        a stream of the whole file holds what is read ahead.

        Parameters
        ----------
        size_bytes: of a portion that is more than one row group, as Parquet encodes it.
        """
        gone, places = self.places_gone(file), [PLACE] if with_places else []
        for begin, count in self._portions(file, size_bytes):
            rows = self._stored([file], row_index_name=PLACE).slice(begin, count)
            few = gone[np.searchsorted(gone, begin) : np.searchsorted(gone, begin + count)]
            yield self._whole(file, _rows_without(rows, few), places)

    def stream(
        self, files: Iterable[StoredFile], made: Callable[[pl.LazyFrame], pl.LazyFrame]
    ) -> Iterator[pl.DataFrame]:
        """What is made of data files' rows, portion by portion, the next read meanwhile."""
        ahead = Threads(1 if self.table.lake.is_local else _READ_AT_ONCE // 2)
        portions = (rows for file in files for rows in self.portions_of(file))
        return ahead.run(lambda rows: made(rows).collect(engine="in-memory"), portions)

    def _portions(self, file: StoredFile, size_bytes: int) -> Iterator[tuple[int, int]]:
        """First row and rows of each portion of a data file."""
        rows = file.rows + (file.deletion.rows if file.deletion else 0)
        if rows <= ROW_GROUP_ROWS and file.size_bytes * _PACKED <= size_bytes:
            yield 0, rows
            return
        begin = count = held = 0
        for its_rows, its_bytes in row_groups(self.table.lake.objects, self.table.key, file):
            if count and (held + its_bytes > size_bytes or count + its_rows > _PORTION_ROWS):
                yield begin, count
                begin, count, held = begin + count, 0, 0
            count, held = count + its_rows, held + its_bytes
        if count:
            yield begin, count

    def _whole(self, file: StoredFile, rows: pl.LazyFrame, more: list[str]) -> pl.LazyFrame:
        """A data file's rows in the table's columns, those of partitions too, and some more."""
        partitions = set(self.partition_columns)
        names = [name for name in self.schema.names if name not in partitions]
        rows = rows.select(*names, *more)
        if not partitions:
            return rows
        kinds = {name: self.schema.field(name).type for name in partitions}
        values = [
            # A partition's value, from how the log writes it.
            pl.lit(pl.Series(name, partition_value(file.partition.get(name), kind))).first()
            for name, kind in kinds.items()
        ]
        return rows.with_columns(values).select(*self.schema.names, *more)

    def transaction(self, application: str) -> int:
        """The newest batch number that the application has committed; 0 before its first."""
        if application not in self._transactions:  # for which deltalake reads the log again
            found = self._asked(lambda delta: delta.transaction_version(application))
            self._transactions[application] = found or 0
        return self._transactions[application]

    def history(self, limit: int | None = None) -> list[dict[str, Any]]:
        """What the newest commits say of themselves, newest first, as far back as the log goes."""
        return [*itertools.islice(self.commits(), limit)]

    def commits(self) -> Iterator[dict[str, Any]]:
        """The same, read as they are asked for, some at a time; deltalake would hold the GIL."""
        objects, key = self.table.lake.objects, self.table.key
        with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="penstock-log") as pool:
            for newest in range(self.version, -1, -_READ_AT_ONCE):
                versions = range(newest, max(-1, newest - _READ_AT_ONCE), -1)
                texts = pool.map(objects.get_or_none, (path_of(key, v) for v in versions))
                for version, text in zip(versions, texts, strict=True):
                    if text is None:
                        return
                    yield {"version": version, **commit_info(text)}

    def metadata(self, application: str, search: int = 50) -> dict[str, Any]:
        """What the newest commit of `application` noted; empty when there was none."""
        for commit in itertools.islice(self.commits(), search):
            if commit.get("penstock.application") == application:
                return json.loads(commit.get("penstock.note") or "{}")
        return {}


def _rows_without(rows: pl.LazyFrame, gone: NDArray[np.uint64]) -> pl.LazyFrame:
    """Rows with their places, but those in some of these."""
    if not len(gone):
        return rows
    places = pl.Series(gone, dtype=pl.UInt32)
    return rows.filter(~pl.col(PLACE).is_in(pl.lit(places).implode()))


def _partition(values: Mapping[str, Any]) -> dict[str, str | None]:
    return {name: partition_text(value) for name, value in values.items()}


def _prefixed(action: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name[len(prefix) :]: v for name, v in action.items() if name.startswith(prefix)}
