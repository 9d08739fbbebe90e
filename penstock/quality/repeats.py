"""Rows equal to an earlier one of their source file, found over a stream of chunks.

A row is known by 128 bits of hash of its values; two rows that differ are taken for equal once in
2^64 rows or so. Of short files what was seen is kept, 16 bytes a row. For long ones, against which
each chunk would take longer than the one before, all rows are looked at ahead: their hashes spill,
and one bit of each row is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.quality.compiled import SOURCE_FILE
from penstock.quality.passing import Spilled

LONG = 1 << 20
"""Rows of a file, from which on they are looked at ahead."""
_HELD = 1 << 19
"""Rows held before they spill, of 24 bytes each."""
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
        """The rows' keys, their files, and which equal an earlier one of the chunk."""
        if self._ahead is not None:
            return chunk.select(SOURCE_FILE)
        keys = self.keys(chunk)
        return keys.with_columns(chunk[SOURCE_FILE], _repeated(keys).alias(_HERE))

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
        repeated = np.zeros(keys.height, np.bool_)
        repeated[rows.to_numpy()] = True
        return pl.Series(repeated)

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
                found[places[_repeated(pl.DataFrame({"a": a, "b": b})).to_numpy()]] = True
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


def _repeated(keys: pl.DataFrame) -> pl.Series:
    """Which equal an earlier one: by one half first, which leaves few rows to compare by both."""
    rows = keys["a"].is_duplicated().arg_true()
    few = keys[rows].select(~pl.struct("a", "b").is_first_distinct()).to_series()
    repeated = pl.Series(np.zeros(keys.height, np.bool_))
    return repeated.scatter(rows, few) if len(rows) else repeated
