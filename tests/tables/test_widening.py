"""Columns whose types widen: a table that every reader opens still, and every writer changes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest

from penstock import Lake
from penstock.tables import (
    Table,
    append,
    enable_deletion_vectors,
    overwrite,
    replace_where,
    upsert,
)
from penstock.upkeep import query

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
