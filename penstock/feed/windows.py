"""Windows over ordered rows as samples, for time series and episodes; nothing is stored twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import OrderError
from penstock.feed.blocks import BlockStore
from penstock.feed.gather import Gatherer, cell_of
from penstock.feed.samples import Plan, Samples

_SCANNED_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """Which stretches of rows are samples."""

    length: int
    """Rows of a window."""
    stride: int
    """Rows from one window's beginning to the next one's."""
    by: str | None
    """A column whose value is the same over a window: rows of a series or an episode lie together,
    in order."""

    def __post_init__(self) -> None:
        if self.length < 1 or self.stride < 1:
            raise OrderError(
                f"a window has at least 1 row and a stride of at least 1, got {self.length} and "
                f"{self.stride}"
            )


class Windows:
    """Each sample is `length` rows that follow one another: columns of (samples, length, ...)."""

    def __init__(
        self, gatherer: Gatherer, store: BlockStore, schema: pa.Schema, options: WindowOptions
    ) -> None:
        self._gatherer, self._store, self._options = gatherer, store, options
        self.schema = pa.schema(
            [pa.field(field.name, _of_windows(field, options.length)) for field in schema]
        )
        rows = store.source.rows
        ends = np.cumsum(rows)
        total = int(ends[-1]) if len(ends) else 0
        starts = np.zeros(1, np.int64) if options.by is None else self._changes(options.by)
        self._starts = starts if total else starts[:0]
        sizes = np.diff(self._starts, append=total)
        windows = np.maximum(0, (sizes - options.length) // options.stride + 1)
        self._before = np.concatenate([[0], np.cumsum(windows)])
        self.counts = np.diff(self._windows_before(ends), prepend=0)

    @property
    def bytes_a_sample(self) -> int:
        """All rows of a window."""
        return self._gatherer.bytes_a_row * self._options.length

    def begin(self, epoch: int) -> Samples:
        """The same windows in every epoch."""
        return self

    def open(self, blocks: NDArray[np.int64]) -> None:
        """Find their columns."""
        self._gatherer.open(blocks)

    def plan(self, samples: NDArray[np.int64]) -> Plan:
        """The blocks from a window's first row to its last."""
        starts = self._first_rows(samples)
        first = self._gatherer.blocks_of(starts)
        last = self._gatherer.blocks_of(starts + self._options.length - 1)
        seen = np.zeros(len(self.counts) + 1, np.int64)
        np.add.at(seen, first, 1)
        np.add.at(seen, last + 1, -1)
        return Plan(samples, np.flatnonzero(np.cumsum(seen)[:-1]), first)

    def gather(self, samples: NDArray[np.int64], block_of: NDArray[np.int64]) -> dict[str, Any]:
        """One copy a column."""
        length = self._options.length
        rows = (self._first_rows(samples)[:, None] + np.arange(length)).ravel()
        columns = self._gatherer.gather(rows, self._gatherer.blocks_of(rows))
        return {
            name: values.reshape(len(samples), length, *values.shape[1:])
            for name, values in columns.items()
        }

    def rows_of(self, samples: NDArray[np.int64], block_of: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first row of each window."""
        return self._first_rows(samples)

    def _first_rows(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        group = np.searchsorted(self._before, samples, side="right") - 1
        return self._starts[group] + (samples - self._before[group]) * self._options.stride

    def _windows_before(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many windows begin before each of some rows."""
        if not len(self._starts):
            return np.zeros(len(rows), np.int64)
        group = np.searchsorted(self._starts, rows, side="left") - 1
        begun = -(-(rows - self._starts[group]) // self._options.stride)
        return np.minimum(self._before[group] + begun, self._before[group + 1])

    def _changes(self, by: str) -> NDArray[np.int64]:
        """The rows at which the value of a column differs from that of the row before."""
        schema, packed = self._store.source.columns, self._store.source.packed
        if by not in schema.names:
            raise OrderError(
                f"no column {by} to take windows by; there are {', '.join(schema.names)}"
            )
        found, first, before = list[NDArray[np.int64]](), 0, object()
        blocks = np.arange(len(self._store.source.rows))
        for start in range(0, len(blocks), _SCANNED_AT_ONCE):
            some = blocks[start : start + _SCANNED_AT_ONCE]
            self._store.want(some)
            try:
                self._store.wait(some)
                for block in some.tolist():
                    batch = self._store.batch(block)
                    if by in packed:
                        inside, place = packed[by]
                        column = pa.array(batch[inside].to_numpy_ndarray()[:, place])
                    else:
                        column = batch[by]
                    column = column.dictionary_encode()
                    codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
                    changed = np.flatnonzero(np.diff(codes)) + 1
                    if not len(codes):
                        continue
                    if column[0].as_py() != before:
                        changed = np.concatenate([[0], changed])
                    found.append(changed + first)
                    before, first = column[-1].as_py(), first + len(codes)
            finally:
                self._store.release(some)
        return np.concatenate(found).astype(np.int64) if found else np.zeros(0, np.int64)


def _of_windows(field: pa.Field, length: int) -> pa.DataType:
    cell = cell_of(field.type)
    if cell is None:
        raise OrderError(
            f"windows are of columns of fixed width, and {field.name} is {field.type}: leave it "
            "out with select_columns"
        )
    kind = pa.bool_() if cell.bits else pa.from_numpy_dtype(cell.dtype)
    return (
        pa.fixed_shape_tensor(kind, [length, *cell.shape])
        if not cell.bits
        else pa.list_(kind, length)
    )
