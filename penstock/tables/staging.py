"""Parquet files written beside a table, with the statistics that a Delta commit needs of each."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.errors import LakeError
from penstock.lake import Lake, table_key
from penstock.storage.objects import ObjectStore
from penstock.tables.deletions import Deletion

FILE_BYTES = 128 << 20
"""Arrow bytes after which a new Parquet file is begun."""
ROW_GROUP_ROWS = 1 << 17
ROW_GROUP_BYTES = 64 << 20
"""As Arrow holds them; readers hold a whole row group."""
SOURCE_FILE = "_source_file"
_SOURCE_ROW = "_source_row"
_CONSTANT = ("_ingested_at", "_batch")
"""The same for many rows."""
_FOOTER_BYTES = 64 << 10
"""Read of a file's end at first; most footers are shorter."""
_NAMED = pa.dictionary(pa.int32(), pa.string())
"""How source files' names are written: each once, and a number a row."""
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_LONGEST_BOUND = 64
"""Characters of a string kept as a file's minimum or maximum."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A data file that a table's version names."""

    path: str
    size_bytes: int
    rows: int
    partition: Mapping[str, str | None]
    lowest: Mapping[str, Any]
    highest: Mapping[str, Any]
    deletion: Deletion | None = None
    """Rows of it that are gone; not in `rows`, but within the bounds."""

    @property
    def id(self) -> str:
        """Tells these rows from others: a file stays when some of its rows go."""
        return f"{self.path}#{self.deletion.id}" if self.deletion else self.path

    @property
    def share_gone(self) -> float:
        """Of the rows stored, those that are gone."""
        gone = self.deletion.rows if self.deletion else 0
        return gone / max(1, self.rows + gone)

    def may_hold(self, column: str, values: Iterable[str], *, is_prefix: bool = False) -> bool:
        """Whether the file's statistics leave room for a row with one of these values, or one that
        begins with it.
        """
        low, high = self.lowest.get(column), self.highest.get(column)
        if low is None or high is None:
            return True
        last = "\U0010ffff" if is_prefix else ""
        return any(low <= value + last and value <= high for value in values)


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A Parquet file that no commit names yet."""

    path: str
    """Relative to the table's folder."""
    size_bytes: int
    rows: int
    partition: Mapping[str, str | None]
    statistics: str
    """As Delta's protocol wants it: JSON of numRecords, minValues, maxValues, nullCount."""
    modified_ms: int
    deletion: Deletion | None = None
    """Rows of it that are gone, where it was in the table before; `rows` are all of them."""

    def as_stored(self) -> StoredFile:
        """As a version that names it has it, without statistics."""
        rows = self.rows - (self.deletion.rows if self.deletion else 0)
        return StoredFile(
            self.path, self.size_bytes, rows, self.partition, {}, {}, deletion=self.deletion
        )


class Stager:
    """Writes a stream of batches as Parquet files of a healthy size.

    A context manager: leaving it by an error deletes what was staged.

    Parameters
    ----------
    schema: of the whole table; batches are cast to it, partition columns are left out of files.
    partition: values of the partition columns, as strings, for every row written.
    file_bytes: after which a new file is begun, counted as Arrow holds them, or as stored.
    subfolder: of the table's folder, ending with a slash, in the place of a folder a partition.
    bounded: columns whose nulls, minimum and maximum are kept; by default all.
    """

    def __init__(
        self,
        lake: Lake,
        name: str,
        schema: pa.Schema,
        *,
        partition: Mapping[str, str | None] | None = None,
        file_bytes: int = FILE_BYTES,
        counts_stored: bool = False,
        subfolder: str = "",
        bounded: Sequence[str] | None = None,
    ) -> None:
        self._lake, self.folder = lake, table_key(name)
        self._partition = dict(partition or {})
        self._schema = pa.schema([f for f in schema if f.name not in self._partition])
        self._cast = pa.schema(
            [f.with_type(_NAMED) if f.name == SOURCE_FILE else f for f in self._schema]
        )
        self._subfolder = subfolder
        self._bounded = None if bounded is None else list(bounded)
        self._file_bytes, self._counts_stored = file_bytes, counts_stored
        self._files: list[StagedFile] = []
        self._id = uuid.uuid4().hex
        self._open: _OpenFile | None = None
        self.rows = 0

    def __enter__(self) -> Stager:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.abandon()

    def write(self, data: pa.Table | pa.RecordBatch) -> None:
        """Add rows, cast to the table's schema by name; columns that they lack are null.

        One call's rows lie in one file.
        """
        table = pa.Table.from_batches([data]) if isinstance(data, pa.RecordBatch) else data
        columns = [
            table[f.name] if f.name in table.column_names else pa.nulls(len(table), f.type)
            for f in self._schema
        ]
        table = pa.table(columns, names=self._schema.names)
        if not _is_written_as(table.schema, self._cast):
            table = table.cast(self._cast)
        if self._open is not None and self._open.size(self._counts_stored) >= self._file_bytes:
            self._roll()
        a_row = max(1, table.nbytes // max(1, table.num_rows))
        rows = min(ROW_GROUP_ROWS, max(1, ROW_GROUP_BYTES // a_row))
        for start in range(0, table.num_rows, rows):
            piece = table.slice(start, rows)
            if self._open is None:
                name = f"part-{self._id}-{len(self._files):04d}.parquet"
                path = f"{self._subfolder or _hive(self._partition)}{name}"
                schemas = self._cast, piece.schema
                self._open = _OpenFile(
                    self._lake, self.folder, path, *schemas, self._partition, self._bounded
                )
            self._open.write(piece)
            self.rows += piece.num_rows

    def finish(self) -> list[StagedFile]:
        """Close the last file; all that were staged, for a commit to name."""
        self._roll()
        return list(self._files)

    def abandon(self) -> None:
        """Delete everything staged here."""
        with contextlib.suppress(Exception):  # a half-open upload may fail to close; it goes anyway
            self._roll()
        discard(self._lake, self.folder, self._files)
        self._files = []

    def _roll(self) -> None:
        if self._open is not None:
            opened, self._open = self._open, None
            self._files.append(opened.close())


def discard(lake: Lake, folder: str, files: list[StagedFile]) -> None:
    """Delete staged files that will not be committed."""
    lake.objects.delete(f"{folder}/{file.path}" for file in files)


def row_groups(objects: ObjectStore, key: str, file: StoredFile) -> list[tuple[int, int]]:
    """Rows and bytes, as encoded before they are packed, of each row group of a data file of the
    table at `key`.

    Raises
    ------
    LakeError: it is no whole Parquet file.
    """
    path, size = f"{key}/{file.path}", file.size_bytes
    read = min(size, _FOOTER_BYTES)
    tail = bytes(objects.get_range(path, size - read, read))
    # The last eight bytes are the footer's length and a magic word.
    footer = int.from_bytes(tail[-8:-4], "little") + 8
    if read < footer <= size:
        tail = bytes(objects.get_range(path, size - footer, footer))
    try:
        stored = pq.read_metadata(pa.BufferReader(tail))
    except (pa.ArrowException, OSError) as error:
        raise LakeError(f"{path}: it is no whole Parquet file: {error}") from error
    groups = (stored.row_group(number) for number in range(stored.num_row_groups))
    return [(group.num_rows, group.total_byte_size) for group in groups]


def _hive(partition: Mapping[str, str | None]) -> str:
    """Folders as Hive names them: some readers take the values from there."""
    named = {key: _NO_VALUE if value is None else value for key, value in partition.items()}
    return "".join(f"{quote(key)}={quote(value, safe='')}/" for key, value in named.items())


def partition_text(value: Any) -> str | None:
    """A partition's value as the log writes it: null, or text."""
    match value:
        case None | "":
            return None
        case bool():
            return str(value).lower()
        case datetime.datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S.%f")
        case _:
            return str(value)


def partition_value(text: str | None, kind: pa.DataType) -> pa.Array:
    """The same read again; times are written without their zone, which is UTC."""
    if pa.types.is_timestamp(kind) and kind.tz and text and not text.endswith("Z"):
        text += "Z"
    return pa.array([text], pa.string()).cast(kind)


class _OpenFile:
    def __init__(
        self,
        lake: Lake,
        folder: str,
        path: str,
        schema: pa.Schema,
        written: pa.Schema,
        partition: Mapping[str, str | None],
        bounded: list[str] | None,
    ) -> None:
        self._path = path
        self._partition = partition
        self._key, self._objects = f"{folder}/{self._path}", lake.objects
        self._sink = self._objects.open_writer(self._key)
        # To try a dictionary on numbers takes as long as all else, and zstd packs them as well.
        texts: Any = [f.name for f in schema if _is_text(f.type) or f.name in _CONSTANT]
        numbers = (f.name for f in schema if pa.types.is_integer(f.type))
        rising = {name: "DELTA_BINARY_PACKED" for name in numbers if name == _SOURCE_ROW}
        kept: Any = True if bounded is None else bounded
        self._metadata: list[Any] = []
        self._schema, self._written = schema, written
        self._writer = pq.ParquetWriter(
            self._sink,
            written,
            compression="zstd",
            use_dictionary=texts,
            column_encoding=rising or None,
            store_schema=False,  # what is a dictionary here is text to readers
            write_statistics=kept,
            metadata_collector=self._metadata,
        )
        self.written_bytes = 0

    def write(self, table: pa.Table) -> None:
        if table.schema != self._written:
            table = table.cast(self._written)
        self._writer.write_table(table)
        self.written_bytes += table.nbytes

    def size(self, counts_stored: bool) -> int:
        return self._sink.written_bytes if counts_stored else self.written_bytes

    def close(self) -> StagedFile:
        self._writer.close()
        self._sink.close()
        (written,) = self._metadata
        return StagedFile(
            path=self._path,
            size_bytes=self._sink.written_bytes,
            rows=written.num_rows,
            partition=self._partition,
            statistics=_statistics(written, self._schema),
            modified_ms=int(time.time() * 1000),
        )


def _statistics(written: Any, schema: pa.Schema) -> str:
    """Row count, and each column's nulls, minimum and maximum, as the Parquet writer found them."""
    nulls, lowest, highest = dict[str, int](), dict[str, Any](), dict[str, Any]()
    names = [written.schema.column(place).path for place in range(written.num_columns)]
    for place, name in enumerate(names):
        if name not in schema.names:
            continue  # a leaf of a nested column
        groups = [written.row_group(number) for number in range(written.num_row_groups)]
        found = [(group.num_rows, group.column(place).statistics) for group in groups]
        if any(each is None or not each.has_null_count for _, each in found):
            continue
        nulls[name] = sum(each.null_count for _, each in found)
        # Of a value of some kB the writer keeps no bound; then there is none for the file.
        having = [each for rows, each in found if each.null_count < rows]
        kind = schema.field(name).type
        if having and _is_ordered(kind) and all(each.has_min_max for each in having):
            if pa.types.is_timestamp(kind):  # of one with a zone, pyarrow imports pandas
                lowest[name] = _time(min(each.min_raw for each in having), kind)
                highest[name] = _time(max(each.max_raw for each in having), kind)
            else:
                lowest[name] = min(each.min for each in having)
                highest[name] = max(each.max for each in having)
    return statistics_json(written.num_rows, nulls, lowest, highest)


def _time(raw: int, kind: pa.TimestampType) -> datetime.datetime | None:
    """A timestamp, in microseconds as all of Delta's are; None for years that Python lacks."""
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC if kind.tz else None)
    try:
        return epoch + datetime.timedelta(microseconds=raw)
    except OverflowError:
        return None


def statistics_json(
    rows: int,
    nulls: Mapping[str, Any],
    lowest: Mapping[str, Any],
    highest: Mapping[str, Any],
    *,
    is_tight: bool = True,
) -> str:
    """A file's statistics as Delta's log has them.

    Parameters
    ----------
    is_tight: false where rows are gone, maybe those with the least and greatest values.
    """
    low = {name: _bound(v, upper=False) for name, v in lowest.items() if _is_bound(v)}
    high = {name: _bound(v, upper=True) for name, v in highest.items() if _is_bound(v)}
    said = {"numRecords": rows, "nullCount": dict(nulls), "minValues": low, "maxValues": high}
    # deltalake reads some characters wrongly where they are escaped.
    return json.dumps(said if is_tight else {**said, "tightBounds": False}, ensure_ascii=False)


def loosened(statistics: str) -> str:
    """The statistics of a file of which more rows are gone."""
    return json.dumps({**json.loads(statistics), "tightBounds": False}, ensure_ascii=False)


def _is_bound(value: Any) -> bool:
    """Whether it can be written down; infinity can't, in JSON, and a part of a whole isn't."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, bool | int | str | datetime.date | datetime.datetime)


def _is_written_as(have: pa.Schema, wanted: pa.Schema) -> bool:
    """Whether rows come out of a Parquet file the same, cast or not."""
    for field, there in zip(wanted, have, strict=True):
        is_name = field.type == _NAMED and _is_text(there.type)
        if not field.nullable or not (is_name or _is_stored_as(there.type, field.type)):
            return False
    return True


def _is_stored_as(have: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether types are the same but for the size of their offsets, which are in memory alone."""
    if pa.types.is_large_string(have):
        return pa.types.is_string(wanted)
    if pa.types.is_large_binary(have):
        return pa.types.is_binary(wanted)
    if pa.types.is_large_list(have) and pa.types.is_list(wanted):
        return _is_stored_as(have.value_type, wanted.value_type)
    if pa.types.is_struct(have) and pa.types.is_struct(wanted):
        names = [[kind.field(n).name for n in range(kind.num_fields)] for kind in (have, wanted)]
        return names[0] == names[1] and all(
            wanted.field(n).nullable and _is_stored_as(have.field(n).type, wanted.field(n).type)
            for n in range(wanted.num_fields)
        )
    return have == wanted


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)


def _is_ordered(kind: pa.DataType) -> bool:
    tests = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_string,
        pa.types.is_dictionary,
        pa.types.is_timestamp,
        pa.types.is_date,
    )
    return any(test(kind) for test in tests)


def _bound(value: Any, *, upper: bool) -> Any:
    """A minimum or maximum as Delta's statistics write it.

    A long string's maximum is cut and then raised, so that it still bounds what was cut off.
    """
    match value:
        case str() if len(value) > _LONGEST_BOUND and value[_LONGEST_BOUND] != "\U0010ffff":
            return value[:_LONGEST_BOUND] + ("\U0010ffff" if upper else "")
        case datetime.datetime():
            return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
        case datetime.date():
            return value.isoformat()
        case _:
            return value
