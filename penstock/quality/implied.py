"""Expectations that hold of every value that another one lets pass.

What keeps to `^[0-9]{5}$` is five characters long, and what is one of three words begins with a
letter if they do: of such expectations only the few rows need to be asked that break the other.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from penstock.contracts import Expectation
from penstock.quality.compiled import breaks, digits_of

_LENGTHS = {"expect_column_value_lengths_to_be_between", "expect_column_value_lengths_to_equal"}
_OF_VALUES = {
    *_LENGTHS,
    "expect_column_values_to_be_between",
    "expect_column_values_to_be_in_set",
    "expect_column_values_to_not_be_in_set",
    "expect_column_values_to_match_regex",
    "expect_column_values_to_not_match_regex",
    "expect_column_values_to_match_regex_list",
    "expect_column_values_to_not_match_regex_list",
    "expect_column_values_to_match_like_pattern",
    "expect_column_values_to_not_match_like_pattern",
    "expect_column_values_to_match_like_pattern_list",
    "expect_column_values_to_not_match_like_pattern_list",
}
"""About texts, each for itself, and none about nulls."""
_MOST = 1000
"""Values of a set that are tried."""


def implied(asked: Mapping[int, Expectation], schema: Mapping[str, pl.DataType]) -> set[int]:
    """The expectations whose every broken row breaks another one too, which is not of them.

    Parameters
    ----------
    asked: by number.
    schema: of the rows.
    """
    passing = {n: tried for n, e in asked.items() if (tried := _passing(e, schema)) is not None}
    found, needed = set[int](), set[int]()
    for number, expectation in asked.items():
        if expectation.type not in _OF_VALUES or number in needed:
            continue
        for other, values in passing.items():
            if other == number or other in found or asked[other].columns != expectation.columns:
                continue
            if asked[other].type in _BY_SAMPLES and expectation.type not in _LENGTHS:
                continue
            if not values.select(breaks(expectation).fill_null(value=True).any()).item():
                found.add(number)
                needed.add(other)
                break
    return found


_BY_SAMPLES = {"expect_column_values_to_match_regex"}


def _passing(expectation: Expectation, schema: Mapping[str, pl.DataType]) -> pl.DataFrame | None:
    """All texts that keep to an expectation, or one of each length that they have; None where that
    can't be told.
    """
    if expectation.row_condition is not None:
        return None
    match expectation.type:
        case "expect_column_values_to_be_in_set":
            values = [each for each in expectation.arguments["value_set"] if each is not None]
        case "expect_column_values_to_match_regex":
            lengths = digits_of(expectation.arguments["regex"])
            values = [] if lengths is None else ["0" * n for n in range(lengths[0], lengths[1] + 1)]
        case _:
            return None
    (name,) = expectation.columns
    is_tried = 0 < len(values) <= _MOST and all(isinstance(each, str) for each in values)
    if schema.get(name) != pl.String or not is_tried:
        return None
    return pl.DataFrame({name: values}, schema={name: pl.String})
