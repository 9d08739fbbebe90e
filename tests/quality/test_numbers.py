"""Numbers at the ends of what their types hold are compared and added as they are."""

from __future__ import annotations

import re
from fractions import Fraction

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock import contracts as c
from penstock.errors import ContractError
from penstock.quality import check

_INTEGERS = st.integers(-(2**63), 2**63 - 1)
_BOUNDS = st.floats(-(2.0**64), 2.0**64, allow_nan=False) | _INTEGERS


@given(st.lists(_INTEGERS, min_size=1, max_size=5), _BOUNDS)
@example([2**53 + 1], 2.0**53)
@example([-(2**53) - 1], -(2.0**53))
@example([2**63 - 1], 2.0**63)
def test_integers_are_held_against_floats_exactly(values: list[int], bound: float) -> None:
    frame = pl.DataFrame({"n": values}, schema={"n": pl.Int64})
    wanted = [
        c.expect_column_values_to_be_between("n", bound),
        c.expect_column_values_to_be_between("n", None, bound),
        c.expect_column_values_to_be_between("n", bound, strict_min=True),
    ]
    told = [result.broken for result in check(frame, wanted).results]
    exact = Fraction(bound)
    assert told == [
        sum(value < exact for value in values),
        sum(value > exact for value in values),
        sum(value <= exact for value in values),
    ]


_CODE = st.none() | st.text(st.sampled_from("0123456789+-_., :/eExX\n\0é１٣\u200b"), max_size=20)


@given(
    st.lists(_CODE, min_size=1, max_size=20),
    st.sampled_from(
        ["{5}", "{1,2}", "{3,18}", "{18}", "{1,19}", "{0,3}", "{2,1}", "{4,}", "+", ""]
    ),
)
@example(["9" * 18, "0" * 18, "-" + "1" * 17, "+1", "1 ", "٣", None], "{1,18}")
def test_codes_of_digits_are_what_the_pattern_says(codes: list[str | None], times: str) -> None:
    frame = pl.DataFrame({"s": codes}, schema={"s": pl.String})
    pattern = f"^[0-9]{times}$"
    if times == "{2,1}":
        with pytest.raises(ContractError):
            c.expect_column_values_to_match_regex("s", pattern)
        return
    wanted = [
        c.expect_column_values_to_match_regex("s", pattern),
        c.expect_column_values_to_not_match_regex("s", pattern),
    ]
    there = [code for code in codes if code is not None]
    fit = sum(re.fullmatch(pattern[1:-1], code, re.ASCII) is not None for code in there)
    told = check(frame, wanted).results
    assert [result.looked_at for result in told] == [len(there)] * 2
    assert [result.broken for result in told] == [len(there) - fit, fit]


@pytest.mark.parametrize("kind", [pl.Int8, pl.Int16, pl.Int32, pl.UInt32])
def test_the_sum_of_narrow_integers_is_no_narrow_integer(kind: type[pl.DataType]) -> None:
    most = pl.select(kind.max()).item()
    frame = pl.DataFrame({"n": [most] * 5}, schema={"n": kind})
    (result,) = check(frame, [c.expect_column_sum_to_be_between("n", 0, 5 * most)]).results
    assert (result.observed, result.success) == (5 * most, True)


def test_a_sum_past_64_bits_is_a_float_and_does_not_go_round() -> None:
    frame = pl.DataFrame({"n": [2**63 - 1] * 3}, schema={"n": pl.Int64})
    (result,) = check(frame, [c.expect_column_sum_to_be_between("n", 0)]).results
    assert result.observed == pytest.approx(3 * 2.0**63)
    assert result.success


@pytest.mark.parametrize("reference", ["#/$defs/other", "https://example.com/schema.json"])
def test_a_schema_that_refers_to_what_is_not_in_it_is_refused(reference: str) -> None:
    frame = pl.DataFrame({"s": ['{"a": 1}']})
    schema = {"properties": {"a": {"$ref": reference}}, "$defs": {"one": {"type": "integer"}}}
    with pytest.raises(ContractError, match="which is not in it"):
        check(frame, [c.expect_column_values_to_match_json_schema("s", schema)])
    schema["properties"] = {"a": {"$ref": "#/$defs/one"}}
    assert check(frame, [c.expect_column_values_to_match_json_schema("s", schema)]).success
