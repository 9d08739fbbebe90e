"""Label sets: labels that people, models, rules or functions gave, each with who, when, how sure.

A table with an entity's keys, `event_time` (what moment the label is of), `label`, `label_source`
(who or what gave it), `confidence`, and `created_time` (when it was given).
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from penstock.errors import FeatureError, did_you_mean
from penstock.features import Entity
from penstock.labels.outcome import LABEL
from penstock.lake import checked_name

SOURCE, CONFIDENCE = "label_source", "confidence"
EVENT_TIME, CREATED_TIME = "event_time", "created_time"
COLUMNS = (EVENT_TIME, LABEL, SOURCE, CONFIDENCE, CREATED_TIME)


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The labels of a table, one for each entity and event time.

    Where several were given, that of the first of `sources` counts, then the surest, then the
    newest.
    """

    table: str
    entity: Entity
    sources: tuple[str, ...] = ()
    """Whose labels count, the most trusted first; empty: everybody's, alike."""
    min_confidence: float = 0.0
    """Less sure labels don't count; those of unknown confidence do."""
    description: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        checked_name(self.table)
        given = (self.sources,) if isinstance(self.sources, str) else tuple(self.sources)
        object.__setattr__(self, "sources", given)
        if not 0 <= self.min_confidence <= 1:
            raise FeatureError(
                f"{self.table}: min_confidence lies between 0 and 1, got {self.min_confidence}"
            )

    @property
    def horizon_us(self) -> int:
        """How far a label looks ahead: not at all, as far as is known."""
        return 0

    def chosen(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """One label an entity and event time, of the table's rows.

        Raises
        ------
        FeatureError: a column is missing, or the confidence is no number.
        """
        found = rows.collect_schema()
        for name in (*self.entity.keys, *COLUMNS):
            if name not in found:
                raise FeatureError(
                    f"{self.table}: a label set has a column {name}, and this has none."
                    f"{did_you_mean(name, found)}"
                )
        kind = found[CONFIDENCE]
        if not kind.is_numeric() and kind != pl.Null:
            raise FeatureError(f"{self.table}: {CONFIDENCE} is {kind}; it is a number from 0 to 1")
        sure = pl.col(CONFIDENCE).cast(pl.Float64).fill_nan(None)
        rows = rows.filter(
            pl.col(LABEL).is_not_null(), sure.is_null() | (sure >= self.min_confidence)
        )
        rank = pl.lit(0)
        if self.sources:
            order = {source: place for place, source in enumerate(self.sources)}
            rank = pl.col(SOURCE).replace_strict(order, default=None, return_dtype=pl.Int64)
            rows = rows.filter(pl.col(SOURCE).is_in(self.sources))
        keys = [*self.entity.keys, EVENT_TIME]
        return (
            rows.with_columns(rank.alias("_rank"), sure.alias("_sure"))
            # The label itself last: which of two given at one moment counts is no chance.
            .sort(
                "_rank",
                "_sure",
                CREATED_TIME,
                LABEL,
                descending=[False, True, True, False],
                nulls_last=True,
            )
            .unique(keys, keep="first", maintain_order=True)
            .drop("_rank", "_sure")
        )
