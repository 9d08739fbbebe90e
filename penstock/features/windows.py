"""The SQL of windows at the ends of days, tiled: events are summed by day once, and each window
adds up the days that it spans, so a longer window costs no second pass over the events.

An event at time e belongs to the day whose end t0 is the first midnight (UTC) at or after e, so
that a window (t - n days, t] that ends at a midnight holds exactly the tiles t - (n - 1) days to t.
Sums are taken in fixed point (1e-6), which no order of addition can change: an incremental run
gives the same bits as a full one, on any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DAY_US = 86_400_000_000
_FIXED = "DECIMAL(38, 6)"


@dataclass(frozen=True, slots=True)
class WindowColumn:
    """One output column: a function of an expression over so many days."""

    name: str
    function: Literal["sum", "count", "mean", "min", "max"]
    expression: str
    days: int


@dataclass(frozen=True, slots=True)
class Windows:
    """Columns computed together for every entity with an event in the `population_days` before."""

    columns: tuple[WindowColumn, ...]
    where: str
    population_days: int
    direction: Literal["back", "ahead"]
    """Whether a window at t holds (t - days, t] or (t, t + days]."""


def windows_sql(windows: Windows, keys: tuple[str, ...], event_time: str) -> str:
    """A query over a view `events` and a table `days(t)` of day ends, in microseconds (UTC).

    Its rows: the keys, `t`, and the columns, ordered by t and keys.
    """
    by = ", ".join(f'"{key}"' for key in keys)
    at = f'(epoch_us("{event_time}") + {DAY_US - 1}) // {DAY_US} * {DAY_US}'
    expressions = list(dict.fromkeys(column.expression for column in windows.columns))
    partials = ", ".join(
        f"sum(CAST(({e}) AS {_FIXED})) AS s{i}, count({e}) AS n{i}, "
        f"min(({e})::DOUBLE) AS lo{i}, max(({e})::DOUBLE) AS hi{i}"
        for i, e in enumerate(expressions)
    )
    outputs = ", ".join(
        f'{_output(column, expressions.index(column.expression), windows)} AS "{column.name}"'
        for column in windows.columns
    )
    ahead = windows.direction == "ahead"
    reach = max(column.days for column in windows.columns) if ahead else 0
    # How far a tile lies behind the window's end (below zero: ahead), in days.
    offsets = f"range({-reach}, {windows.population_days})"
    return f"""
        WITH tiles AS (
            SELECT {by}, {at} AS tile, {partials}
            FROM events WHERE ({windows.where}) GROUP BY ALL
        ), spread AS (
            SELECT *, tile + behind * {DAY_US} AS t
            FROM tiles, (SELECT unnest({offsets}) AS behind)
        )
        SELECT {by}, t, {outputs}
        FROM spread SEMI JOIN days USING (t)
        GROUP BY {by}, t
        HAVING count(*) FILTER (behind >= 0) > 0
        ORDER BY t, {by}"""


def _output(column: WindowColumn, i: int, windows: Windows) -> str:
    # `behind` is 0 for the tile that ends at t, and -1 for the first that lies ahead of it.
    inside = f"behind >= 0 AND behind < {column.days}"
    if windows.direction == "ahead":
        inside = f"behind < 0 AND behind >= -{column.days}"
    total = f"coalesce(sum(s{i}) FILTER ({inside}), 0)::DOUBLE"
    number = f"coalesce(sum(n{i}) FILTER ({inside}), 0)"
    match column.function:
        case "sum":
            return total
        case "count":
            return f"{number}::BIGINT"
        case "mean":
            return f"CASE WHEN {number} > 0 THEN {total} / {number} END"
        case "min":
            return f"min(lo{i}) FILTER ({inside})"
        case "max":
            return f"max(hi{i}) FILTER ({inside})"
