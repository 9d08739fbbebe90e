"""Expectations as polars expressions: for each row, whether it breaks one."""

from __future__ import annotations

from datetime import datetime
from functools import reduce
from operator import and_

import polars as pl

from penstock.contracts import Expectation
from penstock.errors import ContractError

SOURCE_FILE = "_source_file"
UNIQUE = "expect_compound_columns_to_be_unique"


def broken(expectation: Expectation) -> pl.Expr:
    """True where a row breaks the expectation, false elsewhere; never null.

    Over the typed columns and `_source_file`.

    Raises
    ------
    ContractError: the type is not one that compiles.
    """
    breaks = _breaks(expectation) & looked_at(expectation)
    return breaks.fill_null(value=False)


def looked_at(expectation: Expectation) -> pl.Expr:
    """True where the expectation says anything of a row at all."""
    looked = pl.lit(value=True)
    if expectation.row_condition:
        looked = pl.sql_expr(expectation.row_condition).fill_null(value=False)
    if expectation.type in _NULLS_COUNT:
        return looked
    return reduce(and_, (pl.col(name).is_not_null() for name in expectation.columns), looked)


def _breaks(expectation: Expectation) -> pl.Expr:
    value = pl.col(expectation.columns[0])
    arguments = expectation.arguments
    match expectation.type:
        case "expect_column_values_to_not_be_null":
            return value.is_null()
        case "expect_column_values_to_be_between":
            return _outside(
                value,
                arguments["min_value"],
                arguments["max_value"],
                strict_min=arguments.get("strict_min", False),
                strict_max=arguments.get("strict_max", False),
            )
        case "expect_column_values_to_be_in_set":
            return ~value.is_in(arguments["value_set"])
        case "expect_column_values_to_not_be_in_set":
            return value.is_in(arguments["value_set"])
        case "expect_column_values_to_match_regex":
            return ~value.str.contains(arguments["regex"])
        case "expect_column_value_lengths_to_be_between":
            length = value.str.len_chars()
            return _outside(length, arguments["min_value"], arguments["max_value"])
        case "expect_column_pair_values_a_to_be_greater_than_b":
            other = pl.col(expectation.columns[1])
            return value < other if arguments["or_equal"] else value <= other
        case "expect_compound_columns_to_be_unique":
            return pl.lit(value=True)  # of the rows that `Repeats` marks
        case _:
            raise ContractError(f"{expectation.type} is not known; see docs/contracts.md")


_NULLS_COUNT = {"expect_column_values_to_not_be_null", UNIQUE}


def _outside(
    value: pl.Expr,
    low: float | datetime | None,
    high: float | datetime | None,
    *,
    strict_min: bool = False,
    strict_max: bool = False,
) -> pl.Expr:
    outside = pl.lit(value=False)
    if low is not None:
        outside = outside | (value <= low if strict_min else value < low)
    if high is not None:
        outside = outside | (value >= high if strict_max else value > high)
    return outside
