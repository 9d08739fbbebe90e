"""Rows equal to an earlier one of their source file, found over a stream of chunks.

A row is known by 128 bits of hash of its values, so that what is kept for the file whose rows are
still coming is 16 bytes a row; two rows that differ are taken for equal once in 2^64 rows or so.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from penstock.quality.compiled import SOURCE_FILE


class Repeats:
    """Marks repeated rows; chunks come in the order of a file's rows, file after file."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._key = pl.struct(SOURCE_FILE, *columns)
        self._file: str | None = None
        self._seen = pl.DataFrame(schema={"a": pl.UInt64, "b": pl.UInt64})

    def mark(self, chunk: pl.DataFrame) -> pl.Series:
        """Whether each row of a chunk equals an earlier one of its file; nulls are equal."""
        if chunk.is_empty():
            return pl.Series([], dtype=pl.Boolean)
        hashed = chunk.select(
            SOURCE_FILE, self._key.hash(seed=1).alias("a"), self._key.hash(seed=2).alias("b")
        )
        keys = hashed.select("a", "b")
        here = keys.select(~pl.struct("a", "b").is_first_distinct()).to_series()
        earlier = keys.with_row_index("row").join(self._seen, on=["a", "b"], how="semi")["row"]
        before = pl.int_range(chunk.height, eager=True).is_in(earlier.cast(pl.Int64).implode())
        self._keep(hashed)
        return here | before

    def _keep(self, hashed: pl.DataFrame) -> None:
        file = hashed[SOURCE_FILE][-1]
        keys = hashed.filter(pl.col(SOURCE_FILE) == file).select("a", "b")
        self._seen = pl.concat([self._seen, keys]) if file == self._file else keys
        self._file = file
