"""What a training set is made of: plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl

from penstock.errors import FeatureError, did_you_mean
from penstock.features import Derived, FeatureView
from penstock.features.expressions import Expression, expression
from penstock.features.join import KnownAt
from penstock.labels import LabelSet, Outcome
from penstock.lake import checked_name
from penstock.training.split import ColumnSplit, GroupSplit, Split

TIME = "event_time"
_OWN = ("label", TIME, "weight", "split", "_share")


@dataclass(frozen=True, slots=True)
class Spine:
    """The rows to be labelled and given features: those of a table, or of a query over it."""

    source: str
    """A table of the lake."""
    query: str | None = None
    """SQL, as polars reads it, over the table under the last part of its name (`FROM sales`)."""
    event_time: str = TIME
    """The column that says as of when; the training set calls it `event_time`."""

    def __post_init__(self) -> None:
        checked_name(self.source)

    def rows(self, scan: pl.LazyFrame) -> pl.LazyFrame:
        """The rows, of the source's.

        Raises
        ------
        FeatureError: the query can't be run, or there is no such column of times.
        """
        rows = scan
        try:
            if self.query is not None:
                context: Any = pl.SQLContext({self.source.split("/")[1]: scan})
                rows = context.execute(self.query)
            columns = rows.collect_schema()
        except pl.exceptions.PolarsError as error:
            raise FeatureError(f"the spine over {self.source}: {error}") from error
        if self.event_time not in columns:
            raise FeatureError(
                f"the spine over {self.source} has no column {self.event_time} of times."
                f"{did_you_mean(self.event_time, columns)}"
            )
        return rows if self.event_time == TIME else rows.rename({self.event_time: TIME})


@dataclass(frozen=True, slots=True)
class Sample:
    """Which rows are kept, by a hash of their keys and time: the same ones whatever comes later."""

    fraction: float = 1.0
    of_label: Mapping[float | str, float] = field(default_factory=dict[float | str, float])
    """Another share for rows of a label, such as `{0: 0.1}`. Every row then has a `weight` of one
    over its share, unless the training set says another."""
    seed: int = 0

    def __post_init__(self) -> None:
        for share in (self.fraction, *self.of_label.values()):
            if not 0 < share <= 1:
                raise FeatureError(f"a sample's share is above 0 and at most 1, got {share}")


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """A spine of labelled rows, and the features joined to them as of each row's time.

    Raises
    ------
    FeatureError: two views have a feature of one name, or a view's entity isn't the spine's.
    """

    name: str
    """Of the dataset that it is published as."""
    labels: Outcome | LabelSet
    """Without a spine, its rows are the spine."""
    views: tuple[FeatureView, ...]
    split: Split
    spine: Spine | None = None
    """Labels of an outcome are then worked out as of each of its rows' times, and rows whose window
    is still open are left out; those of a label set are looked up by keys and time."""
    where: str | pl.Expr | Expression = "true"
    """The rows that are kept, as SQL or a polars expression over the joined columns."""
    derived: tuple[Derived, ...] = ()
    """Features over those of all views."""
    sample: Sample | None = None
    weight: str | pl.Expr | Expression | None = None
    """A column `weight`, over the joined columns."""
    known_at: KnownAt = "created"
    description: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        checked_name(self.name)
        object.__setattr__(self, "views", tuple(self.views))
        object.__setattr__(self, "where", expression(self.where))
        if self.weight is not None:
            object.__setattr__(self, "weight", expression(self.weight))
        of = dict[str, str]()
        for view in self.views:
            for name in view.feature_names:
                if name in of:
                    raise FeatureError(
                        f"{self.name}: {of[name]} and {view.table} both have a feature {name}; give"
                        f' one of them a prefix, such as prefix="{view.entity.name}_"'
                    )
                of[name] = view.table
        self._check_names()
        for view in self.views if self.spine is None else ():
            if missing := set(view.entity.keys) - set(self.labels.entity.keys):
                raise FeatureError(
                    f"{self.name}: {view.table} is keyed by {', '.join(sorted(missing))}, "
                    f"which {self.labels.table} lacks; give a spine that has it"
                )

    def _check_names(self) -> None:
        known = dict.fromkeys(self.keys, "a key")
        for name in known:
            if name in _OWN:
                raise FeatureError(
                    f"{self.name}: {name} is a column of every training set and can't be a key"
                )
        for name in self.feature_names:
            what = "a column of every training set" if name in _OWN else known.get(name)
            if what is not None:
                raise FeatureError(
                    f"{self.name}: the feature {name} has the name of {what}; give it another one,"
                    " or its view a prefix"
                )
            known[name] = "another feature"

    @property
    def table(self) -> str:
        """The table of frozen rows."""
        return f"{self.name}_training_set"

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns that tell rows of one time apart: every entity's, and those of groups."""
        found = [*self.labels.entity.keys]
        for view in self.views:
            found += view.entity.keys
        if isinstance(self.split, GroupSplit):
            found += self.split.by
        return tuple(dict.fromkeys(found))

    @property
    def feature_names(self) -> list[str]:
        """Every feature, in the order of the views."""
        names = [name for view in self.views for name in view.feature_names]
        return [*names, *(each.name for each in self.derived)]

    @property
    def has_weight(self) -> bool:
        """Whether rows have a `weight`."""
        return self.weight is not None or bool(self.sample and self.sample.of_label)

    @property
    def inputs(self) -> list[str]:
        """The tables that it reads, each once."""
        found = [] if self.spine is None else [self.spine.source]
        if self.spine is not None and isinstance(self.labels, Outcome):
            found.append(self.labels.source)
        else:
            found.append(self.labels.table)
        return list(dict.fromkeys([*found, *(view.source for view in self.views)]))

    def definition(self) -> dict[str, Any]:
        """What it says, as JSON; descriptions and owners are no part of it."""
        labels = self.labels
        if isinstance(labels, Outcome):
            labelled = labels.definition()
        else:
            labelled = {
                "table": labels.table,
                "entity": list(labels.entity.keys),
                "sources": list(labels.sources),
                "min_confidence": labels.min_confidence,
            }
        sample = None
        if self.sample is not None:
            shares = {str(label): share for label, share in self.sample.of_label.items()}
            sample = asdict(self.sample) | {"of_label": shares}
        return {
            "name": self.name,
            "labels": labelled,
            "views": [view.definition() | {"prefix": view.prefix} for view in self.views],
            "split": {"policy": type(self.split).__name__, **asdict(self.split)},
            "spine": None if self.spine is None else asdict(self.spine),
            "where": _identity(self.where),
            "derived": {each.name: each.code() for each in self.derived},
            "sample": sample,
            "weight": None if self.weight is None else _identity(self.weight),
            "known_at": self.known_at,
        }

    def splits_by_time(self) -> bool:
        """Whether splits are cut by time."""
        return not isinstance(self.split, GroupSplit | ColumnSplit)


def _identity(given: str | pl.Expr | Expression) -> str:
    assert isinstance(given, Expression)  # made one of when the spec was
    return given.identity
