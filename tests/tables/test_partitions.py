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

from penstock import Lake
from penstock.cli.app import main
from penstock.tables import (
    Table,
    append,
)
from penstock.upkeep import query

TEXTS = ["plain", "b c", "ü", "a:b", "a/b", "100 %", "a%20b", "it's", "a,b", "a+b", "a&b=c", "a#b"]
TEXTS += ["..", "?*[", "a\\b", "\x01", "tab\there", "line\nbreak", "𠮷野"]
VALUES: dict[str, list[Any]] = {
    "texts": [*TEXTS, None],
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
