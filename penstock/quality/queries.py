"""Expectations in SQL, over a batch's rows and tables of the lake, in DuckDB.

Of rows with personal columns only counts are told: a query can make anything of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.contracts.expectation import BATCH
from penstock.errors import ContractError, LakeError
from penstock.quality.results import EXAMPLES, MASK, Result

if TYPE_CHECKING:
    import duckdb
    import polars as pl

    from penstock.lake import Lake

QUERY = "unexpected_rows_expectation"
COMPARISON = "expect_query_results_to_match_comparison"


def judge_query(result: Result, frame: pl.LazyFrame, personal: set[str]) -> None:
    """Count the rows that a query finds, of which there are to be none."""
    query = result.expectation.arguments["unexpected_rows_query"]
    is_hidden = bool(personal & set(frame.collect_schema()))
    with _told(result, query, is_hidden=is_hidden), _over(frame) as connection:
        _lock(connection)
        text = _text(query)
        counted = connection.execute(f"SELECT count(*) FROM (\n{text}\n)").fetchall()
        few = list[dict[str, Any]]()
        if counted[0][0] and not is_hidden:
            few = _rows(connection, f"SELECT * FROM (\n{text}\n)")
    result.observed, result.holds = int(counted[0][0]), counted[0][0] == 0
    if result.observed:
        result.details = {"unexpected_rows": few or MASK}


def judge_comparison(result: Result, frame: pl.LazyFrame, personal: set[str], lake: Lake) -> None:
    """Count the rows of one query's result that another's, over tables of the lake, lacks.

    As Great Expectations counts them: rows match by as many as both have of them, and the share is
    of those of the longer result.
    """
    from penstock.quality.data import personal_of
    from penstock.tables.querying import Bound

    name, arguments = result.expectation.name, result.expectation.arguments
    base, other = arguments["base_query"], arguments["comparison_query"]
    is_hidden = bool(personal & set(frame.collect_schema()))
    with _told(result, base, is_hidden=is_hidden), _over(frame) as connection:
        try:
            bound = Bound(connection, lake, _text(other))
        except LakeError as error:
            raise ContractError(f"{name}: {error}") from error
        is_hidden |= any(personal_of(snapshot) for snapshot in bound.tables.values())
        _lock(connection)
        connection.execute(f"CREATE TEMP TABLE __base AS (\n{_text(base)}\n)")
        with _told(result, other, is_hidden=is_hidden, bound=bound):
            connection.execute(f"CREATE TEMP TABLE __other AS (\n{bound.text}\n)")
        _refuse_unlike(connection, name)
        with _told(result, other, is_hidden=is_hidden):
            rows, others, alike = (
                int(connection.execute(f"SELECT count(*) FROM ({asked})").fetchall()[0][0])
                for asked in (
                    "FROM __base",
                    "FROM __other",
                    "FROM __base INTERSECT ALL FROM __other",
                )
            )
            few: dict[str, Any] = {}
            if max(rows, others) > alike and not is_hidden:
                few = {
                    "missing_rows": _rows(connection, "FROM __other EXCEPT ALL FROM __base"),
                    "unexpected_rows": _rows(connection, "FROM __base EXCEPT ALL FROM __other"),
                }
    most = max(rows, others)
    result.observed = most - alike
    percent = 100 * (1 - alike / most) if most else 0.0
    result.holds = 100 - percent >= 100 * result.expectation.mostly
    result.details = {"unexpected_count": most - alike, "unexpected_percent": percent}
    if most > alike:
        result.details["details"] = few or MASK


def _text(query: str) -> str:
    return query.strip().rstrip(";").replace(BATCH, "__batch")


@contextmanager
def _over(frame: pl.LazyFrame) -> Generator[duckdb.DuckDBPyConnection]:
    """DuckDB with the rows as a table. They go through a file: a query may read them more than
    once, and they may be many.
    """
    from penstock.tables.sql import connect

    with tempfile.TemporaryDirectory(prefix="penstock-sql-") as folder, connect() as connection:
        path = Path(folder) / "batch.parquet"
        frame.sink_parquet(path, compression="lz4")
        connection.execute(f"CREATE TABLE __batch AS SELECT * FROM read_parquet('{path}')")
        yield connection


def _lock(connection: duckdb.DuckDBPyConnection) -> None:
    """From here on it reads nothing but what it has, and writes nothing."""
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")


@contextmanager
def _told(result: Result, query: str, *, is_hidden: bool, bound: Any = None) -> Generator[None]:
    """Raise `ContractError` with the query that DuckDB could not run."""
    import duckdb

    try:
        yield
    except (duckdb.Error, ValueError, OverflowError) as error:
        reason = type(error).__name__ if is_hidden else " ".join(str(error).split())[:300]
        if bound is not None and not is_hidden:
            reason = str(bound.explained(error))
        raise ContractError(f"{result.expectation.name}: {query!r}: {reason}") from (
            None if is_hidden else error
        )


def _rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    """Some of a query's rows."""
    cursor = connection.execute(f"SELECT * FROM ({query}) LIMIT {EXAMPLES}")
    names = [str(each[0]) for each in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _refuse_unlike(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Raise `ContractError` where the results' columns can't be compared: text is no number."""
    base, other = (
        [(each[0], each[1]) for each in connection.execute(f"DESCRIBE {table}").fetchall()]
        for table in ("__base", "__other")
    )
    if len(base) != len(other):
        raise ContractError(
            f"{name}: its base_query gives {len(base)} columns, and its comparison_query "
            f"{len(other)}; columns are compared by their place"
        )
    for place, ((ours, kind), (theirs, their_kind)) in enumerate(zip(base, other, strict=True), 1):
        if (kind == "VARCHAR") != (their_kind == "VARCHAR"):
            raise ContractError(
                f"{name}: column {place} is {kind} ({ours}) in its base_query, and {their_kind} "
                f"({theirs}) in its comparison_query; cast one"
            )
