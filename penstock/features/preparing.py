"""What a join reads of a spine and each view, checked by their schemas before any row is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
from polars.exceptions import PolarsError

from penstock.errors import FeatureError, did_you_mean
from penstock.features.join import CREATED, EVENT, Prepared
from penstock.features.view import FeatureView, check_inputs
from penstock.features.windows import Counted

TIME = "_time"
_NANOSECONDS, _MICROSECONDS = 1e-3, 1.0
_FAR_US = 9_200_000_000_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """A join that can be run: what is read of its inputs."""

    spine_columns: Sequence[pl.Expr]
    """Keys as they are compared, and `TIME`, of the spine's rows."""
    groups: Sequence[tuple[tuple[str, ...], Sequence[Prepared]]]
    """Views by the keys of their entity."""
    unit_us: float
    """Microseconds in a unit of all times: nanoseconds where anything has them."""


def plan(
    spine: pl.LazyFrame,
    event_time: str,
    views: Sequence[tuple[FeatureView, pl.LazyFrame]],
    *,
    spine_name: str = "the spine",
) -> Plan:
    """Check a join and say what it reads.

    Raises
    ------
    FeatureError: a key, a time or a column is missing, times or keys are of types that don't go
        together, or two features share a name.
    """
    columns = spine.collect_schema()
    _check_names([view for view, _ in views], columns)
    zone = _check_time(spine_name, event_time, columns, "event_time=")
    kinds = dict[str, pl.DataType]()
    sources = list[tuple[FeatureView, pl.LazyFrame]]()
    nanoseconds = _is_nanoseconds(columns[event_time])
    for view, rows in views:
        found = rows.collect_schema()
        _check_columns(view, found)
        for name in filter(None, (view.event_time, view.created_time)):
            its_zone = _check_time(view.table, name, found, f"({view.source})")
            nanoseconds = nanoseconds or _is_nanoseconds(found[name])
            if its_zone != zone:
                aware, naive = (spine_name, view.table) if zone else (view.table, spine_name)
                raise FeatureError(
                    f"{view.table}: {name} and {spine_name}'s {event_time} can't be compared: "
                    f"{naive}'s has no time zone and {aware}'s has one; say which zone it is in, "
                    f'as dt.replace_time_zone("UTC") does'
                )
        for key in view.entity.keys:
            if key not in columns:
                raise FeatureError(
                    f"{view.table}: its entity {view.entity.name} has the key {key}, which "
                    f"{spine_name} has no column for.{did_you_mean(key, columns)}"
                )
            kinds[key] = _compared(view, key, kinds.get(key, columns[key]), found[key], spine_name)
        sources.append((view, rows))
    unit_us = _NANOSECONDS if nanoseconds else _MICROSECONDS
    groups = dict[tuple[str, ...], list[Prepared]]()
    for view, rows in sources:
        prepared = _prepared(view, rows, kinds, unit_us)
        groups.setdefault(view.entity.keys, []).append(prepared)
    return Plan(
        [
            *(pl.col(name).cast(kind, strict=False) for name, kind in kinds.items()),
            as_number(event_time, columns[event_time], unit_us).alias(TIME),
        ],
        list(groups.items()),
        unit_us,
    )


def _check_names(views: Sequence[FeatureView], spine: Mapping[str, pl.DataType]) -> None:
    of, sources = dict[str, str](), dict[str, str]()
    for view in views:
        if sources.setdefault(view.table, view.source) != view.source:
            raise FeatureError(
                f"two views are called {view.table}, one of {sources[view.table]} and one of "
                f"{view.source}; give one of them another name"
            )
        own = [name.removeprefix(view.prefix) for name in view.feature_names]
        kept = len(own) - len(view.derived)
        for number, each in enumerate(view.derived):
            check_inputs(each, view.table, [*spine, *own[: kept + number]])
        for name in view.feature_names:
            if name in of:
                raise FeatureError(
                    f"{of[name]} and {view.table} both have a feature {name}; give one of them a "
                    f'prefix, such as FeatureView(..., prefix="{view.entity.name}_")'
                )
            if name in spine:
                raise FeatureError(
                    f"{view.table}: the spine has a column {name} already; give the view a prefix,"
                    f' such as FeatureView(..., prefix="{view.entity.name}_")'
                )
            of[name] = view.table


def _check_time(
    whose: str, name: str, columns: Mapping[str, pl.DataType], where: str
) -> str | None:
    """Its zone, or that it has one."""
    if name not in columns:
        raise FeatureError(
            f"{whose} has no column {name} {where} to take the time from."
            f"{did_you_mean(name, columns)}"
        )
    kind = columns[name]
    if not isinstance(kind, pl.Datetime):
        fix = (
            "a day is not a moment: cast it to the moment at which it is known, such as the day's "
            "end"
            if kind == pl.Date
            else "cast it to a timestamp with a time zone"
        )
        raise FeatureError(f"{whose}: {name} is {kind} and no timestamp; {fix}")
    return "a zone" if kind.time_zone else None


def _check_columns(view: FeatureView, found: Mapping[str, pl.DataType]) -> None:
    for name in view.columns:
        if name not in found:
            raise FeatureError(
                f"{view.table}: its source {view.source} has no column {name}."
                f"{did_you_mean(name, found)}"
            )


def _compared(
    view: FeatureView, key: str, one: pl.DataType, other: pl.DataType, spine: str
) -> pl.DataType:
    """The type that a key of both is compared in."""
    if one.is_integer() and other.is_integer():
        wide = pl.UInt64 in (one, other)
        return pl.UInt64() if wide and one == other else pl.Int64()
    texts = (pl.String, pl.Categorical, pl.Enum)
    if isinstance(one, texts) and isinstance(other, texts):
        return pl.String()
    if one == other and not one.is_float():
        return one
    raise FeatureError(
        f"{view.table}: the key {key} is {other} in {view.source} and {one} in {spine}; cast one "
        "of them"
        + (", and not to floats, which are no names" if one.is_float() or other.is_float() else "")
    )


def _is_nanoseconds(kind: pl.DataType) -> bool:
    return isinstance(kind, pl.Datetime) and kind.time_unit == "ns"


def as_number(name: str, kind: pl.DataType, unit_us: float) -> pl.Expr:
    """A time as an integer, since 1970 (UTC where it has a zone).

    In nanoseconds, what lies before 1678 or after 2261 (such as a year 9999 for "never") is the
    first or last that there is.
    """
    if unit_us < 1 and not _is_nanoseconds(kind):
        return pl.col(name).dt.epoch("us").clip(-_FAR_US, _FAR_US) * 1000
    return pl.col(name).dt.epoch("us" if unit_us == 1 else "ns")


def prepare(view: FeatureView, rows: pl.LazyFrame) -> Prepared:
    """A view's rows as they are, in microseconds.

    Raises
    ------
    FeatureError: the source lacks a column, or its time is none.
    """
    found = rows.collect_schema()
    _check_columns(view, found)
    for name in filter(None, (view.event_time, view.created_time)):
        _check_time(view.table, name, found, f"({view.source})")
    kinds = {key: _compared(view, key, found[key], found[key], "it") for key in view.entity.keys}
    return _prepared(view, rows, kinds, _MICROSECONDS)


def _prepared(
    view: FeatureView,
    rows: pl.LazyFrame,
    kinds: Mapping[str, pl.DataType],
    unit_us: float,
) -> Prepared:
    counted = dict[Counted, str]()
    for window in view.windows:
        counted.setdefault(window.counted, f"_w{len(counted)}")
    found = rows.collect_schema()
    tied = [value.expression.polars().alias(value.name) for value in view.values]
    for (what, where), name in counted.items():
        made = what.polars()
        if where is not None:
            made = pl.when(where.polars()).then(made)
        tied.append(made.alias(name))
    columns = [
        # A key that the other side's type can't hold is none of its own.
        *(pl.col(key).cast(kinds[key], strict=False) for key in view.entity.keys),
        as_number(view.event_time, found[view.event_time], unit_us).alias(EVENT),
        *tied,
    ]
    if view.created_time is not None:
        kind = found[view.created_time]
        columns.append(as_number(view.created_time, kind, unit_us).alias(CREATED))
    selected = rows.filter(view.filter.polars()) if view.filter.text != "true" else rows
    selected = selected.select(columns)
    try:
        selected.collect_schema()
    except PolarsError as error:
        raise FeatureError(f"{view.table}: on {view.source}: {error}") from error
    return Prepared(view, selected, counted, tied)


def counted_rows(rows: pl.LazyFrame) -> int:
    """How many; of files, from their footers."""
    return rows.select(pl.len()).collect().item()
