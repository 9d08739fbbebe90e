"""Rows that break something are the same, in one scan as in two, and in any pieces."""

from __future__ import annotations

import json
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
from penstock.errors import ContractError
from penstock.lake import Lake
from penstock.quality import breaking as breaking_module
from penstock.quality import check, profile
from penstock.tables import Table, append

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


def _told(
    rows: pl.DataFrame, expectations: list[Expectation], folder: Path
) -> tuple[str, pl.DataFrame]:
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
    with mock.patch.object(breaking_module, "BATCH_ROWS", 1):
        again, others = _told(frame, expectations, folder)
    assert again == said
    assert others.equals(rejects, null_equal=True)
    assert rejects["_row"].is_sorted()


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
