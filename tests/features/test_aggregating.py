"""Windows as of each row's own time, against a walk over all events for each row."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import FeatureError
from penstock.features import (
    Aggregate,
    Count,
    DistinctCount,
    Entity,
    FeatureView,
    First,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    Quantile,
    Std,
    Sum,
    TopK,
    training_frame,
)
from penstock.features.exact import limbs
from penstock.features.ranges import RangeBest
from penstock.features.selecting import RangeOrder

_S = 1_000_000
_TIME = pl.Datetime("us", "UTC")
_OVER = ["3s", "10s"]
FEATURES: tuple[Aggregate, ...] = (
    Sum("x", _OVER),
    Sum("n", _OVER),
    Count(_OVER),
    Count(_OVER, "having", what="x"),
    Mean("x", _OVER),
    Std("x", _OVER),
    Min("x", _OVER),
    Max("x", _OVER),
    First("c", _OVER),
    Last("c", _OVER),
    LastK("c", 2, _OVER),
    DistinctCount("c", _OVER),
    Quantile("x", 0.3, _OVER),
    TopK("c", 2, _OVER),
    Sum("n", ["4s"], "tumbled", every="4s"),
    Sum("n", ["4s"], "hopped", every="2s"),
    Sum("n", ["4s"], "earlier", lag="3s"),
    Sum("n", ["10s"], "of", by="c", buckets=["a", "b"]),
    Sum("n", ["10s"], "large", where="n > 3"),
)

Event = tuple[str, int, int | None, float | None, int, str]
"""Key, event time, created time (seconds), x, n, c."""


def rows_of(events: list[Event]) -> pl.DataFrame:
    """Events as a view's source."""
    schema = {
        "k": pl.String,
        "at": pl.Int64,
        "known": pl.Int64,
        "x": pl.Float64,
        "n": pl.Int64,
        "c": pl.String,
    }
    frame = pl.DataFrame(events, schema=schema, orient="row")
    return frame.with_columns((pl.col("at", "known") * _S).cast(_TIME))


def spine_of(spine: list[tuple[str, int]]) -> pl.DataFrame:
    """Rows of key and time (seconds)."""
    frame = pl.DataFrame(spine, schema={"k": pl.String, "event_time": pl.Int64}, orient="row")
    return frame.with_columns((pl.col("event_time") * _S).cast(_TIME))


def computed(spine: list[tuple[str, int]], events: list[Event], **how: Any) -> list[dict[str, Any]]:
    """The features of each row."""
    view = FeatureView(
        "a/view", Entity("thing", ("k",)), "a/rows", "at", FEATURES, created_time="known"
    )
    frame = training_frame(spine_of(spine), [view], sources={"a/rows": rows_of(events)}, **how)
    return frame.collect().drop("k", "event_time").to_dicts()


def walked(k: str, t: int, events: list[Event]) -> dict[str, Any]:
    """The same, slowly."""
    mine = [e for e in events if e[0] == k and e[2] is not None and e[2] <= t and e[1] <= t]

    def inside(length: int, until: int = t) -> list[Event]:
        # Ties by created time, then by the values, in the order of the view's columns.
        found = [e for e in mine if until - length < e[1] <= until]
        return sorted(found, key=lambda e: (e[1], max(e[1], e[2] or 0), e[2] or 0, *_tie(e)))

    found: dict[str, Any] = {}
    for length in (3, 10):
        window = inside(length)
        xs = [e[3] for e in window if e[3] is not None]
        cs = [e[5] for e in window]
        found |= {
            f"x_sum_{length}s": math.fsum(xs),
            f"n_sum_{length}s": sum(e[4] for e in window),
            f"events_{length}s": len(window),
            f"having_{length}s": len(xs),
            f"x_mean_{length}s": math.fsum(xs) / len(xs) if xs else None,
            f"x_std_{length}s": _std(xs),
            f"x_min_{length}s": min(xs, default=None),
            f"x_max_{length}s": max(xs, default=None),
            f"c_first_{length}s": cs[0] if cs else None,
            f"c_last_{length}s": cs[-1] if cs else None,
            f"c_last_k_{length}s": cs[-2:],
            f"c_distinct_count_{length}s": len(set(cs)),
            f"x_quantile_{length}s": float(np.quantile(xs, 0.3)) if xs else None,
            f"c_top_k_{length}s": [
                c for c, _ in sorted(Counter(cs).items(), key=lambda item: (-item[1], item[0]))
            ][:2],
        }
    found["tumbled_4s"] = sum(e[4] for e in inside(4, t // 4 * 4))
    found["hopped_4s"] = sum(e[4] for e in inside(4, t // 2 * 2))
    found["earlier_4s_lag_3s"] = sum(e[4] for e in inside(4, t - 3))
    for bucket in ("a", "b"):
        found[f"of_{bucket}_10s"] = sum(e[4] for e in inside(10) if e[5] == bucket)
    found["large_10s"] = sum(e[4] for e in inside(10) if e[4] > 3)
    return found


def _tie(event: Event) -> tuple[Any, ...]:
    """As the columns that windows are over stand: x, n, 1, c, ..."""
    return (event[3] is not None, event[3] or 0, event[4], event[5])


def _std(xs: list[float]) -> float | None:
    if len(xs) < 2:
        return None
    exact = [Fraction(x) for x in xs]
    mean = sum(exact) / len(exact)
    return math.sqrt(sum((x - mean) ** 2 for x in exact) / (len(exact) - 1))


_TIMES = st.integers(0, 25)
_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["p", "q"]),
        _TIMES,
        st.one_of(st.none(), st.integers(0, 30)),
        st.one_of(
            st.none(), st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda x: round(x, 9))
        ),
        st.integers(-5, 9),
        st.sampled_from(["a", "b", "c"]),
    ),
    max_size=40,
)
_SPINES = st.lists(
    st.tuples(st.sampled_from(["p", "q", "r"]), st.integers(0, 40)), min_size=1, max_size=12
)


@settings(max_examples=150, deadline=None)
@given(spine=_SPINES, events=_EVENTS)
def test_every_window_equals_a_walk_over_all_events(
    spine: list[tuple[str, int]], events: list[Event]
) -> None:
    found = computed(spine, events)
    for (k, t), row in zip(spine, found, strict=True):
        expected = walked(k, t, events)
        assert row.keys() == expected.keys()
        for name, value in expected.items():
            if isinstance(value, float):
                assert row[name] == pytest.approx(value, rel=1e-13, abs=1e-13), (k, t, name)
            else:
                assert row[name] == value, (k, t, name)


@settings(max_examples=20, deadline=None)
@given(spine=_SPINES, events=_EVENTS)
def test_windows_parted_on_disk_are_the_same_bits(
    spine: list[tuple[str, int]], events: list[Event]
) -> None:
    assert computed(spine, events, memory_bytes=100) == computed(spine, events)


@settings(max_examples=50, deadline=None)
@given(spine=_SPINES, events=_EVENTS, older=_EVENTS)
def test_what_lies_outside_a_window_changes_no_bit_of_it(
    spine: list[tuple[str, int]], events: list[Event], older: list[Event]
) -> None:
    before = [(k, at - 100, at - 100, (x or 1.0) / 3, n, c) for k, at, _, x, n, c in older]

    assert computed(spine, [*before, *events]) == computed(spine, events)


def test_events_all_known_a_day_late_are_hidden_until_then() -> None:
    # Loaded in batches: none of the last events is known yet, which needs no listing.
    events: list[Event] = [("p", t, t // 5 * 5 + 5, 1.0, 1, "a") for t in range(20)]
    spine = [("p", t) for t in range(25)]

    for (k, t), row in zip(spine, computed(spine, events), strict=True):
        assert row["n_sum_10s"] == walked(k, t, events)["n_sum_10s"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_spoil_only_the_windows_that_hold_them(bad: float) -> None:
    events: list[Event] = [
        ("p", 1, 1, 2.0, 1, "a"),
        ("p", 5, 5, bad, 1, "a"),
        ("p", 9, 9, 4.0, 1, "a"),
    ]
    low, middle, high = computed([("p", 2), ("p", 6), ("p", 9)], events)

    assert (low["x_sum_3s"], high["x_sum_3s"]) == (2.0, 4.0)
    assert math.isnan(middle["x_sum_3s"])
    assert math.isnan(middle["x_mean_10s"])
    assert low["x_std_3s"] is None


def test_times_and_booleans_keep_their_types() -> None:
    rows = rows_of([("p", 1, 1, 1.0, 1, "a"), ("p", 3, 3, 2.0, 9, "b")])
    rows = rows.with_columns((pl.col("n") > 3).alias("big"))
    view = FeatureView(
        "a/view",
        Entity("thing", ("k",)),
        "a/rows",
        "at",
        (Max("at", ["9s"], "seen"), Max("big", ["9s"]), Sum("big", ["9s"]), First("at", ["9s"])),
    )
    (row,) = (
        training_frame(spine_of([("p", 4)]), [view], sources={"a/rows": rows}).collect().to_dicts()
    )

    assert row["seen_9s"] == rows["at"][1]
    assert row["at_first_9s"] == rows["at"][0]
    assert (row["big_max_9s"], row["big_sum_9s"]) == (True, 1)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.floats(-(2.0**90), 2.0**90), min_size=1, max_size=30),
    cut=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_exact_sums_are_rounded_once(values: list[float], cut: tuple[int, int]) -> None:
    low, high = sorted(min(c, len(values)) for c in cut)
    running = limbs(np.array(values), "x").running()

    found = running.between(np.array([low]), np.array([high])).total()[0][0]

    assert abs(Fraction(float(found)) - sum(map(Fraction, values[low:high]))) <= max(
        abs(math.fsum(values[low:high])) * 2.0**-52, 30 * 2.0**-97
    )


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.integers(-9, 9), min_size=1, max_size=120),
    cuts=st.lists(st.tuples(st.integers(0, 119), st.integers(1, 120)), min_size=1, max_size=20),
)
def test_minima_and_maxima_of_ranges(values: list[int], cuts: list[tuple[int, int]]) -> None:
    ranges = [(min(a, len(values) - 1), min(max(b, a + 1), len(values))) for a, b in cuts]
    ranges = [(a, max(b, a + 1)) for a, b in ranges]
    low, high = np.array(ranges).T
    for which, best in (("min", min), ("max", max)):
        found = RangeBest(np.array(values), which).over(low, high)
        assert found.tolist() == [best(values[a:b]) for a, b in ranges]


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.integers(0, 9), max_size=60),
    asked=st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 12)), min_size=1
    ),
)
def test_counts_and_places_of_ranges(values: list[int], asked: list[tuple[int, int, int]]) -> None:
    n = len(values)
    ranges = [(min(a, b, n), min(max(a, b), n), of) for a, b, of in asked]
    low, high, of = np.array(ranges).T
    order = RangeOrder(np.array(values, np.int64))

    assert order.below(low, high, of).tolist() == [
        sum(value < bound for value in values[a:b]) for a, b, bound in ranges
    ]
    inside = of < high - low
    assert order.smallest(low[inside], high[inside], of[inside]).tolist() == [
        sorted(values[a:b])[k] for a, b, k in ranges if k < b - a
    ]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Sum("x", ["36x"]), "'36x' is no length of time"),
        (lambda: Sum("x", ["0d"]), "'0d' is no length of time"),
        (lambda: Sum("x", []), "x_sum: over which windows"),
        (lambda: Sum("x", ["36h"], every="1d"), "x_sum: the window 36h is no multiple of its tile"),
        (lambda: Sum("x + 1", ["1d"]), r"an expression needs a name="),
        (lambda: Sum("x +", ["1d"], "y"), r"'x \+' is no SQL expression"),
        (lambda: Sum("x", ["1d"], by="c"), "by= and buckets= go together"),
        (lambda: LastK("x", 0, ["1d"]), "k must be a whole number from 1 on"),
        (lambda: Quantile("x", 2, ["1d"]), "a quantile lies between 0 and 1"),
    ],
    ids=["unit", "zero", "none", "tile", "nameless", "no SQL", "no buckets", "k", "q"],
)
def test_an_aggregate_that_cannot_be_is_refused(make: Any, said: str) -> None:
    with pytest.raises(FeatureError, match=said):
        make()


def test_a_value_past_what_is_exact_is_refused_by_name() -> None:
    with pytest.raises(FeatureError, match=r"x_sum_3s: a value of 1e\+30 is beyond"):
        computed([("p", 1)], [("p", 1, 1, 1e30, 1, "a")])


def test_text_cannot_be_summed() -> None:
    view = FeatureView("a/view", Entity("t", ("k",)), "a/rows", "at", (Sum("c", ["3s"]),))
    frame = training_frame(
        spine_of([("p", 1)]), [view], sources={"a/rows": rows_of([("p", 1, 1, 1.0, 1, "a")])}
    )
    with pytest.raises(FeatureError, match="c_sum_3s: String is no number"):
        frame.collect()
