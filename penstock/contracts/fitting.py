"""Whether a contract's expectations can be asked of its columns, told as it is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, tzinfo
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


def with_times(expectation: Expectation, are_times: Sequence[bool]) -> Expectation:
    """With texts (ISO 8601) as the times that they are.

    Parameters
    ----------
    are_times: of each of its columns, whether it holds times.

    Raises
    ------
    ContractError: a text is no time.
    """
    arguments = dict(expectation.arguments)
    try:
        if "value_pairs_set" in arguments:
            pairs = zip(*arguments["value_pairs_set"], strict=True)
            places = zip(pairs, are_times, strict=True)
            read = [_read(values) if is_time else list(values) for values, is_time in places]
            arguments["value_pairs_set"] = [*zip(*read, strict=True)]
        elif are_times[:1] == [True]:
            arguments |= _with_times(arguments)
    except ValueError as error:
        raise ContractError(f"{expectation.name}: {error}") from error
    return replace(expectation, arguments=arguments)


def _with_times(arguments: Mapping[str, Any]) -> dict[str, Any]:
    found = dict[str, Any]()
    bounds = [key for key in ("min_value", "max_value") if key in arguments]
    found |= zip(bounds, _read([arguments[key] for key in bounds]), strict=True)
    if "value_set" in arguments:
        found["value_set"] = _read(arguments["value_set"])
    if ranges := arguments.get("quantile_ranges"):
        read = [_read(each) for each in ranges["value_ranges"]]
        found["quantile_ranges"] = {**ranges, "value_ranges": read}
    return found


def _read(values: Sequence[Any]) -> list[Any]:
    """Values with texts as times, all of one kind: dates, or times with a zone if any has one."""
    read = [_time(value) if isinstance(value, str) else value for value in values]
    if read == list(values):
        return read
    times = [value for value in read if isinstance(value, datetime)]
    zone = UTC if any(value.tzinfo for value in times) else None
    return [_alike(value, zone) if times else value for value in read]


def _time(text: str) -> date:
    read = datetime.fromisoformat(text)
    return read.date() if len(text) == len("2024-01-01") else read


def _alike(value: Any, zone: tzinfo | None) -> Any:
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=zone)
    return value


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
    if (wanted := _wanted(expectation)) and kind not in wanted[1]:
        raise ContractError(f"{expectation.name}: column {name} is {kind}, not {wanted[0]}")
    if expectation.kind in ("row", "column"):
        _compare(expectation, name, kind, compared(expectation))
    if what in _OF_MIDDLES or what.endswith("_quantile_values_to_be_between"):
        kind = "int64" if kind == "bool" else kind  # whose mean is a share
        _compare(expectation, name, kind, middles(expectation))


def _wanted(expectation: Expectation) -> tuple[str, tuple[str, ...]] | None:
    what = expectation.type
    if is_of_text(expectation):
        return "text; cast it first", ("string",)
    if what.endswith("_outliers") and expectation.arguments.get("method", "iqr") == "iqr":
        return "a number or timestamp", (*_NUMBERS, "timestamp")
    if what.endswith("_quantile_values_to_be_between"):
        return "a number or timestamp", (*_NUMBERS, "timestamp")
    if any(word in what for word in _OF_NUMBERS):
        return "a number", (*_NUMBERS, "bool")
    if is_of_times(expectation):
        return "a time", _TIMES
    if what in _OF_MIDDLES:
        return "a number or time", (*_NUMBERS, *_TIMES, "bool")
    return None


def middles(expectation: Expectation) -> list[Any]:
    """What a mean, a median or quantiles are held against."""
    arguments = expectation.arguments
    if expectation.type in _OF_MIDDLES:
        found = [arguments.get("min_value"), arguments.get("max_value")]
    else:
        ranges = arguments.get("quantile_ranges", {}).get("value_ranges", ())
        found = [end for ends in ranges for end in ends]
    return [value for value in found if value is not None]


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
