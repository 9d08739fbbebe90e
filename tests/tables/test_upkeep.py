"""Upkeep changes no row, and takes away nothing that somebody needs."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from penstock import Lake
from penstock.contracts import Column, Contract
from penstock.errors import LakeError, TableNotFound
from penstock.ingest import DeltaSource, ingest
from penstock.tables import (
    Stager,
    Table,
    append,
    changes,
    checkpoint,
    clone,
    delete,
    enable_change_feed,
    enable_deletion_vectors,
    optimize,
    overwrite,
    restore,
    tag,
    tags,
    untag,
    upsert,
    vacuum,
)
from penstock.tables.differences import changed_files
from penstock.tables.querying import query

ANCIENT = timedelta(0)


def _many(lake: Lake, files: int = 8, rows: int = 50) -> Table:
    table = Table(lake, "some/table")
    for number in range(files):
        ids = np.arange(number * rows, (number + 1) * rows)
        append(table, pl.DataFrame({"id": ids, "x": ids * 7 % 101, "y": ids * 13 % 97}))
    return table


def _parquet(table: Table) -> set[str]:
    return {path.name for path in (Path(table.lake.uri) / table.key).glob("*.parquet")}


def test_small_files_become_one_and_every_row_stays(lake: Lake) -> None:
    table = _many(lake)
    before = table.snapshot().scan().collect().sort("id")

    done = optimize(table)

    assert (done.files_before, done.files_after) == (8, 1)
    assert table.snapshot().scan().collect().sort("id").equals(before)
    assert optimize(table).files_after == 1
    assert table.snapshot().version == done.version, "a second run found something to do"


def test_many_files_of_the_wanted_size_are_left_as_they_are(lake: Lake) -> None:
    table = _many(lake, 6, 4000)
    size = table.snapshot().files[0].size_bytes

    optimize(table, file_bytes=size * 3)
    version = table.snapshot().version
    optimize(table, file_bytes=size * 3)

    assert table.snapshot().version == version
    assert 1 < len(table.snapshot().files) < 6


def test_a_z_order_lets_both_columns_skip_files(lake: Lake) -> None:
    table = Table(lake, "some/table")
    rng = np.random.default_rng(1)
    points = pl.DataFrame({"x": rng.integers(0, 10_000, 200_000), "y": rng.random(200_000)})
    append(table, points)
    size = table.snapshot().size_bytes // 16

    optimize(table, file_bytes=size, z_order_by=["x", "y"])

    files = table.snapshot().files
    assert len(files) > 8
    by_x = sum(file.lowest["x"] <= 5000 <= file.highest["x"] for file in files)
    by_y = sum(file.lowest["y"] <= 0.5 <= file.highest["y"] for file in files)
    assert max(by_x, by_y) < 0.7 * len(files)
    kept = table.snapshot().scan().collect()
    assert kept.sort("x", "y").equals(points.sort("x", "y"))


def test_what_was_only_written_anew_is_no_change(lake: Lake) -> None:
    table = _many(lake)
    version = table.snapshot().version
    optimize(table)
    assert changed_files(table.snapshot(), version) == ([], [])

    append(table, pl.DataFrame({"id": [9000], "x": [1], "y": [1]}))
    came, went = changed_files(table.snapshot(), version)

    assert (sum(file.rows for file in came), went) == (1, [])
    optimize(table)
    came, went = changed_files(table.snapshot(), version)
    assert sum(file.rows for file in came) == 401, "what came and was moved is somewhere in there"


def test_an_order_by_a_column_that_is_not_there_is_refused(lake: Lake) -> None:
    table = _many(lake, 2)

    with pytest.raises(LakeError, match="optimize: no column colour"):
        optimize(table, sort_by=["colour"])


def test_vacuum_takes_old_files_and_orphans_and_leaves_what_is_needed(lake: Lake) -> None:
    table = _many(lake, 3)
    tag(table, "start")
    pinned = table.snapshot()
    overwrite(table, pl.DataFrame({"id": [1], "x": [1], "y": [1]}))
    overwrite(table, pl.DataFrame({"id": [2], "x": [2], "y": [2]}))
    stager = Stager(lake, table.name, table.snapshot().schema)
    stager.write(table.snapshot().scan().collect().to_arrow())
    stager.finish()  # and its writer is killed
    long_ago = time.time() - 30 * 86_400
    for path in (Path(lake.uri) / table.key).glob("*.parquet"):
        os.utime(path, (long_ago, long_ago))
    before = _parquet(table)

    assert vacuum(table, keep=timedelta(days=90)).files_deleted == 0
    planned = vacuum(table, keep=ANCIENT, is_dry=True)
    assert _parquet(table) == before
    done = vacuum(table, keep=ANCIENT)

    assert planned == done
    assert (done.files_deleted, done.versions_kept) == (2, (pinned.version,))
    assert done.bytes_deleted > 0
    assert table.snapshot("start").scan().collect().height == 150
    assert table.snapshot().scan().collect()["id"].to_list() == [2]
    untag(table, "start")
    assert vacuum(table, keep=ANCIENT).files_deleted == 3
    with pytest.raises(LakeError, match="3 of its files were vacuumed"):
        restore(table, pinned.version)


def test_vacuum_leaves_what_is_being_written(lake: Lake) -> None:
    table = _many(lake, 2)
    stager = Stager(lake, table.name, table.snapshot().schema)
    stager.write(table.snapshot().scan().collect().to_arrow())
    staged = stager.finish()

    vacuum(table, keep=timedelta(minutes=30))
    table.snapshot().commit(staged)

    assert table.snapshot().scan().collect().height == 200


def test_tags_name_versions(lake: Lake) -> None:
    table = _many(lake, 3)

    assert tag(table, "before") == table.snapshot().version
    delete(table, "id >= 0")
    tag(table, "empty")

    assert tags(table) == {"before": 3, "empty": 4}
    assert (table.snapshot("before").rows, table.snapshot("empty").rows) == (150, 0)
    with pytest.raises(TableNotFound, match=r"has no tag befor\. Did you mean before"):
        table.snapshot("befor")
    with pytest.raises(LakeError, match="is not a tag"):
        tag(table, "../x")


def test_a_version_restored_and_a_table_cloned(lake: Lake) -> None:
    table = _many(lake, 3)
    whole = table.snapshot()
    upsert(table, pl.DataFrame({"id": [1], "x": [0], "y": [0]}), ["id"])

    restored = restore(table, whole.version)
    copied = clone(table, "some/copy", whole.version)
    overwrite(table, pl.DataFrame({"id": [1], "x": [1], "y": [1]}))

    rows = whole.scan().collect().sort("id")
    assert restored.scan().collect().sort("id").equals(rows)
    assert copied.scan().collect().sort("id").equals(rows)
    assert copied.rows == 150
    assert [file.lowest for file in copied.files] == [file.lowest for file in whole.files]
    assert copied.id != whole.id
    with pytest.raises(LakeError, match="has a table some/copy"):
        clone(table, "some/copy")


def test_a_checkpoint_changes_nothing(lake: Lake) -> None:
    table = _many(lake, 3)

    version = checkpoint(table)

    assert (Path(lake.uri) / table.key / "_delta_log" / "_last_checkpoint").exists()
    assert table.snapshot().version == version
    assert table.snapshot().rows == 150


def test_all_of_it_on_s3(s3_lake: Lake) -> None:
    table = _many(s3_lake, 4)
    tag(table, "start")
    upsert(table, pl.DataFrame({"id": [1, 999], "x": [0, 0], "y": [0, 0]}), ["id"])
    optimize(table, z_order_by=["x", "y"])
    clone(table, "some/copy")
    restore(table, 3)
    delete(table, "id < 10")
    vacuum(table, keep=ANCIENT)

    assert table.snapshot().scan().collect()["id"].min() == 10
    assert table.snapshot("start").rows == 200
    assert Table(s3_lake, "some/copy").snapshot().scan().collect().height == 201


def test_an_order_by_a_partitions_column_leaves_it_out(lake: Lake) -> None:
    table = Table(lake, "shop/prices")
    append(table, pl.DataFrame({"id": [2, 1, 3], "day": [1, 1, 2]}), partition_by=["day"])
    optimize(table, sort_by=["day", "id"])
    optimize(table, z_order_by=["day"])
    assert table.snapshot().scan().sort("day").collect()["id"].to_list() == [1, 2, 3]


@pytest.mark.parametrize("name", ["v1", "v12", "7"])
def test_a_version_is_no_name_for_another(lake: Lake, name: str) -> None:
    table = _many(lake, 3)
    with pytest.raises(LakeError, match=f"'{name}' is not a tag: it means a version"):
        tag(table, name)
    assert tags(table) == {}


def test_texts_name_versions_and_times(lake: Lake) -> None:
    table = _many(lake, 3)
    told = [commit["timestamp"] for commit in table.snapshot().commits()]
    assert [table.snapshot(text).version for text in ("v1", "1", "v0")] == [1, 1, 0]
    with pytest.raises(TableNotFound, match="has no version 99; the newest is 3"):
        table.snapshot("v99")
    for at in ("2999-01-01", datetime.fromtimestamp(told[0] / 1000, UTC).isoformat()):
        assert table.snapshot(at).version == 3
        assert query(lake, f"select count(*) n from some.table@{at}") == [{"n": 150}]
    for at in ("2001-01-01", "2001-01-01T12:00:00", "2001-01-01T12:00:00.5+02:00"):
        with pytest.raises(TableNotFound, match="no version as of 2001-01-01"):
            query(lake, f"select count(*) n from some.table@{at}")

    assert query(lake, "select count(*) n from some.table@v1") == [{"n": 50}]
    restore(table, "v1")
    assert table.snapshot().rows == 50


def test_a_tag_from_before_goes_by_its_name(lake: Lake) -> None:
    table = _many(lake, 3)
    lake.objects.put(f"tags/{table.name}/v1.json", b'{"version": 2}')
    assert table.snapshot("v1").version == 2
    assert query(lake, "select count(*) n from some.table@v1") == [{"n": 100}]


@pytest.mark.parametrize("has_vectors", [False, True], ids=["copies", "vectors"])
def test_a_vacuumed_version_is_told_from_one_that_is_there(lake: Lake, has_vectors: bool) -> None:
    table = Table(lake, "some/table")
    rows = pl.DataFrame({"id": range(4), "part": ["a", "b c", "100 %", "ü"]})
    append(table, rows, partition_by=["part"])
    if has_vectors:
        enable_deletion_vectors(table)
    old = table.snapshot().version
    time.sleep(0.2)  # a version's time is that of its log entry, a little after what the entry says
    delete(table, "id = 1")
    tagged = tag(table, "kept")
    delete(table, "id = 2")
    at = datetime.fromtimestamp(next(table.snapshot(old).commits())["timestamp"] / 1000, UTC)
    at += timedelta(milliseconds=100)
    assert table.snapshot(old).scan().collect().height == 4
    vacuum(table, keep=ANCIENT)

    for version in (old, at):
        with pytest.raises(LakeError, match=rf"version {old} can't be read: 1 of its 4 files were"):
            table.snapshot(version).scan()
    with pytest.raises(LakeError, match="were vacuumed; read a newer version, and tag those that"):
        query(lake, f"select * from some.table@v{old}")
    assert query(lake, "select count(*) n from some.table@kept") == [{"n": 3}]
    assert table.snapshot(tagged).scan().collect().height == 3
    assert table.snapshot(old).rows == 4


def test_vacuumed_changes_say_what_to_do(lake: Lake) -> None:
    table = Table(lake, "some/table")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    append(table, pl.DataFrame({"id": [1, 2], "n": [1, 1], "at": at}))
    begun = enable_change_feed(table).version
    columns = (Column("id", "int64"), Column("n", "int64"), Column("at", "timestamp"))
    source = DeltaSource("some/copy_raw", table.uri, Contract("some/copy", columns, "at"))
    ingest(lake, source)
    upsert(table, pl.DataFrame({"id": [1], "n": [2], "at": at}), ["id"])
    upsert(table, pl.DataFrame({"id": [1], "n": [3], "at": at}), ["id"])
    for file in (Path(table.uri) / "_change_data").iterdir():
        file.unlink()

    told = f"what version {begun + 1} changed is not to be found: 1 of its 1 files were vacuumed"
    with pytest.raises(LakeError, match=f"^some/table: {told}; begin with a later version"):
        list(changes(table, begun))
    (why,) = ingest(lake, source).failed.values()
    assert told in why and "take all rows in anew: some/copy_raw under another name" in why


def test_a_table_that_sql_misspells_names_the_near_ones(lake: Lake) -> None:
    append(Table(lake, "shop/prices"), pl.DataFrame({"id": [1]}))
    for name in ("shop.price", "shpo.prices", "shop.price@v1"):
        with pytest.raises(TableNotFound, match=r"has no table .*Did you mean shop/prices"):
            query(lake, f"select * from {name}")
