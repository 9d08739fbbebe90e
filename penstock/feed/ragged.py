"""Rows of differing length, as one array of values and where each row begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import OrderError
from penstock.feed.variable import VIEWS, contiguous, row_buffers


class Ragged:
    """Strings, binary or lists of a batch; no Python object a row until one is asked for.

    Indexing gives one row: `str`, `bytes`, an array of its numbers, or a list of what else it has.
    `np.asarray` of it, and `tolist`, make an object a row.
    """

    def __init__(self, array: pa.Array, wrap: Callable[[NDArray[Any]], Any] | None = None) -> None:
        self._array = array
        self._wrap = wrap or _as_is
        self._is_list = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
        # A row of other lists, of strings, of lists, with nulls, comes as a Python list.
        self._has_arrays = (
            self._is_list
            and (
                pa.types.is_integer(array.type.value_type)
                or pa.types.is_floating(array.type.value_type)
            )
            and not array.values.null_count
        )

    @property
    def array(self) -> pa.Array:
        """As Arrow has it; binary that lies in the blocks yet is copied once, together."""
        self._array = contiguous(self._array)
        return self._array

    def buffers(self) -> list[memoryview]:
        """A buffer a row of binary, over memory that stays as it is; nothing is copied.

        Raises
        ------
        OrderError: the rows are strings or lists.
        """
        if not (pa.types.is_binary(self._array.type) or self._array.type == VIEWS):
            raise OrderError(f"only rows of binary are buffers, and these are {self._array.type}")
        return row_buffers(self._array)

    @property
    def offsets(self) -> Any:
        """(rows + 1,) int64: row i is `values[offsets[i]:offsets[i + 1]]`."""
        return self._wrap(self._offsets())

    @property
    def values(self) -> Any:
        """All rows' values one after another; bytes (uint8) of strings and binary."""
        return self._wrap(self._values())

    @property
    def lengths(self) -> Any:
        """(rows,) int64."""
        return self._wrap(np.diff(self._offsets()))

    def padded(self, length: int | None = None, fill: Any = 0) -> Any:
        """(rows, length): each row's first values, then `fill`; as long as the longest."""
        offsets, values = self._offsets(), self._values()
        counts = np.diff(offsets)
        width = int(counts.max(initial=0)) if length is None else length
        out = np.full((len(counts), width), fill, values.dtype)
        kept = np.minimum(counts, width)
        # Row by row in one go: where each kept value comes from, and where it goes.
        row = np.repeat(np.arange(len(counts)), kept)
        within = np.arange(int(kept.sum())) - np.repeat(np.cumsum(kept) - kept, kept)
        out[row, within] = values[offsets[:-1][row] + within]
        return self._wrap(out)

    def tolist(self) -> list[Any]:
        """A Python object a row; None where there is no value."""
        return self._array.to_pylist()

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, row: int) -> Any:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        value = self._array[row % len(self)]
        if not value.is_valid:
            return None
        return self._wrap(value.values.to_numpy()) if self._has_arrays else value.as_py()

    def __iter__(self) -> Iterator[Any]:
        return (self[row] for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self.array.to_numpy(zero_copy_only=False)

    def __repr__(self) -> str:
        kind = pa.binary() if self._array.type == VIEWS else self._array.type
        return f"Ragged({len(self)} rows of {kind})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Ragged, (self.array, self._wrap)

    def _offsets(self) -> NDArray[np.int64]:
        array = self.array
        raw = array.buffers()[1]
        wide = pa.types.is_large_list(array.type) or str(array.type).startswith("large_")
        if raw is None or not len(array):
            return np.zeros(len(array) + 1, np.int64)
        kind = np.int64 if wide else np.int32
        offsets = np.frombuffer(raw, kind)[array.offset : array.offset + len(array) + 1]
        return offsets.astype(np.int64) - int(offsets[0])

    def _values(self) -> NDArray[Any]:
        array = self.array
        if self._is_list:
            return array.flatten().to_numpy(zero_copy_only=False)
        raw = array.buffers()
        if raw[2] is None or not len(array):
            return np.zeros(0, np.uint8)
        wide = str(array.type).startswith("large_")
        offsets = np.frombuffer(raw[1], np.int64 if wide else np.int32)
        first, last = int(offsets[array.offset]), int(offsets[array.offset + len(array)])
        return np.frombuffer(raw[2], np.uint8)[first:last]


def _as_is(values: NDArray[Any]) -> NDArray[Any]:
    return values
