"""What a table promises, as plain values: columns, keys, event time, expectations.

schemas/retail.py ─▶ Contract(Column..., Expectation...) ─▶ ingest (names), quality (checks)
"""

from penstock.contracts.contract import Column, Contract, file_columns
from penstock.contracts.expectations import (
    Expectation,
    Severity,
    expect_column_pair_values_a_to_be_greater_than_b,
    expect_column_value_lengths_to_be_between,
    expect_column_values_to_be_between,
    expect_column_values_to_be_in_set,
    expect_column_values_to_match_regex,
    expect_column_values_to_not_be_in_set,
    expect_column_values_to_not_be_null,
    expect_compound_columns_to_be_unique,
    expect_table_row_count_to_be_between,
)

__all__ = [
    "Column",
    "Contract",
    "Expectation",
    "Severity",
    "expect_column_pair_values_a_to_be_greater_than_b",
    "expect_column_value_lengths_to_be_between",
    "expect_column_values_to_be_between",
    "expect_column_values_to_be_in_set",
    "expect_column_values_to_match_regex",
    "expect_column_values_to_not_be_in_set",
    "expect_column_values_to_not_be_null",
    "expect_compound_columns_to_be_unique",
    "expect_table_row_count_to_be_between",
    "file_columns",
]
