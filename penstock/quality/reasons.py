"""Why rows are rejected: a list of reasons a row."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

_PLACE = "__penstock_place"
REASON = {"expectation": pl.String, "column": pl.String, "observed": pl.String}


def reason(expectation: str, column: str, observed: pl.Expr) -> pl.Expr:
    """One reason, with what was seen."""
    parts = [pl.lit(expectation).alias("expectation"), pl.lit(column).alias("column")]
    return pl.struct(*parts, observed.alias("observed"), schema=REASON)


def shown(column: str, kind: pl.DataType) -> pl.Expr:
    """A value as a reason has it: text, or only its type where it has no text."""
    has_none = kind.is_nested() or isinstance(kind, pl.Binary | pl.Duration | pl.Object)
    return pl.lit(f"a {kind}") if has_none else pl.col(column).cast(pl.String)


def with_reasons(rejected: pl.DataFrame, ways: Sequence[tuple[pl.Expr, pl.Expr]]) -> pl.DataFrame:
    """Rejected rows with `_reasons`, the list of those that they have, in the order of `ways`.

    Way by way, as few rows are rejected in any one: a list of all ways' reasons for each row, of
    which most are null, takes ten times as long.

    Parameters
    ----------
    ways: whether a row is rejected so, and the reason then. Each row is rejected in one at least.
    """
    numbered = rejected.with_row_index(_PLACE)
    counts = rejected.select(when.sum().alias(str(n)) for n, (when, _) in enumerate(ways)).row(0)
    # With no row at all one way is kept, for its type.
    had = [way for way, count in zip(ways, counts, strict=True) if count] or ways[:1]
    reasons = [numbered.filter(when).select(_PLACE, why.alias("_reasons")) for when, why in had]
    lists = pl.concat(reasons).sort(_PLACE, maintain_order=True)
    lists = lists.group_by(_PLACE, maintain_order=True).agg("_reasons")
    return rejected.with_columns(lists["_reasons"])
