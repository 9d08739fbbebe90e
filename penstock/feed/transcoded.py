"""Parquet, Delta and Arrow data where it lies, its row groups turned into blocks on first touch.

    row group ─▶ read ─▶ columns of one type side by side in a tensor ─▶ Arrow message ─▶ the cache

A row group is a block. Columns of the same number type are kept as one packed column, so that a
row of them is gathered in one copy; batches show them under their own names.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from penstock.errors import ShardError
from penstock.feed.arena import page_up
from penstock.feed.arrow_file import ArrowFile
from penstock.feed.cache import Layout
from penstock.feed.fetch import Fetcher
from penstock.shards.ranges import Ranges
from penstock.storage.objects import ObjectStore

_SLACK_BYTES = 64 << 20
"""Address space, not memory, that a block may take beyond what its statistics foretell."""
_BLOCKS_A_FILE = 64
_DECODED_AT_ONCE = 512 << 20


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One row group of a Parquet file, or one record batch of an Arrow file."""

    key: str
    """Of the file under the root."""
    number: int
    """Within the file."""
    rows: int
    size_bytes: int
    """Decoded, about."""
    start: int
    stop: int
    """Where its bytes lie in the file; 0 and 0 in an Arrow file, which is mapped."""
    constants: tuple[tuple[str, Any], ...] = ()
    """Columns that the file doesn't hold: a partition's values."""


@dataclass(frozen=True)
class TranscodedSource:
    """Blocks made of row groups.

    Parameters
    ----------
    columns: of the data, in order, as batches show them.
    whole: columns without a null in any row group; only these are packed.
    """

    fingerprint: str
    objects: ObjectStore
    groups: tuple[RowGroup, ...]
    columns: pa.Schema
    whole: frozenset[str]
    ranges: dict[str, Ranges]
    footers: Mapping[str, pq.FileMetaData]
    """Of each Parquet file, by key."""
    arrow_files: Mapping[str, ArrowFile]
    """Those in object storage, by key."""

    @property
    def schema(self) -> pa.Schema:
        """Of every block: packed columns first."""
        return self._physical

    @property
    def packed(self) -> dict[str, tuple[str, int]]:
        """Columns that lie in a packed one: its name, and the place there."""
        return self._packed

    @cached_property
    def _packed(self) -> dict[str, tuple[str, int]]:
        groups: dict[str, list[str]] = {}
        for field in self.columns:
            if field.name in self.whole and _is_number(field.type):
                groups.setdefault(str(field.type), []).append(field.name)
        return {
            name: (f"packed_{kind}", place)
            for kind, names in groups.items()
            if len(names) > 1
            for place, name in enumerate(names)
        }

    @cached_property
    def _physical(self) -> pa.Schema:
        fields: dict[str, pa.Field] = {}
        members: dict[str, list[str]] = {}
        for name, (packed, _) in self._packed.items():
            members.setdefault(packed, []).append(name)
        for packed, names in members.items():
            kind = pa.fixed_shape_tensor(self.columns.field(names[0]).type, [len(names)])
            fields[packed] = pa.field(packed, kind, metadata={"columns": json.dumps(names)})
        rest = [field for field in self.columns if field.name not in self._packed]
        return pa.schema([*fields.values(), *rest])

    @property
    def rows(self) -> NDArray[np.int64]:
        """(blocks,) rows of each block."""
        return self._rows

    @cached_property
    def _rows(self) -> NDArray[np.int64]:
        return np.array([group.rows for group in self.groups], np.int64)

    @property
    def layout(self) -> Layout:
        """Files of 64 blocks, each block with room to spare: files are sparse."""
        return self._layout

    @cached_property
    def _layout(self) -> Layout:
        has_variable = any(not _is_fixed(field.type) for field in self.columns)
        slack = _SLACK_BYTES if has_variable else 1 << 16
        room = np.array([page_up(2 * group.size_bytes + slack) for group in self.groups], np.int64)
        number = np.arange(len(room), dtype=np.int32) // _BLOCKS_A_FILE
        ends = np.cumsum(room)
        starts = ends - room
        firsts = starts[::_BLOCKS_A_FILE]
        sizes = np.diff(firsts, append=int(ends[-1]) if len(ends) else 0)
        files = tuple((f"blocks-{n:05d}", int(size)) for n, size in enumerate(sizes.tolist()))
        return Layout(files, number, starts - firsts[number] if len(room) else starts, room)

    @property
    def in_layout(self) -> NDArray[np.int64]:
        """(blocks,) themselves."""
        return np.arange(len(self.groups))

    @property
    def file_of(self) -> NDArray[np.int64]:
        """(blocks,) the file of Parquet or Arrow of each."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(g.key, len(numbers)) for g in self.groups], np.int64)

    @property
    def block_bytes(self) -> NDArray[np.int64]:
        """(blocks,) about so many."""
        return self._block_bytes

    @cached_property
    def _block_bytes(self) -> NDArray[np.int64]:
        return np.array([group.size_bytes for group in self.groups], np.int64)

    @property
    def is_remote(self) -> bool:
        """Whether the files are in object storage."""
        return self.objects.local_path("") is None

    @property
    def most_at_once(self) -> int:
        """Row groups that are decoded at the same time, so that memory is bounded."""
        largest = max((group.size_bytes for group in self.groups), default=1)
        return max(2, min(16, _DECODED_AT_ONCE // max(1, 2 * largest)))

    def elements(self, column: str) -> NDArray[np.int64] | None:
        """Unknown until the blocks are read."""
        return None

    def local_path(self, file: int) -> Path | None:
        """None: blocks are not there before they are made."""
        return None

    def runs(self, blocks: Sequence[int]) -> list[list[int]]:
        """Each by itself."""
        return [[block] for block in blocks]

    def fetch(self, blocks: Sequence[int], fetcher: Fetcher) -> list[tuple[memoryview, int]]:
        """Row groups read and turned into messages."""
        messages = [self._message(block, fetcher) for block in blocks]
        return [(message, xxhash.xxh3_64_intdigest(message)) for message in messages]

    def verify(self, block: int, data: Any) -> int:
        """The checksum: there is none published to hold it against."""
        return xxhash.xxh3_64_intdigest(data)

    def _message(self, block: int, fetcher: Fetcher) -> memoryview:
        group = self.groups[block]
        where = f"{self.objects.uri}/{group.key}, row group {group.number}"
        try:
            table = self._read(group, fetcher)
            message = memoryview(self._packed_batch(table).serialize())
        except (pa.ArrowException, KeyError, OSError) as error:
            raise ShardError(f"{where}: can't be read: {error}") from error
        if table.num_rows != group.rows:
            raise ShardError(
                f"{where}: has {table.num_rows:,} rows, and its footer says {group.rows:,}"
            )
        room = int(self._layout.room[block])
        if message.nbytes > room:
            raise ShardError(
                f"{where}: takes {message.nbytes:,} bytes decoded, far more than its footer lets "
                f"expect ({room:,}). Write it with smaller row groups, or publish it as a dataset"
            )
        return message

    def _read(self, group: RowGroup, fetcher: Fetcher) -> pa.Table:
        held = [name for name in self.columns.names if name not in dict(group.constants)]
        if (
            group.key in self.footers
        ):  # a Delta table's older files lack the columns that were added later
            there = set(self.footers[group.key].schema.to_arrow_schema().names)
            held = [name for name in held if name in there]
        path = self.objects.local_path(group.key)
        if group.key in self.arrow_files:
            data = fetcher.get(group.key, group.start, group.stop - group.start).result()
            batch = self.arrow_files[group.key].read(data)
            table = pa.Table.from_batches([batch]).select(held)
        elif not group.stop:
            table = pa.Table.from_batches([arrow_batches(str(path))[group.number]]).select(held)
        else:
            if path is not None:
                file: Any = pa.memory_map(str(path))
            else:
                length = group.stop - group.start
                data = memoryview(fetcher.get(group.key, group.start, length).result())
                file = pa.PythonFile(_Stretch(data, group.start), mode="r")
            reader = pq.ParquetFile(file, metadata=self.footers[group.key])
            table = reader.read_row_group(group.number, columns=held, use_threads=False)
        for name, value in group.constants:
            kind = self.columns.field(name).type
            constant = pa.repeat(pa.scalar(value).cast(kind), table.num_rows)
            table = table.append_column(name, constant)
        for name in set(self.columns.names) - set(table.column_names):
            absent = pa.nulls(table.num_rows, self.columns.field(name).type)
            table = table.append_column(name, absent)
        return table.select(self.columns.names).cast(self.columns)

    def _packed_batch(self, table: pa.Table) -> pa.RecordBatch:
        matrices: dict[str, NDArray[Any]] = {}
        for name, (packed, place) in self._packed.items():
            if packed not in matrices:
                kind = self._physical.field(packed).type
                shape = (table.num_rows, kind.shape[0])
                matrices[packed] = np.empty(shape, kind.value_type.to_pandas_dtype())
            matrices[packed][:, place] = table[name].to_numpy()
        arrays: list[pa.Array] = []
        for field in self._physical:
            if field.name in matrices:
                arrays.append(pa.FixedShapeTensorArray.from_numpy_ndarray(matrices[field.name]))
            else:
                arrays.append(_one_chunk(table[field.name], field.type))
        return pa.record_batch(arrays, schema=self._physical)


class _Stretch(io.RawIOBase):
    """A file of which only a stretch is at hand."""

    def __init__(self, data: memoryview, start: int) -> None:
        super().__init__()
        self._data, self._start, self._at = data, start, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0, /) -> int:
        end = self._start + len(self._data)
        self._at = offset + (0, self._at, end)[whence]
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        first = self._at - self._start
        last = len(self._data) if size < 0 else first + size
        if first < 0:
            raise OSError(f"byte {self._at} is outside of what was fetched")
        piece = bytes(self._data[first:last])
        self._at += len(piece)
        return piece


def arrow_batches(path: str) -> list[pa.RecordBatch]:
    """The record batches of an Arrow file or stream on this machine's disk, mapped.

    Raises
    ------
    ShardError: it is neither.
    """
    file = pa.memory_map(path)
    try:
        reader = pa.ipc.open_file(file)
        return [reader.get_batch(number) for number in range(reader.num_record_batches)]
    except pa.ArrowInvalid:
        file.seek(0)
    try:
        return list(pa.ipc.open_stream(file))
    except pa.ArrowInvalid as error:
        raise ShardError(f"{path}: neither an Arrow file nor a stream: {error}") from error


def _one_chunk(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    if column.num_chunks == 1:
        whole = column.chunk(0)
    else:
        whole = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], kind)
    return whole.cast(kind)


def _is_number(kind: pa.DataType) -> bool:
    return (pa.types.is_integer(kind) or pa.types.is_floating(kind)) and kind != pa.float16()


def _is_fixed(kind: pa.DataType) -> bool:
    return (
        pa.types.is_primitive(kind)
        or pa.types.is_fixed_size_list(kind)
        or (pa.types.is_fixed_size_binary(kind))
    )
