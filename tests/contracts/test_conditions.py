"""Conditions of one row, and those that look at others."""

from __future__ import annotations

import polars as pl
import pytest

from penstock.contracts.conditions import looks_past_a_row

_X, _TEXTS = pl.col("x"), pl.col("texts")


@pytest.mark.parametrize(
    "condition",
    [
        pl.lit(value=True),
        pl.sql_expr("x BETWEEN 1 AND 2 AND s LIKE 'Max%' AND COALESCE(y, 1) > 0 OR s IS NULL"),
        pl.sql_expr("CASE WHEN x > 1 THEN s = 'Agg' ELSE CAST(x AS INT) = 1 END"),
        _X.is_in([1, 2]),
        _X.is_in(pl.Series([1, 2]).implode()),
        _X.is_in(pl.lit(pl.Series([1, 2])).implode()),
        pl.col("Agg") > pl.col("Len"),
        pl.sql_expr("s.Len > 1"),
        pl.any_horizontal((_X > 1).alias("Len"), pl.col("Len", "x") > 1),
        pl.col("s").struct.with_fields(pl.field("Len") + 1).struct.field("Len") > 1,
        pl.col("s").cast(pl.Struct({"Len": pl.Int8})).struct.field("Len") > 1,
        pl.any_horizontal(_X > 1, _X.is_nan()),
        _TEXTS.list.max() > "a",
        _TEXTS.list.unique().list.reverse().list.len() > 1,
        _TEXTS.list.eval(pl.element().str.len_chars() > 1).list.any(),
        pl.col("s").str.reverse() == "x",
        pl.col("when").dt.year() == 2020,
        _X.hash() % 2 == 0,
    ],
)
def test_conditions_of_one_row(condition: pl.Expr) -> None:
    assert not looks_past_a_row(condition)


@pytest.mark.parametrize(
    "condition",
    [
        pl.sql_expr("x = MAX(x)"),
        pl.sql_expr("ROW_NUMBER() OVER (PARTITION BY s ORDER BY x) > 1"),
        pl.sql_expr("COUNT(*) > 3"),
        _X.quantile(0.5) < _X,
        _X.is_in(pl.col("y").implode()),
        _X.max().over("s") == _X,
        _X.is_first_distinct(),
        ~_X.is_last_distinct(),
        _X.is_duplicated() & (_X > 1),
        _X.is_unique(),
        _X.shift(1) == 1,
        _X.diff() > 0,
        _X.cum_sum() > 3,
        _X.rank() > 1,
        _X.fill_null(strategy="forward") > 1,
        _X.rolling_mean(2) > 1,
        _X.sort() > 1,
        _X.cumulative_eval(pl.element().sum()) > 1,
        pl.int_range(pl.len()) < 10,
        pl.lit(2) < pl.len().alias("many"),
        pl.col("s").struct.field("Len") > pl.len(),
    ],
)
def test_conditions_that_look_at_other_rows(condition: pl.Expr) -> None:
    assert looks_past_a_row(condition)
