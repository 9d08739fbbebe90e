"""Why rows are rejected: a list of reasons a row."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

REASON = {"expectation": pl.String, "column": pl.String, "observed": pl.String}


def reason(expectation: str, column: str, observed: pl.Expr) -> pl.Expr:
    """One reason, with what was seen."""
    parts = [pl.lit(expectation).alias("expectation"), pl.lit(column).alias("column")]
    return pl.struct(*parts, observed.alias("observed"), schema=REASON)


def with_reasons(rejected: pl.DataFrame, ways: Sequence[tuple[pl.Expr, pl.Expr]]) -> pl.DataFrame:
    """Rejected rows with `_reasons`, the list of those that they have, in the order of `ways`.

    Way by way, as few rows are rejected in any one: a list of all ways' reasons for each row, of
    which most are null, takes ten times as long.

    Parameters
    ----------
    ways: whether a row is rejected so, and the reason then. Each row is rejected in one at least.
    """
    numbered = rejected.with_row_index("_place")
    reasons = [numbered.filter(when).select("_place", why.alias("_reasons")) for when, why in ways]
    lists = pl.concat(reasons).sort("_place", maintain_order=True)
    lists = lists.group_by("_place", maintain_order=True).agg("_reasons")
    return rejected.with_columns(lists["_reasons"])
