"""Rows that break something are the same, in one scan as in two, and in any pieces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import contracts as c
from penstock.contracts import Expectation
from penstock.errors import ContractError, SourceError
from penstock.lake import Lake
from penstock.quality import breaking as breaking_module
from penstock.quality import check, profile
from penstock.quality import data as data_module
from penstock.quality.data import Piece, little_read_ahead
from penstock.tables import Table, append, enable_deletion_vectors, upsert

_EXPECTATIONS = (
    c.expect_column_values_to_not_be_null("n"),
    c.expect_column_values_to_be_between("n", 0, 5, severity="warn"),
    c.expect_column_values_to_be_between("x", 0, 5, mostly=0.5),
    c.expect_column_values_to_match_regex("s", "^[a-z]*$", severity="fail"),
    c.expect_column_pair_values_a_to_be_greater_than_b("x", "n", or_equal=True),
    c.expect_column_mean_to_be_between("x", 0, 3, severity="warn"),
    c.expect_column_values_to_be_in_set("s", ["a", "b"], row_condition="n > 2"),
    c.expect_column_values_to_be_increasing("n", severity="warn"),
    c.expect_column_values_to_be_unique("n"),
    c.expect_column_value_z_scores_to_be_less_than("x", 2, double_sided=True),
)
_ROW = st.tuples(
    st.none() | st.integers(-2, 8),
    st.none() | st.sampled_from([-1.0, 0.5, 3.0, 7.0, float("nan"), float("inf")]),
    st.none() | st.sampled_from(["a", "b", "C", "d d", ""]),
)


def _told(rows: Any, expectations: list[Expectation], folder: Path) -> tuple[str, pl.DataFrame]:
    report = check(rows, expectations, rejects=folder / "rejects.parquet")
    said = [result.to_json() for result in report.results]
    return json.dumps([report.rejected, said], default=str), pl.read_parquet(
        folder / "rejects.parquet"
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(_ROW, max_size=40),
    st.lists(st.sampled_from(_EXPECTATIONS), min_size=1, max_size=6, unique_by=lambda e: e.name),
)
def test_one_scan_tells_what_two_tell(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int | None, float | None, str | None]],
    expectations: list[Expectation],
) -> None:
    schema = {"n": pl.Int64, "x": pl.Float64, "s": pl.String}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    folder = tmp_path_factory.mktemp("rejects")
    said, rejects = _told(frame, expectations, folder)
    with mock.patch.object(breaking_module, "FEW", -1):  # the first broken row is one too many
        again, others = _told(frame, expectations, folder)
    assert again == said
    assert others.equals(rejects, null_equal=True)
    with (
        mock.patch.object(breaking_module, "TOLD_ROWS", 1),
        mock.patch.object(breaking_module, "PART", 1),
    ):
        again, others = _told(frame, expectations, folder)
    assert again == said
    assert others.equals(rejects, null_equal=True)
    assert rejects["_row"].is_sorted()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(_ROW, min_size=1, max_size=40),
    st.lists(st.sampled_from(_EXPECTATIONS), min_size=1, max_size=6, unique_by=lambda e: e.name),
    st.lists(st.integers(1, 15), min_size=1, max_size=6),
    st.sampled_from([1, 300, 1 << 30]),
    st.sampled_from([1, 300, 1 << 30]),
)
def test_pieces_tell_what_the_whole_tells(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int | None, float | None, str | None]],
    expectations: list[Expectation],
    sizes: list[int],
    together: int,
    large: int,
) -> None:
    frame = pl.DataFrame(rows, {"n": pl.Int64, "x": pl.Float64, "s": pl.String}, orient="row")
    folder = tmp_path_factory.mktemp("rows")
    said, rejects = _told(frame, expectations, folder)
    begin = 0
    for number, size in enumerate([*sizes, frame.height]):
        path = folder / "parts" / f"{number}.parquet"
        frame[begin : begin + size].write_parquet(path, row_group_size=3, mkdir=True)
        begin += size
    with (
        mock.patch.object(data_module, "PIECE_BYTES", together),
        mock.patch.object(data_module, "LARGE_BYTES", large),
    ):
        again, others = _told(folder / "parts", expectations, folder)
        with mock.patch.object(breaking_module, "FEW", -1):
            once_more, same = _told(folder / "parts", expectations, folder)
    assert again == once_more == said
    assert others.equals(rejects, null_equal=True)
    assert same.equals(rejects, null_equal=True)


@pytest.mark.parametrize("parts", [(), ("day",)])
def test_pieces_of_a_table_tell_what_the_whole_tells(
    parts: tuple[str, ...], lake: Lake, tmp_path: Path
) -> None:
    table = Table(lake, "d/t")
    for first in range(0, 4000, 1000):
        rows = pl.DataFrame({"n": range(first, first + 1000)})
        append(table, rows.with_columns(day=pl.col("n") // 500, x=0.5), partition_by=parts)
    enable_deletion_vectors(table)
    upsert(table, pl.DataFrame({"n": range(900, 1100)}).with_columns(day=0, x=-1.0), ["n"])
    assert any(file.deletion for file in table.snapshot().files)
    wanted = [
        c.expect_column_values_to_be_between("n", 10, 3500),
        c.expect_column_values_to_be_between("x", 0),
        c.expect_column_values_to_be_in_set("day", [*range(7)], severity="warn"),
    ]
    with (
        mock.patch.object(data_module, "PIECE_BYTES", 1),
        mock.patch.object(data_module, "LARGE_BYTES", 1),
    ):
        said, rejects = _told(table, wanted, tmp_path)
    with mock.patch("penstock.quality.checking.in_pieces", lambda *_: []):
        whole, others = _told(table, wanted, tmp_path)

    assert json.loads(said)[0] == 10 + 499 + 200
    counts = [(each["unexpected_count"], each["element_count"]) for each in _results(said)]
    assert counts == [(each["unexpected_count"], 4000) for each in _results(whole)]
    assert rejects.drop("_row").sort("n").equals(others.drop("_row").sort("n"))
    assert rejects["_row"].is_sorted() and rejects["_row"].n_unique() == rejects.height


def _results(said: str) -> list[dict[str, Any]]:
    return [each["result"] for each in json.loads(said)[1]]


def test_hidden_and_empty_files_are_left_out_and_links_to_nothing_told(tmp_path: Path) -> None:
    rows = pl.DataFrame({"n": [1, None]})
    for name in ("[1].parquet", ".2.parquet", ".part/3.parquet", "day=1/4.parquet"):
        rows.write_parquet(tmp_path / name, mkdir=True)
    (tmp_path / "5.parquet").touch()
    wanted = [c.expect_column_values_to_not_be_null("n")]

    assert check(tmp_path, wanted).rows == 4
    assert check(tmp_path / "[1].parquet", wanted).rows == 2
    assert check(tmp_path / "*" / "*.parquet", wanted).rows == 2
    (tmp_path / "6.parquet").symlink_to(tmp_path / "nowhere.parquet")
    with pytest.raises(SourceError, match="can't be read"):
        check(tmp_path, wanted)


def test_a_file_that_is_no_parquet_is_told(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    pl.DataFrame({"n": [1, 2]}).write_parquet(rows / "1.parquet", mkdir=True)
    (rows / "2.parquet").write_bytes(b"PAR1 is how it begins, and no more")
    with (
        mock.patch.object(data_module, "PIECE_BYTES", 1),
        mock.patch.object(data_module, "LARGE_BYTES", 1),
        pytest.raises(SourceError, match="can't be read"),
    ):
        check(rows, [_EXPECTATIONS[0]], rejects=tmp_path / "bad" / "rejects.parquet")
    assert not [*(tmp_path / "bad").iterdir()]


def test_a_table_that_is_broken_all_over_is_told_whole(tmp_path: Path) -> None:
    rows = pl.DataFrame({"n": range(300_000)}).with_columns(s=pl.lit("x" * 300))
    wanted = [
        c.expect_column_values_to_be_between("n", 300_000),
        c.expect_column_values_to_be_in_set("s", ["y"]),
    ]
    report = check(rows, wanted, rejects=tmp_path / "all.parquet")
    assert (report.rows, report.rejected) == (300_000, 300_000)
    assert [result.broken for result in report.results] == [300_000, 300_000]
    found = pl.scan_parquet(tmp_path / "all.parquet")
    assert found.select(pl.len(), pl.col("_row").n_unique()).collect().row(0) == (300_000, 300_000)


def test_a_broken_row_keeps_no_other_in_memory(tmp_path: Path) -> None:
    piece = pl.DataFrame({"k": [0] + [5] * 499})
    text = pl.int_range(pl.len()).cast(pl.String) + "y" * 1500
    rows = pl.concat([piece] * 100).with_columns(s=text)
    table = rows.to_arrow()
    with pq.ParquetWriter(
        tmp_path / "rows.parquet", table.schema, compression="zstd", use_dictionary=False
    ) as writer:
        for _ in range(16):  # 1.2 GB of text
            writer.write_table(table, row_group_size=10_000)
    told = subprocess.run(
        [sys.executable, "-c", _CHECKED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    rejected, peak_kb = map(int, told.stdout.split())
    assert rejected == 1600
    assert peak_kb < 800 << 10


_CHECKED = """
import sys
from pathlib import Path
from penstock import contracts as c
from penstock.quality import check
folder = Path(sys.argv[1])
wanted = [c.expect_column_values_to_be_between("k", 1, 9)]
report = check(folder / "rows.parquet", wanted, rejects=folder / "rejects.parquet")
(line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
print(report.rejected, line.split()[1])
"""


def test_names_of_a_check_are_refused() -> None:
    with pytest.raises(ContractError, match="__penstock_0_broken: columns called __penstock_"):
        check(pl.DataFrame({"__penstock_0_broken": [1]}), [_EXPECTATIONS[0]])


@pytest.mark.parametrize("how", ["arrow", "path", "table"])
def test_what_a_schema_calls_personal_is_masked(how: str, tmp_path: Path) -> None:
    who = pa.field("who", pa.string(), metadata={"personal": "true"})
    rows = pa.table({"who": ["ann", "ann"], "n": [1, None]}, pa.schema([who, ("n", pa.int64())]))
    data: Any = rows
    if how != "arrow":
        table = Table(Lake(str(tmp_path)), "d/t")
        append(table, rows)
        data = table if how == "table" else table.lake.table_uri("d/t")
    said = check(data, [c.expect_column_values_to_be_in_set("who", ["bob"])])
    found = profile(data)

    assert said.results[0].examples == ["•••"]
    assert "ann" not in found.to_json()
    assert found.columns["who"].is_masked and not found.columns["n"].is_masked


def test_nan_is_looked_for_in_columns_of_which_no_row_is_judged() -> None:
    rows = pl.DataFrame({"n": [1, None, 3], "x": [1.0, float("nan"), 2.0]})
    wanted = [
        c.expect_column_values_to_not_be_null("n"),
        c.expect_column_mean_to_be_between("x", 1.5, 1.5),
    ]

    report = check(rows, wanted)

    assert [result.broken for result in report.results] == [1, 0]
    assert [result.success for result in report.results] == [False, True]


def test_rejects_may_lie_at_any_path_and_leave_nothing_beside(tmp_path: Path) -> None:
    rows = pl.DataFrame({"n": range(200)})
    wanted = [c.expect_column_values_to_be_between("n", 0, 99)]
    path = tmp_path / "d[1]" / "r*.parquet"
    with (
        mock.patch.object(breaking_module, "PART", 1),
        mock.patch.object(breaking_module, "TOLD_ROWS", 1),
    ):
        check(rows, wanted, rejects=path)

    assert pl.read_parquet(path, glob=False)["_row"].to_list() == [*range(100, 200)]
    assert list(path.parent.iterdir()) == [path]

    writer = breaking_module.RejectsWriter(path, rows.schema)
    assert len(list(path.parent.iterdir())) == 2
    del writer  # as where a second Ctrl-C strikes while the first is answered
    assert list(path.parent.iterdir()) == [path]


AHEAD = "POLARS_ROW_GROUP_PREFETCH_SIZE"


@pytest.mark.parametrize(
    ("size_bytes", "given", "meanwhile"),
    [(300 << 20, None, str(pl.thread_pool_size())), (1 << 20, None, None), (300 << 20, "9", "9")],
)
def test_of_a_long_table_polars_reads_little_ahead(
    monkeypatch: pytest.MonkeyPatch, size_bytes: int, given: str | None, meanwhile: str | None
) -> None:
    monkeypatch.delenv(AHEAD, raising=False)
    if given is not None:
        monkeypatch.setenv(AHEAD, given)
    pieces = [Piece(pl.LazyFrame({"a": [1]}), size_bytes // 2)] * 2

    with pytest.raises(KeyError), little_read_ahead(pieces):
        assert os.environ.get(AHEAD) == meanwhile
        raise KeyError
    assert os.environ.get(AHEAD) == given
