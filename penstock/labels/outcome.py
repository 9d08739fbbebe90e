"""Outcomes: labels that time gives, such as the units sold in the seven days that follow.

A row (entity, t) is labelled once its window (t, t + horizon] is over, and never before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from penstock.errors import FeatureError
from penstock.features import DailyTable, Entity, FeatureView
from penstock.features.expressions import Expression, expression
from penstock.features.windows import DAY_US, Function, Window, length_us
from penstock.lake import checked_name

LABEL = "label"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A label set: what an expression comes to over the time that follows, in total by default.

    Its table has the entity's keys, `event_time`, `label`, `label_source`, `confidence`, and
    `created_time`, which is when the label could first be known.
    """

    table: str
    entity: Entity
    source: str
    event_time: str
    expression: str | pl.Expr | Expression
    """A column, or an expression over the source's columns."""
    horizon: str
    """How far the window reaches, such as `7d`."""
    population: str
    """Entities with an event in so long before t get a row at t; with no event after, 0."""
    where: str | pl.Expr | Expression = "true"
    function: Function = "sum"
    """Of the expression's values over the window that follows."""
    description: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        checked_name(self.table)
        checked_name(self.source)
        object.__setattr__(self, "expression", expression(self.expression))
        object.__setattr__(self, "where", expression(self.where))
        for name in ("horizon", "population"):
            try:
                length_us(getattr(self, name))
            except FeatureError as error:
                raise FeatureError(f"{self.table}: {name}: {error}") from error
        if self.function in ("last_k", "top_k"):
            raise FeatureError(
                f"{self.table}: {self.function} gives lists, and a label is one value"
            )

    @property
    def horizon_us(self) -> int:
        """The horizon in microseconds."""
        return length_us(self.horizon)

    def view(self) -> FeatureView:
        """The label as a feature that looks ahead."""
        ahead = Window(
            LABEL,
            self.function,
            expression(self.expression),
            None,
            length_us=self.horizon_us,
            lag_us=-self.horizon_us,
        )
        return FeatureView(
            table=self.table,
            entity=self.entity,
            source=self.source,
            event_time=self.event_time,
            features=(ahead,),
            where=self.where,
            description=self.description,
            owner=self.owner,
        )

    def definition(self) -> dict[str, Any]:
        """What it says, as JSON; descriptions and owners are no part of it."""
        days = -(-length_us(self.population) // DAY_US)
        return self.view().definition() | {"population": f"{days}d"}

    def daily(self) -> DailyTable:
        """How the label table is computed, a day at a time."""
        return DailyTable(
            self.view(),
            population_days=-(-length_us(self.population) // DAY_US),
            lookahead_days=-(-self.horizon_us // DAY_US),
            is_label=True,
        )
