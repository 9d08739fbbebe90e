"""What expectations came to: counts, in the shape of Great Expectations' results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from penstock.contracts import Expectation
from penstock.lake import Lake
from penstock.tables import Table


@dataclass(slots=True)
class Result:
    """What one expectation came to over the rows of a run."""

    expectation: Expectation
    looked_at: int = 0
    broken: int = 0

    @property
    def success(self) -> bool:
        """Whether at least `mostly` of the rows looked at hold."""
        allowed = (1 - self.expectation.mostly) * self.looked_at
        return self.broken <= allowed + 1e-9

    def to_json(self) -> dict[str, Any]:
        """In the shape of a Great Expectations result."""
        share = self.broken / self.looked_at if self.looked_at else 0.0
        counts = {"element_count": self.looked_at, "unexpected_count": self.broken}
        return {
            "success": self.success,
            "expectation_config": self.expectation.to_gx(),
            "result": {**counts, "unexpected_percent": 100 * share},
        }


def last_results(lake: Lake, table: str) -> dict[str, Any]:
    """What the newest validated batch came to: counts, reasons, and every expectation's result."""
    for commit in Table(lake, table).snapshot().history():
        if str(commit.get("penstock.application", "")).startswith("validate/"):
            return json.loads(commit["penstock.note"])
    return {}


def explain(table: str, result: Result) -> str:
    """One line for a log or a check: what was expected, and how many rows broke it."""
    share = result.broken / result.looked_at if result.looked_at else 0.0
    return (
        f"{result.broken:,} of {result.looked_at:,} rows of {table} ({share:.2%}) break "
        f"{result.expectation.describe()}"
    )
