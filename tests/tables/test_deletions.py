"""Deletion vectors: an upsert marks rows of files that stay, and every reader leaves them out."""

from __future__ import annotations

import base64
import json
import struct
import uuid
import zlib
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap64

from penstock import Lake
from penstock.errors import LakeError
from penstock.tables import (
    Table,
    append,
    changes,
    checkpoint,
    clone,
    delete,
    enable_change_feed,
    enable_deletion_vectors,
    optimize,
    restore,
    upsert,
    vacuum,
)
from penstock.tables import deletions as deletions_module
from penstock.tables.deletions import deletion_of, places_of
from penstock.tables.querying import query


def _frame(keys: range | list[int], value: str = "old") -> pl.DataFrame:
    return pl.DataFrame({"id": list(keys)}, schema={"id": pl.Int64}).with_columns(
        name=pl.lit(value)
    )


def _marked(lake: Lake, *, partition_by: tuple[str, ...] = ()) -> Table:
    """A table of two files of 100 rows, of which two are gone in each."""
    table = Table(lake, "shop/prices")
    for first in (0, 100):
        rows = _frame(range(first, first + 100)).with_columns(half=pl.lit(f"h {first}%"))
        append(table, rows, partition_by=partition_by)
    enable_deletion_vectors(table)
    halves = pl.Series("half", ["h 0%", "h 0%", "h 100%", "h 100%", "h 100%"])
    done = upsert(table, _frame([5, 7, 150, 199, 300], "new").with_columns(halves), ["id"])
    assert (done.rows_updated, done.rows_inserted) == (4, 1)
    assert done.files_removed == 0
    return table


def _expected() -> dict[int, str]:
    changed = {5, 7, 150, 199, 300}
    return {key: "new" if key in changed else "old" for key in [*range(200), 300]}


def _rows(frame: Any) -> dict[int, str]:
    found = pl.DataFrame(frame).select("id", "name").rows()
    assert len(found) == len(dict(found)), "a row is there twice"
    return dict(found)


@given(
    st.lists(st.integers(0, 1 << 33), max_size=50, unique=True),
    st.integers(0, 300_000),
    st.integers(1, 100_000),
)
def test_a_vector_holds_the_places_that_were_put_into_it(
    some: list[int], first: int, count: int
) -> None:
    places = np.union1d(np.array(some, np.uint64), np.arange(first, first + count, dtype=np.uint64))
    deletion = deletion_of(places)
    assert deletion.rows == len(places)
    lake: Any = None
    assert np.array_equal(places_of(deletion, lake, "shop/prices"), places)
    assert deletion_of(places).id == deletion.id


@pytest.mark.parametrize("partition_by", [(), ("half",)])
def test_every_reader_leaves_marked_rows_out(lake: Lake, partition_by: tuple[str, ...]) -> None:
    table = _marked(lake, partition_by=partition_by)
    snapshot, delta = table.snapshot(), DeltaTable(table.uri)

    assert sorted(file.rows for file in snapshot.files if file.deletion) == [98, 98]
    assert snapshot.rows == 201
    assert _rows(snapshot.scan().collect()) == _expected()
    if not partition_by:  # of a partition with a percent sign, polars overlooks the vector
        assert _rows(pl.scan_delta(table.uri).collect()) == _expected()
    assert _rows(pa.table(delta.scan())) == _expected()
    assert _rows(pl.concat([snapshot.rows_of(f) for f in snapshot.files]).collect()) == _expected()
    assert _rows(snapshot.read(snapshot.files, ["name", "id"]).collect()) == _expected()
    assert _rows(query(lake, "select * from shop.prices", limit=1000)) == _expected()
    assert query(lake, "select count(*) n from shop.prices where id < 10 and name = 'new'") == [
        {"n": 2}
    ]
    with pytest.raises(LakeError, match=r"pyarrow datasets don't apply; read it with scan\(\)"):
        snapshot.dataset()
    vectors = pa.table(delta.deletion_vectors())["selection_vector"].to_pylist()
    assert [sum(vector) for vector in vectors] == [98, 98]


def test_a_path_with_a_percent_sign_is_read_too(tmp_path: Path) -> None:
    table = _marked(Lake(tmp_path / "100 % ours"))
    assert _rows(table.snapshot().scan().collect()) == _expected()


def test_object_storage(s3_lake: Lake) -> None:
    table = _marked(s3_lake)
    checkpoint(table)
    upsert(table, _frame([6], "newer"), ["id"])
    assert _rows(table.snapshot().scan().collect()) == _expected() | {6: "newer"}
    assert _rows(query(s3_lake, "select * from shop.prices", limit=1000)) == _expected() | {
        6: "newer"
    }


def test_marks_add_up_and_survive_checkpoints(lake: Lake) -> None:
    table = _marked(lake)
    expected, versions = _expected(), dict[int, dict[int, str]]()
    for turn in range(12):
        keys = [turn, 100 + turn]
        upsert(table, _frame(keys, f"turn {turn}"), ["id"])
        expected |= dict.fromkeys(keys, f"turn {turn}")
        versions[table.snapshot().version] = dict(expected)
        if turn % 4 == 1:
            checkpoint(table)
    for version, rows in versions.items():
        snapshot = table.snapshot(version)
        assert _rows(snapshot.scan().collect()) == rows
        assert _rows(snapshot.read(snapshot.files, ["id", "name"]).collect()) == rows


def test_a_checkpoint_in_parts_is_read(lake: Lake) -> None:
    table = _marked(lake)
    version = checkpoint(table)
    upsert(table, _frame([8], "newer"), ["id"])
    log = Path(table.uri) / "_delta_log"
    whole = log / f"{version:020d}.checkpoint.parquet"
    actions = pl.read_parquet(whole)
    for part in (1, 2):
        half = actions[: actions.height // 2] if part == 1 else actions[actions.height // 2 :]
        half.write_parquet(log / f"{version:020d}.checkpoint.{part:010d}.{2:010d}.parquet")
    whole.unlink()
    (log / "_last_checkpoint").write_text(
        json.dumps({"version": version, "size": actions.height, "parts": 2})
    )
    for number in range(version + 1):
        (log / f"{number:020d}.json").unlink()
    snapshot = table.snapshot()
    assert _rows(snapshot.read(snapshot.files, ["id", "name"]).collect()) == _expected() | {
        8: "newer"
    }


def test_a_file_of_which_much_is_gone_is_copied(lake: Lake) -> None:
    table = _marked(lake)
    done = upsert(table, _frame(range(40), "new"), ["id"])
    assert done.files_removed == 2
    assert [file.rows for file in table.snapshot().files if file.deletion] == [98]
    assert _rows(table.snapshot().scan().collect()) == _expected() | dict.fromkeys(range(40), "new")


def test_deletes_and_columns_that_are_not_given(lake: Lake) -> None:
    table = _marked(lake)
    given_ = pl.DataFrame({"id": [5, 6, 150], "name": ["newer", "gone", "newer"]})
    done = upsert(table, given_, ["id"], delete_where="name = 'gone'")
    assert (done.rows_updated, done.rows_deleted, done.rows_inserted) == (2, 1, 0)
    expected = _expected() | {5: "newer", 150: "newer"}
    del expected[6]
    found = table.snapshot().scan().collect()
    assert _rows(found) == expected
    assert dict(found.select("id", "half").rows())[150] == "h 100%"

    delete(table, "id < 50")
    assert _rows(table.snapshot().scan().collect()) == {
        key: name for key, name in expected.items() if key >= 50
    }


def test_a_change_feed_tells_what_was_marked(lake: Lake) -> None:
    table = _marked(lake)
    enable_change_feed(table)
    upsert(table, _frame([5, 6, 400], "newer"), ["id"])
    version = table.snapshot().version
    told = pl.DataFrame(pa.Table.from_batches(changes(table, version)))
    assert sorted(told.select("id", "name", "_change_type").rows()) == [
        (5, "new", "update_preimage"),
        (5, "newer", "update_postimage"),
        (6, "newer", "update_postimage"),
        (6, "old", "update_preimage"),
        (400, "newer", "insert"),
    ]


def test_optimize_writes_the_rest_and_vacuum_takes_what_is_gone(lake: Lake) -> None:
    table = _marked(lake)
    version = table.snapshot().version
    optimize(table, file_bytes=1)
    assert sum(file.deletion is not None for file in table.snapshot().files) == 2
    optimize(table, file_bytes=1, purge=True)
    assert not any(file.deletion for file in table.snapshot().files)
    assert _rows(table.snapshot().scan().collect()) == _expected()
    assert _rows(table.snapshot(version).scan().collect()) == _expected()
    vacuum(table, keep=timedelta(0))
    paths = [*(Path(table.uri)).glob("*.parquet")]
    stored = pl.concat([pl.read_parquet(path) for path in paths])
    assert stored.filter(pl.col("id").is_in([5, 7, 150, 199]))["name"].unique().to_list() == ["new"]


def test_an_older_version_comes_back_with_its_rows(lake: Lake) -> None:
    table = _marked(lake)
    marked = table.snapshot().version
    upsert(table, _frame([6], "newer"), ["id"])
    restore(table, marked)
    assert _rows(table.snapshot().scan().collect()) == _expected()
    restore(table, 2)
    assert _rows(table.snapshot().scan().collect()) == dict.fromkeys(range(200), "old")
    copy = clone(table, "shop/copy", marked)
    assert _rows(copy.scan().collect()) == _expected()
    upsert(copy.table, _frame([6], "newer"), ["id"])
    assert _rows(copy.table.snapshot().scan().collect()) == _expected() | {6: "newer"}


def test_a_write_that_fails_takes_no_file_of_the_table(lake: Lake) -> None:
    table = _marked(lake)
    files = {path.name for path in Path(table.uri).glob("*.parquet")}
    with (
        mock.patch("penstock.tables.copying._ATTEMPTS", 1),
        mock.patch("penstock.tables.table.put_entry", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        upsert(table, _frame([6], "newer"), ["id"])
    assert files <= {path.name for path in Path(table.uri).glob("*.parquet")}
    assert _rows(table.snapshot().scan().collect()) == _expected()


def vector_of_its_own(table: Table, gone: list[int]) -> None:
    """As another engine writes it: the vector in a file beside the data."""
    folder, version = Path(table.uri), table.snapshot().version
    file = next(file for file in table.snapshot().staged())
    data = struct.pack("<I", 1681511377) + BitMap64(gone).serialize()
    name = uuid.uuid4()
    checksum = struct.pack(">I", zlib.crc32(data))
    (folder / f"deletion_vector_{name}.bin").write_bytes(
        b"\x01" + struct.pack(">I", len(data)) + data + checksum
    )
    text = base64.b85encode(name.bytes).translate(deletions_module._TO_THEIRS).decode()
    vector = {"storageType": "u", "pathOrInlineDv": text, "offset": 1}
    vector |= {"sizeInBytes": len(data), "cardinality": len(gone)}
    common = {"path": file.path, "partitionValues": {}, "size": file.size_bytes}
    actions = [
        {"remove": {**common, "deletionTimestamp": 1, "dataChange": True}},
        {
            "add": {
                **common,
                "modificationTime": 1,
                "dataChange": True,
                "stats": file.statistics,
                "deletionVector": vector,
            }
        },
    ]
    text = "\n".join(json.dumps(action) for action in actions)
    (folder / "_delta_log" / f"{version + 1:020d}.json").write_text(text)


def test_vectors_of_another_engine_are_read_and_written_on(lake: Lake) -> None:
    table = Table(lake, "shop/prices")
    append(table, _frame(range(100)))
    enable_deletion_vectors(table)
    vector_of_its_own(table, [1, 2])
    expected = dict.fromkeys([0, *range(3, 100)], "old")
    assert _rows(table.snapshot().scan().collect()) == expected
    snapshot = table.snapshot()
    assert _rows(snapshot.read(snapshot.files, ["id", "name"]).collect()) == expected

    with pytest.raises(LakeError, match="vacuum with that engine, or optimize"):
        vacuum(table)
    assert _rows(clone(table, "shop/copy").scan().collect()) == expected
    upsert(table, _frame([2, 3], "new"), ["id"])
    assert _rows(table.snapshot().scan().collect()) == expected | {2: "new", 3: "new"}
    vacuum(table, keep=timedelta(0))
    assert _rows(table.snapshot().scan().collect()) == expected | {2: "new", 3: "new"}
