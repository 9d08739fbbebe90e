"""Text to typed values, a whole column at a time; what does not cast is null and told apart."""

from __future__ import annotations

import polars as pl

from penstock.contracts import Column

_TIMESTAMPS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
_ZONED_TIMESTAMPS = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f%#z")


def typed(column: Column) -> pl.Expr:
    """The column's value, from its raw text; null where there is none or it does not cast.

    A whole number may be written as a float (`17850.0`). A time without an offset is taken as
    UTC. `nan` and `inf` are not numbers here.
    """
    text = pl.col(column.raw_name).str.strip_chars()
    match column.kind:
        case "string" | "binary":
            value = pl.col(column.raw_name)
        case "int32":
            value = text.str.replace(r"\.0*$", "").cast(pl.Int32, strict=False)
        case "int64":
            value = text.str.replace(r"\.0*$", "").cast(pl.Int64, strict=False)
        case "float64":
            number = text.cast(pl.Float64, strict=False)
            value = pl.when(number.is_finite()).then(number)
        case "bool":
            truths = {"true": True, "1": True, "false": False, "0": False}
            value = text.str.to_lowercase().replace_strict(
                truths, default=None, return_dtype=pl.Boolean
            )
        case "date":
            value = text.str.to_date("%Y-%m-%d", strict=False)
        case "timestamp":
            value = _timestamp(text)
    return value.alias(column.name)


def uncast(column: Column) -> pl.Expr:
    """Whether there is text that did not become a value; over the raw and typed columns."""
    return pl.col(f"raw:{column.name}").is_not_null() & pl.col(column.name).is_null()


def _timestamp(text: pl.Expr) -> pl.Expr:
    return text.map_batches(_timestamps, return_dtype=pl.Datetime("us", "UTC"))


def _timestamps(text: pl.Series) -> pl.Series:
    """By the format that most columns have; the others only see what it leaves."""
    found = _parsed(text, _TIMESTAMPS[0])
    for form in (*_TIMESTAMPS[1:], *_ZONED_TIMESTAMPS):
        left = text.is_not_null() & found.is_null()
        if not left.any():
            break
        rows = left.arg_true()
        found = found.scatter(rows, _parsed(text.gather(rows), form))
    return found


def _parsed(text: pl.Series, form: str) -> pl.Series:
    if form in _ZONED_TIMESTAMPS:
        text = text.str.replace("Z$", "+00:00")
        return text.str.to_datetime(form, time_unit="us", strict=False).dt.convert_time_zone("UTC")
    return text.str.to_datetime(form, time_unit="us", strict=False).dt.replace_time_zone("UTC")
