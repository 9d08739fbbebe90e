"""What people hand in to be checked: frames of others, times as texts, columns of nulls."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest

from penstock import contracts as c
from penstock.contracts import Expectation
from penstock.errors import ContractError
from penstock.quality import check, profile

_TIMES = pl.DataFrame(
    {
        "day": [date(2020, 1, 1), date(2024, 1, 1)],
        "at": [datetime(2020, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)],
    }
)


@pytest.mark.parametrize(
    "expectation",
    [
        c.expect_column_values_to_be_between("day", "2021-01-01"),
        c.expect_column_values_to_be_between("at", "2021-01-01T00:00:00+02:00"),
        c.expect_column_values_to_be_in_set("day", ["2024-01-01"]),
    ],
)
def test_times_are_held_against_texts_of_times(expectation: Expectation) -> None:
    (result,) = check(_TIMES, [expectation]).results

    assert (result.looked_at, result.broken) == (2, 1)


def test_a_text_that_is_no_time_is_told() -> None:
    with pytest.raises(ContractError, match="'soon'"):
        check(_TIMES, [c.expect_column_values_to_be_between("at", "soon")])


@pytest.mark.parametrize(
    ("expectation", "holds"),
    [
        (c.expect_column_values_to_be_between("x", 1), True),
        (c.expect_column_values_to_be_between("x", date(2024, 1, 1)), True),
        (c.expect_column_values_to_be_in_set("x", ["a"]), True),
        (c.expect_column_values_to_match_regex("x", "a"), True),
        (c.expect_column_values_to_have_no_gaps("x"), True),
        (c.expect_column_values_to_not_be_null("x"), False),
        (c.expect_column_max_to_be_between("x", 1), False),
        (
            c.expect_column_quantile_values_to_be_between(
                "x", {"quantiles": [0.5], "value_ranges": [[1, 2]]}
            ),
            False,
        ),
    ],
)
def test_a_column_of_nulls_alone_is_asked_as_any(expectation: Expectation, holds: bool) -> None:
    frame = pl.DataFrame({"x": [None, None], "y": [1, 2]})

    assert check(frame, expectation).results[0].success is holds


def test_a_frame_of_pandas_is_taken() -> None:
    pytest.importorskip("pandas")
    frame = pl.DataFrame({"n": [1, None, 3]}).to_pandas()

    report = check(frame, c.expect_column_values_to_be_between("n", 2))

    assert (report.rows, report.results[0].looked_at, report.results[0].broken) == (3, 2, 1)
    assert profile(frame).rows == 3


@pytest.mark.parametrize("data", [[1], {"a": [1]}, pl.Series([1]), 3])
def test_what_is_no_table_is_told(data: Any) -> None:
    for run in (profile, lambda rows: check(rows, [])):
        with pytest.raises(ContractError, match="is a frame of polars or pandas"):
            run(data)


_ROWS = pl.DataFrame({"n": [1, 2, 3, None], "k": ["a", "a", "b", "b"]})


@pytest.mark.parametrize(
    "build",
    [
        lambda **o: c.expect_column_mean_to_be_between("n", 1.5, 1.5, **o),
        lambda **o: c.expect_column_median_to_be_between("n", 1.5, 1.5, **o),
        lambda **o: c.expect_column_sum_to_be_between("n", 3, 3, **o),
        lambda **o: c.expect_column_unique_value_count_to_be_between("n", 2, 2, **o),
        lambda **o: c.expect_column_proportion_of_non_null_values_to_be_between("n", 1, 1, **o),
        lambda **o: c.expect_column_distinct_values_to_equal_set("n", [1, 2], **o),
        lambda **o: c.expect_column_values_to_be_unique("k", **o),
        lambda **o: c.expect_column_values_to_be_decreasing("n", **o),
        lambda **o: c.expect_compound_columns_to_be_unique(["k", "n"], **o),
        lambda **o: c.expect_column_value_z_scores_to_be_less_than("n", 1, **o),
        lambda **o: c.expect_column_values_to_not_be_outliers("n", **o),
    ],
)
def test_a_row_condition_is_as_the_rows_that_it_picks(build: Any) -> None:
    whole = check(_ROWS, build(row_condition="k = 'a'")).results[0].to_json()
    picked = check(_ROWS.filter(k="a"), build()).results[0].to_json()

    assert (whole["success"], whole["result"]) == (picked["success"], picked["result"])
