"""Expectations of nearly every type, over columns n, m (without nulls), f, s and t."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from penstock import contracts as c
from penstock.contracts import Expectation

_MID = datetime(2020, 1, 2, tzinfo=UTC)
EXPECTED: list[Expectation] = [
    c.expect_column_values_to_not_be_null("f"),
    c.expect_column_values_to_be_null("s"),
    c.expect_column_values_to_be_between("n", -1, 3),
    c.expect_column_values_to_be_between("n", 1, strict_min=True, mostly=0.5),
    c.expect_column_values_to_be_between("f", -1, 2, strict_max=True),
    c.expect_column_values_to_be_between("t", _MID - timedelta(hours=6), _MID),
    c.expect_column_values_to_be_in_set("s", ["a", "x1", ""]),
    c.expect_column_values_to_not_be_in_set("n", [0, 2, 2**53]),
    c.expect_column_values_to_be_in_set("f", [0.0, 1.5]),
    c.expect_column_values_to_match_regex("s", "^[a-z]"),
    c.expect_column_values_to_not_match_regex("s", "[0-9]$"),
    c.expect_column_values_to_match_regex_list("s", ["^a", "1"]),
    c.expect_column_values_to_match_regex_list("s", ["^x", "1"], match_on="all"),
    c.expect_column_values_to_not_match_regex_list("s", ["^a", "b$"]),
    c.expect_column_values_to_match_strftime_format("s", "%Y-%m-%d"),
    c.expect_column_values_to_be_json_parseable("s"),
    c.expect_column_values_to_be_dateutil_parseable("s"),
    c.expect_column_value_lengths_to_be_between("s", 1, 2),
    c.expect_column_value_lengths_to_be_between("s", 1, strict_min=True),
    c.expect_column_value_lengths_to_equal("s", 2),
    c.expect_column_pair_values_a_to_be_greater_than_b("n", "m"),
    c.expect_column_pair_values_a_to_be_greater_than_b(
        "n", "m", or_equal=True, ignore_row_if="all_values_are_missing"
    ),
    c.expect_column_pair_values_to_be_equal("n", "m"),
    c.expect_column_pair_values_to_be_in_set("n", "m", [(1, 1), (0, 2)]),
    c.expect_compound_columns_to_be_unique(["n", "m"]),
    c.expect_multicolumn_sum_to_equal(["n", "m"], 3),
    c.expect_multicolumn_values_to_be_equal(["n", "m"], ignore_row_if="never"),
    c.expect_select_column_values_to_be_unique_within_record(["n", "m"]),
    c.expect_column_values_to_be_unique("n"),
    c.expect_column_values_to_be_unique("s", mostly=0.6),
    c.expect_column_values_to_be_increasing("n"),
    c.expect_column_values_to_be_increasing("t", strictly=True),
    c.expect_column_values_to_be_decreasing("n", strictly=True),
    c.expect_column_value_z_scores_to_be_less_than("m", 1),
    c.expect_column_value_z_scores_to_be_less_than("m", 1, double_sided=False),
    c.expect_column_values_to_not_be_outliers("m"),
    c.expect_column_values_to_not_be_outliers("m", method="std", multiplier=1),
    c.expect_column_min_to_be_between("n", -2, 2),
    c.expect_column_max_to_be_between("f", 0, 3, strict_max=True),
    c.expect_column_mean_to_be_between("m", 0, 3),
    c.expect_column_median_to_be_between("m", 0, 3),
    c.expect_column_stdev_to_be_between("m", 0, 3),
    c.expect_column_sum_to_be_between("m", 0, 3),
    c.expect_column_unique_value_count_to_be_between("s", 1, 4),
    c.expect_column_proportion_of_unique_values_to_be_between("n", 0.2, 0.9),
    c.expect_column_proportion_of_non_null_values_to_be_between("n", 0.5, 1),
    c.expect_column_distinct_values_to_be_in_set("n", [*range(-5, 6)]),
    c.expect_column_distinct_values_to_contain_set("n", [0]),
    c.expect_column_distinct_values_to_equal_set("m", [0, 1]),
    c.expect_column_quantile_values_to_be_between(
        "m", {"quantiles": [0.25, 0.5], "value_ranges": [[-2, 2], [None, 3]]}
    ),
    c.expect_table_row_count_to_be_between(2, 8),
    c.expect_table_row_count_to_equal(3),
    c.expect_table_column_count_to_equal(5),
    c.expect_table_column_count_to_be_between(1, 4),
    c.expect_table_columns_to_match_ordered_list(["n", "m", "f", "s", "t"]),
    c.expect_table_columns_to_match_set(["n", "m"], exact_match=False),
    c.expect_column_to_exist("s", 3),
]
