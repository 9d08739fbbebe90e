"""Text to typed values, a whole column at a time; what does not cast is null and told apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from functools import partial

import polars as pl

from penstock.contracts import Column

_PLAIN = "%Y-%m-%d %H:%M:%S"
_TIMESTAMPS = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d",
)
_FIRST, _LAST = (time.replace(tzinfo=UTC) for time in (datetime.min, datetime.max))
"""Python, and much else, has no other times."""
_ZONED_TIMESTAMPS = (
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M%#z",
    "%Y-%m-%dT%H:%M%#z",
)
_MIDNIGHT = r"^(\d{4}-\d{2}-\d{2})[ T]00:00(?::00(?:\.0*)?)?(?:Z|[+-]00:?00)?$"


def typed(column: Column) -> pl.Expr:
    """The column's value, from its raw text; null where there is none or it does not cast.

    A whole number may be written as a float (`17850.0`). A time without an offset is taken as
    UTC; one at midnight is a date too. Years are 1 to 9999. `nan` and `inf` are not numbers here.
    """
    raw = pl.col(column.raw_name)
    text = raw.str.strip_chars()
    match column.kind:
        case "string" | "binary":
            value = raw
        case "int32" | "int64":
            kind = pl.Int32() if column.kind == "int32" else pl.Int64()
            value = raw.map_batches(partial(_cast, kind, _INTEGERS), return_dtype=kind)
        case "float64":
            kind = pl.Float64()
            number = raw.map_batches(partial(_cast, kind, _FLOATS), return_dtype=kind)
            value = pl.when(number.is_finite()).then(number)
        case "bool":
            truths = {"true": True, "1": True, "false": False, "0": False}
            value = text.str.to_lowercase().replace_strict(
                truths, default=None, return_dtype=pl.Boolean
            )
        case "date":
            value = raw.map_batches(_dates, return_dtype=pl.Date)
        case "timestamp":
            kind = pl.Datetime("us", "UTC")
            value = raw.map_batches(_timestamps, return_dtype=kind)
    return value.alias(column.name)


def uncast(column: Column) -> pl.Expr:
    """Whether there is text that did not become a value; over the raw and typed columns."""
    return pl.col(f"raw:{column.name}").is_not_null() & pl.col(column.name).is_null()


def _cast(
    kind: pl.DataType, ways: Sequence[Callable[[pl.Series], pl.Series]], text: pl.Series
) -> pl.Series:
    """As it is, which most columns take; the ways to mend a text only see what is left."""
    found = text.cast(kind, strict=False)
    for way in ways:
        rows = (text.is_not_null() & found.is_null()).arg_true()
        if not len(rows):
            break
        found = found.scatter(rows, way(text.gather(rows)).cast(kind, strict=False))
    return found


def _without_zeros(text: pl.Series) -> pl.Series:
    return text.str.strip_chars().str.replace(r"\.0*$", "")


_INTEGERS = (lambda text: text.str.strip_suffix(".0"), _without_zeros)
_FLOATS = (lambda text: text.str.strip_chars(),)


def _dates(raw: pl.Series) -> pl.Series:
    text = raw.str.strip_chars()
    found = text.str.to_date("%Y-%m-%d", strict=False)
    rows = (raw.is_not_null() & found.is_null()).arg_true()
    if len(rows):  # workbooks and databases have times at midnight in the place of dates
        day = text.gather(rows).str.extract(_MIDNIGHT)
        found = found.scatter(rows, day.str.to_date("%Y-%m-%d", strict=False))
    return found.set(~found.is_between(date.min, date.max), None)


def _timestamps(raw: pl.Series) -> pl.Series:
    """By the format that most columns have; the others only see what it leaves."""
    # Without a fraction a time is read several times as fast, and each anew faster than from a
    # cache, which pays where few differ.
    found = raw.str.to_datetime(_PLAIN, time_unit="us", strict=False, cache=False)
    # It takes a year of `--24` for one; what begins with no digit is left to the other formats.
    found = found.dt.replace_time_zone("UTC").set(raw < "0", None)
    for form in (*_TIMESTAMPS, *_ZONED_TIMESTAMPS):
        rows = (raw.is_not_null() & found.is_null()).arg_true()
        if not len(rows):
            break
        found = found.scatter(rows, _parsed(raw.gather(rows).str.strip_chars(), form))
    return found.set(~found.is_between(_FIRST, _LAST), None)


def _parsed(text: pl.Series, form: str) -> pl.Series:
    if form in _ZONED_TIMESTAMPS:
        text = text.str.replace("Z$", "+00:00")
        return text.str.to_datetime(form, time_unit="us", strict=False).dt.convert_time_zone("UTC")
    return text.str.to_datetime(form, time_unit="us", strict=False).dt.replace_time_zone("UTC")
