"""Whether expectations can be asked of a table at all, before any of its rows are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

import polars as pl

from penstock.contracts import Contract, Expectation
from penstock.contracts.conditions import looks_past_a_row
from penstock.contracts.fitting import compared, is_of_text, is_of_times, middles
from penstock.errors import ContractError
from penstock.quality.columns import measures
from penstock.quality.compiled import broken, looked_at, read_by

_REFUSALS = (
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
    TypeError,
    ValueError,
    OverflowError,
)


def _check_columns(
    expectation: Expectation, schema: Mapping[str, pl.DataType], names: list[str]
) -> None:
    """That the columns are there, and of a type that the expectation can be asked of.

    Raises
    ------
    ContractError: which column, and what to do.
    """
    name = expectation.name
    if expectation.kind == "table":
        return
    if missing := [column for column in names if column not in schema]:
        known = ", ".join(schema)[:1000]
        raise ContractError(f"{name}: no column {', '.join(missing)}; there are {known}")
    if is_of_times(expectation):
        kind = schema[expectation.columns[0]]
        if not isinstance(kind, pl.Datetime | pl.Date):
            raise ContractError(f"{name}: column {expectation.columns[0]} is {kind}, not a time")
    for column in expectation.columns:
        kind, values = schema[column], compared(expectation)
        if is_of_text(expectation) and kind != pl.String:
            raise ContractError(f"{name}: column {column} is {kind}, not text; cast it first")
        values = values if expectation.kind in ("row", "column") else []
        middle = [] if kind == pl.Boolean else middles(expectation)
        if odd := [v for v in (*values, *middle) if not _compares(kind, [v])]:
            raise ContractError(
                f"{name}: column {column} is {kind}, which {odd[0]!r} can't be compared with"
            )


def _compares(kind: pl.DataType, values: list[Any]) -> bool:
    if not values:
        return True
    value = values[0]
    if isinstance(value, str):
        return isinstance(kind, pl.String | pl.Categorical | pl.Enum)
    if isinstance(value, bool):
        return kind == pl.Boolean
    if isinstance(value, int | float):
        return kind.is_numeric()
    if isinstance(value, date):
        return kind.is_temporal()
    return True


def prove(expectations: Iterable[Expectation], schema: Mapping[str, pl.DataType]) -> None:
    """Ask them of no rows and of an empty one, with the columns that the table has.

    Raises
    ------
    ContractError: of the first that can't be asked: a column isn't there, or of a type that it
        can't be asked of, or the row condition is none.
    """
    asked = [(each, found) for each in expectations if (found := _asked(each, schema))]
    used = {name: schema[name] for each, _ in asked for name in read_by(each)}
    try:
        _ask([measure for _, found in asked for measure in found], used)
    except _REFUSALS:  # of all at once, which is faster, but doesn't say which
        for expectation, found in asked:
            _prove_one(expectation, found, schema)
        raise


def prove_contract(contract: Contract) -> None:
    """`prove` a contract's expectations, of the columns that it gives its table.

    Raises
    ------
    ContractError: as `prove`.
    """
    empty = pl.DataFrame(pl.from_arrow(contract.arrow_schema().empty_table()))
    prove(contract.all_expectations, dict(empty.schema))


def _asked(expectation: Expectation, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    """What is asked of rows, where its columns are such as it can be asked of."""
    name = expectation.name
    try:
        names = read_by(expectation) if expectation.kind != "table" else []
    except (pl.exceptions.PolarsError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ContractError(f"{name}: row_condition is not SQL of one row: {reason}") from error
    if expectation.row_condition and looks_past_a_row(pl.sql_expr(expectation.row_condition)):
        raise ContractError(
            f"{name}: row_condition is not SQL of one row: {expectation.row_condition!r} has an "
            "aggregate, a window or a query in it"
        )
    if odd := [each for each in names if each == "*" or (each[:1] == "^" and each[-1:] == "$")]:
        raise ContractError(f"{name}: a column called {odd[0]!r} stands for several; rename it")
    _check_columns(expectation, schema, names)
    if not names:
        return []
    try:
        asked = [*measures(expectation).values()]
        if expectation.is_about_rows:
            asked += [looked_at(expectation).sum(), broken(expectation).sum()]
    except _REFUSALS as error:
        raise _refused(expectation, schema, error) from error
    return asked


def _ask(asked: Sequence[pl.Expr], schema: Mapping[str, pl.DataType]) -> None:
    empty = pl.DataFrame(schema=schema)
    for rows in (empty, empty.clear(1)):
        rows.select(each.alias(str(place)) for place, each in enumerate(asked))


def _prove_one(
    expectation: Expectation, asked: Sequence[pl.Expr], schema: Mapping[str, pl.DataType]
) -> None:
    try:
        _ask(asked, {name: schema[name] for name in read_by(expectation)})
    except _REFUSALS as error:
        raise _refused(expectation, schema, error) from error


def _refused(
    expectation: Expectation, schema: Mapping[str, pl.DataType], error: Exception
) -> ContractError:
    told = ", ".join(f"{name} {schema[name]}" for name in dict.fromkeys(read_by(expectation)))
    condition = f" where {expectation.row_condition}" if expectation.row_condition else ""
    reason = " ".join(str(error).split())[:300]
    return ContractError(
        f"{expectation.name}: {expectation.describe().removesuffix(condition)}{condition} can't be "
        f"asked of {told}: {reason}"
    )
