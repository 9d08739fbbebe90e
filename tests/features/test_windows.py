"""Windows and outcomes against a slow, obviously right reference."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import Entity, FeatureView, Lake, Outcome, Table
from penstock.features import (
    Count,
    DailyTable,
    Derived,
    Max,
    Mean,
    Min,
    Sum,
    materialize,
    stale_days,
    training_frame,
)
from penstock.tables import Stager

_DAY = timedelta(days=1)
_START = datetime(2024, 1, 1, tzinfo=UTC)
_SCHEMA = pa.schema(
    [
        ("k", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
        ("x", pa.float64()),
    ]
)

VIEW = FeatureView(
    table="shop/features",
    entity=Entity("thing", ("k",)),
    source="shop/events",
    event_time="at",
    where="x > -100",
    features=(
        Sum("x", ("1d", "7d", "4w"), "total"),
        Count(("1d", "7d", "4w"), "n"),
        Mean("x", ("7d",), "mean"),
        Min("x", ("7d",), "low"),
        Max("2 * x", ("7d",), "high"),
    ),
)

LABEL = Outcome(
    table="shop/labels",
    entity=Entity("thing", ("k",)),
    source="shop/events",
    event_time="at",
    where="x > -100",
    expression="x",
    horizon="3d",
    population="5d",
)

Event = tuple[str, datetime, float]


def append(lake: Lake, events: list[Event]) -> None:
    """Commit events to the source table."""
    table = Table(lake, "shop/events").create(_SCHEMA)
    rows = [dict(zip(("k", "at", "x"), event, strict=True)) for event in events]
    with Stager(lake, "shop/events", _SCHEMA) as stager:
        stager.write(pa.Table.from_pylist(rows, schema=_SCHEMA))
        table.commit(stager.finish())


def rows(lake: Lake, table: str) -> list[dict[str, object]]:
    """A table's rows, ordered."""
    frame = Table(lake, table).snapshot().scan().collect()
    return frame.select(sorted(frame.columns)).sort("event_time", "k").to_dicts()


def _expected_features(events: list[Event], last: date) -> dict[tuple[str, datetime], dict]:
    """Every (entity, day's end) by going through every event for each."""
    kept = [event for event in events if event[2] > -100]
    expected = {}
    first = min(_day_of(at) for _, at, _ in events)
    t = datetime(first.year, first.month, first.day, tzinfo=UTC) + _DAY
    while _day_of(t) <= last:
        for k in {k for k, _, _ in kept}:

            def inside(days: int, k: str = k, t: datetime = t) -> list[float]:
                return [x for key, at, x in kept if key == k and t - days * _DAY < at <= t]

            if not inside(28):
                continue
            week = inside(7)
            expected[k, t] = {
                **{
                    f"total_{n}": math.fsum(inside(d))
                    for n, d in (("1d", 1), ("7d", 7), ("4w", 28))
                },
                **{f"n_{n}": len(inside(d)) for n, d in (("1d", 1), ("7d", 7), ("4w", 28))},
                "mean_7d": math.fsum(week) / len(week) if week else None,
                "low_7d": min(week, default=None),
                "high_7d": max((2 * x for x in week), default=None),
            }
        t += _DAY
    return expected


def _day_of(at: datetime) -> date:
    return (at - timedelta(microseconds=1)).date()


_EVENTS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        # Seconds, with midnights more often than chance would have them.
        st.one_of(
            st.integers(0, 40).map(lambda d: d * 86_400),
            st.integers(0, 40 * 86_400),
        ).map(lambda s: _START + timedelta(seconds=s)),
        st.integers(-101_000_000, 100_000_000).map(lambda n: n / 1_000_000),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(events=_EVENTS)
def test_windows_equal_a_walk_over_all_events(events: list[Event]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder))
        append(lake, events)

        materialize(lake, VIEW.daily(), stale_days(lake, VIEW.daily()))

        last = max(_day_of(at) for _, at, _ in events)
        expected = _expected_features(events, last)
        got = {(row["k"], row["event_time"]): row for row in rows(lake, "shop/features")}
        assert got.keys() == expected.keys()
        for key, values in expected.items():
            for name, value in values.items():
                assert got[key][name] == pytest.approx(value, abs=1e-6), (key, name)


@settings(max_examples=40, deadline=None)
@given(events=_EVENTS)
def test_outcomes_equal_a_walk_over_all_events_and_wait_for_their_window(
    events: list[Event],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder))
        append(lake, events)

        materialize(lake, LABEL.daily(), stale_days(lake, LABEL.daily()))

        kept = [event for event in events if event[2] > -100]
        last = max(at for _, at, _ in events)
        first = min(_day_of(at) for _, at, _ in events)
        expected = {}
        t = datetime(first.year, first.month, first.day, tzinfo=UTC) + _DAY
        while t + 3 * _DAY <= last:
            for k in {k for k, at, _ in kept if t - 5 * _DAY < at <= t}:
                ahead = [x for key, at, x in kept if key == k and t < at <= t + 3 * _DAY]
                expected[k, t] = math.fsum(ahead)
            t += _DAY
        got = {(row["k"], row["event_time"]): row for row in rows(lake, "shop/labels")}
        assert got.keys() == expected.keys()
        for key, value in expected.items():
            assert got[key]["label"] == pytest.approx(value, abs=1e-6)
            assert got[key]["created_time"] == key[1] + 3 * _DAY


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(batches=st.lists(_EVENTS, min_size=2, max_size=4), data=st.data())
def test_increments_in_any_order_equal_a_full_rebuild_bit_for_bit(
    batches: list[list[Event]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        stepwise, at_once = Lake(Path(one)), Lake(Path(other))
        for batch in batches:
            append(stepwise, batch)
            for definition in (VIEW.daily(), LABEL.daily()):
                stale = stale_days(stepwise, definition)
                # Some of the days now and the rest later: what is left must stay stale.
                now = data.draw(st.lists(st.sampled_from(stale), unique=True)) if stale else []
                materialize(stepwise, definition, now)
        append(at_once, [event for batch in batches for event in batch])
        for lake in (stepwise, at_once):
            for definition in (VIEW.daily(), LABEL.daily()):
                materialize(lake, definition, stale_days(lake, definition))
                assert stale_days(lake, definition) == []

        for table in ("shop/features", "shop/labels"):
            assert rows(stepwise, table) == rows(at_once, table)


def _stale_after(lake: Lake, definition: DailyTable, late: Event) -> list[str]:
    materialize(lake, definition, stale_days(lake, definition))
    append(lake, [late])
    return [day.isoformat() for day in stale_days(lake, definition)]


def test_a_late_event_makes_stale_only_the_days_whose_windows_reach_it(lake: Lake) -> None:
    append(lake, [("a", _START + n * _DAY + timedelta(hours=12), 1.0) for n in range(60)])

    late = ("a", datetime(2024, 1, 10, 9, tzinfo=UTC), 5.0)

    assert _stale_after(lake, VIEW.daily(), late) == [
        (date(2024, 1, 10) + n * _DAY).isoformat() for n in range(28)
    ]
    late = ("a", datetime(2024, 1, 20, 9, tzinfo=UTC), 5.0)
    assert _stale_after(lake, LABEL.daily(), late) == [
        (date(2024, 1, 17) + n * _DAY).isoformat() for n in range(8)
    ]


def test_a_materialized_view_joins_what_computing_gives_at_days_ends(lake: Lake) -> None:
    append(
        lake, [(k, _START + n * _DAY + timedelta(hours=9), n + 0.5) for n in range(9) for k in "ab"]
    )
    view = replace(VIEW, prefix="my_", derived=(Derived.of("twice", "total_7d * 2"),))
    materialize(lake, view.daily(), stale_days(lake, view.daily()))
    ends = [_START + n * _DAY for n in range(1, 10)]
    spine = pl.DataFrame(
        [(k, t) for k in "ab" for t in ends], schema=["k", "event_time"], orient="row"
    )

    computed, read = (
        training_frame(spine, [each], lake=lake).collect() for each in (view, view.materialized())
    )

    assert computed.equals(read)
    assert computed["my_twice"].to_list() == (computed["my_total_7d"] * 2).to_list()


def test_days_without_events_are_still_computed(lake: Lake) -> None:
    append(lake, [("a", _START + timedelta(hours=1), 1.0), ("a", _START + 3 * _DAY, 1.0)])

    materialize(lake, VIEW.daily(), stale_days(lake, VIEW.daily()))

    days = pl.DataFrame(rows(lake, "shop/features"))["event_time"].dt.date().to_list()
    assert days == [date(2024, 1, 2), date(2024, 1, 3), date(2024, 1, 4)]


def test_a_changed_definition_makes_every_day_stale(lake: Lake) -> None:
    append(lake, [("a", _START + n * _DAY + timedelta(hours=1), 1.0) for n in range(5)])
    materialize(lake, VIEW.daily(), stale_days(lake, VIEW.daily()))
    changed = FeatureView(
        table=VIEW.table,
        entity=VIEW.entity,
        source=VIEW.source,
        event_time=VIEW.event_time,
        features=VIEW.features,
        where="x > 0",
    )

    assert len(stale_days(lake, changed.daily())) == 5


def test_days_of_events_that_are_all_gone_lose_their_rows(lake: Lake) -> None:
    append(lake, [("a", _START + n * _DAY + timedelta(hours=1), 1.0) for n in range(5)])
    materialize(lake, VIEW.daily(), stale_days(lake, VIEW.daily()))
    source = Table(lake, "shop/events").snapshot()
    source.commit([], source.files, application="erase")

    materialize(lake, VIEW.daily(), stale_days(lake, VIEW.daily()))

    assert Table(lake, VIEW.table).snapshot().rows == 0
    assert stale_days(lake, VIEW.daily()) == []
