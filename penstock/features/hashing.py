"""A number for each row, by the values of some columns: the same for ever.

Neither Python's hash nor polars' is the same in its next version, which splits must be. Integers
are mixed as SplitMix64 does (Steele, Lea and Flood, 2014); other values as the polynomial of their
text's bytes, mixed likewise.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_NULL = np.uint64(0x9E3779B97F4A7C15)
_BASE = np.uint64(0x100000001B3)


def shares_of(columns: pl.DataFrame, seed: int) -> pl.Series:
    """(rows,) float64 in [0, 1); columns in their order."""
    return pl.Series((hashes_of(columns, seed) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def hashes_of(columns: pl.DataFrame, seed: int) -> Hashes:
    """(rows,) uint64; columns in their order."""
    hashes = np.full(columns.height, np.uint64(seed % 2**64))
    for column in columns:
        hashes = _mixed(hashes ^ _hashes(column))
    return hashes


def _hashes(column: pl.Series) -> Hashes:
    if column.dtype.is_integer() and column.dtype != pl.UInt64:
        found = column.cast(pl.Int64).fill_null(0).to_numpy().astype(np.uint64)
    else:
        text = column.bin.encode("hex") if column.dtype == pl.Binary else column.cast(pl.String)
        found = _of_text(text.fill_null(""))
    is_null = column.is_null().to_numpy()
    return np.where(is_null, _NULL, _mixed(found))


def _of_text(column: pl.Series) -> Hashes:
    """The polynomial of each text's bytes, modulo 2^64."""
    text = pa.array(column.to_arrow()).cast(pa.large_binary())
    _, offsets_buffer, data = text.buffers()
    rows = len(text)
    offsets = np.frombuffer(offsets_buffer, np.int64)[text.offset : text.offset + rows + 1]
    found = np.zeros(rows, np.uint64)
    if not rows or offsets[-1] == offsets[0]:
        return found
    letters = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]].astype(np.uint64)
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(int(lengths.max()), _BASE))
        inside = np.arange(len(letters)) - np.repeat(starts, lengths)
        terms = (letters + np.uint64(1)) * powers[inside]
        having = np.flatnonzero(lengths)
        found[having] = np.add.reduceat(terms, starts[having])
    return found


def _mixed(z: Hashes) -> Hashes:
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
