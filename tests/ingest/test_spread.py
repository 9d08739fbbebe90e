"""A large file's tables, written as they come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock import Lake
from penstock.ingest import spread
from penstock.ingest.spread import SpreadWriter
from penstock.tables import Stager

A, AB = pa.schema([("a", pa.int64())]), pa.schema([("a", pa.int64()), ("b", pa.string())])


@pytest.fixture(params=[1, 3])
def writer(
    lake: Lake, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> SpreadWriter:
    """One of 1 or 3 writers, a file for each 800 bytes."""
    monkeypatch.setattr(spread, "WRITERS", request.param)
    return SpreadWriter(lambda schema: Stager(lake, "shop/rows", schema, file_bytes=1 << 62), 800)


def rows(first: int, schema: pa.Schema = A) -> pa.Table:
    """Ten rows."""
    columns = {"a": [*range(first, first + 10)], "b": ["x"] * 10}
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def stored(lake: Lake) -> list[Path]:
    """Every Parquet file there is."""
    return sorted(Path(lake.uri).rglob("*.parquet"))


def test_files_hold_the_tables_in_their_order(lake: Lake, writer: SpreadWriter) -> None:
    with writer:
        for first in range(0, 1000, 10):
            writer.write(rows(first, A if first < 500 else AB))
        files = writer.finish()

    read = [pq.read_table(f"{lake.uri}/tables/shop/rows/{file.path}") for file in files]
    assert [n for table in read for n in table["a"].to_pylist()] == [*range(1000)]
    assert len(files) == 5 + 8  # those with another column begin a file, and are larger
    assert {tuple(table.column_names) for table in read} == {("a",), ("a", "b")}
    assert len(stored(lake)) == 13


def test_nothing_stays_of_a_stream_that_fails(lake: Lake, writer: SpreadWriter) -> None:
    with pytest.raises(ZeroDivisionError), writer:
        for first in range(0, 300, 10):
            writer.write(rows(first))
        for file in writer.staged():
            (Path(lake.uri) / "tables/shop/rows" / file.path).unlink()
        raise ZeroDivisionError

    assert stored(lake) == []


def test_a_writer_that_fails_is_heard(
    lake: Lake, writer: SpreadWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Stager, "write", full)

    with pytest.raises(OSError, match="No space left"), writer:
        for first in range(0, 10_000, 10):
            writer.write(rows(first))
        writer.finish()
    assert stored(lake) == []
