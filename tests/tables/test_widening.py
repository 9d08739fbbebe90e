"""Columns whose types widen: a table that every reader opens still, and every writer changes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from penstock import Lake
from penstock.errors import LakeError
from penstock.tables import (
    Table,
    append,
    changes,
    delete,
    enable_change_feed,
    enable_deletion_vectors,
    optimize,
    overwrite,
    replace_where,
    restore,
    upsert,
)
from penstock.tables.querying import query
from penstock.tables.writing import staged_rows

DAY, HOUR = date(2026, 1, 1), datetime(2026, 1, 2, 3)


@pytest.fixture(params=[False, True], ids=["copies", "vectors"])
def has_vectors(request: pytest.FixtureRequest) -> bool:
    return request.param


WRITERS: list[Callable[[Table, pl.DataFrame], Any]] = [
    append,
    lambda table, rows: upsert(table, rows, ["id"]),
    overwrite,
    lambda table, rows: replace_where(table, "id = 2", rows),
]


WIDER: list[tuple[pl.Series, Any]] = [
    (pl.Series([1, 2], dtype=pl.Int32), 3_000_000_000),
    (pl.Series([1, 2], dtype=pl.Int32), 2.5),
    (pl.Series([1.5, 2.5], dtype=pl.Float32), 0.1),
    (pl.Series([DAY, DAY]), HOUR.replace(tzinfo=UTC)),
    (pl.Series([DAY, None]), HOUR),
]


@pytest.mark.parametrize(
    "partition_by", [[], ["part"], ["value"]], ids=["whole", "parts", "itself"]
)
@pytest.mark.parametrize(
    ("narrow", "wide"), WIDER, ids=["long", "double", "float", "time", "time_of_no_zone"]
)
def test_rows_restored_from_before_a_widening_can_be_changed(
    lake: Lake, narrow: pl.Series, wide: Any, partition_by: list[str], has_vectors: bool
) -> None:
    if narrow.dtype == pl.Date and partition_by == ["value"]:
        pytest.skip("days that name partitions stay days")
    table = Table(lake, "shop/narrow")
    first = pl.DataFrame({"id": [1, 2], "part": ["a", "b c"], "value": narrow, "n": [0, 0]})
    append(table, first, partition_by=partition_by)
    begun = enable_change_feed(table).version
    if has_vectors:
        append(table, first.with_columns(pl.col("id") + 2))
        enable_deletion_vectors(table)
        append(table, pl.concat([first] * 20).with_columns(id=pl.int_range(10, 50)))
        begun = delete(table, "id > 2").version
    append(table, pl.DataFrame({"id": [3], "part": ["a"], "value": [wide], "n": [0]}))

    restore(table, begun)
    kind = table.snapshot().scan().collect_schema()["value"]
    expected = first.with_columns(pl.col("value").cast(kind))
    assert _rows(table).equals(expected)

    upsert(table, first.tail(1).with_columns(n=pl.lit(9)), ["id"])
    replace_where(table, "id = 1", first.head(1).with_columns(n=pl.lit(8)))
    upsert(table, expected.head(1).select("value", n=pl.lit(7)), ["value"])
    optimize(table, sort_by=["id"])
    assert _rows(table).drop("n").equals(expected.drop("n"))
    told = [pl.DataFrame(pl.from_arrow(batch)) for batch in changes(table, begun)]
    assert {frame["value"].dtype for frame in told} == {kind}
    delete(table, "id = 2")
    assert _rows(table)["id"].to_list() == [1]


@pytest.mark.parametrize("write", WRITERS, ids=["append", "upsert", "overwrite", "replace_where"])
def test_days_that_name_partitions_stay_days(
    lake: Lake, write: Callable[[Table, pl.DataFrame], Any]
) -> None:
    table = Table(lake, "shop/days")
    version = append(table, pl.DataFrame({"id": [1], "at": [DAY]}), partition_by=["at"]).version
    with pytest.raises(LakeError, match="column at is date32.* in the table and timestamp"):
        write(table, pl.DataFrame({"id": [2], "at": [HOUR]}))
    assert table.snapshot().version == version


def _rows(table: Table) -> pl.DataFrame:
    return table.snapshot().scan().collect().sort("id")


@pytest.mark.parametrize(("narrow", "wide"), WIDER[:3], ids=["long", "double", "float"])
def test_rows_appended_while_another_widens_can_be_changed(
    lake: Lake, narrow: pl.Series, wide: Any
) -> None:
    table = Table(lake, "shop/narrow")
    rows = pl.DataFrame({"id": [1, 2], "value": narrow})
    append(table, rows)
    before = table.snapshot()
    staged = staged_rows(before, iter(rows.with_columns(pl.col("id") + 2).to_arrow().to_batches()))
    append(table, pl.DataFrame({"id": [5], "value": [wide]}))
    before.commit(staged)

    upsert(table, rows.tail(1), ["id"])
    delete(table, "id = 3")
    assert _rows(table)["id"].to_list() == [1, 2, 4, 5]


def test_a_value_that_no_wider_type_has_is_not_restored(lake: Lake) -> None:
    table = Table(lake, "shop/narrow")
    begun = append(table, pl.DataFrame({"id": [2**60 + 1]})).version
    delete(table, "true")
    append(table, pl.DataFrame({"id": [0.5]}))
    files = sorted(Path(table.uri).rglob("*.parquet"))

    with pytest.raises(LakeError, match="can't be widened"):
        restore(table, begun)
    assert _rows(table)["id"].to_list() == [0.5]
    assert sorted(Path(table.uri).rglob("*.parquet")) == files


@pytest.mark.parametrize("zone", [None, UTC], ids=["no_zone", "utc"])
@pytest.mark.parametrize("write", WRITERS, ids=["append", "upsert", "overwrite", "replace_where"])
def test_dates_become_times_and_the_table_opens(
    lake: Lake, write: Callable[[Table, pl.DataFrame], Any], zone: Any, has_vectors: bool
) -> None:
    table = Table(lake, "shop/days")
    append(table, pl.DataFrame({"id": [1], "at": [DAY]}))
    if has_vectors:
        enable_deletion_vectors(table)
    before = table.snapshot().version

    hour = HOUR.replace(tzinfo=zone)
    write(table, pl.DataFrame({"id": [2], "at": [hour]}))

    midnight = datetime(2026, 1, 1, tzinfo=zone)
    kept = [] if write is overwrite else [(1, midnight)]
    now, then = table.snapshot(), table.snapshot(before)
    assert sorted(now.scan().collect().rows()) == [*kept, (2, hour)]
    assert then.scan().collect().rows() == [(1, DAY)]
    assert len(query(lake, "select * from shop.days")) == len(kept) + 1
    assert now.has_deletion_vectors == has_vectors
    append(table, pl.DataFrame({"id": [3], "at": [hour]}))
    assert table.snapshot().rows == len(kept) + 2
