"""Other readers of Delta tables see what Penstock wrote."""

from __future__ import annotations

from datetime import UTC, datetime

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable

from penstock import Lake
from penstock.tables import (
    Table,
    add_constraint,
    append,
    delete,
    enable_change_feed,
    optimize,
    upsert,
)
from tests import conftest

_AT = datetime(2024, 3, 1, 10, 30, tzinfo=UTC)
_ROWS = [(2, "b", 7.0, _AT), (3, None, None, _AT), (9, "ü%/", 8.0, None)]


@pytest.fixture(params=[[], ["name"]], ids=["plain", "partitioned"])
def table(lake: Lake, request: pytest.FixtureRequest) -> Table:
    """A table that has been through every kind of write."""
    table = Table(lake, "shop/prices")
    rows = [(1, "a", 1.5, _AT), (2, "b", 2.5, _AT), (3, None, None, _AT)]
    frame = pl.DataFrame(rows, schema=["id", "name", "price", "at"], orient="row")
    if request.param:
        frame = frame.with_columns(pl.col("name").fill_null("none"))
    append(table, frame, partition_by=request.param)
    enable_change_feed(table)
    add_constraint(table, "numbered", "id > 0")
    upsert(table, pl.DataFrame({"id": [2], "price": [7.0]}), ["id"])
    upsert(table, frame.head(1).with_columns(id=9, name=pl.lit("ü%/"), price=8.0, at=None), ["id"])
    delete(table, "id = 1")
    optimize(table, sort_by=["id"])
    return table


def expected(table: Table) -> list[tuple[object, ...]]:
    none = "none" if table.snapshot().partition_columns else None
    return [(key, none if name is None else name, price, at) for key, name, price, at in _ROWS]


def test_deltalake_reads_it(table: Table) -> None:
    found = pl.DataFrame(pl.from_arrow(DeltaTable(table.uri).to_pyarrow_dataset().to_table()))
    assert found.select("id", "name", "price", "at").sort("id").rows() == expected(table)


def test_polars_reads_it(table: Table) -> None:
    found = pl.scan_delta(table.uri).select("id", "name", "price", "at").sort("id").collect()
    assert found.rows() == expected(table)


def test_duckdb_reads_it(table: Table) -> None:
    connection = duckdb.connect()
    try:
        connection.execute("LOAD delta")
    except duckdb.Error:
        left_out = "reading tables with DuckDB's delta extension (it is not installed)"
        if left_out not in conftest.LEFT_OUT:
            conftest.LEFT_OUT.append(left_out)
        pytest.skip("DuckDB's delta extension is not installed")
    connection.execute("SET TimeZone = 'UTC'")
    query = f"SELECT id, name, price, at::VARCHAR FROM delta_scan('{table.uri}') ORDER BY id"
    shown = [(*row[:3], row[3] and "2024-03-01 10:30:00+00") for row in expected(table)]
    assert connection.execute(query).fetchall() == shown
