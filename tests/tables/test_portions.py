"""Data files read in portions: every row once, in order, whatever wrote the file."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from unittest import mock

import polars as pl
import pyarrow as pa
import pytest
from deltalake import WriterProperties, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import Lake
from penstock.errors import LakeError
from penstock.tables import Table, append, delete, enable_deletion_vectors, optimize, upsert
from penstock.tables import staging as staging_module
from penstock.tables import version as version_module
from penstock.tables.version import PLACE


def _theirs(lake: Lake, rows: int, group_rows: int) -> Table:
    """A table of one file, with row groups of so many rows, as another engine wrote it."""
    table = Table(lake, "shop/prices")
    frame = pa.table({"id": range(rows), "name": [f"name {n % 7}" for n in range(rows)]})
    properties = WriterProperties(max_row_group_size=group_rows, write_batch_size=group_rows)
    write_deltalake(table.uri, frame, writer_properties=properties)
    return table


@settings(deadline=None)
@given(
    rows=st.integers(1, 60),
    group_rows=st.integers(1, 25),
    most_rows=st.integers(1, 40),
    gone=st.sets(st.integers(0, 59), max_size=8),
    size_bytes=st.sampled_from([1, 300, 1 << 20]),
    is_parted=st.booleans(),
)
def test_portions_add_up_to_the_file(
    rows: int,
    group_rows: int,
    most_rows: int,
    gone: set[int],
    size_bytes: int,
    is_parted: bool,
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(version_module, "_PORTION_ROWS", most_rows),
        mock.patch.object(version_module, "ROW_GROUP_ROWS", 1),
        mock.patch.object(staging_module, "ROW_GROUP_ROWS", group_rows),
    ):
        table = Table(Lake(folder), "shop/prices")
        frame = pl.DataFrame({"id": range(rows)}).with_columns(
            name=pl.format("name {}", pl.col("id") % 7), half=pl.lit("h%")
        )
        append(table, frame, partition_by=["half"] if is_parted else [])
        (whole,) = table.snapshot().files
        doomed = sorted(gone & set(range(rows)))
        if doomed and len(doomed) <= rows * 0.2:
            enable_deletion_vectors(table)
            there = frame.filter(pl.col("id").is_in(doomed))
            upsert(table, there, ["id"], delete_where=pl.lit(value=True))
        snapshot = table.snapshot()
        (file,) = snapshot.files
        expected = snapshot.rows_of(file, with_places=True).collect()
        portions = [
            rows.collect(engine="in-memory")
            for rows in snapshot.portions_of(file, size_bytes, with_places=True)
        ]
        assert pl.concat(portions).equals(expected)
        if file.path == whole.path:
            assert expected[PLACE].to_list() == expected["id"].to_list()
        plain = pl.concat(rows.collect() for rows in snapshot.portions_of(file, size_bytes))
        assert plain.equals(expected.drop(PLACE))
        if size_bytes == 1 and rows > 1 and file.path == whole.path:
            assert len(portions) == math.ceil(rows / group_rows)


def test_a_file_of_another_engine_is_read_by_its_row_groups(tmp_path: Path) -> None:
    table = _theirs(Lake(tmp_path), 1000, 300)
    snapshot = table.snapshot()
    (file,) = snapshot.files
    with mock.patch.object(version_module, "ROW_GROUP_ROWS", 10):
        heights = [rows.collect().height for rows in snapshot.portions_of(file, 1)]
    assert heights == [300, 300, 300, 100]


def test_a_footer_longer_than_what_is_read_first_is_read_whole(tmp_path: Path) -> None:
    table = _theirs(Lake(tmp_path), 500, 10)
    (file,) = table.snapshot().files
    with mock.patch.object(staging_module, "_FOOTER_BYTES", 40):
        groups = staging_module.row_groups(table.lake.objects, table.key, file)
    assert [rows for rows, _ in groups] == [10] * 50
    assert all(size > 0 for _, size in groups)


def test_what_is_no_parquet_file_is_named(tmp_path: Path) -> None:
    table = _theirs(Lake(tmp_path), 1000, 100)
    (file,) = table.snapshot().files
    path = Path(table.uri, file.path)
    path.write_bytes(b"x" * file.size_bytes)
    with pytest.raises(LakeError, match=r"prices/part-.*parquet: it is no whole Parquet file"):
        staging_module.row_groups(table.lake.objects, table.key, file)


def test_writes_that_go_by_portions_keep_rows_and_their_order(tmp_path: Path) -> None:
    table = _theirs(Lake(tmp_path), 1000, 90)
    with (
        mock.patch.object(version_module, "ROW_GROUP_ROWS", 10),
        mock.patch.object(version_module, "_PORTION_ROWS", 100),
    ):
        delete(table, "id % 10 = 3")
        kept = [n for n in range(1000) if n % 10 != 3]
        assert table.snapshot().scan().collect()["id"].to_list() == kept
        upsert(table, pl.DataFrame({"id": [5, 2000], "name": ["five", "new"]}), ["id"])
        after = [n for n in kept if n != 5]
        assert sorted(table.snapshot().scan().collect()["id"].to_list()) == [
            *sorted([*after, 5]),
            2000,
        ]
        before = table.snapshot().scan().sort("id").collect()
        optimize(table)
    snapshot = table.snapshot()
    assert len(snapshot.files) == 1
    assert snapshot.scan().sort("id").collect().equals(before)
    assert [n for n in snapshot.scan().collect()["id"].to_list() if n not in (5, 2000)] == after
