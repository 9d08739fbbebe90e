"""Values of formats that have types, as the text that a CSV of them would hold."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator
from datetime import date
from typing import Any

import polars as pl
import pyarrow as pa

from penstock.errors import UnreadableFile

_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""How many of each a second has."""
_DAYS_SECONDS = 86_400
_FIRST_DAY, _LAST_DAY = ((day - date(1970, 1, 1)).days for day in (date.min, date.max))


def texts_of(batch: pa.RecordBatch, kept: Collection[str], first_row: int) -> pa.Table:
    """A batch's columns as text: bytes in hexadecimal, what is nested as JSON.

    A time outside of the years 1 to 9999 is a count of units, which no kind of time takes.

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
    plain = [
        _plain(column) if name not in kept and _holds(column.type, _is_odd) else column
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    frame = pl.DataFrame(pl.from_arrow(pa.record_batch(plain, names=batch.schema.names)))
    return frame.select(
        pl.col(name) if name in kept else _as_text(pl.col(name), kind).alias(name)
        for name, kind in frame.schema.items()
    ).to_arrow()


def _check_utf8(name: str, column: Any, first_row: int) -> None:
    """Writers that don't check put any bytes into text, and no reader takes what is made of it."""
    if all(_is_valid(leaf) for leaf in _leaves(column) if _is_text(leaf.type)):
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


def _leaves(values: Any) -> Iterator[Any]:
    """The values that nested ones are made of, those of lists that are left out too."""
    kind, types = values.type, pa.types
    if isinstance(kind, pa.BaseExtensionType):
        yield from _leaves(values.storage)
    elif types.is_dictionary(kind):
        yield from _leaves(values.dictionary)
    elif types.is_struct(kind):
        for place in range(kind.num_fields):
            yield from _leaves(values.field(place))
    elif types.is_map(kind):
        yield from _leaves(values.keys)
        yield from _leaves(values.items)
    elif types.is_run_end_encoded(kind) or hasattr(kind, "value_field"):
        yield from _leaves(values.values)
    else:
        yield values


def _is_valid(column: Any) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _plain(values: Any) -> Any:
    """The values, at any depth, as types that become text."""
    kind, types = values.type, pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(values.storage)
    if _is_time(kind):
        return _with_odd_times_told(values)
    if _is_bytes(kind):
        return pl.Series(pl.from_arrow(values)).bin.encode("hex").to_arrow()
    if types.is_decimal256(kind):
        return values.cast(pa.string())
    if types.is_dictionary(kind):
        return _plain(values.dictionary_decode())
    if types.is_struct(kind):
        inner = [_plain(values.field(place)) for place in range(kind.num_fields)]
        fields = [field.with_type(each.type) for field, each in zip(kind, inner, strict=True)]
        return pa.StructArray.from_arrays(inner, fields=fields, mask=values.is_null())
    if types.is_map(kind):
        keys, items = _plain(values.keys), _plain(values.items)
        entries = pa.StructArray.from_arrays([keys, items], ["key", "value"])
        return _over(values, pa.map_(keys.type, items.type), entries)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _plain(values.values)
        field = kind.value_field.with_type(inner.type)
        if types.is_fixed_size_list(kind):
            return _over(values, pa.list_(field, kind.list_size), inner)
        list_of = pa.large_list if types.is_large_list(kind) else pa.list_
        return _over(values, list_of(field), inner)
    return values


def _over(values: Any, kind: Any, inner: Any) -> Any:
    """Lists that begin and end where those of `values` do, over other values."""
    own = values.buffers()[: 1 if pa.types.is_fixed_size_list(kind) else 2]
    return pa.Array.from_buffers(kind, len(values), own, offset=values.offset, children=[inner])


def _with_odd_times_told(values: Any) -> Any:
    """The times as they are, or as text if any has none."""
    kind = values.type
    unit = "days" if pa.types.is_date32(kind) else "ms" if pa.types.is_date64(kind) else kind.unit
    if pa.types.is_time(kind):
        since, first, last = "midnight", 0, _UNITS[unit] * _DAYS_SECONDS - 1
    else:
        since, first, last = "1970-01-01", *_calendar(unit)
    counts = pl.Series(pl.from_arrow(values.view(f"int{kind.bit_width}")))
    is_odd = ~counts.is_between(first, last)
    if not is_odd.any():
        return values
    told = pl.format(f"{{}} {unit} since {since}", counts)
    others = pl.Series(pl.from_arrow(counts.set(is_odd, None).to_arrow().view(kind)))
    text = pl.when(is_odd).then(told).otherwise(_as_text(pl.lit(others), others.dtype))
    return pl.select(text).to_series().to_arrow()


def _calendar(unit: str) -> tuple[int, int]:
    """The first and the last of the years 1 to 9999, counted from 1970."""
    if unit == "days":
        return _FIRST_DAY, _LAST_DAY
    a_day = _UNITS[unit] * _DAYS_SECONDS
    return max(_FIRST_DAY * a_day, -(1 << 63)), min((_LAST_DAY + 1) * a_day, 1 << 63) - 1


def _holds(kind: Any, is_meant: Callable[[Any], bool]) -> bool:
    """Whether a type is such a one, or has one within."""
    inner = [kind.field(place).type for place in range(kind.num_fields)]
    if isinstance(kind, pa.BaseExtensionType):
        inner = [kind.storage_type]
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        inner = [kind.value_type]
    return is_meant(kind) or any(_holds(each, is_meant) for each in inner)


def _is_odd(kind: Any) -> bool:
    """Whether some values of a type have no text, or none within JSON."""
    is_named = isinstance(kind, pa.BaseExtensionType) or pa.types.is_decimal256(kind)
    return is_named or _is_time(kind) or _is_bytes(kind)


def _is_bytes(kind: Any) -> bool:
    types = pa.types
    is_any = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return is_any or types.is_fixed_size_binary(kind)


def _is_text(kind: Any) -> bool:
    types = pa.types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_time(kind: Any) -> bool:
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind)


def _as_text(values: pl.Expr, kind: pl.DataType) -> pl.Expr:
    if kind == pl.Time:
        return values.dt.to_string("%H:%M:%S%.f")
    if kind == pl.Duration:
        return values.dt.to_string("iso")
    if kind.is_float():
        return values.map_batches(_floats, return_dtype=pl.String)
    if not kind.is_nested():
        return values.cast(pl.String)
    wrapped = pl.struct(values.alias("v")).struct.json_encode()
    return pl.when(values.is_not_null()).then(wrapped.str.strip_prefix('{"v":').str.head(-1))


def _floats(values: pl.Series) -> pl.Series:
    """With all digits of a whole number that an integer holds too, and not as `1e+16`."""
    text = values.cast(pl.String)
    rows = values.abs().is_between(1e16, 2.0**63, closed="left").arg_true()
    if not len(rows):
        return text
    return text.scatter(rows, values.gather(rows).cast(pl.Int64).cast(pl.String) + ".0")
