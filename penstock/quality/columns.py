"""Expectations about whole columns and tables: what to compute of them, and what it comes to.

    first pass: `measures`, all of them in one scan ─▶ `second`: what needs them ─▶ `judged`

Order and repeats, of which a scan in pieces must carry something on, are in `passing.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from penstock.contracts import Expectation
from penstock.quality.beyond import Past, judge_times
from penstock.quality.beyond import measures as of_times
from penstock.quality.compiled import considered, in_set
from penstock.quality.results import MASK, Result

Values = Mapping[str, Any]
ORDERED = {
    "expect_column_values_to_be_increasing": 1,
    "expect_column_values_to_be_decreasing": -1,
}
REPEATED = {"expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique"}
_SHOWN = 20


def measures(expectation: Expectation) -> dict[str, pl.Expr]:
    """Aggregates of its column, nulls left out, by name."""
    if not expectation.columns or expectation.kind != "column":
        return {}
    value = picked(expectation).drop_nulls()
    found = {"count": picked(expectation).count(), **of_times(expectation, value)}
    if expectation.row_condition:
        found["rows"] = considered(expectation).sum()
    arguments = expectation.arguments
    match expectation.type.removeprefix("expect_column_").removesuffix("_to_be_between"):
        case "min" | "max" | "mean" | "median" as how:
            found["observed"] = getattr(value, how)()
        case "sum":
            wide = value + pl.lit(0, pl.Int64)  # narrow integers' sums would go round
            found |= {"observed": wide.sum(), "about": value.cast(pl.Float64).sum()}
        case "stdev":
            found["observed"] = value.std()
        case "unique_value_count" | "proportion_of_unique_values":
            found["observed"] = value.n_unique()
        case "quantile_values":
            quantiles = arguments["quantile_ranges"]["quantiles"]
            for number, quantile in enumerate(quantiles):
                found[f"low{number}"] = value.quantile(quantile, "lower")
                found[f"high{number}"] = value.quantile(quantile, "higher")
        case "most_common_value_to_be_in_set":
            found["observed"] = value.mode().implode()
        case (
            "distinct_values_to_be_in_set"
            | "distinct_values_to_contain_set"
            | "distinct_values_to_equal_set"
        ):
            known = in_set(value, arguments["value_set"])
            found["present"] = value.filter(known).unique().implode()
            found["others"] = value.filter(~known).n_unique()
            found["shown"] = value.filter(~known).unique().head(_SHOWN).implode()
        case "value_z_scores_to_be_less_than":
            found |= {"mean": value.mean(), "std": value.std()}
        case "values_to_not_be_outliers":
            if arguments.get("method", "iqr") == "iqr":
                found["low"] = value.quantile(0.25, "linear")
                found["high"] = value.quantile(0.75, "linear")
            else:
                found |= {"mean": value.mean(), "std": value.std()}
        case _:
            pass
    return found


def picked(expectation: Expectation) -> pl.Expr:
    """Its column's values in the rows that it looks at."""
    value = pl.col(expectation.columns[0])
    return value.filter(considered(expectation)) if expectation.row_condition else value


AFTERWARDS = frozenset(
    {"expect_column_value_z_scores_to_be_less_than", "expect_column_values_to_not_be_outliers"}
)
"""That say which rows break them once the whole column was measured."""


def second(expectation: Expectation, first: Values) -> pl.Expr | None:
    """Of which rows an expectation that needs measures is broken; null says nothing of the row."""
    value, arguments = pl.col(expectation.columns[0]), expectation.arguments
    mean, std = first.get("mean"), first.get("std")
    if expectation.type == "expect_column_value_z_scores_to_be_less_than":
        if not std or std != std:
            return pl.lit(value=False)  # without a spread there is no score
        score, threshold = (value - pl.lit(mean)) / std, arguments["threshold"]
        if arguments.get("double_sided", True):
            return score.abs() >= abs(threshold)
        return score >= threshold
    if expectation.type != "expect_column_values_to_not_be_outliers":
        return None
    width = arguments.get("multiplier", 1.5)
    if arguments.get("method", "iqr") == "iqr":
        low, high = first["low"], first["high"]
        if low is None:
            return pl.lit(value=False)
        reach = width * (high - low)
        return (value < low - reach) | (value > high + reach)
    if mean is None or std is None or std != std:
        return pl.lit(value=False)
    if width * std <= 0:
        return value != mean
    return (value - mean).abs() >= width * std


def judged(
    result: Result,
    values: Values,
    schema: Mapping[str, pl.DataType],
    rows: int,
    past: Past | None = None,
) -> None:
    """Fill in what a column or table comes to.

    Parameters
    ----------
    values: what `measures` came to.
    rows: of the whole table.
    past: what came before, of a batch.
    """
    expectation = result.expectation
    if expectation.kind == "table":
        result.observed, result.holds = _of_table(expectation, schema, rows)
        return
    if judge_times(result, values, past):
        return
    count, rows = int(values.get("count", 0)), int(values.get("rows", rows) or 0)
    result.elements = result.elements or rows
    kind = expectation.type.removeprefix("expect_column_")
    if kind.startswith("distinct_values"):
        _distinct(kind, result, values)
    elif kind.startswith("most_common"):
        found, wanted = values["observed"] or [], set(expectation.arguments["value_set"])
        result.observed = sorted(found, key=repr)
        has_ties = len(found) > 1 and not expectation.arguments.get("ties_okay")
        result.holds = not has_ties and bool(wanted & set(found))
    elif kind.startswith("quantile"):
        quantiles, ranges = expectation.arguments["quantile_ranges"].values()
        found = [_nearest(values, number, q, count) for number, q in enumerate(quantiles)]
        pairs = zip(found, ranges, strict=True)
        result.observed = {"quantiles": quantiles, "values": found}
        result.holds = all(_is_within(q, low, high) for q, (low, high) in pairs)
    else:
        observed: Any = values.get("observed")
        if isinstance(observed, int) and abs(values.get("about") or 0) >= 1 << 63:
            observed = values["about"]  # the sum of integers went round
        if kind.startswith("proportion_of_unique"):
            observed = observed / count if count else 0.0
        if kind.startswith("proportion_of_non_null"):
            observed = count / rows if rows else 0.0
        result.observed = observed
        result.holds = _in_bounds(observed, expectation.arguments)


def _nearest(values: Values, number: int, quantile: float, count: int) -> Any:
    """The nearest value that is there; of two as near the one with an even place, as numpy does."""
    place = quantile * (count - 1)
    low, share = int(place // 1), place % 1
    is_low = share < 0.5 or (share == 0.5 and low % 2 == 0)
    return values[f"{'low' if is_low else 'high'}{number}"]


def mask(result: Result) -> None:
    """Take out what is somebody's own: values, and not how many there are."""
    is_count = "unique_value_count" in result.expectation.type or "proportion" in (
        result.expectation.type
    )
    if result.holds is not None and not is_count and result.observed is not None:
        result.observed = MASK
    lists = {name for name, value in result.details.items() if isinstance(value, list)}
    result.details |= {name: [MASK] for name in lists if result.details[name]}
    result.examples = [MASK] if result.examples else []


def _distinct(kind: str, result: Result, values: Values) -> None:
    wanted = list(dict.fromkeys(result.expectation.arguments["value_set"]))
    present, others = list(values["present"] or []), int(values["others"] or 0)
    missing = [value for value in wanted if value not in present]
    shown = sorted(values["shown"] or [], key=repr)
    result.observed = sorted([*present, *shown], key=repr)
    may_have_others = kind.endswith("contain_set")
    may_lack = kind.endswith("be_in_set")
    result.holds = (may_have_others or not others) and (may_lack or not missing)
    if not may_have_others:
        result.details |= {"unexpected_count": others, "partial_unexpected_list": shown}
    if not may_lack:
        result.details |= {"missing_count": len(missing), "partial_missing_list": missing[:_SHOWN]}


def _in_bounds(value: Any, arguments: Mapping[str, Any]) -> bool:
    """Of no value at all, nothing holds (as in Great Expectations)."""
    if value is None or value != value:
        return False
    low, high = arguments.get("min_value"), arguments.get("max_value")
    value, low, high = (_timed(each) for each in (value, low, high))
    if low is not None and (value <= low if arguments.get("strict_min") else value < low):
        return False
    return high is None or (value < high if arguments.get("strict_max") else value <= high)


def _timed(value: Any) -> Any:
    """A time as one with a zone, UTC where it has none, so that any two can be compared."""
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, datetime) and value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return value


def _is_within(value: Any, low: Any, high: Any) -> bool:
    if value is None:
        return False
    value, low, high = (_timed(each) for each in (value, low, high))
    return (low is None or value >= low) and (high is None or value <= high)


def _of_table(
    expectation: Expectation, schema: Mapping[str, pl.DataType], rows: int
) -> tuple[Any, bool]:
    arguments, names = expectation.arguments, list(schema)
    match expectation.type:
        case "expect_table_row_count_to_be_between":
            return rows, _in_bounds(rows, arguments)
        case "expect_table_row_count_to_equal":
            return rows, rows == arguments["value"]
        case "expect_table_column_count_to_be_between":
            return len(names), _in_bounds(len(names), arguments)
        case "expect_table_column_count_to_equal":
            return len(names), len(names) == arguments["value"]
        case "expect_table_columns_to_match_ordered_list":
            return names, names == list(arguments["column_list"])
        case "expect_table_columns_to_match_set":
            missing = set(arguments["column_set"]) - set(names)
            more = set(names) - set(arguments["column_set"])
            return names, not missing and not (more and arguments.get("exact_match", True))
        case "expect_column_to_exist":
            (column,), place = expectation.columns, arguments.get("column_index")
            is_there = column in names and (place is None or names[place : place + 1] == [column])
            return names.index(column) if column in names else None, is_there
        case _:
            (column,) = expectation.columns
            kind = schema.get(column)
            wanted: Sequence[str] = arguments.get("type_list") or [arguments["type_"]]
            return str(kind), kind is not None and any(_is_type(kind, name) for name in wanted)


def _is_type(kind: pl.DataType, name: str) -> bool:
    python: dict[str, Callable[[], bool]] = {
        "int": kind.is_integer,
        "float": kind.is_float,
        "str": lambda: kind == pl.String,
        "bool": lambda: kind == pl.Boolean,
        "datetime": lambda: kind == pl.Datetime,
        "date": lambda: kind == pl.Date,
        "bytes": lambda: kind == pl.Binary,
    }
    if name in python:
        return python[name]()
    base = type(kind).__name__.lower()
    aliases = {"string": {"utf8", "object", "varchar", "text"}, "float64": {"double"}}
    return name.lower() in {base, str(kind).lower(), *aliases.get(base, set())}
