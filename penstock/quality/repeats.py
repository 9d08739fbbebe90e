"""Rows equal to an earlier one of their source file, found over a stream of chunks.

A row is known by 128 bits of hash of its values, so that what is kept for the file whose rows are
still coming is 16 bytes a row; two rows that differ are taken for equal once in 2^64 rows or so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from penstock.quality.compiled import SOURCE_FILE

_HERE = "here"


class Repeats:
    """Marks repeated rows; chunks come in the order of a file's rows, file after file."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = [SOURCE_FILE, *columns]
        self._file: str | None = None
        self._seen = pl.DataFrame(schema={"a": pl.UInt64, "b": pl.UInt64})

    def prepared(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """The rows' keys, their files, and which equal an earlier one of the chunk."""
        compared = chunk.select(self._columns)
        keys = pl.DataFrame({"a": compared.hash_rows(1), "b": compared.hash_rows(2)})
        return keys.with_columns(chunk[SOURCE_FILE], self._repeated_here(keys).alias(_HERE))

    def mark(self, prepared: pl.DataFrame) -> pl.Series:
        """Whether each row of a chunk equals an earlier one of its file; nulls are equal."""
        if prepared.is_empty():
            return pl.Series([], dtype=pl.Boolean)
        keys, files, repeated = prepared["a", "b"], prepared[SOURCE_FILE], prepared[_HERE]
        if files[0] == self._file:
            repeated = repeated | self._repeats_earlier(keys, int((files == self._file).sum()))
        self._keep(keys, files)
        return repeated

    @staticmethod
    def _repeated_here(keys: pl.DataFrame) -> pl.Series:
        """By one half of the key first, which leaves few rows to compare by both."""
        rows = keys["a"].is_duplicated().arg_true()
        few = keys[rows].select(~pl.struct("a", "b").is_first_distinct()).to_series()
        repeated = pl.Series(np.zeros(keys.height, np.bool_))
        return repeated.scatter(rows, few) if len(rows) else repeated

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
