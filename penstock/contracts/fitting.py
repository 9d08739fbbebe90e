"""Whether a contract's expectations can be asked of its columns, told as it is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from penstock.contracts.conditions import looks_past_a_row
from penstock.contracts.expectation import Expectation
from penstock.errors import ContractError, did_you_mean

if TYPE_CHECKING:
    from penstock.contracts.contract import Column

_NUMBERS = ("int32", "int64", "float64")
_TIMES = ("date", "timestamp")
_TEXT_ONLY = ("regex", "like_pattern", "strftime", "dateutil", "json", "value_lengths")
_OF_NUMBERS = ("_sum_to", "_stdev_to", "_z_scores_", "_outliers")
_OF_TIMES = ("_to_be_recent", "_to_have_no_gaps")
_WITH_VALUES = ("min_value", "max_value", "value_set")
_OF_VALUES = {f"expect_column_{what}_to_be_between" for what in ("values", "min", "max")}
"""Whose bounds are held against values of the column."""
_OF_MIDDLES = {f"expect_column_{what}_to_be_between" for what in ("mean", "median")}


def refuse_unfit(expectations: Iterable[Expectation], columns: Sequence[Column]) -> None:
    """Raise `ContractError` for the first that can't be asked of its columns, or whose row
    condition is no SQL over them.
    """
    kinds = {column.name: column.kind for column in columns}
    for each in expectations:
        for name in each.columns:
            _fit(each, name, kinds[name])
        if each.type.endswith("_pair_values_to_be_in_set"):
            for place, name in enumerate(each.columns):
                values = [pair[place] for pair in each.arguments["value_pairs_set"]]
                _compare(each, name, kinds[name], values)
        if each.row_condition:
            _check_condition(each, kinds)


def with_times(expectation: Expectation) -> Expectation:
    """One about a column of times with its bounds as times, where they are texts (ISO 8601).

    Raises
    ------
    ContractError: a text is no time.
    """
    arguments = dict(expectation.arguments)
    try:
        timed = {key: _timed(arguments[key]) for key in _WITH_VALUES if key in arguments}
    except ValueError as error:
        raise ContractError(f"{expectation.name}: {error}") from error
    return replace(expectation, arguments=arguments | timed)


def _timed(value: Any) -> Any:
    if isinstance(value, list):
        return [_timed(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(value, str):
        return value
    read = datetime.fromisoformat(value)
    return read.date() if len(value) == len("2024-01-01") else read


def is_of_text(expectation: Expectation) -> bool:
    """Whether it is about texts."""
    return any(word in expectation.type for word in _TEXT_ONLY)


def is_of_times(expectation: Expectation) -> bool:
    """Whether it is about times, whatever they are held against."""
    return expectation.type.endswith(_OF_TIMES)


def compared(expectation: Expectation) -> list[Any]:
    """What the values of its column are held against."""
    arguments = expectation.arguments
    found = [*arguments.get("value_set", ())]
    if expectation.type in _OF_VALUES:
        found += [arguments.get("min_value"), arguments.get("max_value")]
    return [value for value in found if value is not None]


def _fit(expectation: Expectation, name: str, kind: str) -> None:
    what = expectation.type
    wanted: tuple[str, tuple[str, ...]] | None = None
    if is_of_text(expectation):
        wanted = "text; cast it first", ("string",)
    elif any(word in what for word in _OF_NUMBERS):
        wanted = "a number", (*_NUMBERS, *_TIMES, "bool")
    elif is_of_times(expectation):
        wanted = "a time", _TIMES
    elif what in _OF_MIDDLES:
        wanted = "a number or time", (*_NUMBERS, *_TIMES, "bool")
    if wanted is not None and kind not in wanted[1]:
        raise ContractError(f"{expectation.name}: column {name} is {kind}, not {wanted[0]}")
    if expectation.kind in ("row", "column"):
        _compare(expectation, name, kind, compared(expectation))
    if what in _OF_MIDDLES and kind in _TIMES:
        ends = (expectation.arguments.get(key) for key in ("min_value", "max_value"))
        _compare(expectation, name, kind, [*ends])


def _compare(expectation: Expectation, name: str, kind: str, values: Sequence[Any]) -> None:
    for value in values:
        if value is not None and not _compares(kind, value):
            raise ContractError(
                f"{expectation.name}: column {name} is {kind}, which {value!r} can't be compared "
                "with"
            )


def _compares(kind: str, value: Any) -> bool:
    match value:
        case bool():
            return kind == "bool"
        case str():
            return kind == "string"
        case int() | float():
            return kind in _NUMBERS
        case date():
            return kind in _TIMES
        case _:
            return True


def _check_condition(expectation: Expectation, kinds: Mapping[str, str]) -> None:
    import polars as pl

    name, condition = expectation.name, expectation.row_condition or ""
    try:
        picks = pl.sql_expr(condition)
        used = picks.meta.root_names()
    except (pl.exceptions.PolarsError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ContractError(f"{name}: row_condition is not SQL of one row: {reason}") from error
    if looks_past_a_row(picks):
        raise ContractError(
            f"{name}: row_condition is not SQL of one row: {condition!r} has an aggregate, a "
            "window or a query in it"
        )
    if missing := [column for column in used if column not in kinds]:
        near = did_you_mean(missing[0], kinds)
        raise ContractError(f"{name}: no column {', '.join(missing)} for its row_condition.{near}")
