"""Expectations about rows, under Great Expectations' names and arguments.

All take `severity` (reject, warn, fail), `mostly` and `row_condition`; see `expectation.py`. As in
Great Expectations a missing value (null, or NaN) is passed over by all but the two about nulls.
Expectations of several columns pass over rows in which any of them is missing, unless
`ignore_row_if` says otherwise (Great Expectations passes over those in which all are).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, Literal, Unpack

from penstock.contracts.expectation import Expectation, IgnoreRow, RowOptions, bounds, listed
from penstock.errors import ContractError

Bound = float | date | datetime | str


def expect_column_values_to_not_be_null(
    column: str,
    **options: Unpack[RowOptions],
) -> Expectation:
    """The column has a value."""
    return Expectation("expect_column_values_to_not_be_null", (column,), {}, **options)


def expect_column_values_to_be_null(
    column: str,
    **options: Unpack[RowOptions],
) -> Expectation:
    """The column has no value."""
    return Expectation("expect_column_values_to_be_null", (column,), {}, **options)


def expect_column_values_to_be_between(
    column: str,
    min_value: Bound | None = None,
    max_value: Bound | None = None,
    *,
    strict_min: bool = False,
    strict_max: bool = False,
    **options: Unpack[RowOptions],
) -> Expectation:
    """The value lies in [min_value, max_value]; an end is left out where it is strict."""
    arguments = bounds(min_value, max_value, strict_min=strict_min, strict_max=strict_max)
    return Expectation("expect_column_values_to_be_between", (column,), arguments, **options)


def expect_column_values_to_be_in_set(
    column: str,
    value_set: Sequence[Any],
    **options: Unpack[RowOptions],
) -> Expectation:
    """The value is one of the set."""
    return Expectation(
        "expect_column_values_to_be_in_set", (column,), {"value_set": listed(value_set)}, **options
    )


def expect_column_values_to_not_be_in_set(
    column: str,
    value_set: Sequence[Any],
    **options: Unpack[RowOptions],
) -> Expectation:
    """The value is none of the set."""
    return Expectation(
        "expect_column_values_to_not_be_in_set",
        (column,),
        {"value_set": listed(value_set)},
        **options,
    )


def expect_column_values_to_match_regex(
    column: str,
    regex: str,
    **options: Unpack[RowOptions],
) -> Expectation:
    """The regular expression (Rust's syntax) is found in the text."""
    return Expectation(
        "expect_column_values_to_match_regex", (column,), {"regex": regex}, **options
    )


def expect_column_values_to_not_match_regex(
    column: str,
    regex: str,
    **options: Unpack[RowOptions],
) -> Expectation:
    """The regular expression (Rust's syntax) is not found in the text."""
    return Expectation(
        "expect_column_values_to_not_match_regex", (column,), {"regex": regex}, **options
    )


def expect_column_values_to_match_regex_list(
    column: str,
    regex_list: Sequence[str],
    match_on: Literal["any", "all"] = "any",
    **options: Unpack[RowOptions],
) -> Expectation:
    """Any or all of the regular expressions are found in the text."""
    return Expectation(
        "expect_column_values_to_match_regex_list",
        (column,),
        {"regex_list": listed(regex_list), "match_on": match_on},
        **options,
    )


def expect_column_values_to_not_match_regex_list(
    column: str,
    regex_list: Sequence[str],
    **options: Unpack[RowOptions],
) -> Expectation:
    """None of the regular expressions is found in the text."""
    return Expectation(
        "expect_column_values_to_not_match_regex_list",
        (column,),
        {"regex_list": listed(regex_list)},
        **options,
    )


def expect_column_values_to_match_like_pattern(
    column: str,
    like_pattern: str,
    **options: Unpack[RowOptions],
) -> Expectation:
    """The whole text matches an SQL pattern: `%` is any text, `_` any character."""
    return Expectation(
        "expect_column_values_to_match_like_pattern",
        (column,),
        {"like_pattern": like_pattern},
        **options,
    )


def expect_column_values_to_not_match_like_pattern(
    column: str,
    like_pattern: str,
    **options: Unpack[RowOptions],
) -> Expectation:
    """The whole text matches no such SQL pattern."""
    return Expectation(
        "expect_column_values_to_not_match_like_pattern",
        (column,),
        {"like_pattern": like_pattern},
        **options,
    )


def expect_column_values_to_match_like_pattern_list(
    column: str,
    like_pattern_list: Sequence[str],
    match_on: Literal["any", "all"] = "any",
    **options: Unpack[RowOptions],
) -> Expectation:
    """The whole text matches any or all of the SQL patterns."""
    return Expectation(
        "expect_column_values_to_match_like_pattern_list",
        (column,),
        {"like_pattern_list": listed(like_pattern_list), "match_on": match_on},
        **options,
    )


def expect_column_values_to_not_match_like_pattern_list(
    column: str,
    like_pattern_list: Sequence[str],
    **options: Unpack[RowOptions],
) -> Expectation:
    """The whole text matches none of the SQL patterns."""
    return Expectation(
        "expect_column_values_to_not_match_like_pattern_list",
        (column,),
        {"like_pattern_list": listed(like_pattern_list)},
        **options,
    )


def expect_column_values_to_match_strftime_format(
    column: str,
    strftime_format: str,
    **options: Unpack[RowOptions],
) -> Expectation:
    """The text is a time in this format of `strptime`."""
    return Expectation(
        "expect_column_values_to_match_strftime_format",
        (column,),
        {"strftime_format": strftime_format},
        **options,
    )


def expect_column_values_to_be_dateutil_parseable(
    column: str,
    **options: Unpack[RowOptions],
) -> Expectation:
    """The text is a date or time that dateutil can read; slow where no common format fits."""
    return Expectation("expect_column_values_to_be_dateutil_parseable", (column,), {}, **options)


def expect_column_values_to_be_json_parseable(
    column: str,
    **options: Unpack[RowOptions],
) -> Expectation:
    """The text is JSON; each distinct text is parsed once."""
    return Expectation("expect_column_values_to_be_json_parseable", (column,), {}, **options)


def expect_column_values_to_match_json_schema(
    column: str,
    json_schema: Mapping[str, Any],
    **options: Unpack[RowOptions],
) -> Expectation:
    """The text is JSON that a JSON Schema allows; each distinct text is parsed once."""
    return Expectation(
        "expect_column_values_to_match_json_schema",
        (column,),
        {"json_schema": dict(json_schema)},
        **options,
    )


def expect_column_value_lengths_to_be_between(
    column: str,
    min_value: int | None = None,
    max_value: int | None = None,
    *,
    strict_min: bool = False,
    strict_max: bool = False,
    **options: Unpack[RowOptions],
) -> Expectation:
    """The text has so many characters; an end is left out where it is strict."""
    arguments = bounds(min_value, max_value, strict_min=strict_min, strict_max=strict_max)
    return Expectation("expect_column_value_lengths_to_be_between", (column,), arguments, **options)


def expect_column_value_lengths_to_equal(
    column: str,
    value: int,
    **options: Unpack[RowOptions],
) -> Expectation:
    """The text has this many characters."""
    return Expectation(
        "expect_column_value_lengths_to_equal", (column,), {"value": value}, **options
    )


def expect_column_pair_values_a_to_be_greater_than_b(
    column_a: str,
    column_b: str,
    *,
    or_equal: bool = False,
    ignore_row_if: IgnoreRow | None = None,
    **options: Unpack[RowOptions],
) -> Expectation:
    """Column A's value is greater than column B's in the same row."""
    arguments = {"or_equal": or_equal, **_ignored(ignore_row_if)}
    return Expectation(
        "expect_column_pair_values_a_to_be_greater_than_b",
        (column_a, column_b),
        arguments,
        **options,
    )


def expect_column_pair_values_to_be_equal(
    column_a: str,
    column_b: str,
    *,
    ignore_row_if: IgnoreRow | None = None,
    **options: Unpack[RowOptions],
) -> Expectation:
    """Both columns have the same value."""
    arguments = _ignored(ignore_row_if)
    return Expectation(
        "expect_column_pair_values_to_be_equal", (column_a, column_b), arguments, **options
    )


def expect_column_pair_values_to_be_in_set(
    column_a: str,
    column_b: str,
    value_pairs_set: Sequence[tuple[Any, Any]],
    *,
    ignore_row_if: IgnoreRow | None = None,
    **options: Unpack[RowOptions],
) -> Expectation:
    """The two values are one of the pairs."""
    pairs = [tuple(pair) for pair in value_pairs_set]
    if any(len(pair) != 2 for pair in pairs):
        raise ContractError(f"{column_a}, {column_b}: value_pairs_set has pairs, not {pairs[:3]}")
    arguments = {"value_pairs_set": pairs, **_ignored(ignore_row_if)}
    kind = "expect_column_pair_values_to_be_in_set"
    return Expectation(kind, (column_a, column_b), arguments, **options)


def expect_compound_columns_to_be_unique(
    column_list: Sequence[str], **options: Unpack[RowOptions]
) -> Expectation:
    """No other row has the same values in all the columns; nulls equal one another.

    In a contract: no earlier row of the same source file has, so that the first of a set of equal
    rows holds and the later ones break it (Great Expectations counts the first as well).
    """
    return Expectation("expect_compound_columns_to_be_unique", tuple(column_list), {}, **options)


def expect_multicolumn_sum_to_equal(
    column_list: Sequence[str],
    sum_total: float,
    *,
    ignore_row_if: IgnoreRow | None = None,
    **options: Unpack[RowOptions],
) -> Expectation:
    """The columns of a row add up to this."""
    arguments = {"sum_total": sum_total, **_ignored(ignore_row_if)}
    return Expectation("expect_multicolumn_sum_to_equal", tuple(column_list), arguments, **options)


def expect_multicolumn_values_to_be_equal(
    column_list: Sequence[str],
    *,
    ignore_row_if: IgnoreRow | None = None,
    **options: Unpack[RowOptions],
) -> Expectation:
    """All the columns of a row have the same value; missing ones equal one another."""
    kind = "expect_multicolumn_values_to_be_equal"
    return Expectation(kind, tuple(column_list), _ignored(ignore_row_if), **options)


def expect_select_column_values_to_be_unique_within_record(
    column_list: Sequence[str],
    *,
    ignore_row_if: IgnoreRow | None = None,
    **options: Unpack[RowOptions],
) -> Expectation:
    """No two of the columns of a row have the same value."""
    kind = "expect_select_column_values_to_be_unique_within_record"
    return Expectation(kind, tuple(column_list), _ignored(ignore_row_if), **options)


def expect_multicolumn_values_to_be_unique(
    column_list: Sequence[str],
    *,
    ignore_row_if: IgnoreRow | None = None,
    **options: Unpack[RowOptions],
) -> Expectation:
    """Great Expectations' older name of `..._unique_within_record`."""
    kind = "expect_multicolumn_values_to_be_unique"
    return Expectation(kind, tuple(column_list), _ignored(ignore_row_if), **options)


def _ignored(which: IgnoreRow | None) -> dict[str, Any]:
    return {} if which is None else {"ignore_row_if": which}
