"""Data files that pyarrow reads on threads of its own, and the end of the process meanwhile."""

from __future__ import annotations

import subprocess
import sys

import polars as pl
import pyarrow.dataset as pads
import pytest
from pyarrow import fs as pafs

from penstock.lake import Lake
from penstock.tables import Table, append, arrow_files
from tests.conftest import ROOT

ROWS = pl.DataFrame({"day": [n % 24 for n in range(2_400)], "n": range(2_400)})
ASKED_AND_GONE = """
import sys, time
from penstock.lake import Lake
from penstock.storage.objects import ObjectStore
from penstock.tables.querying import query

read = ObjectStore.get_range

def slow(*arguments):
    time.sleep(0.05)
    return read(*arguments)

ObjectStore.get_range = slow
print(len(query(Lake(sys.argv[1], storage_options=eval(sys.argv[2])), sys.argv[3])))
"""


def _table(lake: Lake) -> Table:
    table = Table(lake, "retail/days")
    append(table, ROWS, partition_by=["day"])
    return table


@pytest.mark.parametrize("limit", ["limit 1", ""])
def test_a_process_ends_well_while_files_are_read_ahead(s3_lake: Lake, limit: str) -> None:
    _table(s3_lake)
    options = repr(dict(s3_lake.storage_options))
    query = f"select * from retail.days {limit}"

    done = subprocess.run(
        [sys.executable, "-c", ASKED_AND_GONE, s3_lake.uri, options, query],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("1\n" if limit else "2400\n")


def test_on_disk_they_are_read_without_python(tmp_path: object) -> None:
    dataset = _table(Lake(str(tmp_path))).snapshot().dataset()

    assert isinstance(dataset.filesystem, pafs.LocalFileSystem)
    assert (
        pl.DataFrame(pl.from_arrow(dataset.to_table()))
        .select("day", "n")
        .sort("n")
        .equals(ROWS, null_equal=False)
    )


def test_in_object_storage_some_columns_and_rows_are_read(s3_lake: Lake) -> None:
    dataset = _table(s3_lake).snapshot().dataset()

    found = dataset.to_table(columns=["n"], filter=pads.field("day") == 3)

    assert sorted(found["n"].to_pylist()) == list(range(3, 2_400, 24))


def test_a_file_is_read_as_files_are(s3_lake: Lake) -> None:
    s3_lake.objects.put("some", b"0123456789")
    file = arrow_files.files_of(s3_lake).open_input_file(arrow_files.called("some", 10))

    assert (file.size(), file.read(3), file.tell(), file.read()) == (10, b"012", 3, b"3456789")
    assert file.read_at(4, 8) == b"89"
    assert file.seek(-2, 2) == 8
    assert file.read(5) == b"89"


def test_there_is_one_file_system_of_a_lake(s3_lake: Lake) -> None:
    again = Lake(s3_lake.uri, storage_options=s3_lake.storage_options)

    assert arrow_files.files_of(again) is arrow_files.files_of(s3_lake)
    with pytest.raises(NotImplementedError, match="only read"):
        arrow_files.files_of(s3_lake).delete_file("some")
