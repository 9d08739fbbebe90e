"""Definitions: what they refuse, and what tells one from another."""

from __future__ import annotations

import errno
import functools
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from penstock import Lake, Table
from penstock.errors import FeatureError
from penstock.features import (
    Count,
    Derived,
    DistinctCount,
    Entity,
    FeatureView,
    First,
    LastK,
    Max,
    Mean,
    Min,
    Sum,
    Value,
    materialize,
    stale_days,
    training_frame,
)
from penstock.labels import LabelSet, Outcome
from penstock.tables import append

_ENTITY = Entity("thing", ("k",))
_START = datetime(2024, 1, 1, tzinfo=UTC)


def day(number: float) -> datetime:
    """So many days after the first."""
    return _START + timedelta(days=number)


def view(*features: Any, **more: Any) -> FeatureView:
    """Over the source's rows."""
    about = {"table": "shop/view", "entity": _ENTITY, "source": "shop/rows", "event_time": "t"}
    return FeatureView(features=features, **about | more)


def joined(rows: pl.DataFrame, found: FeatureView, at: datetime, **more: Any) -> dict[str, Any]:
    """The features of entity 1 as of a time."""
    spine = pl.DataFrame({"k": [1], "event_time": [at]})
    frame = training_frame(spine, [found], sources={"shop/rows": rows}, **more)
    return frame.collect().drop("k", "event_time").row(0, named=True)


def rows_of(**columns: Any) -> pl.DataFrame:
    """Rows of entity 1, a day apart unless times are given."""
    count = len(next(iter(columns.values())))
    return pl.DataFrame({"k": [1] * count, "t": [day(n) for n in range(count)]} | columns)


@pytest.mark.parametrize(
    "given",
    [
        pl.col("x").shift(-1),
        pl.col("x").sum().over("k"),
        pl.col("x").rank(),
        pl.col("x").filter(pl.col("x") > 1),
        pl.when(pl.col("x") > pl.col("x").mean()).then(1),
        "max(x)",
        "x - avg(x)",
    ],
    ids=str,
)
def test_what_looks_at_other_rows_is_no_feature(given: Any) -> None:
    for make in (
        lambda: Value.of(given, "found"),
        lambda: Sum(given, ["7d"], "found"),
        lambda: Derived.of("found", given),
        lambda: view("x", where=given),
    ):
        with pytest.raises(FeatureError, match="looks at more than one row"):
            make()


@pytest.mark.parametrize(
    "given",
    [
        pl.col("x").is_in([1, 2]),
        pl.col("x").is_in(pl.Series([1, 2])),
        pl.col("x").list.eval(pl.element() / pl.element().sum()),
        "x / nullif(y, 0)",
        "case when x in (1, 2) then 1 else 0 end",
        "1",
    ],
    ids=str,
)
def test_what_looks_at_one_row_may_be_one(given: Any) -> None:
    Value.of(given, "found")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Sum("x", ["7d"], wher="x > 2"), "there is no wher="),
        (lambda: Sum("x", ["7d"], by="c", buckets=["a", None]), "null is no bucket"),
        (lambda: LastK("x", 1.5, ["7d"]), "k must be a whole number"),
        (lambda: Count(["99999w"]), "is longer than 100,000 days"),
        (lambda: view("_event"), "joins use a column _event of their own"),
        (lambda: view("x", entity=Entity("e", ("_time",))), "joins use a column _time"),
        (lambda: Value.of(pl.col("x").map_elements(abs), "y"), "holds a Python function"),
    ],
    ids=["option", "null", "k", "length", "feature", "key", "python"],
)
def test_a_mistake_is_told_where_it_is_written(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(FeatureError, match=said):
        make()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pl.col("x").is_in([*range(9), 1, 5]), pl.col("x").is_in([*range(9), 2, 5])),
        (pl.col("x").round(0), pl.col("x").round(2)),
        (pl.col("t").dt.strftime("%Y"), pl.col("t").dt.strftime("%m")),
    ],
)
def test_expressions_that_print_alike_are_told_apart(one: pl.Expr, other: pl.Expr) -> None:
    a, b = (view(Value.of(each, "found"), where=each.is_not_null()) for each in (one, other))

    assert a.fingerprint() != b.fingerprint()
    assert a.fingerprint() == view(*a.features, where=a.where).fingerprint()


def _scaled(by: Any) -> Callable[[pl.DataFrame], pl.Series]:
    return lambda f: f["x"] * by


_BY = 2


def _by_default(f: pl.DataFrame, by: int = 1) -> pl.Series:
    return f["x"] * by * _BY


def test_functions_are_told_apart_by_what_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def code(function: Any) -> str:
        return Derived.of("d", function, ["x"]).code()

    typed_in: dict[str, Any] = {}
    exec("two = lambda f: f['x'] * 2\nthree = lambda f: f['x'] * 3", typed_in)

    assert code(_scaled(2)) == code(_scaled(2)) != code(_scaled(3))
    assert code(typed_in["two"]) != code(typed_in["three"])
    assert code(functools.partial(_by_default, by=2)) != code(functools.partial(_by_default, by=3))
    before = code(_by_default)
    monkeypatch.setitem(_by_default.__globals__, "_BY", 3)
    assert code(_by_default) != before
    with pytest.raises(FeatureError, match="can't be told from another one in a fingerprint"):
        code(_scaled(object()))


def test_whole_numbers_are_summed_without_wrapping_around() -> None:
    large = rows_of(x=[2**62, 2**62, 2**62])
    found = view(Mean("x", ["9d"], "mean"), Sum("x", ["9d"], "sum"))

    assert joined(large[:1], found, day(5)) == {"mean_9d": 2.0**62, "sum_9d": 2**62}
    assert joined(large, view(Mean("x", ["9d"], "mean")), day(5)) == {"mean_9d": 2.0**62}
    with pytest.raises(FeatureError, match="a total does not fit 64 bits"):
        joined(large, found, day(5))
    unsigned = rows_of(x=pl.Series([2**63 + 5], dtype=pl.UInt64))
    assert joined(unsigned, view(Mean("x", ["9d"], "mean")), day(5)) == {"mean_9d": 2.0**63 + 5}


def test_far_times_in_nanoseconds_have_no_events() -> None:
    rows = rows_of(x=[5.0]).with_columns(pl.col("t").dt.cast_time_unit("ns"))
    found = view(Count(["400d"], "n"), Sum("x", ["400d"], "s"))

    for year in (1, 1670, 9999):
        assert joined(rows, found, datetime(year, 1, 1, tzinfo=UTC)) == {"n_400d": 0, "s_400d": 0.0}


@pytest.mark.parametrize("memory_bytes", [1 << 30, 1])
def test_ties_of_lists_and_signed_zeros_do_not_hang_on_the_order_of_files(
    memory_bytes: int,
) -> None:
    rows = pl.DataFrame(
        {"k": [1, 1], "t": [day(0)] * 2, "x": [[3.0], [1.0, 2.0]], "z": [0.0, -0.0]}
    )
    for found in (view("x"), view("z"), view(LastK("x", 1, ["9d"])), view(Min("z", ["9d"]))):
        one, other = (
            joined(each, found, day(1), memory_bytes=memory_bytes) for each in (rows, rows[::-1])
        )
        assert repr(one) == repr(other)


def test_lists_and_texts_of_late_rows_are_found_event_by_event() -> None:
    rows = rows_of(x=[[1], [2], [3]], s=["b", "a", "c"], made=[day(0), day(9), day(2)])
    found = view(First("x", ["9d"]), Min("s", ["9d"]), Max("s", ["9d"]), created_time="made")

    assert joined(rows, found, day(4)) == {"x_first_9d": [1], "s_min_9d": "b", "s_max_9d": "c"}


def test_keys_that_the_other_side_cannot_hold_match_nothing() -> None:
    rows = pl.DataFrame({"k": pl.Series([2**63, 1], dtype=pl.UInt64), "t": [day(0)] * 2})
    assert joined(rows.with_columns(x=pl.Series([7, 8])), view("x"), day(1)) == {"x": 8}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (view("x", derived=(Derived.of("d", "nosuch + 1"),)), "d is derived from nosuch, which"),
        (view(Value.of("cast(s as int)", "n")), "the spine with shop/view: "),
        (view(Sum("x", ["9d"]), derived=(Derived.of("d", lambda f: 3.0, ["x_sum_9d"]),)), "failed"),
        (view(Mean("t", ["9d"])), "has no sum, mean or deviation"),
    ],
    ids=["derived", "cast", "function", "time"],
)
def test_what_fails_in_a_join_names_its_view(found: FeatureView, said: str) -> None:
    with pytest.raises(FeatureError, match=said):
        joined(rows_of(x=[1.0], s=["a"]), found, day(1))


def test_views_of_one_name_and_two_sources_are_refused() -> None:
    one, other = view("x"), view(Value.of("x", "y"), source="shop/others")
    rows = rows_of(x=[1.0])
    with pytest.raises(FeatureError, match="two views are called shop/view"):
        training_frame(
            pl.DataFrame({"k": [1], "event_time": [day(1)]}),
            [one, other],
            sources={"shop/rows": rows, "shop/others": rows},
        )


def test_only_entities_with_events_are_matched() -> None:
    spine = pl.DataFrame({"k": [1, 2], "event_time": [day(1)] * 2})
    frame = training_frame(spine, view(Count(["9d"])), sources={"shop/rows": rows_of(x=[1])})
    frame.collect()
    assert (frame.report[0].matched, frame.report[0].unmatched) == (1, 1)


def test_a_quiet_entitys_materialized_windows_end(lake: Lake) -> None:
    rows = pl.DataFrame({"k": [1, 2], "t": [day(0.4), day(58.4)], "x": [10.0, 1.0]})
    append(Table(lake, "shop/rows"), rows.to_arrow())
    found = view(
        Sum("x", ["7d"], "s"), DistinctCount("x", ["7d"], "n"), LastK("x", 2, ["7d"], "last"), "x",
        ttl="7d",
    )  # fmt: skip
    materialize(lake, found.daily(), stale_days(lake, found.daily()))

    for number in (2, 7, 8, 9, 20, 59):
        spine = pl.DataFrame({"k": [1], "event_time": [day(number)]})
        computed, kept = (
            training_frame(spine, each, lake=lake).collect()
            for each in (found, found.materialized())
        )
        assert computed.equals(kept), number


def test_a_ttls_edge_is_the_same_in_one_day_as_in_all(lake: Lake) -> None:
    rows = pl.DataFrame(
        {
            "k": [1, 1, 2],
            "t": [day(0), day(7), day(19)],
            "made": [day(0), day(29), day(19)],
            "x": [10.0, 11.0, 1.0],
        }
    )
    append(Table(lake, "shop/rows"), rows.to_arrow())
    daily = view("x", ttl="7d", created_time="made").daily()
    materialize(lake, daily, stale_days(lake, daily))
    table = Table(lake, "shop/view")
    before = table.snapshot().scan().sort("k", "event_time").collect()

    materialize(lake, daily, [day(6).date()])

    assert table.snapshot().scan().sort("k", "event_time").collect().equals(before)
    assert before.filter(pl.col("event_time") == day(7))["x"].to_list() == [10.0]


def test_types_that_delta_lacks_are_widened_or_refused(lake: Lake) -> None:
    rows = rows_of(x=pl.Series([200], dtype=pl.UInt8), y=[timedelta(days=1)])
    append(Table(lake, "shop/rows"), rows.select("k", "t", pl.col("x").cast(pl.Int64)).to_arrow())
    found = view(Value.of(pl.col("x").cast(pl.UInt8), "x"), ttl="7d")
    materialize(lake, found.daily(), stale_days(lake, found.daily()))
    assert Table(lake, "shop/view").snapshot().scan().collect()["x"].to_list()[0] == 200

    with pytest.raises(FeatureError, match=r"shop/view: y is duration.*cast it"):
        odd = view(Value.of(pl.col("t") - pl.col("t"), "y"), ttl="7d")
        materialize(lake, odd.daily(), [day(0).date()])


def test_a_label_waits_for_whole_days(lake: Lake) -> None:
    outcome = Outcome("shop/out", _ENTITY, "shop/rows", "t", "x", horizon="2d", population="7d")
    rows = pl.DataFrame({"k": [1] * 3, "t": [day(0.2), day(1.2), day(3.1)], "x": [1, 2, 4]})
    append(Table(lake, "shop/rows"), rows.to_arrow())

    materialize(lake, outcome.daily(), stale_days(lake, outcome.daily()))

    found = Table(lake, "shop/out").snapshot().scan().collect()
    assert found.select("event_time", "label").rows() == [(day(1), 2)]


def test_a_confidence_that_is_none_is_not_the_surest() -> None:
    labels = pl.LazyFrame(
        {
            "k": [1, 1],
            "event_time": [day(0)] * 2,
            "label": [1.0, 2.0],
            "label_source": ["a", "b"],
            "confidence": [0.9, float("nan")],
            "created_time": [day(0)] * 2,
        }
    )
    found = LabelSet("shop/labels", _ENTITY)
    assert found.chosen(labels).collect()["label"].to_list() == [1.0]
    assert replace(found, sources="b").sources == ("b",)
    with pytest.raises(FeatureError, match="confidence is String"):
        found.chosen(labels.with_columns(confidence=pl.lit("sure")))


def test_what_is_parted_on_disk_has_no_name_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kinds = pl.Series(["a", "b", None, "a"], dtype=pl.Categorical)
    rows = pl.DataFrame({"k": [1, 2, 3, 4], "t": [day(0)] * 4, "x": kinds})
    spine = pl.DataFrame({"k": [4, 3, 2, 1, 5] * 2, "event_time": [day(1)] * 10})
    frame = training_frame(spine, view("x"), sources={"shop/rows": rows}, memory_bytes=1)

    (batch,) = frame.batches()

    assert batch["x"].cast(pl.String).to_list() == ["a", None, "b", "a", None] * 2
    left = training_frame(spine, view("x"), sources={"shop/rows": rows}, memory_bytes=1).batches()
    next(left)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def _full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", _full)
    spine = pl.DataFrame({"k": [1], "event_time": [day(1)]})
    frame = training_frame(spine, view("x"), sources={"shop/rows": rows_of(x=[1])}, memory_bytes=1)
    with pytest.raises(FeatureError, match="No space left on device.: give it room"):
        frame.collect()
