"""Expectations about whole columns and tables, under Great Expectations' names and arguments.

They look at all rows of what is checked (of a contract: the accepted rows of a batch), and reject
none: their severity is `warn`, the default, or `fail`. Missing values (null, NaN) are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, Literal, Unpack

from penstock.contracts.expectation import Expectation, Options, bounds, listed
from penstock.errors import ContractError

Bound = float | date | datetime | str


def expect_column_min_to_be_between(
    column: str,
    min_value: Bound | None = None,
    max_value: Bound | None = None,
    *,
    strict_min: bool = False,
    strict_max: bool = False,
    **options: Unpack[Options],
) -> Expectation:
    """The least value lies in the range."""
    return about(
        "expect_column_min_to_be_between",
        (column,),
        bounds(min_value, max_value, strict_min=strict_min, strict_max=strict_max),
        options,
    )


def expect_column_max_to_be_between(
    column: str,
    min_value: Bound | None = None,
    max_value: Bound | None = None,
    *,
    strict_min: bool = False,
    strict_max: bool = False,
    **options: Unpack[Options],
) -> Expectation:
    """The greatest value lies in the range."""
    return about(
        "expect_column_max_to_be_between",
        (column,),
        bounds(min_value, max_value, strict_min=strict_min, strict_max=strict_max),
        options,
    )


def expect_column_mean_to_be_between(
    column: str,
    min_value: float | None = None,
    max_value: float | None = None,
    *,
    strict_min: bool = False,
    strict_max: bool = False,
    **options: Unpack[Options],
) -> Expectation:
    """The mean lies in the range."""
    return about(
        "expect_column_mean_to_be_between",
        (column,),
        bounds(min_value, max_value, strict_min=strict_min, strict_max=strict_max),
        options,
    )


def expect_column_median_to_be_between(
    column: str,
    min_value: float | None = None,
    max_value: float | None = None,
    *,
    strict_min: bool = False,
    strict_max: bool = False,
    **options: Unpack[Options],
) -> Expectation:
    """The median lies in the range."""
    return about(
        "expect_column_median_to_be_between",
        (column,),
        bounds(min_value, max_value, strict_min=strict_min, strict_max=strict_max),
        options,
    )


def expect_column_stdev_to_be_between(
    column: str,
    min_value: float | None = None,
    max_value: float | None = None,
    *,
    strict_min: bool = False,
    strict_max: bool = False,
    **options: Unpack[Options],
) -> Expectation:
    """The standard deviation (of a sample, n - 1) lies in the range."""
    return about(
        "expect_column_stdev_to_be_between",
        (column,),
        bounds(min_value, max_value, strict_min=strict_min, strict_max=strict_max),
        options,
    )


def expect_column_sum_to_be_between(
    column: str,
    min_value: float | None = None,
    max_value: float | None = None,
    *,
    strict_min: bool = False,
    strict_max: bool = False,
    **options: Unpack[Options],
) -> Expectation:
    """The sum lies in the range."""
    return about(
        "expect_column_sum_to_be_between",
        (column,),
        bounds(min_value, max_value, strict_min=strict_min, strict_max=strict_max),
        options,
    )


def expect_column_unique_value_count_to_be_between(
    column: str,
    min_value: int | None = None,
    max_value: int | None = None,
    *,
    strict_min: bool = False,
    strict_max: bool = False,
    **options: Unpack[Options],
) -> Expectation:
    """The number of different values lies in the range."""
    return about(
        "expect_column_unique_value_count_to_be_between",
        (column,),
        bounds(min_value, max_value, strict_min=strict_min, strict_max=strict_max),
        options,
    )


def expect_column_proportion_of_unique_values_to_be_between(
    column: str,
    min_value: float | None = None,
    max_value: float | None = None,
    *,
    strict_min: bool = False,
    strict_max: bool = False,
    **options: Unpack[Options],
) -> Expectation:
    """Different values over all values lie in the range."""
    return about(
        "expect_column_proportion_of_unique_values_to_be_between",
        (column,),
        bounds(min_value, max_value, strict_min=strict_min, strict_max=strict_max),
        options,
    )


def expect_column_proportion_of_non_null_values_to_be_between(
    column: str,
    min_value: float | None = None,
    max_value: float | None = None,
    *,
    strict_min: bool = False,
    strict_max: bool = False,
    **options: Unpack[Options],
) -> Expectation:
    """The share of rows with a value lies in the range."""
    return about(
        "expect_column_proportion_of_non_null_values_to_be_between",
        (column,),
        bounds(min_value, max_value, strict_min=strict_min, strict_max=strict_max),
        options,
    )


def expect_column_distinct_values_to_be_in_set(
    column: str,
    value_set: Sequence[Any],
    **options: Unpack[Options],
) -> Expectation:
    """Every different value is one of the set."""
    return about(
        "expect_column_distinct_values_to_be_in_set",
        (column,),
        {"value_set": listed(value_set)},
        options,
    )


def expect_column_distinct_values_to_contain_set(
    column: str,
    value_set: Sequence[Any],
    **options: Unpack[Options],
) -> Expectation:
    """Every value of the set is there."""
    return about(
        "expect_column_distinct_values_to_contain_set",
        (column,),
        {"value_set": listed(value_set)},
        options,
    )


def expect_column_distinct_values_to_equal_set(
    column: str,
    value_set: Sequence[Any],
    **options: Unpack[Options],
) -> Expectation:
    """The different values are just those of the set."""
    return about(
        "expect_column_distinct_values_to_equal_set",
        (column,),
        {"value_set": listed(value_set)},
        options,
    )


def expect_column_most_common_value_to_be_in_set(
    column: str,
    value_set: Sequence[Any],
    *,
    ties_okay: bool = False,
    **options: Unpack[Options],
) -> Expectation:
    """The value that most rows have is one of the set."""
    return about(
        "expect_column_most_common_value_to_be_in_set",
        (column,),
        {"value_set": listed(value_set), "ties_okay": ties_okay},
        options,
    )


def expect_column_quantile_values_to_be_between(
    column: str,
    quantile_ranges: Mapping[str, Sequence[Any]],
    **options: Unpack[Options],
) -> Expectation:
    """Each quantile lies in its range: `{"quantiles": [0.5], "value_ranges": [[1, 2]]}`.

    A range's end may be None. A quantile is a value that is there, not one in between.
    """
    quantiles, ranges = (
        list(quantile_ranges.get(key, ())) for key in ("quantiles", "value_ranges")
    )
    is_whole = quantiles and len(quantiles) == len(ranges) and all(0 <= q <= 1 for q in quantiles)
    if not is_whole or not all(map(_is_range, ranges)):
        raise ContractError(
            f"{column}: quantile_ranges needs a range of two values, one of them not None, for "
            f"each quantile in [0, 1], got {dict(quantile_ranges)}"
        )
    arguments = {"quantile_ranges": {"quantiles": quantiles, "value_ranges": ranges}}
    kind = "expect_column_quantile_values_to_be_between"
    return about(kind, (column,), arguments, options)


def _is_range(ends: Any) -> bool:
    if isinstance(ends, str) or not isinstance(ends, Sequence) or len(ends) != 2:
        return False
    low, high = ends
    is_nan = any(end is not None and end != end for end in (low, high))
    if is_nan or (low is None and high is None):
        return False
    return low is None or high is None or low <= high


def expect_column_values_to_be_unique(
    column: str, *, mostly: float = 1.0, **options: Unpack[Options]
) -> Expectation:
    """No two rows have the same value."""
    return about("expect_column_values_to_be_unique", (column,), {}, options, mostly)


def expect_column_values_to_be_increasing(
    column: str, *, strictly: bool = False, mostly: float = 1.0, **options: Unpack[Options]
) -> Expectation:
    """No value is less than the one before it; strictly: nor equal to it."""
    kind, arguments = "expect_column_values_to_be_increasing", {"strictly": strictly}
    return about(kind, (column,), arguments, options, mostly)


def expect_column_values_to_be_decreasing(
    column: str, *, strictly: bool = False, mostly: float = 1.0, **options: Unpack[Options]
) -> Expectation:
    """No value is greater than the one before it; strictly: nor equal to it."""
    kind, arguments = "expect_column_values_to_be_decreasing", {"strictly": strictly}
    return about(kind, (column,), arguments, options, mostly)


def expect_column_value_z_scores_to_be_less_than(
    column: str,
    threshold: float,
    *,
    double_sided: bool = True,
    mostly: float = 1.0,
    **options: Unpack[Options],
) -> Expectation:
    """The value is less than so many standard deviations above the mean; or below, double sided."""
    kind = "expect_column_value_z_scores_to_be_less_than"
    arguments = {"threshold": threshold, "double_sided": double_sided}
    return about(kind, (column,), arguments, options, mostly)


def expect_column_values_to_not_be_outliers(
    column: str,
    *,
    method: Literal["iqr", "std"] = "iqr",
    multiplier: float = 1.5,
    mostly: float = 1.0,
    **options: Unpack[Options],
) -> Expectation:
    """The value is within so many interquartile ranges of the quartiles, or deviations of the
    mean.
    """
    kind = "expect_column_values_to_not_be_outliers"
    arguments = {"method": method, "multiplier": multiplier}
    return about(kind, (column,), arguments, options, mostly)


def expect_column_to_exist(
    column: str, column_index: int | None = None, **options: Unpack[Options]
) -> Expectation:
    """The table has the column, at this place where one is given."""
    arguments = {} if column_index is None else {"column_index": column_index}
    return about("expect_column_to_exist", (column,), arguments, options)


def expect_column_type_to_be(column: str, type_: str, **options: Unpack[Options]) -> Expectation:
    """The column has a type, by polars' name (`Int64`), Arrow's (`int64`) or Python's (`int`)."""
    return about("expect_column_type_to_be", (column,), {"type_": type_}, options)


def expect_column_values_to_be_of_type(
    column: str, type_: str, **options: Unpack[Options]
) -> Expectation:
    """As `expect_column_type_to_be`: all values of a column are of one type here."""
    return about("expect_column_values_to_be_of_type", (column,), {"type_": type_}, options)


def expect_column_kl_divergence_to_be_less_than(
    column: str,
    partition_object: Mapping[str, Any],
    threshold: float,
    tail_weight_holdout: float = 0,
    internal_weight_holdout: float = 0,
    **options: Unpack[Options],
) -> Expectation:
    """The Kullback-Leibler divergence from a distribution, in nats, is at most so much.

    Runs on Great Expectations itself (extra `quality`), with the column in memory.

    Parameters
    ----------
    partition_object: `{"values": [...], "weights": [...]}` of classes, or `{"bins": [...],
        "weights": [...]}` of numbers, a bin more than weights, with `tail_weights` if so wanted;
        weights add up to 1.
    tail_weight_holdout, internal_weight_holdout: weight for what lies outside of all bins, or in
        bins of none.
    """
    kind = "expect_column_kl_divergence_to_be_less_than"
    weights = partition_object.get("weights")
    places = partition_object.get("values") or partition_object.get("bins")
    if not weights or not places or abs(sum(weights) - 1) > 1e-6 + _tails(partition_object):
        raise ContractError(
            f"{kind}({column}): partition_object has values or bins, and weights that add up to 1"
        )
    if threshold is None or threshold < 0:  # pyright: ignore[reportUnnecessaryComparison]
        raise ContractError(f"{kind}({column}): threshold is 0 or more, not {threshold!r}")
    arguments = {"partition_object": dict(partition_object), "threshold": threshold}
    if tail_weight_holdout:
        arguments["tail_weight_holdout"] = tail_weight_holdout
    if internal_weight_holdout:
        arguments["internal_weight_holdout"] = internal_weight_holdout
    return about(kind, (column,), arguments, options)


def _tails(partition_object: Mapping[str, Any]) -> float:
    return float(sum(partition_object.get("tail_weights") or ()))


def expect_column_values_to_be_in_type_list(
    column: str, type_list: Sequence[str], **options: Unpack[Options]
) -> Expectation:
    """The column has one of the types."""
    kind = "expect_column_values_to_be_in_type_list"
    return about(kind, (column,), {"type_list": listed(type_list)}, options)


def expect_table_row_count_to_be_between(
    min_value: int | None = None, max_value: int | None = None, **options: Unpack[Options]
) -> Expectation:
    """There are so many rows, both ends included; in a contract, in a batch."""
    arguments = {"min_value": min_value, "max_value": max_value}
    return about("expect_table_row_count_to_be_between", (), arguments, options)


def expect_table_row_count_to_equal(value: int, **options: Unpack[Options]) -> Expectation:
    """There are just so many rows."""
    return about("expect_table_row_count_to_equal", (), {"value": value}, options)


def expect_table_column_count_to_be_between(
    min_value: int | None = None, max_value: int | None = None, **options: Unpack[Options]
) -> Expectation:
    """There are so many columns, both ends included."""
    arguments = {"min_value": min_value, "max_value": max_value}
    return about("expect_table_column_count_to_be_between", (), arguments, options)


def expect_table_column_count_to_equal(value: int, **options: Unpack[Options]) -> Expectation:
    """There are just so many columns."""
    return about("expect_table_column_count_to_equal", (), {"value": value}, options)


def expect_table_columns_to_match_ordered_list(
    column_list: Sequence[str], **options: Unpack[Options]
) -> Expectation:
    """The columns are these, in this order."""
    arguments = {"column_list": listed(column_list)}
    return about("expect_table_columns_to_match_ordered_list", (), arguments, options)


def expect_table_columns_to_match_set(
    column_set: Sequence[str], *, exact_match: bool = True, **options: Unpack[Options]
) -> Expectation:
    """The columns are these, in any order; with more of them where the match isn't exact."""
    arguments = {"column_set": listed(column_set), "exact_match": exact_match}
    return about("expect_table_columns_to_match_set", (), arguments, options)


def about(
    kind: str,
    columns: tuple[str, ...],
    arguments: Mapping[str, Any],
    options: Options,
    mostly: float = 1.0,
) -> Expectation:
    """One about a column or a table; it rejects no rows.

    Raises
    ------
    ContractError: an option is none that it has.
    """
    if unknown := sorted({*options} - Options.__annotations__.keys()):
        raise ContractError(
            f"{kind} takes no {', '.join(unknown)}; beside its own arguments it takes "
            f"{', '.join(Options.__annotations__)}"
        )
    given: Options = {"severity": "warn", **options}
    return Expectation(kind, columns, arguments, mostly=mostly, **given)
