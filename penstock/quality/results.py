"""What expectations came to: counts, in the shape of Great Expectations' results."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from penstock.contracts import Expectation

if TYPE_CHECKING:
    from penstock.lake import Lake

EXAMPLES = 20
MASK = "•••"
"""In the place of what is personal."""
_NO_MISSING = {"expect_column_values_to_not_be_null", "expect_column_values_to_be_null"}
"""Of which Great Expectations says no `missing_count`."""


@dataclass(slots=True)
class Result:
    """What one expectation came to over the rows of a run."""

    expectation: Expectation
    looked_at: int = 0
    broken: int = 0
    elements: int = 0
    """Rows that the row condition picks, those with missing values too."""
    observed: Any = None
    """Of a column or table: what was found."""
    holds: bool | None = None
    """Of a column or table: whether the promise does."""
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    """More that Great Expectations says of a column."""
    examples: list[Any] = field(default_factory=list[Any])
    """Some of the values that break it."""

    @property
    def is_known(self) -> bool:
        """Whether it was asked: rows are looked at before columns, which are what is accepted."""
        return self.expectation.is_about_rows or self.holds is not None or self.looked_at > 0

    @property
    def success(self) -> bool:
        """Whether it holds, or at least `mostly` of the rows looked at do."""
        if self.holds is not None:
            return self.holds
        allowed = (1 - self.expectation.mostly) * self.looked_at
        return self.broken <= allowed + 1e-9

    def to_json(self) -> dict[str, Any]:
        """In the shape of a Great Expectations result."""
        config = self.expectation.to_gx()
        if self.holds is not None and not self.looked_at:
            result: dict[str, Any] = {"observed_value": _plain(self.observed)}
            result |= {name: _plain(value) for name, value in self.details.items()}
            return {"success": self.success, "expectation_config": config, "result": result}
        elements = max(self.elements, self.looked_at)
        result = {
            "element_count": elements,
            "unexpected_count": self.broken,
            "unexpected_percent": _percent(self.broken, self.looked_at),
            "partial_unexpected_list": [_plain(value) for value in self.examples],
        }
        if self.expectation.type not in _NO_MISSING:
            missing = elements - self.looked_at
            result |= {
                "missing_count": missing,
                "missing_percent": _percent(missing, elements),
                "unexpected_percent_total": _percent(self.broken, elements),
                "unexpected_percent_nonmissing": _percent(self.broken, self.looked_at),
            }
        return {"success": self.success, "expectation_config": config, "result": result}


def add_examples(
    result: Result, rows: pl.DataFrame, breaks: str, personal: Collection[str]
) -> None:
    """Keep some of the values that break an expectation.

    Parameters
    ----------
    breaks: the column of `rows` that says which do.
    personal: columns whose values are not shown.
    """
    left, columns = EXAMPLES - len(result.examples), list(result.expectation.columns)
    if left <= 0:
        return
    if any(column in personal for column in columns):
        result.examples = [MASK]
        return
    found = rows.lazy().filter(pl.col(breaks)).select(columns).head(left).collect()
    one = len(columns) == 1
    result.examples += found.to_series().to_list() if one else found.rows(named=True)


def last_results(lake: Lake, table: str) -> dict[str, Any]:
    """What the newest validated batch came to: counts, reasons, and every expectation's result."""
    from penstock.quality.history import validations
    from penstock.tables import Table

    newest = next(validations(Table(lake, table).snapshot()), None)
    return {} if newest is None else dict(newest.note)


def explain(table: str, result: Result) -> str:
    """One line for a log or a check: what was expected, and how many rows broke it."""
    if result.holds is not None and not result.looked_at:
        return f"{table}: {result.expectation.describe()} found {_plain(result.observed)!r}"
    share = result.broken / result.looked_at if result.looked_at else 0.0
    return (
        f"{result.broken:,} of {result.looked_at:,} rows of {table} ({share:.2%}) break "
        f"{result.expectation.describe()}"
    )


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}  # pyright: ignore
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # which JSON has no number for
    if isinstance(value, str | int | float | bool | None):
        return value
    return f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)
