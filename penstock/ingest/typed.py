"""Values of formats that have types, as the text that a CSV of them would hold."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection
from typing import Any

import polars as pl
import pyarrow as pa

from penstock.errors import UnreadableFile


def texts_of(batch: pa.RecordBatch, kept: Collection[str], first_row: int) -> pa.Table:
    """A batch's columns as text: bytes in hexadecimal, what is nested as JSON.

    Parameters
    ----------
    kept: columns whose bytes stay bytes.
    first_row: the number of the batch's first row, for messages.

    Raises
    ------
    UnreadableFile: text is no UTF-8.
    """
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if _holds(column.type, _is_text):
            _check_utf8(name, column, first_row)
    frame = pl.DataFrame(pl.from_arrow(batch))
    return frame.select(
        pl.col(name) if name in kept else _as_text(name, kind)
        for name, kind in frame.schema.items()
    ).to_arrow()


def _check_utf8(name: str, column: Any, first_row: int) -> None:
    """Writers that don't check put any bytes into text, and no reader takes what is made of it."""
    if _is_valid(column):
        return
    where = f"column {name}"
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_text(column.type):
        whole = range(1, len(column) + 1)
        row = bisect_left(whole, True, key=lambda count: not _is_valid(column.slice(0, count)))
        where += f", row {first_row + row}"
    raise UnreadableFile(
        f"{where}: text that is no UTF-8; write the file anew with text as UTF-8, or with the "
        "column as binary"
    )


def _is_valid(column: Any) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _holds(kind: Any, is_meant: Callable[[Any], bool]) -> bool:
    """Whether a type is such a one, or has one within."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        kind = kind.value_type
    inner = [kind.field(place).type for place in range(kind.num_fields)]
    return is_meant(kind) or any(_holds(each, is_meant) for each in inner)


def _is_text(kind: Any) -> bool:
    types = pa.types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _as_text(name: str, kind: pl.DataType) -> pl.Expr:
    if kind == pl.Binary:
        return pl.col(name).bin.encode("hex")
    if kind == pl.Duration:
        return pl.col(name).dt.to_string("iso")
    if not kind.is_nested():
        return pl.col(name).cast(pl.String)
    wrapped = pl.struct(pl.col(name).alias("v")).struct.json_encode()
    json_text = wrapped.str.strip_prefix('{"v":').str.head(-1)
    return pl.when(pl.col(name).is_not_null()).then(json_text).alias(name)
