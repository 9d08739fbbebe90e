"""Outcomes: labels that time gives, such as the units sold in the seven days that follow.

A row (entity, t) is labelled once its window (t, t + horizon] is over, and never before.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.features.daily import DailyTable
from penstock.features.view import Entity, days_in
from penstock.features.windows import DAY_US, WindowColumn, Windows
from penstock.lake import checked_name

LABEL = "label"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A label set: the total of an expression over the time that follows.

    Its table has the entity's keys, `event_time`, `label`, `label_source`, `confidence`, and
    `created_time`, which is when the label could first be known.
    """

    table: str
    entity: Entity
    source: str
    event_time: str
    expression: str
    """A column, or an SQL expression over the source's columns, that is summed."""
    horizon: str
    """How far the window reaches, such as `7d`."""
    population: str
    """Entities with an event in so long before t get a row at t; with no event after, 0."""
    where: str = "true"
    description: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        checked_name(self.table)
        checked_name(self.source)

    @property
    def horizon_us(self) -> int:
        """The horizon in microseconds."""
        return days_in(self.horizon) * DAY_US

    def daily(self) -> DailyTable:
        """How the label table is computed, a day at a time."""
        horizon = days_in(self.horizon)
        column = WindowColumn(LABEL, "sum", self.expression, horizon)
        return DailyTable(
            table=self.table,
            source=self.source,
            keys=self.entity.keys,
            event_time=self.event_time,
            windows=Windows((column,), self.where, days_in(self.population), "ahead"),
            lookahead_days=horizon,
            extra=(
                ("label_source", "'outcome'"),
                ("confidence", "1.0"),
                ("created_time", f"t + {self.horizon_us}"),
            ),
            description=self.description,
        )
