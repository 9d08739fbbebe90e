"""Rows of differing length out of blocks: strings, binary and lists of numbers, one copy each.

A batch's rows are first named as views (Arrow's binary view: a length, and where it lies in which
buffer) over the blocks' own memory, and Arrow then copies them one after another. Of binary in
blocks that are mapped for good, the views are the batch: nothing is copied until it is asked for.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.feed.blocks import BlockStore
from penstock.shards.ranges import is_list

_INLINE = 12
"""Bytes that a view holds itself."""
_VIEW = np.dtype([("length", "<i4"), ("start", "V4"), ("buffer", "<i4"), ("offset", "<i4")])
VIEWS = pa.binary_view()
_LONGEST = np.iinfo(np.int32).max


@dataclass(frozen=True, slots=True)
class Variable:
    """How a variable-length column lies in memory."""

    kind: pa.DataType
    item_bytes: int
    """Of a value in a row: 1 for strings and binary."""
    is_wide: bool
    """Whether offsets are int64."""


def variable_of(kind: pa.DataType) -> Variable | None:
    """The layout of a type's rows; None where Arrow has to take them itself."""
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return Variable(kind, 1, is_wide=False)
    if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        return Variable(kind, 1, is_wide=True)
    if is_list(kind):
        inner = kind.value_type
        if pa.types.is_integer(inner) or pa.types.is_floating(inner):
            return Variable(kind, inner.bit_width // 8, pa.types.is_large_list(kind))
    return None


def contiguous(array: pa.Array) -> pa.Array:
    """Binary rows one after another, copied if they were views."""
    return array.cast(pa.binary()) if array.type == VIEWS else array


def row_bytes(array: pa.Array) -> int:
    """Of the rows of an array; of views, of what they show."""
    if array.type != VIEWS:
        return array.nbytes
    return int(_views_of(array)["length"].sum())


def row_buffers(array: pa.Array) -> list[memoryview]:
    """Each row of a binary array as a buffer over the array's own memory."""
    if array.type != VIEWS:
        _, offsets, data = array.buffers()
        kind = np.int64 if pa.types.is_large_binary(array.type) else np.int32
        ends = np.frombuffer(offsets, kind)[array.offset : array.offset + len(array) + 1].tolist()
        whole = memoryview(b"" if data is None else data)
        return [whole[start:stop] for start, stop in itertools.pairwise(ends)]
    views, buffers = _views_of(array), [memoryview(buffer) for buffer in array.buffers()[1:]]
    inline = views["length"] <= _INLINE
    which = np.where(inline, 0, views["buffer"] + 1)
    at = np.where(inline, (array.offset + np.arange(len(array))) * 16 + 4, views["offset"])
    stop = at + views["length"]
    return [
        buffers[number][first:last]
        for number, first, last in zip(which.tolist(), at.tolist(), stop.tolist(), strict=True)
    ]


def _views_of(array: pa.Array) -> NDArray[np.void]:
    named = array.buffers()[1]
    if named is None:
        return np.zeros(0, _VIEW)
    return np.frombuffer(named, _VIEW)[array.offset : array.offset + len(array)]


class VariableColumn:
    """Gathers one variable-length column."""

    def __init__(self, store: BlockStore, layout: Variable, *, as_views: bool = False) -> None:
        self._store, self._layout = store, layout
        self._as_views = as_views and pa.types.is_binary(layout.kind)
        blocks = len(store.source.rows)
        self._offsets = np.zeros(blocks, np.int64)
        """Where the offset of row 0 of the split would lie, were all rows in the block."""
        self._data = np.zeros(blocks, np.int64)
        """Where its values begin."""
        self._has_nulls_inside = False

    def open(self, block: int, first_row: int, column: pa.Array) -> None:
        """Find out where a block's offsets and values begin."""
        width = 8 if self._layout.is_wide else 4
        origin = self._store.origin
        buffers = column.buffers()
        if buffers[1] is None or not len(column):
            return
        start = buffers[1].address - origin + column.offset * width
        self._offsets[block] = start - first_row * width
        if is_list(column.type):
            values = column.values
            self._has_nulls_inside |= bool(values.null_count)
            data, skipped = values.buffers()[1], values.offset * self._layout.item_bytes
        else:
            data, skipped = buffers[2], 0
        self._data[block] = 0 if data is None else data.address - origin + skipped

    def gather(
        self, rows: NDArray[np.int64], block_of: NDArray[np.int64], known: NDArray[np.bool_] | None
    ) -> pa.Array | None:
        """The rows in this order; None where only Arrow can take them.

        Parameters
        ----------
        known: which rows are not null; None where all are.
        """
        layout, memory = self._layout, self._store.memory
        if self._has_nulls_inside:
            return None
        width, kind = (8, np.int64) if layout.is_wide else (4, np.int32)
        offsets = memory[: len(memory) // width * width].view(kind)
        at = (self._offsets[block_of] + rows * width) // width
        starts = offsets[at].astype(np.int64) * layout.item_bytes
        lengths = offsets[at + 1].astype(np.int64) * layout.item_bytes - starts
        if known is not None:
            lengths[~known] = 0
        total = int(lengths.sum())
        if total > _LONGEST and not layout.is_wide:
            return None
        starts += self._data[block_of]
        blocks, number = np.unique(block_of, return_inverse=True)
        places = self._store.places(blocks)
        within = starts - places[number]
        if len(within) and int(within.max()) + int(lengths.max()) > _LONGEST:
            return None
        views = np.zeros(len(rows), _VIEW)
        views["length"], views["buffer"], views["offset"] = lengths, number, within
        self._put_inline(views, starts, lengths)
        held = [self._store.buffer(block) for block in blocks.tolist()]
        named = pa.Array.from_buffers(VIEWS, len(rows), [None, pa.py_buffer(views), *held])
        if self._as_views and known is None:
            return named
        whole = named.cast(pa.large_binary() if layout.is_wide else pa.binary())
        return self._typed(whole, lengths, known)

    def _put_inline(
        self, views: NDArray[np.void], starts: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> None:
        """A view of few bytes holds them itself; of others, it repeats the first four."""
        memory = self._store.memory
        count = np.where(lengths <= _INLINE, lengths, 4)
        total = int(count.sum())
        row = np.repeat(np.arange(len(views)), count)
        within = np.arange(total) - np.repeat(np.cumsum(count) - count, count)
        is_short = lengths <= _INLINE
        raw = views.view(np.uint8).reshape(len(views), 16)
        raw[is_short, 4:] = 0
        raw[row, 4 + within] = memory[starts[row] + within]

    def _typed(
        self, whole: pa.Array, lengths: NDArray[np.int64], known: NDArray[np.bool_] | None
    ) -> pa.Array:
        layout = self._layout
        _, offsets, data = whole.buffers()
        validity = None if known is None else pa.array(known).buffers()[1]
        if not is_list(layout.kind):
            return pa.Array.from_buffers(layout.kind, len(whole), [validity, offsets, data])
        ends = np.concatenate([[0], np.cumsum(lengths // layout.item_bytes)])
        kind = np.int64 if layout.is_wide else np.int32
        values = pa.Array.from_buffers(layout.kind.value_type, int(ends[-1]), [None, data])
        return pa.Array.from_buffers(
            layout.kind,
            len(whole),
            [validity, pa.py_buffer(ends.astype(kind))],
            children=[values],
        )
