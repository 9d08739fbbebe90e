"""An expectation: one promise about rows, a column or a table, as a value.

Names and arguments are Great Expectations', with a severity added: `reject` sends a row that breaks
the promise to the rejects, `warn` lets it through and is reported, `fail` lets nothing of the batch
commit. `mostly` is the share of the rows looked at that must hold for the check to pass (rows that
break a `reject` are rejected either way); `row_condition` picks the rows looked at, here as an SQL
expression over the table's columns; `label` is what it is called, where a contract has two of one
type on the same columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from inspect import signature
from types import NoneType
from typing import Any, Literal, TypedDict, cast, get_args

import xxhash

from penstock.contracts.catalogue import BEYOND, KINDS, OF_THE_LAKE, WITHOUT_CONDITION, Kind
from penstock.errors import ContractError
from penstock.lake import with_tables

Severity = Literal["reject", "warn", "fail"]
IgnoreRow = Literal["any_value_is_missing", "all_values_are_missing", "never"]
_PAIRS_IN_GX: dict[IgnoreRow, str] = {
    "any_value_is_missing": "either_value_is_missing",
    "all_values_are_missing": "both_values_are_missing",
    "never": "neither",
}
_OF_NUMBERS = ("_sum_to", "_stdev_to", "_count_to", "_proportion_of_", "_value_lengths_")
_UNIQUE = "expect_compound_columns_to_be_unique"
_RENAMED = {"expect_multicolumn_values_to_be_unique"}
"""That Great Expectations' newest has no more."""
_SEVERITY_IN_GX: dict[Severity, str] = {"reject": "warning", "warn": "info", "fail": "critical"}
_PREFIXES = (
    "expect_select_column_",
    "expect_column_pair_",
    "expect_compound_columns_",
    "expect_multicolumn_",
    "expect_column_",
    "expect_table_",
)


BATCH = "{batch}"
"""The rows that a query is asked of."""
_QUERIES = ("unexpected_rows_query", "base_query", "comparison_query")
_LABEL = re.compile(r"[A-Za-z0-9_]+")
_ONE_OF = {
    "match_on": ("any", "all"),
    "method": ("iqr", "std"),
    "ignore_row_if": get_args(IgnoreRow),
}


class RowOptions(TypedDict, total=False):
    """What every expectation about rows takes."""

    severity: Severity
    mostly: float
    row_condition: str | None
    label: str


class Options(TypedDict, total=False):
    """What every expectation about a column or a table takes.

    A row condition picks the rows whose values are measured; those that look at no rows, or at
    earlier batches, take none.
    """

    severity: Literal["warn", "fail"]
    row_condition: str | None
    label: str


@dataclass(frozen=True, slots=True)
class Expectation:
    """One promise about rows, or about a batch as a whole.

    Raises
    ------
    ContractError: the type is unknown, or an argument is none that it can have.
    """

    type: str
    """Great Expectations' name, such as `expect_column_values_to_be_between`."""
    columns: tuple[str, ...]
    """The columns that it reads; empty for one about the whole table."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Great Expectations' arguments beside the columns."""
    severity: Severity = "reject"
    mostly: float = 1.0
    row_condition: str | None = None
    label: str = ""
    """What it is called; by default by its columns and type."""

    def __hash__(self) -> int:
        return hash((self.type, self.columns, self.severity, self.mostly, self.label))

    def __post_init__(self) -> None:
        if self.type not in KINDS:
            from penstock.errors import did_you_mean

            near = did_you_mean(self.type, KINDS)
            raise ContractError(f"{self.type} is no expectation known here.{near}")
        if self.severity not in get_args(Severity):
            raise ContractError(f"{self.name}: severity is reject, warn or fail")
        if self.severity == "reject" and not self.is_about_rows:
            raise ContractError(
                f"{self.name}: it says nothing of single rows, which could be rejected; its "
                "severity is warn or fail"
            )
        object.__setattr__(self, "row_condition", self.row_condition or None)
        if self.label and not _LABEL.fullmatch(self.label):
            raise ContractError(f"{self.label!r}: a label is of letters, digits and _")
        if self.row_condition and self.type in WITHOUT_CONDITION:
            raise ContractError(
                f"{self.name}: it takes no row_condition; write it as unexpected_rows_expectation, "
                "or about rows"
            )
        if not self.columns and self.kind in ("row", "pair", "rows", "column"):
            raise ContractError(f"{self.name}: names no column")
        if len(set(self.columns)) < len(self.columns):
            raise ContractError(f"{self.name}: names a column twice: {', '.join(self.columns)}")
        if not isinstance(self.mostly, int | float) or not 0 < self.mostly <= 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ContractError(f"{self.name}: mostly must lie in (0, 1], got {self.mostly!r}")
        _check_arguments(self)

    @property
    def kind(self) -> Kind:
        """What it is about: `row`, `pair`, `rows`, `column` or `table`."""
        return KINDS[self.type]

    @property
    def name(self) -> str:
        """Short and unique within a contract: the label, or the columns and what is expected."""
        if self.label:
            return self.label
        what = self.type
        for prefix in _PREFIXES:
            if what.startswith(prefix):
                what = what[len(prefix) :]
                break
        subject = "_".join(self.columns) if len(self.columns) < 3 else "row"
        name = f"{subject}_{what}" if self.columns else self.type.removeprefix("expect_")
        # Of which a contract may have several.
        if query := "".join(str(self.arguments.get(key, "")) for key in _QUERIES):
            name = f"{name}_{xxhash.xxh3_64_hexdigest(query.encode())[:6]}"
        return f"{name}_if" if self.row_condition else name

    @property
    def is_about_rows(self) -> bool:
        """Whether each row holds or breaks it by itself, or beside those of its file."""
        return self.kind in ("row", "pair", "rows")

    @property
    def ignores(self) -> IgnoreRow:
        """Which rows of several columns are not looked at."""
        return cast("IgnoreRow", self.arguments.get("ignore_row_if", "any_value_is_missing"))

    def describe(self) -> str:
        """For a reader: the rule with its arguments."""
        rule = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        condition = f" where {self.row_condition}" if self.row_condition else ""
        return (
            f"{self.type}({', '.join([*self.columns, rule] if rule else self.columns)}){condition}"
        )

    def to_gx(self) -> dict[str, Any]:
        """As an entry of a Great Expectations suite (JSON)."""
        match self.kind:
            case "rows":
                names: dict[str, Any] = {"column_list": list(self.columns)}
            case "pair":
                names = {"column_A": self.columns[0], "column_B": self.columns[1]}
            case _:
                names = {"column": self.columns[0]} if self.columns else {}
        arguments = json.loads(json.dumps(dict(self.arguments), default=str))
        kwargs = {**names, **arguments} | ({"mostly": self.mostly} if self.mostly < 1 else {})
        if len(self.columns) > 1 or self.kind == "rows":
            kwargs["ignore_row_if"] = self._ignores_in_gx
        meta = {"severity": self.severity, "row_condition": self.row_condition}
        meta |= {"label": self.label} if self.label else {}
        return {
            "type": self.type,
            "kwargs": kwargs,
            "severity": _SEVERITY_IN_GX[self.severity],
            "meta": {"penstock": meta},
        }

    @property
    def _ignores_in_gx(self) -> str:
        if self.type == _UNIQUE:
            return "never"
        return _PAIRS_IN_GX[self.ignores] if self.kind == "pair" else self.ignores

    @property
    def is_in_gx(self) -> bool:
        """Whether Great Expectations, given what `to_gx` says, looks at the same."""
        apart = BEYOND | OF_THE_LAKE | _RENAMED
        return self.type not in apart and not self.row_condition

    @classmethod
    def from_gx(cls, entry: Mapping[str, Any]) -> Expectation:
        """From an entry of a Great Expectations suite (JSON), of any version since 0.18.

        Raises
        ------
        ContractError: Penstock doesn't know its type, or it has a row condition of pandas or Spark.
        """
        if not isinstance(entry, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ContractError(f"an expectation is an object of type and kwargs, not {entry!r}")
        kind = str(entry.get("type") or entry.get("expectation_type") or "")
        if kind not in KINDS:
            raise ContractError(
                f"{kind or 'an entry without a type'} can't be compiled; see docs/contracts.md"
            )
        try:
            return cls._from_gx(kind, entry)
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise ContractError(f"{kind}: its arguments are not those it has: {error}") from error

    @classmethod
    def _from_gx(cls, kind: str, entry: Mapping[str, Any]) -> Expectation:
        from penstock import contracts

        arguments = dict(entry.get("kwargs") or {})
        said = (entry.get("meta") or {}).get("penstock") or {}
        for unused in ("batch_id", "result_format", "catch_exceptions", "condition_parser"):
            arguments.pop(unused, None)
        if (condition := arguments.pop("row_condition", None)) is not None:
            raise ContractError(
                f"{kind}: its row_condition {condition!r} is not SQL; write it as Penstock's"
            )
        if "column_list" in arguments:
            arguments["column_list"] = listed(arguments["column_list"])
        for theirs, ours in (("column_A", "column_a"), ("column_B", "column_b")):
            if theirs in arguments:
                arguments[ours] = arguments.pop(theirs)
        if kind == "expect_multicolumn_values_to_be_unique":
            arguments.pop("column", None)
        if KINDS[kind] in ("pair", "rows"):
            _say_ignored(kind, arguments, is_ours=bool(said))
        by_row = KINDS[kind] in ("row", "pair", "rows")
        named = {text: name for name, text in _SEVERITY_IN_GX.items()}
        default = "reject" if by_row else "warn"
        severity: Any = said.get("severity") or named.get(str(entry.get("severity")), default)
        severity = "warn" if severity == "reject" and not by_row else severity
        mostly = arguments.pop("mostly", None)
        takes_share = by_row or "mostly" in signature(getattr(contracts, kind)).parameters
        if takes_share:
            arguments["mostly"] = 1.0 if mostly is None else float(mostly)
        if by_row or said.get("row_condition"):
            arguments["row_condition"] = said.get("row_condition")
        if said.get("label"):
            arguments["label"] = said["label"]
        return getattr(contracts, kind)(**arguments, severity=severity)


def _say_ignored(kind: str, arguments: dict[str, Any], *, is_ours: bool) -> None:
    """Which rows are not looked at, in our words; unsaid in a suite, those without any value."""
    default = "any_value_is_missing" if is_ours else "all_values_are_missing"
    ours = {theirs: ours for ours, theirs in _PAIRS_IN_GX.items()}
    how = arguments.pop("ignore_row_if", default)
    how = ours.get(how, how)
    if kind == _UNIQUE:
        if how not in ("never", default):
            raise ContractError(f"{kind}: ignore_row_if is never here: missing values are equal")
    elif how != "any_value_is_missing":
        arguments["ignore_row_if"] = how


def bounds(
    low: Any, high: Any, *, strict_min: bool = False, strict_max: bool = False
) -> dict[str, Any]:
    """The arguments of a range; an end that isn't strict isn't said to be."""
    arguments: dict[str, Any] = {"min_value": low, "max_value": high}
    arguments |= {"strict_min": True} if strict_min else {}
    return arguments | ({"strict_max": True} if strict_max else {})


def listed(values: Any) -> Any:
    """A list of values; one text stays what it is, to be refused, and is no list of letters."""
    return values if isinstance(values, str) else list(values)


def _check_arguments(expectation: Expectation) -> None:
    arguments, name = expectation.arguments, expectation.name
    for key in ("regex", "json_schema", "strftime_format", "like_pattern"):
        if key in arguments and not arguments[key]:
            raise ContractError(f"{name}: {key} is empty")
    for key in ("value_set", "regex_list", "like_pattern_list", "type_list", "value_pairs_set"):
        if key in arguments:
            _check_set(name, key, arguments[key])
    for regex in (*_one(arguments, "regex"), *arguments.get("regex_list", ())):
        _check_regex(name, regex)
    for key in _QUERIES:
        if key in arguments:
            _check_query(name, key, arguments[key])
    low, high = arguments.get("min_value"), arguments.get("max_value")
    takes_bounds = "min_value" in arguments or "max_value" in arguments
    if takes_bounds and low is None and high is None:
        raise ContractError(f"{name} needs min_value, max_value or both")
    for key, allowed in _ONE_OF.items():
        if key in arguments and arguments[key] not in allowed:
            raise ContractError(f"{name}: {key} is {' or '.join(allowed)}, not {arguments[key]!r}")
    for bound in (low, high):
        if isinstance(bound, float) and bound != bound:
            raise ContractError(f"{name}: NaN is no bound; nothing is less or more than it")
    if low is not None and high is not None:
        try:
            is_empty = low > high
        except TypeError as error:
            raise ContractError(f"{name}: {low!r} and {high!r} are of two types") from error
        if is_empty:
            raise ContractError(f"{name}: min_value {low!r} is greater than max_value {high!r}")
        if low == high and (arguments.get("strict_min") or arguments.get("strict_max")):
            raise ContractError(f"{name}: nothing lies between {low!r} and itself, strictly")
    _check_numbers(name, expectation.type, arguments)


def _check_numbers(name: str, kind: str, arguments: Mapping[str, Any]) -> None:
    for key in ("sum_total", "threshold", "multiplier", "value"):
        if key in arguments and not _is_number(arguments[key]):
            raise ContractError(f"{name}: {key} is a number, not {arguments[key]!r}")
    if arguments.get("multiplier", 0) < 0:
        raise ContractError(f"{name}: multiplier is 0 or more, not {arguments['multiplier']!r}")
    if "value" in arguments and (arguments["value"] < 0 or arguments["value"] % 1):
        raise ContractError(f"{name}: value is a whole number, not {arguments['value']!r}")
    if any(word in kind for word in _OF_NUMBERS):
        for key in ("min_value", "max_value"):
            if arguments.get(key) is not None and not _is_number(arguments[key]):
                raise ContractError(f"{name}: {key} is a number, not {arguments[key]!r}")
    if any(word in kind for word in ("_mean_to", "_median_to")):
        for key in ("min_value", "max_value"):
            if isinstance(arguments.get(key), str | bool):
                raise ContractError(f"{name}: {key} is a number or time, not {arguments[key]!r}")
    for key in ("column_set", "column_list"):
        if key in arguments and (isinstance(arguments[key], str) or not arguments[key]):
            raise ContractError(f"{name}: {key} is a list of names, not {arguments[key]!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _one(arguments: Mapping[str, Any], key: str) -> list[Any]:
    return [arguments[key]] if key in arguments else []


def _check_regex(name: str, regex: Any) -> None:
    if not isinstance(regex, str):
        raise ContractError(f"{name}: a regular expression is text, not {regex!r}")
    import polars as pl  # whose engine will match it

    try:
        pl.Series([""]).str.contains(regex)
    except pl.exceptions.PolarsError as error:
        reason = " ".join(str(error).split())
        hint = ""
        if "look-around" in reason or "backreferences" in reason:
            hint = (
                "; it looks around or back, which can't be matched at the speed of a scan: say it "
                "with two expectations, or with expect_column_values_to_not_match_regex"
            )
        raise ContractError(
            f"{name}: {regex!r} is no regular expression: {reason}{hint}"
        ) from error


def _check_query(name: str, key: str, query: Any) -> None:
    if not isinstance(query, str):
        raise ContractError(f"{name}: {key} is SQL, not {query!r}")
    if (BATCH in query) != (key != "comparison_query"):
        other = "tables of the lake, and no" if key == "comparison_query" else "the rows of"
        raise ContractError(f"{name}: {key} reads {other} {BATCH}: {query!r}")
    import duckdb  # 0.1 s that other contracts don't need

    def plain(table: str, at: str | None) -> str | None:
        return None if at is None else table.replace("/", ".")

    try:
        text = with_tables(query.replace(BATCH, "__batch"), plain)
        statements = duckdb.extract_statements(text)
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise ContractError(f"{name}: {key} is no SQL: {reason}: {query!r}") from error
    if [each.type for each in statements] != [duckdb.StatementType.SELECT]:
        raise ContractError(f"{name}: {key} is one SELECT, and this isn't: {query!r}")


def _check_set(name: str, key: str, values: Any) -> None:
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise ContractError(f"{name}: {key} is a list of at least one value, not {values!r}")
    plain = (str, int, float, date, tuple, list, NoneType)
    if odd := [value for value in values if not isinstance(value, plain)]:
        raise ContractError(
            f"{name}: {key} has {odd[0]!r}; values are text, numbers, booleans, dates and times"
        )
    kinds = {
        "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value)
        for value in values
        if value is not None
    }
    if any(isinstance(value, float) and value != value for value in values):
        raise ContractError(f"{name}: {key} has NaN, which counts as missing")
    if len(kinds) > 1:
        raise ContractError(
            f"{name}: {key} has values of several types: {', '.join(map(repr, values[:5]))}"
        )
