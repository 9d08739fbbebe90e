"""Columns too long to hold come to what they come to when they are held."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import contracts as c
from penstock.contracts import Expectation
from penstock.quality import check
from penstock.quality import long as long_module
from penstock.quality import scans as scans_module

_EDGES = [-(1 << 63), -(1 << 62), -3, -1, 0, 1, 2, 1 << 40, (1 << 63) - 1]
_FLOATS = [-float("inf"), -1e300, -1.5, -0.0, 0.0, 5e-324, 0.1, 1.5, 1e300, float("inf")]
_COLUMNS: dict[str, tuple[pl.DataType, st.SearchStrategy[Any]]] = {
    "int": (pl.Int64(), st.sampled_from(_EDGES) | st.integers(-4, 4)),
    "small": (pl.Int8(), st.integers(-128, 127)),
    "unsigned": (pl.UInt64(), st.sampled_from([0, 1, 1 << 63, (1 << 64) - 1])),
    "float": (pl.Float64(), st.sampled_from(_FLOATS) | st.floats(-5, 5)),
    "single": (pl.Float32(), st.sampled_from([-1.5, 0.25, 3.0, float("nan")])),
    "text": (pl.String(), st.sampled_from(["", "a", "b", "Ω", "longer than twelve bytes"])),
    "flag": (pl.Boolean(), st.booleans()),
    "day": (pl.Date(), st.sampled_from([date(1950, 1, 1), date(2026, 1, 1), date(2026, 1, 2)])),
}
_SETS: dict[str, list[Any]] = {
    "int": [-3, 0, 2],
    "small": [1, 2, 3],
    "unsigned": [0, 1],
    "float": [0.0, 1.5],
    "single": [0.25],
    "text": ["a", "Ω"],
    "flag": [True],
    "day": [date(2026, 1, 1)],
}


def _expectations(name: str) -> list[Expectation]:
    values, ranges = _SETS[name], {"quantiles": [0, 0.1, 0.5, 0.77, 1]}
    found = [
        c.expect_column_unique_value_count_to_be_between(name, 1, 4),
        c.expect_column_proportion_of_unique_values_to_be_between(name, 0.1, 0.6),
        c.expect_column_distinct_values_to_be_in_set(name, values),
        c.expect_column_distinct_values_to_equal_set(name, values),
        c.expect_column_distinct_values_to_contain_set(name, values),
        c.expect_column_most_common_value_to_be_in_set(name, values),
        c.expect_column_most_common_value_to_be_in_set(name, values, ties_okay=True),
    ]
    if name in ("int", "small", "unsigned", "float", "single"):
        found += [
            c.expect_column_median_to_be_between(name, -1, 2),
            c.expect_column_quantile_values_to_be_between(
                name, {**ranges, "value_ranges": [[-2, 2]] * 5}
            ),
        ]
    if name in ("int", "float"):
        found.append(c.expect_column_values_to_not_be_outliers(name, multiplier=0.5))
    return found


@settings(deadline=None, max_examples=150)
@given(data=st.data(), name=st.sampled_from(sorted(_COLUMNS)))
def test_long_columns_come_to_what_short_ones_come_to(data: st.DataObject, name: str) -> None:
    kind, values = _COLUMNS[name]
    rows = data.draw(st.lists(st.none() | values, max_size=40))
    called = data.draw(st.sampled_from([name, "known", "count"]))
    frame = pl.DataFrame({called: pl.Series(rows, dtype=kind, strict=False)})
    wanted = [replace(each, columns=(called,)) for each in _expectations(name)]

    short = _told(frame, wanted)
    with (
        mock.patch.object(scans_module, "LONG", 0),
        mock.patch.object(scans_module, "BATCH_ROWS", 3),
        mock.patch.object(long_module, "HELD", data.draw(st.sampled_from([1, 8, 1 << 20]))),
    ):
        long = _told(frame, wanted)

    assert long == short


def _told(frame: pl.DataFrame, wanted: list[Expectation]) -> list[str]:
    found = list[str]()
    for each in wanted:  # one by one, as names would repeat
        (result,) = check(frame, [each]).results
        text = json.dumps(result.to_json(), default=str, sort_keys=True)
        found.append(re.sub(r"-0\.0(?!\d)", "0.0", text))  # the same number
    return found


def test_many_values_spill_and_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans_module, "LONG", 0)
    monkeypatch.setattr(long_module, "HELD", 1000)
    random = np.random.default_rng(5)
    numbers = random.permutation(np.repeat(np.arange(20_000), 2))
    frame = pl.DataFrame({"n": numbers, "x": random.normal(size=40_000)})
    frame = pl.concat([frame, pl.DataFrame({"n": [7], "x": [0.5]})])
    wanted = [
        c.expect_column_unique_value_count_to_be_between("n", 20_000, 20_000),
        c.expect_column_most_common_value_to_be_in_set("n", [7]),
        c.expect_column_distinct_values_to_contain_set("n", [7, -1]),
        c.expect_column_median_to_be_between("x", -1, 1),
    ]

    results = check(frame, wanted).results

    assert [result.success for result in results] == [True, True, False, True]
    assert results[0].observed == 20_000
    assert results[1].observed == [7]
    assert results[2].details["partial_missing_list"] == [-1]
    assert results[3].observed == frame["x"].median()
