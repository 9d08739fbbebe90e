"""Windows over events: plain values that say which function of what, over how long.

A window as of time t holds the events in (t - length, t]. With `every` it ends at the last multiple
of `every` instead (tumbling where that is the length, else hopping); with `lag` it ends so much
earlier. Nulls are no events to any function. A feature's name is the aggregate's, the bucket, the
length and the lag: `units_uk_7d_lag_7d`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, Unpack

import polars as pl

from penstock.errors import FeatureError
from penstock.features.expressions import Expression, expression

Function = Literal[
    "sum",
    "count",
    "mean",
    "min",
    "max",
    "std",
    "first",
    "last",
    "last_k",
    "distinct_count",
    "quantile",
    "top_k",
]
_UNITS_US = {
    "us": 1,
    "ms": 1000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
DAY_US = _UNITS_US["d"]
LONGEST_US = 100_000 * DAY_US


Counted = tuple[Expression, Expression | None]
"""An expression over events, and the filter of those that count."""


def length_us(length: str) -> int:
    """`7d` in microseconds; also weeks (w), hours (h), minutes (m), seconds (s), ms and us.

    Raises
    ------
    FeatureError: it is no length above zero, or longer than times in nanoseconds reach.
    """
    found = re.fullmatch(r"([1-9]\d*)(us|ms|[smhdw])", length)
    if found is None:
        raise FeatureError(
            f"{length!r} is no length of time; write a whole number above zero and s, m, h, d or w,"
            " such as 12h, 7d, 4w"
        )
    us = int(found[1]) * _UNITS_US[found[2]]
    if us > LONGEST_US:
        raise FeatureError(f"{length!r} is longer than {LONGEST_US // DAY_US:,} days")
    return us


def length_text(us: int) -> str:
    """Microseconds as a length of time: `7d`, `36h`."""
    for unit in ("d", "h", "m", "s"):
        if us % _UNITS_US[unit] == 0:
            return f"{us // _UNITS_US[unit]}{unit}"
    return f"{us}us"


@dataclass(frozen=True, slots=True)
class Window:
    """One feature: a function of the events in one window."""

    name: str
    function: Function
    expression: Expression
    where: Expression | None
    """Events for which it isn't true count as null."""
    length_us: int
    every_us: int = 0
    """Ends at the last multiple of it since 1970 (UTC); 0: at the row's very time."""
    lag_us: int = 0
    """Ends so much earlier; below zero, later: what is still to come, for labels."""
    k: int = 0
    q: float = 0.0

    @property
    def counted(self) -> Counted:
        """What it is over; windows over the same share what is worked out."""
        return self.expression, self.where

    def describe(self) -> str:
        """For a reader: what it is of, and over how long."""
        said = f"{self.function} of {self.expression} over {length_text(self.length_us)}"
        if self.where is not None:
            said += f" where {self.where}"
        if self.every_us:
            said += f", up to the last {length_text(self.every_us)}"
        if self.lag_us > 0:
            said += f", {length_text(self.lag_us)} before"
        return said if self.lag_us >= 0 else f"{said} ahead"

    @property
    def reach_us(self) -> int:
        """How far before a row's time it can begin."""
        return self.length_us + self.every_us + self.lag_us


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A function of an expression over one or more windows, a feature for each and bucket.

    Made by `Sum`, `Count`, `Mean`, `Min`, `Max`, `Std`, `First`, `Last`, `LastK`, `DistinctCount`,
    `Quantile` and `TopK`.

    Raises
    ------
    FeatureError: a length that is none, or is no multiple of `every`; a bucket without `by`.
    """

    function: Function
    expression: Expression
    over: tuple[str, ...]
    name: str
    every: str | None = None
    lag: str | None = None
    where: Expression | None = None
    by: str | None = None
    buckets: tuple[Any, ...] = field(default=())
    k: int = 0
    q: float = 0.0

    def __post_init__(self) -> None:
        if not self.over:
            raise FeatureError(f'{self.name}: over which windows? Such as over=["7d"]')
        if None in self.buckets:
            raise FeatureError(
                f"{self.name}: null is no bucket; count what has no value by "
                f'where="{self.by} is null"'
            )
        if bool(self.by) != bool(self.buckets):
            raise FeatureError(
                f"{self.name}: by= and buckets= go together: a column and those of its values that "
                "get features of their own"
            )
        for length in self.over:
            step, long = length_us(self.every) if self.every else 1, length_us(length)
            if long % step:
                raise FeatureError(
                    f"{self.name}: the window {length} is no multiple of its tile {self.every}; "
                    "take a length that is, or a smaller `every`"
                )
        if self.lag:
            length_us(self.lag)
        if self.function in ("last_k", "top_k") and (type(self.k) is not int or self.k < 1):
            raise FeatureError(f"{self.name}: k must be a whole number from 1 on, got {self.k}")
        if self.function == "quantile" and not 0 <= self.q <= 1:
            raise FeatureError(f"{self.name}: a quantile lies between 0 and 1, got {self.q}")

    def windows(self) -> list[Window]:
        """One feature each: every bucket at every length."""
        lag = f"_lag_{self.lag}" if self.lag else ""
        found: list[Window] = []
        for bucket in self.buckets or (None,):
            infix = "" if bucket is None else f"_{_slug(bucket)}"
            found += [
                Window(
                    name=f"{self.name}{infix}_{length}{lag}",
                    function=self.function,
                    expression=self.expression,
                    where=self._filter(bucket),
                    length_us=length_us(length),
                    every_us=length_us(self.every) if self.every else 0,
                    lag_us=length_us(self.lag) if self.lag else 0,
                    k=self.k,
                    q=self.q,
                )
                for length in self.over
            ]
        return found

    def _filter(self, bucket: Any) -> Expression | None:
        if bucket is None or self.by is None:
            return self.where
        chosen = pl.col(self.by) == bucket
        return expression(chosen if self.where is None else chosen & self.where.polars())


def _slug(bucket: Any) -> str:
    return re.sub(r"\W+", "_", str(bucket).lower()).strip("_")


class Options(TypedDict, total=False):
    """What every aggregate may be given by name."""

    every: str
    """Windows end at the last multiple of it: tumbling where it is their length."""
    lag: str
    """Windows end so much earlier."""
    where: str | pl.Expr
    """The events that count."""
    by: str
    """A column; each of `buckets` is one of its values and gets features of its own."""
    buckets: Sequence[Any]


def _aggregate(
    function: Function,
    given: str | pl.Expr,
    over: Iterable[str],
    name: str | None,
    options: Options,
    *,
    k: int = 0,
    q: float = 0.0,
) -> Aggregate:
    if unknown := set(options) - set(Options.__annotations__):
        raise FeatureError(
            f"{function}: there is no {', '.join(sorted(unknown))}=; there are "
            f"{', '.join(Options.__annotations__)}"
        )
    what = expression(given)
    if name is None:
        if not what.is_column:
            raise FeatureError(f"{function} of {what}: an expression needs a name=")
        name = f"{what}_{function}"
    where, buckets = options.get("where"), options.get("buckets", ())
    return Aggregate(
        function=function,
        expression=what,
        over=(over,) if isinstance(over, str) else tuple(over),
        name=name,
        every=options.get("every"),
        lag=options.get("lag"),
        where=None if where is None else expression(where),
        by=options.get("by"),
        buckets=(buckets,) if isinstance(buckets, str) else tuple(buckets),
        k=k,
        q=q,
    )


def Sum(  # noqa: N802
    what: str | pl.Expr, over: Iterable[str], name: str | None = None, **options: Unpack[Options]
) -> Aggregate:
    """The total; 0 over no event.

    Of floats it is exact, but for a final rounding and for what lies below 2^-96, so that no order
    of events changes it. Values are below 2^94. Decimals are summed as floats, durations as
    durations; a total of integers past 64 bits is an error. NaN and infinity make NaN of windows
    that hold them.
    """
    return _aggregate("sum", what, over, name, options)


def Count(  # noqa: N802
    over: Iterable[str],
    name: str = "events",
    *,
    what: str | pl.Expr = "1",
    **options: Unpack[Options],
) -> Aggregate:
    """The number of events, or of those for which `what` is not null."""
    return _aggregate("count", what, over, name, options)


def Mean(  # noqa: N802
    what: str | pl.Expr, over: Iterable[str], name: str | None = None, **options: Unpack[Options]
) -> Aggregate:
    """The total, as `Sum` has it, over the number of events; null over no event."""
    return _aggregate("mean", what, over, name, options)


def Std(  # noqa: N802
    what: str | pl.Expr, over: Iterable[str], name: str | None = None, **options: Unpack[Options]
) -> Aggregate:
    """The sample's standard deviation (over n - 1), from exact sums; null below two events.

    Values are below 2^47. Of their squares, what lies below 2^-96 is lost: a spread under 1e-12 is
    no longer told from none.
    """
    return _aggregate("std", what, over, name, options)


def Min(  # noqa: N802
    what: str | pl.Expr, over: Iterable[str], name: str | None = None, **options: Unpack[Options]
) -> Aggregate:
    """The smallest; null over no event. NaN only where there is nothing else."""
    return _aggregate("min", what, over, name, options)


def Max(  # noqa: N802
    what: str | pl.Expr, over: Iterable[str], name: str | None = None, **options: Unpack[Options]
) -> Aggregate:
    """The largest; null over no event. NaN only where there is nothing else."""
    return _aggregate("max", what, over, name, options)


def First(  # noqa: N802
    what: str | pl.Expr, over: Iterable[str], name: str | None = None, **options: Unpack[Options]
) -> Aggregate:
    """The earliest event's value."""
    return _aggregate("first", what, over, name, options)


def Last(  # noqa: N802
    what: str | pl.Expr, over: Iterable[str], name: str | None = None, **options: Unpack[Options]
) -> Aggregate:
    """The latest event's value; of events at one time the one created last."""
    return _aggregate("last", what, over, name, options)


def LastK(  # noqa: N802
    what: str | pl.Expr,
    k: int,
    over: Iterable[str],
    name: str | None = None,
    **options: Unpack[Options],
) -> Aggregate:
    """A list of the `k` latest events' values, oldest first."""
    return _aggregate("last_k", what, over, name, options, k=k)


def DistinctCount(  # noqa: N802
    what: str | pl.Expr, over: Iterable[str], name: str | None = None, **options: Unpack[Options]
) -> Aggregate:
    """How many different values: exactly, in a time that does not grow with the window."""
    return _aggregate("distinct_count", what, over, name, options)


def Quantile(  # noqa: N802
    what: str | pl.Expr,
    q: float,
    over: Iterable[str],
    name: str | None = None,
    **options: Unpack[Options],
) -> Aggregate:
    """The quantile between the two nearest values (linear, as numpy's); null over no event."""
    return _aggregate("quantile", what, over, name, options, q=q)


def TopK(  # noqa: N802
    what: str | pl.Expr,
    k: int,
    over: Iterable[str],
    name: str | None = None,
    **options: Unpack[Options],
) -> Aggregate:
    """A list of the `k` most frequent values, the most frequent first, ties by value."""
    return _aggregate("top_k", what, over, name, options, k=k)
