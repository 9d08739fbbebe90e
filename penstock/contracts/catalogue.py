"""Every expectation that compiles, and what it is about.

row     one column of a row          pair    two columns of a row
rows    several columns of a row, or a row among others
column  a whole column               table   its columns, or how many rows it has
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["row", "pair", "rows", "column", "table"]

_ROW = (
    "value_lengths_to_be_between",
    "value_lengths_to_equal",
    "values_to_be_between",
    "values_to_be_dateutil_parseable",
    "values_to_exist_in_table",
    "values_to_be_in_set",
    "values_to_be_json_parseable",
    "values_to_be_null",
    "values_to_match_json_schema",
    "values_to_match_like_pattern",
    "values_to_match_like_pattern_list",
    "values_to_match_regex",
    "values_to_match_regex_list",
    "values_to_match_strftime_format",
    "values_to_not_be_in_set",
    "values_to_not_be_null",
    "values_to_not_match_like_pattern",
    "values_to_not_match_like_pattern_list",
    "values_to_not_match_regex",
    "values_to_not_match_regex_list",
)
_COLUMN = (
    "distinct_values_to_be_in_set",
    "distinct_values_to_contain_set",
    "distinct_values_to_equal_set",
    "distribution_to_be_stable",
    "kl_divergence_to_be_less_than",
    "max_to_be_between",
    "max_to_be_recent",
    "mean_to_be_between",
    "median_to_be_between",
    "min_to_be_between",
    "most_common_value_to_be_in_set",
    "proportion_of_non_null_values_to_be_between",
    "proportion_of_unique_values_to_be_between",
    "quantile_values_to_be_between",
    "stdev_to_be_between",
    "sum_to_be_between",
    "unique_value_count_to_be_between",
    # About rows among all others: which rows break them is known once the whole column is.
    "value_z_scores_to_be_less_than",
    "values_to_be_decreasing",
    "values_to_be_increasing",
    "values_to_be_unique",
    "values_to_have_no_gaps",
    "values_to_not_be_outliers",
)
_TABLE = (
    "expect_column_to_exist",
    "expect_column_type_to_be",
    "expect_column_values_to_be_in_type_list",
    "expect_column_values_to_be_of_type",
    "expect_query_results_to_match_comparison",
    "expect_table_column_count_to_be_between",
    "expect_table_column_count_to_equal",
    "expect_table_columns_to_be_known",
    "expect_table_columns_to_match_ordered_list",
    "expect_table_columns_to_match_set",
    "expect_table_row_count_to_be_between",
    "expect_table_row_count_to_be_near_previous",
    "expect_table_row_count_to_equal",
    "expect_table_row_count_to_equal_other_table",
    "unexpected_rows_expectation",
)
KINDS: dict[str, Kind] = {
    **{f"expect_column_{name}": "row" for name in _ROW},
    "expect_column_pair_values_a_to_be_greater_than_b": "pair",
    "expect_column_pair_values_to_be_equal": "pair",
    "expect_column_pair_values_to_be_in_set": "pair",
    "expect_compound_columns_to_be_unique": "rows",
    "expect_multicolumn_sum_to_equal": "rows",
    "expect_multicolumn_values_to_be_equal": "rows",
    "expect_multicolumn_values_to_be_unique": "rows",
    "expect_select_column_values_to_be_unique_within_record": "rows",
    **{f"expect_column_{name}": "column" for name in _COLUMN},
    **dict.fromkeys(_TABLE, "table"),
}
BEYOND = {
    "expect_column_distribution_to_be_stable",
    "expect_column_max_to_be_recent",
    "expect_column_values_to_exist_in_table",
    "expect_column_values_to_have_no_gaps",
    "expect_table_columns_to_be_known",
    "expect_table_row_count_to_be_near_previous",
}
"""Those of them that Great Expectations lacks."""
OF_THE_LAKE = {
    "expect_query_results_to_match_comparison",
    "expect_table_row_count_to_equal_other_table",
}
"""Those that read tables by what the lake calls them, which Great Expectations can't."""
WITHOUT_CONDITION = {
    *_TABLE,
    "expect_column_distribution_to_be_stable",
    "expect_column_kl_divergence_to_be_less_than",
}
"""Those that don't look at rows which a condition could pick."""
