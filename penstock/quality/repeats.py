"""Rows equal to an earlier one of their source file, found over a stream of chunks.

A row is known by 128 bits of hash of its values; two rows that differ are taken for equal once in
2^64 rows or so. Of short files what was seen is kept, 16 bytes a row. For long ones, against which
each chunk would take longer than the one before, all rows are looked at ahead: their hashes spill,
and one bit of each row is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.quality.compiled import SOURCE_FILE
from penstock.quality.passing import Spilled

LONG = 1 << 20
"""Rows of a file, from which on they are looked at ahead."""
_HELD = 1 << 19
"""Rows held before they spill, of 24 bytes each."""
_SLOT_BITS = 20
"""Slots that fit into a core's cache, of 4 bytes each."""
_HERE = "here"


class Repeats:
    """Marks repeated rows; chunks come in the order of a file's rows, file after file."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = [SOURCE_FILE, *columns]
        self._file: str | None = None
        self._seen = pl.DataFrame(schema={"a": pl.UInt64, "b": pl.UInt64})
        self._ahead: _Ahead | None = None

    def keys(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """What rows are known by."""
        compared = chunk.select(self.columns)
        return pl.DataFrame({"a": compared.hash_rows(1), "b": compared.hash_rows(2)})

    def look_ahead(self, keys: pl.DataFrame) -> None:
        """The keys of a chunk that will be marked once all were looked at, in the same order."""
        self._ahead = self._ahead or _Ahead()
        self._ahead.add(keys)

    def prepared(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """The rows' keys, their files, and which equal an earlier one of the chunk.

        The second half of a key is null where no other chunk can have the row's file.
        """
        if self._ahead is not None or chunk.is_empty():
            return chunk.select(SOURCE_FILE)
        compared, files = chunk.select(self.columns), chunk[SOURCE_FILE]
        a = compared.hash_rows(1)
        repeated = _repeated(a, lambda rows: compared[rows].hash_rows(2))
        shared = ((files == files[0]) | (files == files[-1])).arg_true()
        b = pl.Series([None], dtype=pl.UInt64).new_from_index(0, chunk.height)
        b = b.scatter(shared, compared[shared].hash_rows(2))
        return pl.DataFrame({"a": a, "b": b, SOURCE_FILE: files, _HERE: repeated})

    def mark(self, prepared: pl.DataFrame) -> pl.Series:
        """Whether each row of a chunk equals an earlier one of its file; nulls are equal."""
        if prepared.is_empty():
            return pl.Series([], dtype=pl.Boolean)
        if self._ahead is not None:
            return self._ahead.next(prepared.height)
        keys, files, repeated = prepared["a", "b"], prepared[SOURCE_FILE], prepared[_HERE]
        if files[0] == self._file:
            repeated = repeated | self._repeats_earlier(keys, int((files == self._file).sum()))
        self._keep(keys, files)
        return repeated

    def _repeats_earlier(self, keys: pl.DataFrame, count: int) -> pl.Series:
        """Of the first `count` rows, those of the file that was seen last."""
        first = keys.head(count).with_row_index("row")
        rows = first.join(self._seen, on=["a", "b"], how="semi")["row"]
        return _none(keys.height).scatter(rows, values=True)

    def _keep(self, keys: pl.DataFrame, files: pl.Series) -> None:
        file = files[-1]
        kept = keys.tail(int((files == file).sum()))
        self._seen = pl.concat([self._seen, kept]) if file == self._file else kept
        self._file = file


class _Ahead:
    """Which of many rows equal an earlier one."""

    def __init__(self) -> None:
        # Of each row both halves of its key and its place.
        self._held, self._count, self._rows = list[NDArray[np.uint64]](), 0, 0
        self._spilled = Spilled()
        self._bits: NDArray[np.uint8] | None = None
        self._next = 0

    def add(self, keys: pl.DataFrame) -> None:
        """The keys of the next rows."""
        rows = np.empty((keys.height, 3), np.uint64)
        rows[:, 0], rows[:, 1] = keys["a"].to_numpy(), keys["b"].to_numpy()
        rows[:, 2] = np.arange(self._rows, self._rows + keys.height)
        self._held.append(rows)
        self._count, self._rows = self._count + keys.height, self._rows + keys.height
        if self._count >= _HELD:
            self._spill()

    def next(self, count: int) -> pl.Series:
        """Of the next rows to mark, which equal an earlier one."""
        if self._bits is None:
            self._bits = self._found()
        first, self._next = self._next, self._next + count
        bits = np.unpackbits(self._bits[first // 8 : -(-self._next // 8)])
        return pl.Series(bits[first % 8 : first % 8 + count].astype(np.bool_))

    def _found(self) -> NDArray[np.uint8]:
        found = np.zeros(self._rows, np.bool_)
        try:
            if self._spilled.is_there:
                self._spill()
                parts = (part.reshape(-1, 3) for part in self._spilled.parts(np.uint64))
            else:
                parts = iter([np.concatenate(self._held)])
            self._held = []
            for part in parts:  # with equal keys in the order of their rows
                a, b, places = (np.ascontiguousarray(part[:, at]) for at in range(3))
                repeated = _repeated(pl.Series(a), lambda rows, b=b: pl.Series(b[rows.to_numpy()]))
                found[places[repeated.to_numpy()]] = True
        finally:
            self._spilled.delete()
        return np.packbits(found)

    def _spill(self) -> None:
        if self._held:
            rows = np.concatenate(self._held)
            self._held, self._count = [], 0
            # By its highest bits alone: a sort of so small numbers takes a tenth of the time.
            highest = (rows[:, 0] >> np.uint64(58)).astype(np.uint8)
            rows = rows.take(np.argsort(highest, kind="stable"), axis=0)
            self._spilled.put(rows, rows[:, 0])


def _repeated(a: pl.Series, b: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """Which equal an earlier one: by some bits of one half first, then by all of them, which leaves
    few rows to compare by both.

    Parameters
    ----------
    a, b: the halves of the rows' keys, the second of some rows by their numbers.
    """
    # As a list: for numpy's arrays polars looks for masks, by a module that takes 0.015 s to come.
    rows = pl.Series(_alike(a.to_numpy()).tolist(), dtype=pl.UInt32)
    repeated = _none(len(a))
    if rows.is_empty():
        return repeated
    keys = pl.DataFrame({"a": a[rows], "b": b(rows)})
    return repeated.scatter(rows, keys.select(~pl.struct("a", "b").is_first_distinct()).to_series())


def _none(rows: int) -> pl.Series:
    return pl.repeat(value=False, n=rows, dtype=pl.Boolean, eager=True)


def _alike(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The numbers of rows whose key another one has too, in order.

    They are looked for among those that share its lowest bits: a number is written into a row's
    slot, and is there no more where another was written later.
    """
    bits = min(_SLOT_BITS, len(keys).bit_length() + 3)
    slots = (keys & np.uint64((1 << bits) - 1)).astype(np.uint32)
    rows = np.arange(len(keys), dtype=np.uint32)
    last = np.empty(1 << bits, np.uint32)
    last[slots] = rows
    is_shared = np.zeros(1 << bits, np.bool_)
    is_shared[slots[last[slots] != rows]] = True
    sharing = np.flatnonzero(is_shared[slots])
    if not len(sharing):
        return sharing
    order = sharing[np.argsort(keys[sharing], kind="stable")]
    is_as_next = np.append(keys[order][1:] == keys[order][:-1], False)
    is_alike = is_as_next | np.roll(is_as_next, 1)
    return np.sort(order[is_alike])
