"""Expectations that are only asked of what breaks another one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import contracts as c
from penstock.contracts import Expectation
from penstock.quality import check
from penstock.quality.implied import implied

_TEXTS = ["", "5", "55", "555", "5555", "x", "xy", "éé", "5é", "-5", "+5", "5\n", "55\n"]
_WAYS: list[Expectation] = [
    c.expect_column_values_to_not_be_null("s"),
    c.expect_column_values_to_be_null("s"),
    c.expect_column_values_to_be_in_set("s", ["55", "x", "éé"]),
    c.expect_column_values_to_be_in_set("s", ["55", "x"], row_condition="n > 1"),
    c.expect_column_values_to_be_in_set("s", ["55"]),
    c.expect_column_values_to_not_be_in_set("s", ["555", "y"]),
    c.expect_column_values_to_not_be_in_set("s", ["55"]),
    c.expect_column_values_to_match_regex("s", "^[0-9]{2,3}$"),
    c.expect_column_values_to_match_regex("s", "^[0-9]{2}$", row_condition="n > 1"),
    c.expect_column_values_to_match_regex("s", "5"),
    c.expect_column_values_to_not_match_regex("s", "^x"),
    c.expect_column_value_lengths_to_be_between("s", 2, 3),
    c.expect_column_value_lengths_to_be_between("s", 1, row_condition="n < 3"),
    c.expect_column_value_lengths_to_equal("s", 2),
    c.expect_column_values_to_be_between("s", "0", "9"),
    c.expect_column_values_to_match_like_pattern("s", "5%"),
]


@given(
    rows=st.lists(
        st.tuples(st.none() | st.sampled_from(_TEXTS), st.none() | st.integers(0, 4)), max_size=25
    ),
    ways=st.lists(st.sampled_from(range(len(_WAYS))), min_size=2, unique=True),
    severities=st.lists(st.sampled_from(["warn", "reject"]), min_size=20, max_size=20),
)
def test_together_they_come_to_what_each_comes_to_alone(
    rows: list[tuple[str | None, int | None]], ways: list[int], severities: list[str]
) -> None:
    frame = pl.DataFrame(rows, schema={"s": pl.String, "n": pl.Int64}, orient="row")
    wanted = [
        replace(_WAYS[way], severity=severity, label=str(way))
        for way, severity in zip(ways, severities, strict=False)
    ]

    together = check(frame, wanted)

    for each, result in zip(wanted, together.results, strict=True):
        (alone,) = check(frame, [each]).results
        assert result.to_json() == alone.to_json()


def test_what_follows_from_another_is_found() -> None:
    schema = {"s": pl.String(), "t": pl.String(), "n": pl.Int64()}
    codes = c.expect_column_values_to_match_regex("s", "^[0-9]{5,6}$")
    words = c.expect_column_values_to_be_in_set("s", ["GB", "FR", None])
    lengths = [
        c.expect_column_value_lengths_to_be_between("s", low, high)
        for low, high in ((2, 6), (5, 6), (6, 6), (2, 2), (3, None), (None, 6))
    ]

    def found(*asked: Expectation) -> set[int]:
        return implied(dict(enumerate(asked)), schema)

    assert found(codes, *lengths) == {1, 2, 5, 6}
    assert found(words, *lengths) == {1, 4, 6}
    assert found(*lengths, words) == {0, 3, 5}
    assert len(found(words, words, words)) == 2, "one of them is asked of every row"
    assert found(words, c.expect_column_value_lengths_to_equal("t", 2)) == set()
    assert found(words, c.expect_column_values_to_not_be_null("s")) == set()
    assert found(codes, c.expect_column_values_to_match_regex("s", "^0")) == set()
    only_some = c.expect_column_values_to_be_in_set("s", ["GB"], row_condition="n > 1")
    assert found(only_some, lengths[3]) == set()
    assert found(words, only_some) == set()
    assert found(c.expect_column_values_to_be_in_set("n", [1, 2]), lengths[0]) == set()


@pytest.mark.parametrize("rejects", [False, True])
def test_rows_are_rejected_for_what_follows_too(tmp_path: Path, rejects: bool) -> None:
    frame = pl.DataFrame({"s": ["GB", "GBR", "D", "FR", None]})
    wanted = [
        c.expect_column_values_to_be_in_set("s", ["GB", "FR"], severity="warn"),
        c.expect_column_value_lengths_to_be_between("s", 2, 4),
    ]
    path = tmp_path / "rejects.parquet" if rejects else None

    report = check(frame, wanted, rejects=path)

    assert [result.broken for result in report.results] == [2, 1]
    assert list(report.results[1].examples) == ["D"]
    assert report.rejected == 1
    if path is not None:
        assert pl.read_parquet(path).select("_row", "s").rows() == [(2, "D")]
