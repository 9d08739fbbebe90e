"""Every compiled expectation beside Great Expectations' own run of it, on odd data.

Left out where Great Expectations isn't installed.
"""

from __future__ import annotations

import math
import os
import re
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.contracts import Expectation
from penstock.contracts.catalogue import BEYOND, KINDS
from penstock.quality import check
from tests.quality.expected import EXPECTED

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
gx = pytest.importorskip("great_expectations", reason="Great Expectations is not installed")
pd = pytest.importorskip("pandas")

_INTS = st.one_of(st.none(), st.integers(-5, 5), st.sampled_from([2**53, -(2**53)]))
_FLOATS = st.one_of(
    st.none(),
    st.sampled_from([0.0, -0.0, 1.5, 2.0, math.inf, -math.inf, math.nan, 1e300]),
    st.floats(-5, 5),
)
_TEXTS = st.one_of(
    st.none(),
    st.sampled_from(
        ["", "a", "ab", "x1", "ä€", "日本", "2024-02-30", "2024-02-29", '{"a": 1}', "A"]
    ),
    st.text(max_size=4),
)
_TIMES = st.one_of(
    st.none(),
    st.datetimes(datetime(2020, 1, 1), datetime(2020, 1, 3)).map(lambda t: t.replace(tzinfo=UTC)),
)
_IGNORED = {"any_value_is_missing": "any", "all_values_are_missing": "all", "never": "never"}
_PAIR = {"any": "either_value_is_missing", "all": "both_values_are_missing", "never": "neither"}
_MULTI = {"any": "any_value_is_missing", "all": "all_values_are_missing", "never": "never"}


@pytest.fixture(scope="module")
def batch_of() -> Any:
    """What makes a Great Expectations batch of a pandas frame."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    source = context.data_sources.add_pandas("pandas")
    whole = source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")

    def of(frame: Any) -> Any:
        return whole.get_batch(batch_parameters={"dataframe": frame})

    return of


def theirs(batch: Any, expectation: Expectation) -> dict[str, Any]:
    """What Great Expectations says."""
    entry = expectation.to_gx()
    name = "".join(part.title() for part in entry["type"].split("_"))
    kwargs = dict(entry["kwargs"])
    if expectation.kind == "pair":
        kwargs["ignore_row_if"] = _PAIR[_IGNORED[expectation.ignores]]
    elif expectation.kind == "rows":
        how = _IGNORED[expectation.ignores]
        kwargs["ignore_row_if"] = "never" if "compound" in expectation.type else _MULTI[how]
    for key in ("min_value", "max_value"):
        value = expectation.arguments.get(key)
        if isinstance(value, datetime):
            kwargs[key] = value
    found = getattr(gx.expectations, name)(**kwargs)
    result = batch.validate(found).to_json_dict()
    raised = result.get("exception_info") or {}
    assert not any(v.get("raised_exception") for v in raised.values() if isinstance(v, dict)), (
        raised
    )
    return result


@st.composite
def frames(draw: st.DrawFn) -> pl.DataFrame:
    """0 to 8 rows of integers (m without nulls), floats, texts and times."""
    count = draw(st.integers(1, 8))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=count, max_size=count))

    return pl.DataFrame(
        {
            "n": column(_INTS),
            "m": column(st.integers(-3, 3)),
            "f": column(_FLOATS),
            "s": column(_TEXTS),
            "t": column(_TIMES),
        },
        schema={
            "n": pl.Int64,
            "m": pl.Int64,
            "f": pl.Float64,
            "s": pl.String,
            "t": pl.Datetime("ns", "UTC"),
        },
        strict=False,
    )


def as_pandas(frame: pl.DataFrame) -> Any:
    """The same in pandas, where whole numbers with missing ones are floats."""
    return pd.DataFrame(
        {
            "n": frame["n"].cast(pl.Float64).to_numpy(),
            "m": frame["m"].to_numpy(),
            "f": frame["f"].to_numpy(),
            "s": pd.Series(frame["s"].to_list(), dtype=object),
            "t": pd.Series(frame["t"].to_list(), dtype="datetime64[ns, UTC]"),
        }
    )


@pytest.mark.parametrize("expectation", EXPECTED, ids=lambda e: f"{e.name}")
@settings(
    max_examples=int(os.environ.get("PENSTOCK_AGREEMENT_EXAMPLES", "8")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(frame=frames())
def test_counts_are_those_of_great_expectations(
    batch_of: Any, expectation: Expectation, frame: pl.DataFrame
) -> None:
    (ours,) = check(frame, [expectation]).to_json()["results"]
    expected = theirs(batch_of(as_pandas(frame)), expectation)

    assert ours["success"] == expected["success"], (ours, expected["result"])
    counts = ("element_count", "unexpected_count", "unexpected_percent", "missing_count")
    for name in counts:
        if name in expected["result"]:
            assert ours["result"][name] == pytest.approx(expected["result"][name]), (
                name,
                ours["result"],
                expected["result"],
            )


def test_every_expectation_of_great_expectations_is_known_here() -> None:
    from great_expectations.expectations import core

    classes = [name for name in dir(core) if name.startswith(("Expect", "Unexpected"))]
    types = {re.sub(r"(?<!^)(?=[A-Z])", "_", name.replace("KL", "Kl")).lower() for name in classes}

    assert len(types) > 50
    assert types - {*KINDS} == set()
    assert {*KINDS} - types == BEYOND
