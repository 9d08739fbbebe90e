"""Expectations that Great Expectations lacks: of other tables, of time, of earlier batches; SQL."""

from __future__ import annotations

import math
import re
from typing import Any, Unpack

from penstock.contracts.aggregates import about
from penstock.contracts.expectation import Expectation, Options, RowOptions
from penstock.errors import ContractError

LAKE = "lake"
"""What Great Expectations would call a data source."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def expect_column_values_to_exist_in_table(
    column: str,
    table: str,
    other_column: str = "",
    version: int | str | None = None,
    **options: Unpack[RowOptions],
) -> Expectation:
    """The value is one that a column of another table has (a foreign key); nulls are passed over.

    Parameters
    ----------
    table: of the same lake.
    other_column: by default of the same name.
    version: of the other table, a number or a tag; by default its newest when rows are validated.
    """
    if table.count("/") != 1:
        raise ContractError(f"{column}: another table is named domain/table, not {table!r}")
    arguments: dict[str, Any] = {"table": table, "other_column": other_column or column}
    arguments |= {} if version is None else {"version": version}
    return Expectation("expect_column_values_to_exist_in_table", (column,), arguments, **options)


def expect_column_max_to_be_recent(
    column: str, within: str = "1d", **options: Unpack[Options]
) -> Expectation:
    """The newest time is at most so long ago when rows are validated (freshness).

    Parameters
    ----------
    within: such as `90m`, `26h`, `7d`.
    """
    seconds(within)
    return about("expect_column_max_to_be_recent", (column,), {"within": within}, options)


def expect_column_values_to_have_no_gaps(
    column: str, every: str = "1d", **options: Unpack[Options]
) -> Expectation:
    """Between the first time and the last there is one in each stretch of such a length; in a
    contract, from the newest of earlier batches on, where a batch goes on behind it.

    Parameters
    ----------
    every: such as `15m`, `1h`, `1d`; stretches begin at whole ones, UTC.
    """
    seconds(every)
    return about("expect_column_values_to_have_no_gaps", (column,), {"every": every}, options)


def expect_column_distribution_to_be_stable(
    column: str,
    against: int | str = "previous",
    psi: float | None = 0.2,
    js: float | None = None,
    ks: float | None = None,
    **options: Unpack[Options],
) -> Expectation:
    """The values are spread as they were: see `penstock.quality.drift` for the measures.

    Parameters
    ----------
    against: `previous`, the batch before, or a version or tag of the table. Of a first batch it
        holds.
    psi, js, ks: limits; it holds where none is passed, or chance alone passes them in one of a
        thousand cases (chi-square), as of few rows. None leaves one out.
    """
    limits = {"psi": psi, "js": js, "ks": ks}
    given = [limit for limit in limits.values() if limit is not None]
    if not given or not all(0 <= limit < math.inf for limit in given):
        raise ContractError(
            f"{column}: a stable distribution has limits of psi, js or ks, from 0 on"
        )
    arguments = {"against": against, **limits}
    return about("expect_column_distribution_to_be_stable", (column,), arguments, options)


def expect_table_row_count_to_be_near_previous(
    min_ratio: float = 0.5, max_ratio: float = 2.0, over: int = 7, **options: Unpack[Options]
) -> Expectation:
    """A batch has about as many rows as those before it; a first one may have any number.

    Parameters
    ----------
    min_ratio, max_ratio: of its rows to the median of earlier batches' (those without rows are
        none).
    over: how many earlier batches.
    """
    if not 0 <= min_ratio <= max_ratio < math.inf or over < 1:
        raise ContractError(
            "row_count_to_be_near_previous: ratios lie in 0 <= min_ratio <= max_ratio, and over is "
            f"at least 1, not {min_ratio}, {max_ratio}, {over}"
        )
    arguments = {"min_ratio": min_ratio, "max_ratio": max_ratio, "over": over}
    return about("expect_table_row_count_to_be_near_previous", (), arguments, options)


def expect_table_columns_to_be_known(**options: Unpack[Options]) -> Expectation:
    """Raw files have no column that the contract doesn't know (schema drift)."""
    return about("expect_table_columns_to_be_known", (), {}, options)


def expect_table_row_count_to_equal_other_table(
    other_table_name: str, version: int | str | None = None, **options: Unpack[Options]
) -> Expectation:
    """A batch has as many rows as another table of the lake: as what is loaded whole has.

    Parameters
    ----------
    other_table_name: `domain/table`.
    version: of the other table, a number or a tag; by default its newest when rows are validated.
    """
    if not isinstance(other_table_name, str) or other_table_name.count("/") != 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ContractError(f"another table is named domain/table, not {other_table_name!r}")
    arguments: dict[str, Any] = {"other_table_name": other_table_name}
    arguments |= {} if version is None else {"version": version}
    return about("expect_table_row_count_to_equal_other_table", (), arguments, options)


def expect_query_results_to_match_comparison(
    base_query: str,
    comparison_query: str,
    comparison_data_source_name: str = LAKE,
    mostly: float = 1.0,
    **options: Unpack[Options],
) -> Expectation:
    """Two queries in DuckDB's SQL give the same rows, in any order; all of them are compared.

    Columns are compared by their place, nulls are equal. The share of rows that match is of
    those of the longer result, as in Great Expectations.

    Parameters
    ----------
    base_query: over `{batch}`, such as `SELECT sum(units) FROM {batch}`.
    comparison_query: over tables of the lake as `penstock sql` has them, such as
        `SELECT sum(units) FROM retail.orders@v12`.
    comparison_data_source_name: `lake`, of which Great Expectations wants a name.
    mostly: the share that must match.
    """
    if comparison_data_source_name != LAKE:
        raise ContractError(
            f"a comparison query reads tables of this lake (comparison_data_source_name={LAKE!r}), "
            f"not of {comparison_data_source_name!r}; bring those in as a source of a table"
        )
    arguments = {
        "base_query": base_query,
        "comparison_data_source_name": LAKE,
        "comparison_query": comparison_query,
    }
    return about("expect_query_results_to_match_comparison", (), arguments, options, mostly)


def unexpected_rows_expectation(
    unexpected_rows_query: str, **options: Unpack[Options]
) -> Expectation:
    """A query in DuckDB's SQL finds no rows.

    Parameters
    ----------
    unexpected_rows_query: over `{batch}`, such as `SELECT * FROM {batch} WHERE price > 10 * cost`.
    """
    arguments = {"unexpected_rows_query": unexpected_rows_query.strip()}
    return about("unexpected_rows_expectation", (), arguments, options)


def seconds(length: str) -> int:
    """Of a length of time such as `90m` or `1d12h`.

    Raises
    ------
    ContractError: it is none, or zero.
    """
    parts = re.findall(r"(\d+)([smhdw])", length)
    total = sum(int(number) * _UNITS[unit] for number, unit in parts)
    if not total or "".join(f"{number}{unit}" for number, unit in parts) != length:
        raise ContractError(f"{length!r} is no length of time such as 90m, 26h, 7d")
    return total
