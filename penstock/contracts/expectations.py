"""Expectations under Great Expectations' names and arguments, with a severity added.

`severity` says what a row that breaks one does: `reject` sends the row to the rejects, `warn` lets
it through and is reported, `fail` lets nothing of the batch commit. As in Great Expectations, a
null is passed over by all but `expect_column_values_to_not_be_null`; `mostly` is the share of
rows that must hold for the check to pass (rows that break a `reject` are rejected either way);
and `row_condition` picks the rows looked at, here as an SQL expression over the table's columns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from penstock.errors import ContractError

Severity = Literal["reject", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Expectation:
    """One promise about rows, or about a batch as a whole."""

    type: str
    """Great Expectations' name, such as `expect_column_values_to_be_between`."""
    columns: tuple[str, ...]
    """The columns that it reads; empty for one about the whole table."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Great Expectations' arguments beside the columns."""
    severity: Severity = "reject"
    mostly: float = 1.0
    row_condition: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.mostly <= 1:
            raise ContractError(f"{self.name}: mostly must lie in (0, 1], got {self.mostly}")

    @property
    def name(self) -> str:
        """Short and unique within a contract: the columns, then what is expected of them."""
        what = self.type
        for prefix in ("expect_column_pair_", "expect_compound_columns_", "expect_column_"):
            if what.startswith(prefix):
                what = what[len(prefix) :]
                break
        subject = "_".join(self.columns) if len(self.columns) < 3 else "row"
        name = f"{subject}_{what}" if self.columns else self.type.removeprefix("expect_")
        return f"{name}_if" if self.row_condition else name

    @property
    def is_about_rows(self) -> bool:
        """Whether it holds or breaks row by row."""
        return bool(self.columns)

    def describe(self) -> str:
        """For a reader: the rule with its arguments."""
        rule = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        condition = f" where {self.row_condition}" if self.row_condition else ""
        return (
            f"{self.type}({', '.join([*self.columns, rule] if rule else self.columns)}){condition}"
        )

    def to_gx(self) -> dict[str, Any]:
        """As an entry of a Great Expectations suite (JSON)."""
        match self.type.split("_")[1:3]:
            case ["compound", _]:
                names: dict[str, Any] = {"column_list": list(self.columns)}
            case ["column", "pair"]:
                names = {"column_A": self.columns[0], "column_B": self.columns[1]}
            case _:
                names = {"column": self.columns[0]} if self.columns else {}
        arguments = json.loads(json.dumps(dict(self.arguments), default=str))
        kwargs = {**names, **arguments} | ({"mostly": self.mostly} if self.mostly < 1 else {})
        meta = {"severity": self.severity, "row_condition": self.row_condition}
        return {"type": self.type, "kwargs": kwargs, "meta": {"penstock": meta}}


def expect_column_values_to_not_be_null(
    column: str,
    *,
    severity: Severity = "reject",
    mostly: float = 1.0,
    row_condition: str | None = None,
) -> Expectation:
    """The column has a value."""
    kind = "expect_column_values_to_not_be_null"
    return Expectation(kind, (column,), {}, severity, mostly, row_condition)


def expect_column_values_to_be_between(
    column: str,
    min_value: float | datetime | None = None,
    max_value: float | datetime | None = None,
    *,
    strict_min: bool = False,
    strict_max: bool = False,
    severity: Severity = "reject",
    mostly: float = 1.0,
    row_condition: str | None = None,
) -> Expectation:
    """The value lies in [min_value, max_value]; an end is left out where it is strict."""
    if min_value is None and max_value is None:
        raise ContractError(f"{column}: between needs min_value, max_value or both")
    arguments: dict[str, Any] = {"min_value": min_value, "max_value": max_value}
    arguments |= {"strict_min": True} if strict_min else {}
    arguments |= {"strict_max": True} if strict_max else {}
    kind = "expect_column_values_to_be_between"
    return Expectation(kind, (column,), arguments, severity, mostly, row_condition)


def expect_column_values_to_be_in_set(
    column: str,
    value_set: Sequence[Any],
    *,
    severity: Severity = "reject",
    mostly: float = 1.0,
    row_condition: str | None = None,
) -> Expectation:
    """The value is one of the set."""
    arguments = {"value_set": list(value_set)}
    kind = "expect_column_values_to_be_in_set"
    return Expectation(kind, (column,), arguments, severity, mostly, row_condition)


def expect_column_values_to_not_be_in_set(
    column: str,
    value_set: Sequence[Any],
    *,
    severity: Severity = "reject",
    mostly: float = 1.0,
    row_condition: str | None = None,
) -> Expectation:
    """The value is none of the set."""
    arguments = {"value_set": list(value_set)}
    kind = "expect_column_values_to_not_be_in_set"
    return Expectation(kind, (column,), arguments, severity, mostly, row_condition)


def expect_column_values_to_match_regex(
    column: str,
    regex: str,
    *,
    severity: Severity = "reject",
    mostly: float = 1.0,
    row_condition: str | None = None,
) -> Expectation:
    """The regular expression (Rust's syntax) is found in the text."""
    kind = "expect_column_values_to_match_regex"
    return Expectation(kind, (column,), {"regex": regex}, severity, mostly, row_condition)


def expect_column_value_lengths_to_be_between(
    column: str,
    min_value: int | None = None,
    max_value: int | None = None,
    *,
    severity: Severity = "reject",
    mostly: float = 1.0,
    row_condition: str | None = None,
) -> Expectation:
    """The text has so many characters, both ends included."""
    arguments = {"min_value": min_value, "max_value": max_value}
    kind = "expect_column_value_lengths_to_be_between"
    return Expectation(kind, (column,), arguments, severity, mostly, row_condition)


def expect_column_pair_values_a_to_be_greater_than_b(
    column_a: str,
    column_b: str,
    *,
    or_equal: bool = False,
    severity: Severity = "reject",
    mostly: float = 1.0,
    row_condition: str | None = None,
) -> Expectation:
    """Column A's value is greater than column B's in the same row."""
    kind = "expect_column_pair_values_a_to_be_greater_than_b"
    arguments = {"or_equal": or_equal}
    return Expectation(kind, (column_a, column_b), arguments, severity, mostly, row_condition)


def expect_compound_columns_to_be_unique(
    column_list: Sequence[str],
    *,
    severity: Severity = "reject",
    mostly: float = 1.0,
    row_condition: str | None = None,
) -> Expectation:
    """No earlier row of the same source file has the same values in all the columns.

    The first of a set of equal rows holds and the later ones break it (Great Expectations counts
    the first as well). Nulls equal one another.
    """
    kind = "expect_compound_columns_to_be_unique"
    return Expectation(kind, tuple(column_list), {}, severity, mostly, row_condition)


def expect_table_row_count_to_be_between(
    min_value: int | None = None,
    max_value: int | None = None,
    *,
    severity: Literal["warn", "fail"] = "warn",
) -> Expectation:
    """A batch has so many rows, both ends included."""
    arguments = {"min_value": min_value, "max_value": max_value}
    return Expectation("expect_table_row_count_to_be_between", (), arguments, severity)
