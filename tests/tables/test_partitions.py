"""Partitions whose values are written otherwise in paths: every way to read finds the same rows."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import Lake, validate
from penstock.cli.app import main
from penstock.contracts import Column, Contract
from penstock.ingest import DeltaSource, ingest
from penstock.tables import Table, append, changes, delete, enable_change_feed, upsert
from penstock.tables.querying import query

TEXTS = ["plain", "b c", "ü", "a:b", "a/b", "100 %", "a%20b", "it's", "a,b", "a+b", "a&b=c", "a#b"]
OTHERS = ["..", "?*[", "a\\b", "\x01", "tab\there", "line\nbreak", "𠮷野"]
VALUES: dict[str, list[Any]] = {
    "texts": [*TEXTS, *OTHERS, None],
    "times": [datetime(2026, 1, 1, 10, 0, 0, 5, UTC), datetime(1969, 7, 20, tzinfo=UTC), None],
    "times_of_no_zone": [datetime(2026, 1, 1, 10), None],
    "days": [date(2026, 1, 1), None],
    "numbers": [1.5, -0.25, float("inf"), 1e300, None],
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_rows_are_the_same_however_they_are_read(lake: Lake, values: list[Any]) -> None:
    table = Table(lake, "shop/prices")
    rows = pl.DataFrame({"id": range(len(values)), "part": values})
    append(table, rows, partition_by=["part"])

    snapshot = table.snapshot()
    assert snapshot.scan().sort("id").collect().equals(rows)
    assert pl.DataFrame(pl.from_arrow(snapshot.dataset().to_table())).sort("id").equals(rows)
    asked = "select id, part from shop.prices order by id"
    assert query(lake, asked) == rows.to_dicts()
    done = CliRunner().invoke(main, ["sql", asked, "--lake", lake.uri, "--json"])
    assert done.exit_code == 0, done.output
    assert [row["id"] for row in json.loads(done.output)] == rows["id"].to_list()


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_a_feed_tells_the_changes_of_every_partition(lake: Lake, values: list[Any]) -> None:
    table = Table(lake, "shop/prices")
    rows = pl.DataFrame({"id": range(len(values)), "price": 1, "part": values})
    append(table, rows.clear(), partition_by=["part"])
    enable_change_feed(table)

    append(table, rows)
    assert _told(table, rows, "insert")
    upsert(table, rows.with_columns(price=pl.lit(2)), ["id"])
    assert _told(table, rows, "update_preimage")
    assert _told(table, rows.with_columns(price=pl.lit(2)), "update_postimage")
    delete(table, "true")
    assert _told(table, rows.with_columns(price=pl.lit(2)), "delete")


def test_on_s3(s3_lake: Lake) -> None:
    table = Table(s3_lake, "shop/prices")
    rows = pl.DataFrame({"id": range(len(TEXTS)), "part": TEXTS})
    append(table, rows.clear(), partition_by=["part"])
    enable_change_feed(table)
    append(table, rows)

    assert table.snapshot().scan().sort("id").collect().equals(rows)
    version = table.snapshot().version
    delete(table, "id = 0")
    assert table.snapshot(version).scan().sort("id").collect().equals(rows)
    append(table, rows.head(1))
    assert query(s3_lake, "select id, part from shop.prices order by id") == rows.to_dicts()
    assert _told(table, rows.head(1), "insert")


def _told(table: Table, rows: pl.DataFrame, kind: str) -> bool:
    """Whether the newest version did this to just these rows."""
    batches = changes(table, table.snapshot().version)
    told = pl.concat([pl.DataFrame(pl.from_arrow(batch)) for batch in batches])
    told = told.filter(pl.col("_change_type") == kind).select(rows.columns).sort("id")
    return told.equals(rows.cast(told.schema))


def test_a_source_follows_a_table_with_such_partitions(lake: Lake) -> None:
    upstream = Table(lake, "shop/prices")
    rows = pl.DataFrame({"id": range(len(TEXTS)), "part": TEXTS, "at": datetime(2026, 1, 1)})
    append(upstream, rows, partition_by=["part"])
    enable_change_feed(upstream)
    columns = (Column("id", "int64"), Column("part", "string"), Column("at", "timestamp"))
    contract = Contract("shop/copies", columns, event_time="at")
    source = DeltaSource("shop/copies_raw", upstream.uri, contract)

    first = ingest(lake, source)
    upsert(upstream, rows.with_columns(pl.col("id") + 100), ["part"])
    append(upstream, rows.with_columns(pl.col("id") + 200))
    second = ingest(lake, source)

    assert (first.failed, second.failed) == ({}, {})
    assert (first.rows_read, second.rows_read) == (len(TEXTS), 2 * len(TEXTS))
    validate(lake, source)
    copies = Table(lake, "shop/copies").snapshot().scan().collect()
    assert sorted(set(copies["part"])) == sorted(TEXTS)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)))
def test_a_filter_on_any_text_finds_its_rows(
    tmp_path_factory: pytest.TempPathFactory, values: list[str]
) -> None:
    lake = Lake(tmp_path_factory.mktemp("lake"))
    rows = pl.DataFrame({"id": range(len(values)), "part": pl.Series(values, dtype=pl.String)})
    append(Table(lake, "shop/prices"), rows, partition_by=["part"])

    for value in values:
        text = value.replace("'", "''")
        found = query(lake, f"select id from shop.prices where part = '{text}' order by id")
        assert [row["id"] for row in found] == [n for n, v in enumerate(values) if v == value]
