"""Rows out of blocks into a batch: by address, one copy, and no Python object a row.

A fixed-width column of a block is a run of equal cells in memory, so that the cell of row r lies
at `base[block] + r * width`; all of a batch's cells are taken in one call, whatever blocks they lie
in. Variable-length columns: `variable.py`; nested ones are taken by Arrow, block by block.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.feed.blocks import BlockStore
from penstock.feed.variable import VariableColumn, variable_of

log = logging.getLogger(__name__)

Columns = Mapping[str, "NDArray[Any] | pa.Array"]
"""A batch: fixed-width columns as arrays of (rows, ...), the rest as Arrow arrays."""


class Take(Protocol):
    """Copies cells out of memory: (cells, width) uint8 from the addresses of their first bytes."""

    def __call__(
        self, memory: NDArray[np.uint8], addresses: NDArray[np.int64], width: int
    ) -> NDArray[np.uint8]: ...


def numpy_take(
    memory: NDArray[np.uint8], addresses: NDArray[np.int64], width: int
) -> NDArray[np.uint8]:
    """Through numpy's fancy indexing, of cells that overlap: one begins at every byte."""
    if not len(addresses):
        return np.empty((0, width), np.uint8)
    cells = np.ndarray((len(memory) - width + 1,), f"V{width}", memory, strides=(1,))
    return cells[addresses].view(np.uint8).reshape(-1, width)


@dataclass(frozen=True, slots=True)
class Cell:
    """How a fixed-width column lies in memory and comes out of it."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """Of one row."""
    bits: bool = False
    """Whether it is a bitmap."""

    @property
    def width(self) -> int:
        """Bytes of a row."""
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))


def cell_of(kind: pa.DataType) -> Cell | None:
    """The cell of a type's rows; None where they have no fixed width."""
    if isinstance(kind, pa.BaseExtensionType):
        if not isinstance(kind, pa.FixedShapeTensorType):
            return cell_of(kind.storage_type)
        inner = cell_of(kind.value_type)
        return None if inner is None else Cell(inner.dtype, tuple(kind.shape))
    if pa.types.is_boolean(kind):
        return Cell(np.dtype(np.bool_), (), bits=True)
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return Cell(np.dtype(np.int64 if kind.bit_width == 64 else np.int32), ())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return Cell(np.dtype(kind.to_pandas_dtype()), ())
    if pa.types.is_fixed_size_list(kind):
        inner = cell_of(kind.value_type)
        if inner is None or inner.bits:
            return None
        return Cell(inner.dtype, (kind.list_size, *inner.shape))
    if pa.types.is_fixed_size_binary(kind) and not pa.types.is_decimal(kind):
        return Cell(np.dtype(np.uint8), (kind.byte_width,))
    return None


class Gatherer:
    """Gathers rows of some columns out of the blocks of a store.

    Parameters
    ----------
    shown: columns, as batches show them.
    keeps_nulls: whether columns with nulls come as Arrow arrays, which have them; else a null is
        NaN, 0 or false.
    as_views: whether binary rows may come as views of the blocks, which then have to stay.
    """

    def __init__(
        self,
        store: BlockStore,
        shown: tuple[str, ...],
        take: Take,
        *,
        keeps_nulls: bool = False,
        as_views: bool = False,
    ) -> None:
        self._store, self._take, self._shown = store, take, shown
        self._keeps_nulls = keeps_nulls
        packed = store.source.packed
        # Columns as blocks have them, each once: several that are shown may lie in one.
        columns = tuple(dict.fromkeys(packed[n][0] if n in packed else n for n in shown))
        self.columns = columns
        rows = store.source.rows
        self._first_row = np.cumsum(rows) - rows
        # Where all blocks but the last have as many rows, a row's block is a division.
        same = len(rows) > 1 and bool((rows[:-1] == rows[0]).all()) and rows[-1] <= rows[0]
        self._rows_a_block = int(rows[0]) if same else 0
        schema = store.source.schema
        self._cells = {name: cell_of(schema.field(name).type) for name in columns}
        layouts = {name: variable_of(schema.field(name).type) for name in columns}
        self._variables = {
            name: VariableColumn(store, layout, as_views=as_views)
            for name, layout in layouts.items()
            if layout
        }
        self._opened_at = np.full(len(rows), -1, np.int64)
        self._bases = {name: np.zeros(len(rows), np.int64) for name in columns}
        self._valid = {name: np.full(len(rows), -1, np.int64) for name in columns}
        self._has_nulls = dict.fromkeys(columns, False)

    @property
    def bytes_a_row(self) -> int:
        """Exact for fixed-width columns; for others, what a block has on average."""
        cells = [cell for cell in self._cells.values() if cell is not None]
        fixed = sum(cell.width for cell in cells)
        if len(cells) == len(self.columns):
            return max(1, fixed)
        rows = max(1, int(self._store.source.rows.sum()))
        room = int(self._store.source.block_bytes.sum())
        return max(1, room // rows)

    def blocks_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The block of each row."""
        if self._rows_a_block:
            return rows // self._rows_a_block
        if len(self._first_row) < 2:
            return np.zeros(len(rows), np.int64)
        return np.searchsorted(self._first_row, rows, side="right") - 1

    def gather(self, rows: NDArray[np.int64], block_of: NDArray[np.int64]) -> dict[str, Any]:
        """The rows of these numbers, in this order; their blocks are here."""
        by_block: _ByBlock | None = None
        out: dict[str, Any] = {}
        for name in self.columns:
            cell = self._cells[name]
            if cell is None:
                taken = None
                if name in self._variables:
                    has_nulls = self._has_nulls[name]
                    known = self._known(name, rows, block_of) if has_nulls else None
                    taken = self._variables[name].gather(rows, block_of, known)
                if taken is None:
                    by_block = by_block or _ByBlock(rows - self._first_row[block_of], block_of)
                    taken = self._variable(name, by_block)
                out[name] = taken
            elif cell.bits:
                out[name] = self._bits(name, rows, block_of)
            else:
                out[name] = self._fixed(name, cell, rows, block_of)
        packed = self._store.source.packed
        if not packed:
            return out
        return {
            name: out[packed[name][0]][:, packed[name][1]] if name in packed else out[name]
            for name in self._shown
        }

    def open(self, blocks: NDArray[np.int64]) -> None:
        """Find out where the columns of blocks that are here begin."""
        places = self._store.places(blocks)
        for block in blocks[self._opened_at[blocks] != places].tolist():
            batch, first = self._store.batch(block), int(self._first_row[block])
            for name in self.columns:
                self._open_column(name, self._cells[name], block, first, _column(batch, name))
        self._opened_at[blocks] = places

    def addresses(self, name: str, block: int) -> int:
        """Where a fixed-width column's row 0 of the split would lie, were all rows in the block."""
        return int(self._bases[name][block])

    def _open_column(
        self, name: str, cell: Cell | None, block: int, first: int, column: pa.Array
    ) -> None:
        origin = self._store.origin
        validity = column.buffers()[0]
        if column.null_count and validity is not None:
            if not self._has_nulls[name]:
                self._tell_of_nulls(name, column.type)
            self._has_nulls[name] = True
            self._valid[name][block] = (validity.address - origin) * 8 + column.offset - first
        else:
            self._valid[name][block] = -1
        if cell is None:
            if name in self._variables:
                self._variables[name].open(block, first, column)
            return
        leaf, repeat = column, 1
        while pa.types.is_fixed_size_list(leaf.type):
            repeat *= leaf.type.list_size
            leaf = leaf.values
        data = leaf.buffers()[1]
        if data is None:  # no rows
            return
        start = data.address - origin
        if cell.bits:
            self._bases[name][block] = start * 8 + column.offset - first
        else:
            offset = column.offset if leaf is column else column.offset * repeat + leaf.offset
            self._bases[name][block] = start + offset * (cell.width // repeat) - first * cell.width

    def _tell_of_nulls(self, name: str, kind: pa.DataType) -> None:
        becomes_zero = pa.types.is_integer(kind) or pa.types.is_temporal(kind)
        if self._keeps_nulls or not (becomes_zero or pa.types.is_boolean(kind)):
            return
        log.warning(
            "column %s has nulls, which come as %s: leave those rows out by a filter, or take "
            "arrow or polars batches, which keep nulls",
            name,
            "false" if pa.types.is_boolean(kind) else "0",
        )

    def _fixed(
        self, name: str, cell: Cell, rows: NDArray[np.int64], block_of: NDArray[np.int64]
    ) -> NDArray[Any]:
        addresses = rows * cell.width
        addresses += self._bases[name][block_of]
        taken = self._take(self._store.memory, addresses, cell.width)
        out = taken.reshape(-1).view(cell.dtype).reshape(len(rows), *cell.shape)
        if self._has_nulls[name]:
            known = self._known(name, rows, block_of)
            if self._keeps_nulls and out.ndim == 1:
                return pa.array(out, mask=~known)
            out[~known] = np.nan if cell.dtype.kind == "f" else 0
        return out

    def _bits(
        self, name: str, rows: NDArray[np.int64], block_of: NDArray[np.int64]
    ) -> NDArray[np.bool_] | pa.Array:
        out = self._bit(self._bases[name][block_of] + rows)
        if not self._has_nulls[name]:
            return out
        known = self._known(name, rows, block_of)
        return pa.array(out, mask=~known) if self._keeps_nulls else out & known

    def _known(
        self, name: str, rows: NDArray[np.int64], block_of: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        base = self._valid[name][block_of]
        known = np.ones(len(rows), np.bool_)
        unsure = np.flatnonzero(base >= 0)
        known[unsure] = self._bit(base[unsure] + rows[unsure])
        return known

    def _bit(self, bits: NDArray[np.int64]) -> NDArray[np.bool_]:
        return (self._store.memory[bits >> 3] >> (bits & 7).astype(np.uint8) & 1).astype(bool)

    def _variable(self, name: str, by_block: _ByBlock) -> pa.Array:
        kind = self._store.source.schema.field(name).type
        taken = [
            _column(self._store.batch(block), name).take(pa.array(local))
            for block, local in by_block.pieces
        ]
        if not taken:
            return pa.array([], kind)
        whole = pa.concat_arrays(taken) if len(taken) > 1 else taken[0]
        return whole.take(pa.array(by_block.back)) if len(taken) > 1 else whole


class _ByBlock:
    """Rows sorted by block, and the way back to their order."""

    def __init__(self, local: NDArray[np.int64], block_of: NDArray[np.int64]) -> None:
        order = np.argsort(block_of, kind="stable")
        blocks, starts = np.unique(block_of[order], return_index=True)
        self.pieces: list[tuple[int, NDArray[np.int64]]] = (
            list(zip(blocks.tolist(), np.split(local[order], starts[1:]), strict=True))
            if len(blocks)
            else []
        )
        self.back = np.empty(len(local), np.int64)
        self.back[order] = np.arange(len(local))


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    column = batch.column(batch.schema.get_field_index(name))
    return column.storage if isinstance(column, pa.ExtensionArray) else column
