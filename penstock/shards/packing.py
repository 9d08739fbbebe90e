"""Fixed-width features packed into one tensor column, so that to gather a row is one copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

FEATURES = "features"
"""The packed column."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Which columns are packed, in order; the rest stay columns of their own."""

    names: tuple[str, ...]

    def schema(self, given: pa.Schema) -> pa.Schema:
        """Of a shard, from that of the rows: the packed column comes first, where there is one."""
        if not self.names:
            return given
        kind = pa.fixed_shape_tensor(pa.float32(), [len(self.names)])
        names = ",".join(self.names)
        packed = pa.field(FEATURES, kind, nullable=False, metadata={"names": names})
        rest = [field for field in given if field.name not in self.names]
        return pa.schema([packed, *rest])

    def pack(self, rows: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
        """Rows as one record batch of `schema`; a null feature becomes NaN."""
        if not self.names:
            return pa.record_batch([_one(rows[f.name], f.type) for f in schema], schema=schema)
        matrix = np.empty((rows.num_rows, len(self.names)), np.float32)
        for position, name in enumerate(self.names):
            matrix[:, position] = rows[name].to_numpy()
        packed = pa.FixedShapeTensorArray.from_numpy_ndarray(matrix)
        rest = [_one(rows[field.name], field.type) for field in schema if field.name != FEATURES]
        return pa.record_batch([packed, *rest], schema=schema)


def _one(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """A column as one array of a type."""
    whole = column.combine_chunks()
    return whole if whole.type == kind else whole.cast(kind)


def names_of(field: pa.Field) -> list[str]:
    """The names of the features inside a packed column."""
    return (field.metadata or {}).get(b"names", b"").decode().split(",")


def matrix_of(batch: pa.RecordBatch) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """The packed column as a (rows, features) array over the batch's own memory."""
    column = batch.column(batch.schema.get_field_index(FEATURES))
    return column.to_numpy_ndarray()


def as_floats(values: Sequence[float]) -> list[float | None]:
    """For JSON, which has no NaN."""
    return [None if value != value else float(value) for value in values]
