"""Only the rows that an expression holds for: blocks it rules out are never read."""

from __future__ import annotations

import json
import pickle
import re
from collections import OrderedDict
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.errors import OrderError
from penstock.feed.blocks import BlockStore
from penstock.feed.samples import Plan, Rows, Samples
from penstock.shards.packing import names_of
from penstock.shards.ranges import Ranges

Expression = pl.Expr | pc.Expression

# pyarrow's datasets are imported where they are used: they import pandas where it is installed,
# which takes ten times as long as a first batch.

_KEPT_SELECTIONS = 4096
_MAY_MEET_NAN = re.compile(r"!=|[a-z_]+\(")
"""What can be true of a NaN, which ranges leave out: an expression with more in it than comparisons
that are false of it, joined by and, or. `invert(...)`, `is_nan(...)`, `is_null(...)` are calls."""
_SCANNED_AT_ONCE = 16


class Filtered:
    """The rows of each block for which an expression is true, as samples.

    How many there are is counted when it is opened, block by block; blocks whose ranges rule the
    expression out are not read for it (pyarrow expressions; a polars one is evaluated on all).
    """

    def __init__(self, rows: Rows, store: BlockStore, expression: Expression) -> None:
        self._rows, self._store, self._expression = rows, store, expression
        self.schema = rows.schema
        self._selections: OrderedDict[int, NDArray[np.int64]] = OrderedDict()
        self._first_row = np.cumsum(rows.counts) - rows.counts
        self.counts = np.zeros(len(rows.counts), np.int64)
        self.blocks_read = 0
        self._count()
        self._ends = np.cumsum(self.counts)

    @property
    def bytes_a_sample(self) -> int:
        """A row's."""
        return self._rows.bytes_a_sample

    def begin(self, epoch: int) -> Samples:
        """The same rows in every epoch."""
        return self

    def open(self, blocks: NDArray[np.int64]) -> None:
        """As of all rows."""
        self._rows.open(blocks)

    def plan(self, samples: NDArray[np.int64]) -> Plan:
        """The blocks in which the samples lie."""
        block_of = np.searchsorted(self._ends, samples, side="right")
        return Plan(samples, np.unique(block_of), block_of)

    def gather(self, samples: NDArray[np.int64], block_of: NDArray[np.int64]) -> dict[str, Any]:
        """The rows that are meant."""
        return self._rows.gather(self.rows_of(samples, block_of), block_of)

    def rows_of(self, samples: NDArray[np.int64], block_of: NDArray[np.int64]) -> NDArray[np.int64]:
        """The stored rows."""
        rows = np.empty(len(samples), np.int64)
        first = self._ends - self.counts
        for block in np.unique(block_of).tolist():
            here = block_of == block
            chosen = self._selection(block)[samples[here] - first[block]]
            rows[here] = self._first_row[block] + chosen
        return rows

    def _count(self) -> None:
        blocks = possible(self._expression, self._store.source.ranges, len(self.counts))
        for start in range(0, len(blocks), _SCANNED_AT_ONCE):
            some = blocks[start : start + _SCANNED_AT_ONCE]
            self._store.want(some)
            try:
                self._store.wait(some)
                for block in some.tolist():
                    self.counts[block] = len(self._selection(block))
            finally:
                self._store.release(some)
            self.blocks_read += len(some)

    def _selection(self, block: int) -> NDArray[np.int64]:
        known = self._selections.get(block)
        if known is None:
            known = np.flatnonzero(holds(self._expression, self._store.batch(block)))
            self._selections[block] = known
            if len(self._selections) > _KEPT_SELECTIONS:
                self._selections.popitem(last=False)
        return known


def possible(expression: Expression, ranges: dict[str, Ranges], blocks: int) -> NDArray[np.int64]:
    """Blocks that their ranges do not rule out."""
    if isinstance(expression, pl.Expr) or not ranges:
        return np.arange(blocks)
    import pyarrow.dataset as pads
    import pyarrow.fs as pafs

    if _MAY_MEET_NAN.search(str(expression)):
        ranges = {n: r for n, r in ranges.items() if not pa.types.is_floating(r.least.type)}
    kinds = {name: column.least.type for name, column in ranges.items()}
    schema = pa.schema(list(kinds.items()))
    form = pads.IpcFileFormat()
    filesystem = pafs.LocalFileSystem()
    # Arrow simplifies a filter under what each fragment promises; these stand for no files.
    fragments = [
        form.make_fragment(str(block), filesystem, _promise(ranges, block))
        for block in range(blocks)
    ]
    whole = pads.FileSystemDataset(fragments, schema, form, filesystem)
    try:
        kept = whole.get_fragments(filter=expression)
        return np.array([int(fragment.path) for fragment in kept], np.int64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return np.arange(blocks)  # about a column without ranges: each block is asked


def holds(expression: Expression, block: pa.RecordBatch) -> NDArray[np.bool_]:
    """Of which rows of a block the expression is true; null is not.

    Raises
    ------
    OrderError: it names no column that there is, or is no condition.
    """
    table = _unpacked(block)
    try:
        if isinstance(expression, pl.Expr):
            frame = pl.DataFrame(pl.from_arrow(table))
            true = frame.select(expression.alias("true"))["true"]
            if true.dtype != pl.Boolean:
                raise OrderError(f"can't filter by {expression}: it is {true.dtype}, no condition")
            true = true.fill_null(False)
            return np.broadcast_to(true.to_numpy().astype(bool), table.num_rows)
        import pyarrow.dataset as pads

        scanned = pads.InMemoryDataset(table).scanner(columns={"true": expression}).to_table()
        return scanned["true"].combine_chunks().fill_null(False).to_numpy(zero_copy_only=False)
    except (pl.exceptions.PolarsError, pa.ArrowException, AttributeError) as error:
        names = ", ".join(table.column_names)
        raise OrderError(f"can't filter by {expression}: {error}. There are {names}") from error


def checked(expression: object) -> Expression:
    """The expression.

    Raises
    ------
    OrderError: it is of neither kind.
    """
    if isinstance(expression, pl.Expr | pc.Expression):
        return expression
    raise OrderError(
        f"can't filter by a {type(expression).__name__}: give a pyarrow or polars expression, such "
        'as pyarrow.compute.field("label") > 3 or polars.col("label") > 3'
    )


def text_of(expression: Expression) -> bytes:
    """What tells one expression from another."""
    if isinstance(expression, pl.Expr):
        return expression.meta.serialize()
    text = str(expression)
    # Printed, a long list of values is shortened.
    return pickle.dumps(expression) if "..." in text else text.encode()


def _promise(ranges: dict[str, Ranges], block: int) -> pc.Expression:
    promise = pc.scalar(True)
    for name, column in ranges.items():
        least, greatest = column.least[block], column.greatest[block]
        if not least.is_valid or not greatest.is_valid:
            continue
        within = (pc.field(name) >= least) & (pc.field(name) <= greatest)
        if column.nulls[block].as_py():
            within = within | pc.field(name).is_null()
        promise = promise & within
    return promise


def _unpacked(block: pa.RecordBatch) -> pa.Table:
    """A block's rows with each packed feature as a column of its own."""
    columns: dict[str, Any] = {}
    for field, column in zip(block.schema, block.columns, strict=True):
        told = field.metadata or {}
        if b"names" in told and isinstance(field.type, pa.FixedShapeTensorType):
            matrix = column.to_numpy_ndarray()
            for position, name in enumerate(names_of(field)):  # a feature's NaN is a missing value
                columns[name] = pa.array(matrix[:, position], from_pandas=True)
        elif b"columns" in told:
            matrix = column.to_numpy_ndarray()
            for position, name in enumerate(json.loads(told[b"columns"])):
                columns[name] = pa.array(matrix[:, position])
        else:
            columns[field.name] = column
    return pa.table(columns)
