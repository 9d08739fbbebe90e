"""Feature views: plain values that say what is computed from which events, over which windows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from penstock.errors import FeatureError
from penstock.features.daily import DailyTable
from penstock.features.windows import WindowColumn, Windows
from penstock.lake import checked_name

Function = Literal["sum", "count", "mean", "min", "max"]


@dataclass(frozen=True, slots=True)
class Entity:
    """Whom or what features are about."""

    name: str
    keys: tuple[str, ...]
    """The columns that tell one from another."""

    def __post_init__(self) -> None:
        if not self.keys:
            raise FeatureError(f"entity {self.name}: it needs at least one key column")


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregate of an expression over one or more windows, a feature each."""

    function: Function
    expression: str
    """A column, or an SQL expression over the source's columns."""
    over: tuple[str, ...]
    """Lengths such as `7d`; a window at time t holds the events in (t - length, t]."""
    name: str

    def columns(self) -> list[WindowColumn]:
        """One output column a window, such as `units_7d`."""
        return [
            WindowColumn(f"{self.name}_{length}", self.function, self.expression, days_in(length))
            for length in self.over
        ]


def Sum(expression: str, over: tuple[str, ...], name: str) -> Aggregate:  # noqa: N802
    """The total; exact to 1e-6 and the same in whatever order events come. 0 over no event."""
    return Aggregate("sum", expression, over, name)


def Count(over: tuple[str, ...], name: str) -> Aggregate:  # noqa: N802
    """The number of events."""
    return Aggregate("count", "1", over, name)


def Mean(expression: str, over: tuple[str, ...], name: str) -> Aggregate:  # noqa: N802
    """Total over number of events; null over no event."""
    return Aggregate("mean", expression, over, name)


def Min(expression: str, over: tuple[str, ...], name: str) -> Aggregate:  # noqa: N802
    """The smallest; null over no event."""
    return Aggregate("min", expression, over, name)


def Max(expression: str, over: tuple[str, ...], name: str) -> Aggregate:  # noqa: N802
    """The largest; null over no event."""
    return Aggregate("max", expression, over, name)


@dataclass(frozen=True, slots=True)
class FeatureView:
    """Windows over a source's events, one row an entity a day, as of the day's end.

    Raises
    ------
    FeatureError: a window is no whole number of days, or two features share a name.
    """

    table: str
    entity: Entity
    source: str
    """The table of events."""
    event_time: str
    features: tuple[Aggregate, ...]
    where: str = "true"
    """SQL over the source's columns: the events that count."""
    ttl: str | None = None
    """How old a row may be when it is joined; the edge is included. None: any age."""
    description: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        checked_name(self.table)
        checked_name(self.source)
        names = [column.name for feature in self.features for column in feature.columns()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise FeatureError(f"{self.table}: two features are called {', '.join(twice)}")

    @property
    def feature_names(self) -> list[str]:
        """The features' columns, in order."""
        return [column.name for feature in self.features for column in feature.columns()]

    @property
    def ttl_us(self) -> int | None:
        """The TTL in microseconds."""
        return None if self.ttl is None else days_in(self.ttl) * 86_400_000_000

    def daily(self) -> DailyTable:
        """How the view's table is computed, a day at a time."""
        columns = [column for feature in self.features for column in feature.columns()]
        lookback = max(column.days for column in columns)
        return DailyTable(
            table=self.table,
            source=self.source,
            keys=self.entity.keys,
            event_time=self.event_time,
            windows=Windows(tuple(columns), self.where, lookback, "back"),
            lookahead_days=0,
            extra=(),
            description=self.description,
        )


def days_in(length: str) -> int:
    """`7d` is 7, `4w` is 28.

    Raises
    ------
    FeatureError: it is no whole number of days or weeks.
    """
    found = re.fullmatch(r"([1-9]\d*)([dw])", length)
    if found is None:
        raise FeatureError(f"{length!r} is no length of a window; write days or weeks: 7d, 4w")
    return int(found[1]) * (7 if found[2] == "w" else 1)
