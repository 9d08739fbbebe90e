"""Where the record batches of an Arrow file lie, so that object storage is asked for one at a time.

pyarrow reads a footer but doesn't say what is in it. The layout is that of Arrow's IPC file format
(https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format), whose messages are FlatBuffers
(https://flatbuffers.dev/internals): a table begins with the distance back to its vtable, which has
the place of each field.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from penstock.errors import ShardError
from penstock.storage.objects import ObjectStore

_MAGIC = b"ARROW1"
_TAIL = 10
"""Bytes of the footer's length and the magic after it."""
_GUESS = 64 << 10
_METADATA_BYTES = 16 << 20
"""Of one message's header; more is no message."""
_READERS = 16


@dataclass(frozen=True, slots=True)
class ArrowBatch:
    """One record batch, where it lies."""

    start: int
    length: int
    rows: int
    nulls: tuple[int, ...]
    """Of each field, nested ones after their parents."""


@dataclass(frozen=True, slots=True)
class ArrowFile:
    """What an Arrow file's footer says, and what each of its batches needs to be read."""

    schema: pa.Schema
    head: bytes
    """The messages before any batch: schema and dictionaries."""
    batches: tuple[ArrowBatch, ...]

    def read(self, message: Any) -> pa.RecordBatch:
        """A record batch from its bytes."""
        stream = pa.ipc.open_stream(pa.py_buffer(b"".join((self.head, message))))
        return stream.read_next_batch()

    def null_count(self, batch: ArrowBatch, name: str) -> int:
        """How many nulls a column of a batch has."""
        place = self.schema.get_field_index(name)
        return batch.nulls[sum(_nodes(self.schema.field(n).type) for n in range(place))]


def open_arrow_file(objects: ObjectStore, key: str, size_bytes: int) -> ArrowFile:
    """Read the footer of an Arrow file, and each batch's header.

    Raises
    ------
    ShardError: it has no footer (a stream has none), or is damaged.
    StorageError: it can't be had.
    """
    where = f"{objects.uri}/{key}"
    tail = bytes(objects.get_range(key, max(0, size_bytes - _GUESS), min(size_bytes, _GUESS)))
    if len(tail) < _TAIL or not tail.endswith(_MAGIC):
        raise ShardError(
            f"{where}: no Arrow file: it has no footer. An Arrow stream is read from this "
            "machine's disk only; write it as a file (pyarrow.ipc.new_file) to read it from there"
        )
    try:
        length = int.from_bytes(tail[-_TAIL : -_TAIL + 4], "little")
        if length + _TAIL > len(tail):
            tail = bytes(objects.get_range(key, size_bytes - length - _TAIL, length + _TAIL))
        footer = _Table.root(tail[-length - _TAIL : -_TAIL])
        places = footer.blocks(3)
        dictionaries = footer.blocks(2)
        first = min((start for start, _, _ in (*dictionaries, *places)), default=None)
        start = len(_MAGIC) + 2
        stop = first if first is not None else size_bytes - length - _TAIL
        head = bytes(objects.get_range(key, start, stop - start))
        schema = pa.ipc.read_schema(pa.py_buffer(head))
        for at, metadata, body in dictionaries:
            head += bytes(objects.get_range(key, at, metadata + body))
        if any(metadata > _METADATA_BYTES for _, metadata, _ in places):
            raise ValueError("a message with too long a header")
        with ThreadPoolExecutor(_READERS) as pool:
            headers = pool.map(lambda place: bytes(objects.get_range(key, *place[:2])), places)
            batches = tuple(map(_batch, places, headers))
    except (struct.error, pa.ArrowException, IndexError, ValueError) as error:
        raise ShardError(f"{where}: a damaged Arrow file: {error}") from error
    return ArrowFile(schema, head, batches)


def _batch(place: tuple[int, int, int], header: bytes) -> ArrowBatch:
    at, metadata, body = place
    # A continuation mark comes before the length, but in files from before Arrow 0.15.
    prefix = 8 if header[:4] == b"\xff\xff\xff\xff" else 4
    record = _Table.root(header[prefix:]).table(2)
    nulls = tuple(nulls for _, nulls in record.structs(1, "<qq"))
    return ArrowBatch(at, metadata + body, record.number(0), nulls)


def _nodes(kind: pa.DataType) -> int:
    """How many fields a column counts for in a batch's header."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        return 1
    return 1 + sum(_nodes(kind.field(n).type) for n in range(kind.num_fields))


@dataclass(frozen=True, slots=True)
class _Table:
    """A FlatBuffers table."""

    data: bytes
    at: int

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, *struct.unpack_from("<I", data))

    def _place(self, field: int) -> int:
        """Of a field's value; 0 where it isn't there."""
        vtable = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        (size,) = struct.unpack_from("<H", self.data, vtable)
        slot = 4 + 2 * field
        if slot >= size:
            return 0
        (offset,) = struct.unpack_from("<H", self.data, vtable + slot)
        return self.at + offset if offset else 0

    def _target(self, field: int) -> int:
        place = self._place(field)
        return place + struct.unpack_from("<I", self.data, place)[0] if place else 0

    def number(self, field: int) -> int:
        """A 64-bit integer."""
        place = self._place(field)
        return struct.unpack_from("<q", self.data, place)[0] if place else 0

    def table(self, field: int) -> _Table:
        """A table within this one."""
        target = self._target(field)
        if not target:
            raise ValueError("a message without a header")
        return _Table(self.data, target)

    def structs(self, field: int, form: str) -> Iterator[tuple[Any, ...]]:
        """A vector of structs."""
        target = self._target(field)
        if not target:
            return
        (count,) = struct.unpack_from("<I", self.data, target)
        for place in range(count):
            yield struct.unpack_from(form, self.data, target + 4 + place * struct.calcsize(form))

    def blocks(self, field: int) -> list[tuple[int, int, int]]:
        """Where messages lie: start, bytes of metadata, bytes of body."""
        return [(start, metadata, body) for start, metadata, body in self.structs(field, "<qi4xq")]
