"""Feature views: plain values that say what is known of an entity, from what, as of when."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import polars as pl
import xxhash

from penstock.errors import FeatureError, did_you_mean
from penstock.features.code import code_of
from penstock.features.expressions import Expression, expression
from penstock.features.windows import DAY_US, Aggregate, Window, length_us
from penstock.lake import checked_name

if TYPE_CHECKING:
    from penstock.features.daily import DailyTable


@dataclass(frozen=True, slots=True)
class Entity:
    """Whom or what features are about."""

    name: str
    keys: tuple[str, ...]
    """The columns that tell one from another."""
    description: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "keys", (self.keys,) if isinstance(self.keys, str) else tuple(self.keys)
        )
        if not self.keys:
            raise FeatureError(f"entity {self.name}: it needs at least one key column")
        if len(set(self.keys)) < len(self.keys):
            raise FeatureError(f"entity {self.name}: {', '.join(self.keys)}: a key is there twice")


@dataclass(frozen=True, slots=True)
class Value:
    """A feature that is a column of the newest row, or an expression over its columns."""

    expression: Expression
    name: str
    absent: Any = None
    """What it is where no row counts."""

    @property
    def identity(self) -> str:
        """What it says, for fingerprints."""
        said = self.expression.identity
        return said if self.absent is None else f"{said}, else {self.absent!r}"

    @classmethod
    def of(cls, given: str | pl.Expr, name: str | None = None) -> Value:
        """A column's value under its own name, or any expression's under a name of yours."""
        what = expression(given)
        if name is None and not what.is_column:
            raise FeatureError(f"{what}: an expression needs a name: Value.of(..., name=)")
        return cls(what, name or what.text)


@dataclass(frozen=True, slots=True)
class Derived:
    """A feature worked out from others (and the spine's columns), the same way in training and
    serving.

    An expression over their names, or a function of a frame with the columns in `inputs` that gives
    a column as long.
    """

    name: str
    expression: Expression | None = None
    function: Callable[[pl.DataFrame], pl.Series] | None = field(default=None)
    inputs: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        how: str | pl.Expr | Callable[[pl.DataFrame], pl.Series],
        inputs: Iterable[str] = (),
    ) -> Derived:
        """`inputs` are needed for a function alone."""
        if isinstance(how, str | pl.Expr):
            what = expression(how)
            return cls(name, expression=what, inputs=tuple(what.columns))
        if not inputs:
            raise FeatureError(f"{name}: a function needs inputs=[...], the columns that it reads")
        return cls(name, function=how, inputs=tuple(inputs))

    def column(self, frame: pl.DataFrame) -> pl.Series:
        """Its values for the rows of a frame.

        Raises
        ------
        FeatureError: the function failed, or gave another number of rows.
        """
        if self.expression is not None:
            try:
                return frame.with_columns(self.expression.polars().alias(self.name))[self.name]
            except pl.exceptions.PolarsError as error:
                raise FeatureError(f"{self.name}: {self.expression}: {error}") from error
        assert self.function is not None
        try:
            series = pl.Series(self.name, self.function(frame.select(self.inputs)))
        except Exception as error:
            raise FeatureError(
                f"{self.name}: its function failed on {frame.height:,} rows of "
                f"{', '.join(self.inputs)}: {type(error).__name__}: {error}"
            ) from error
        if len(series) != frame.height:
            raise FeatureError(
                f"{self.name}: its function gave {len(series):,} values for {frame.height:,} rows"
            )
        return series

    def code(self) -> str:
        """What it does, as text; for fingerprints."""
        if self.function is None:
            assert self.expression is not None
            return self.expression.identity
        return code_of(self.function, self.name)


Feature = Value | Aggregate | Window
_RESERVED = frozenset(
    ("_event", "_created", "_time", "_entity", "_packed", "_hash", "_as_of", "_share", "_run")
)


@dataclass(frozen=True, slots=True)
class FeatureView:
    """What a source says of an entity as of any time.

    Raises
    ------
    FeatureError: two features share a name, or a length of time is none.
    """

    table: str
    """Its name, and that of the table that it is materialized in: a row an entity a day."""
    entity: Entity
    source: str
    """The table of events, or of rows that replace each other."""
    event_time: str
    features: tuple[Feature, ...]
    """Columns and expressions of the newest row, and windows; given as a text, a column."""
    created_time: str | None = None
    """When a row became known, where that is not its event time: late data leaks else."""
    where: str | pl.Expr | Expression = "true"
    """The rows that count: SQL, or a polars expression, over the source's columns."""
    ttl: str | None = None
    """How old the newest row may be; the edge is included. None: any age. Windows have their own
    length and know none.
    """
    derived: tuple[Derived, ...] = ()
    """Features over those of this view, and over the spine's columns."""
    prefix: str = ""
    """Before each feature's name; for views whose features are named alike."""
    description: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        checked_name(self.table)
        checked_name(self.source)
        given: Iterable[Any] = self.features
        features = tuple(Value.of(f) if isinstance(f, str | pl.Expr) else f for f in given)
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "where", expression(self.where))
        object.__setattr__(self, "derived", tuple(self.derived))
        if not self.event_time:
            raise FeatureError(
                f"{self.table}: event_time names no column; without the time at which a row became "
                "true nothing can be joined as of a time"
            )
        if not features:
            raise FeatureError(f"{self.table}: it has no features")
        if self.ttl is not None:
            try:
                length_us(self.ttl)
            except FeatureError as error:
                raise FeatureError(f"{self.table}: ttl: {error}") from error
        names = self.feature_names
        for name in (*self.entity.keys, *names):
            if name in _RESERVED or re.fullmatch(r"_w\d+", name):
                raise FeatureError(
                    f"{self.table}: joins use a column {name} of their own; give yours another name"
                )
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise FeatureError(f"{self.table}: two features are called {', '.join(twice)}")

    @property
    def values(self) -> list[Value]:
        """Features of the newest row, with the prefix."""
        return [
            replace(feature, name=self.prefix + feature.name)
            for feature in self.features
            if isinstance(feature, Value)
        ]

    @property
    def windows(self) -> list[Window]:
        """Features over windows, with the prefix."""
        return [
            replace(window, name=self.prefix + window.name)
            for feature in self.features
            if not isinstance(feature, Value)
            for window in _made(feature)
        ]

    @property
    def feature_names(self) -> list[str]:
        """The features' columns, in order."""
        names = list[str]()
        for feature in self.features:
            made = [feature] if isinstance(feature, Value) else _made(feature)
            names += [self.prefix + each.name for each in made]
        return [*names, *(self.prefix + each.name for each in self.derived)]

    @property
    def filter(self) -> Expression:
        """`where` as an expression."""
        assert isinstance(self.where, Expression)
        return self.where

    @property
    def ttl_us(self) -> int | None:
        """The TTL in microseconds."""
        return None if self.ttl is None else length_us(self.ttl)

    @property
    def columns(self) -> list[str]:
        """The source's columns that it reads."""
        found = [*self.entity.keys, self.event_time, *self.filter.columns]
        if self.created_time:
            found.append(self.created_time)
        for value in self.values:
            found += value.expression.columns
        for window in self.windows:
            found += window.expression.columns
            found += window.where.columns if window.where else []
        return list(dict.fromkeys(found))

    def definition(self) -> dict[str, Any]:
        """What it says, as JSON; descriptions, owners and the prefix are no part of it."""
        plain = replace(self, prefix="")
        return {
            "table": self.table,
            "entity": list(self.entity.keys),
            "source": self.source,
            "event_time": self.event_time,
            "created_time": self.created_time,
            "where": self.filter.identity,
            "ttl": self.ttl,
            "features": {value.name: value.identity for value in plain.values},
            "windows": {window.name: _said(window) for window in plain.windows},
            "derived": {each.name: each.code() for each in self.derived},
        }

    def fingerprint(self) -> str:
        """16 hex digits that change when its definition or a feature's name does."""
        said = [self.definition(), self.prefix]
        return xxhash.xxh3_64_hexdigest(json.dumps(said, sort_keys=True).encode())

    def daily(self) -> DailyTable:
        """How the view's table is computed, a day at a time."""
        from penstock.features.daily import DailyTable

        reach = [window.reach_us for window in self.windows]
        if self.values:
            reach.append((self.ttl_us or 0) + 1)  # its edge counts, that of windows does not
        forever = bool(self.values) and self.ttl_us is None
        return DailyTable(self, None if forever else -(-max(reach) // DAY_US))

    def materialized(self) -> FeatureView:
        """A view over this one's own table: the values as of the last day's end, read and not
        computed.
        """
        from penstock.features.daily import TIME

        length = len(self.prefix)
        absent = {window.name: _ABSENT.get(window.function) for window in self.windows}
        kept = tuple(
            Value(expression(name), name[length:], absent.get(name))
            for name in self.feature_names[: -len(self.derived) or None]
        )
        # Rows of days before the last one tell of days before it: who has none then has no events.
        is_kept = self.daily().population_days is None
        return replace(
            self,
            source=self.table,
            event_time=TIME,
            created_time=None,
            where="true",
            ttl=None if is_kept else f"{DAY_US - 1}us",
            features=kept,
        )


_ABSENT: Mapping[str, Any] = {
    "sum": 0,
    "count": 0,
    "distinct_count": 0,
    "last_k": (),
    "top_k": (),
}
"""What a window comes to over no event, where that is not null."""


def derived(view: FeatureView, rows: pl.DataFrame, given: Sequence[str]) -> pl.DataFrame:
    """Rows with a view's features, and those that are derived from them, in the view's order."""
    cut = len(view.prefix)
    own = {name: name[cut:] for name in view.feature_names if name in rows.columns}
    # Other views' features may be called as this one's are without their prefix.
    others = [name for name in given if name not in own.values()]
    plain = rows.select(*others, *(pl.col(name).alias(short) for name, short in own.items()))
    for each in view.derived:
        check_inputs(each, view.table, plain.columns)
        made = each.column(plain)
        plain = plain.with_columns(made)
        rows = rows.with_columns(made.alias(view.prefix + each.name))
    return rows.select([*given, *view.feature_names])


def check_inputs(each: Derived, whose: str, known: Iterable[str]) -> None:
    """Refuse a derived feature over a column that isn't there.

    Raises
    ------
    FeatureError: it names the column.
    """
    names = list(known)
    for name in each.inputs:
        if name not in names:
            raise FeatureError(
                f"{whose}: {each.name} is derived from {name}, which is no column of the rows, no "
                f"feature of the view, and none derived before.{did_you_mean(name, names)}"
            )


def _made(feature: Aggregate | Window) -> list[Window]:
    return [feature] if isinstance(feature, Window) else feature.windows()


def _said(window: Window) -> dict[str, Any]:
    said = asdict(window)
    return said | {
        "expression": window.expression.identity,
        "where": None if window.where is None else window.where.identity,
    }
