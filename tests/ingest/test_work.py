"""Small files' rows on their way from tasks into Parquet files."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from penstock.ingest import ingest
from penstock.ingest import read as read_module
from penstock.ingest import work as work_module
from tests.conftest import Shop, order

_OTHER = "id,product,units,price,at,email,shelf\n"


@pytest.mark.parametrize("held_bytes", [1 << 30, 1])
def test_files_of_many_tasks_share_row_groups(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, held_bytes: int
) -> None:
    monkeypatch.setattr(work_module, "TASK_BYTES", 1500)
    monkeypatch.setattr(work_module, "_FEWEST_BYTES", 700)
    monkeypatch.setattr(read_module, "_PARSED_BYTES", 500)
    monkeypatch.setattr(work_module, "ROW_GROUP_ROWS", 100)
    monkeypatch.setattr(work_module, "_HELD_BYTES", held_bytes)
    expected = list[tuple[str, int, str]]()
    for number in range(60):
        name, ids = f"{number:02d}.csv", range(number * 7, number * 7 + 7)
        if number % 3:
            shop.write(name, *(order(n) for n in ids))
        else:
            shop.write(name, *(order(n) + ",s" for n in ids), header=_OTHER)
        expected += [(name, at + 1, f"o{n}") for at, n in enumerate(ids)]

    assert ingest(shop.lake, shop.source).rows_read == 420

    rows = shop.rows("shop/orders_raw").sort("_source_file", "_source_row")
    assert rows.select("_source_file", "_source_row", "id").rows() == expected
    assert rows["_rescued"].drop_nulls().unique().to_list() == ['{"shelf":"s"}']
    stored = sorted(Path(shop.lake.uri).glob("tables/shop/orders_raw/*.parquet"))
    homes = pl.concat(pl.read_parquet(each).with_columns(home=pl.lit(each.name)) for each in stored)
    assert homes.group_by("_source_file").agg(pl.col("home").n_unique())["home"].max() == 1
    footers = [pq.ParquetFile(each).metadata for each in stored]
    groups = [
        footer.row_group(at).num_rows for footer in footers for at in range(footer.num_row_groups)
    ]
    assert max(groups) <= 100
    if held_bytes > 1:  # two workers, each with a group that is not full
        assert len([count for count in groups if count < 90]) <= 2
