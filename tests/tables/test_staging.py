"""Rows on their way into Parquet files."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock import Lake
from penstock.tables import Stager

_REASON = pa.struct([("why", pa.string()), ("seen", pa.string())])
_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("data", pa.binary()),
        ("reasons", pa.list_(_REASON)),
        ("_source_file", pa.string()),
        ("_source_row", pa.int64()),
        ("_batch", pa.int64()),
    ]
)
_LARGE_REASON = pa.struct([("why", pa.large_string()), ("seen", pa.large_string())])
_LARGE = pa.schema(
    [
        ("name", pa.large_string()),
        ("data", pa.large_binary()),
        ("reasons", pa.large_list(_LARGE_REASON)),
        ("_source_file", pa.large_string()),
        ("_source_row", pa.int64()),
        ("_batch", pa.int64()),
    ]
)
_NAMED = _SCHEMA.set(3, pa.field("_source_file", pa.dictionary(pa.int32(), pa.string())))


def _rows(first: int, schema: pa.Schema) -> pa.Table:
    numbers = range(first, first + 5)
    return pa.table(
        {
            "name": [f"n{n:03d}" if n % 3 else None for n in numbers],
            "data": [b"\0%d" % n for n in numbers],
            "reasons": [[{"why": "w", "seen": str(n)}] if n % 2 else [] for n in numbers],
            "_source_file": [f"{n % 2}.csv" for n in numbers],
            "_source_row": list(numbers),
            "_batch": [3] * 5,
        }
    ).cast(schema)


@pytest.mark.parametrize(
    "kinds", [[_SCHEMA], [_LARGE], [_NAMED], [_LARGE, _SCHEMA], [_NAMED, _LARGE], [_SCHEMA, _NAMED]]
)
def test_rows_are_stored_the_same_however_memory_holds_them(
    lake: Lake, kinds: list[pa.Schema]
) -> None:
    with Stager(lake, "shop/rows", _SCHEMA) as stager:
        for number in range(4):
            stager.write(_rows(number * 5, kinds[number % len(kinds)]))
        (staged,) = stager.finish()

    read = pq.read_table(Path(lake.table_uri("shop/rows"), staged.path))
    expected = pa.concat_tables(_rows(number * 5, _SCHEMA) for number in range(4))
    assert read.to_pylist() == expected.to_pylist()
    assert read.schema.remove_metadata() == _SCHEMA
    said = json.loads(staged.statistics)
    assert said["numRecords"] == 20
    assert said["minValues"] == {
        "name": "n001", "_source_file": "0.csv", "_source_row": 0, "_batch": 3
    }  # fmt: skip
    assert said["maxValues"]["name"] == "n019"
    assert said["nullCount"]["name"] == 7


def test_a_null_where_none_may_be_is_refused(lake: Lake) -> None:
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False)])
    with pytest.raises(ValueError, match="id"), Stager(lake, "shop/rows", schema) as stager:
        stager.write(pa.table({"id": [1, None]}))

    assert not [*Path(lake.uri).rglob("*.parquet")]


def test_of_no_rows_there_is_no_file(lake: Lake) -> None:
    with Stager(lake, "shop/rows", _SCHEMA) as stager:
        stager.write(_rows(0, _LARGE).slice(0, 0))
        assert stager.finish() == []

    assert not [*Path(lake.uri).rglob("*.parquet")]


def test_columns_called_as_ours_may_be_of_other_types(lake: Lake) -> None:
    rows = pa.table({"_source_row": ["a", "b"], "_batch": [True, False], "_ingested_at": [0.5, 1]})
    with Stager(lake, "shop/rows", rows.schema) as stager:
        stager.write(rows)
        (staged,) = stager.finish()

    assert pq.read_table(Path(lake.table_uri("shop/rows"), staged.path)).equals(rows)
