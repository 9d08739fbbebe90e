"""The least and greatest value of each column of each block, so that a filter can skip blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_LONGEST = 64
"""Characters of a string that is kept; a block with longer ones has no range of that column."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """A column's ranges, an entry a block; null where there is none (all null, or unknown)."""

    least: pa.Array
    greatest: pa.Array
    nulls: pa.Array
    """How many of a block's values are null."""


def has_range(kind: pa.DataType) -> bool:
    """Whether values of the type are ordered in a way that filters use."""
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or (pa.types.is_temporal(kind) and not pa.types.is_interval(kind))
        or pa.types.is_string(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether rows of the type are lists of differing length."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


class RangeWriter:
    """Collects ranges, and numbers of list elements, block by block."""

    def __init__(self, schema: pa.Schema) -> None:
        self._kinds = {field.name: field.type for field in schema if has_range(field.type)}
        self._lists = [field.name for field in schema if is_list(field.type)]
        self._entries: dict[str, list[Any]] = {
            f"{what}:{name}": [] for name in self._kinds for what in ("min", "max", "nulls")
        } | {f"elements:{name}": [] for name in self._lists}

    def add(self, rows: pa.Table) -> None:
        """A block's rows."""
        for name in self._kinds:
            column = rows[name]
            low, high = _range(column)
            self._entries[f"min:{name}"].append(low)
            self._entries[f"max:{name}"].append(high)
            self._entries[f"nulls:{name}"].append(column.null_count)
        for name in self._lists:
            count = sum(len(chunk.flatten()) for chunk in rows[name].chunks)
            self._entries[f"elements:{name}"].append(count)

    def columns(self) -> dict[str, pa.Array]:
        """For the index."""
        columns: dict[str, pa.Array] = {}
        for name, values in self._entries.items():
            what, column = name.split(":", 1)
            kind = self._kinds[column] if what in ("min", "max") else pa.int64()
            columns[name] = pa.array(values, kind, from_pandas=False)
        return columns


def ranges_of(index: pa.Table, blocks: Sequence[int]) -> dict[str, Ranges]:
    """The ranges of some blocks, from the columns of an index."""
    names = [name.removeprefix("min:") for name in index.column_names if name.startswith("min:")]
    picked = index.take(pa.array(blocks, pa.int64()))
    return {
        name: Ranges(
            *(picked[f"{what}:{name}"].combine_chunks() for what in ("min", "max", "nulls"))
        )
        for name in names
    }


def _range(column: pa.ChunkedArray) -> tuple[Any, Any]:
    found = pc.call_function("min_max", [column])
    low, high = found["min"], found["max"]
    if not low.is_valid or low.as_py() != low.as_py() or high.as_py() != high.as_py():
        return None, None
    if pa.types.is_string(column.type) and max(len(low.as_py()), len(high.as_py())) > _LONGEST:
        return None, None
    return low, high
