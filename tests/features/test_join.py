"""The point-in-time join, case by case and against a slow, obviously right reference."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import FeatureError
from penstock.features import Derived, Entity, FeatureView, Sum, Value, training_frame

Row = tuple[str | None, int, int | None, int]
"""Key, event time, created time, value; times in microseconds."""

_TIME = pl.Datetime("us", "UTC")
_THING = Entity("thing", ("k",))


def view_of(ttl: str | None = None, *, created: bool = True) -> FeatureView:
    """A view of one value."""
    return FeatureView(
        table="shop/view",
        entity=_THING,
        source="shop/rows",
        event_time="at",
        created_time="known" if created else None,
        ttl=ttl,
        features=("v",),
    )


def spine_of(spine: Sequence[tuple[str | None, int]]) -> pl.DataFrame:
    """Rows of key and time, numbered."""
    return pl.DataFrame(
        {"k": [k for k, _ in spine], "event_time": [t for _, t in spine], "n": range(len(spine))},
        schema={"k": pl.String, "event_time": pl.Int64, "n": pl.Int64},
    ).with_columns(pl.col("event_time").cast(_TIME))


def rows_of(view: Sequence[Row]) -> pl.DataFrame:
    """Rows of a view's source."""
    names = ("k", "at", "known", "v")
    kinds = (pl.String, pl.Int64, pl.Int64, pl.Int64)
    frame = pl.DataFrame(list(view), schema=dict(zip(names, kinds, strict=True)), orient="row")
    return frame.with_columns(pl.col("at", "known").cast(_TIME))


def join(
    spine: Sequence[tuple[str | None, int]],
    view: Sequence[Row],
    *,
    created: bool = True,
    ttl: str | None = None,
    memory_bytes: int = 1 << 30,
) -> list[int | None]:
    """The value that each spine row gets, in the spine's order."""
    found = training_frame(
        spine_of(spine),
        [view_of(ttl, created=created)],
        sources={"shop/rows": rows_of(view)},
        memory_bytes=memory_bytes,
    ).collect()
    assert found["n"].to_list() == list(range(len(spine)))
    return found["v"].to_list()


def reference(
    spine: Sequence[tuple[str | None, int]],
    view: Sequence[Row],
    ttl_us: int | None,
    *,
    created: bool = True,
) -> list[int | None]:
    """For each spine row, the newest of all rows known by its time."""
    values: list[int | None] = []
    for key, t in spine:
        known = [
            (at, -1 if since is None else since, v)
            for k, at, since, v in view
            if k == key
            and key is not None
            and at <= t
            and (not created or (since is not None and since <= t))
        ]
        newest = max(known if created else [(at, 0, v) for at, _, v in known], default=None)
        is_fresh = newest is not None and (ttl_us is None or t - newest[0] <= ttl_us)
        values.append(newest[2] if newest and is_fresh else None)
    return values


_KEYS = st.sampled_from(["a", "b", None])
_SECOND = 1_000_000
_TIMES = st.integers(0, 12).map(lambda s: s * _SECOND)
_SPINES = st.lists(st.tuples(_KEYS, _TIMES), min_size=1, max_size=15)


@settings(max_examples=300, deadline=None)
@given(
    spine=_SPINES,
    view=st.lists(
        st.tuples(_KEYS, _TIMES, st.one_of(st.none(), _TIMES), st.integers(0, 99)), max_size=25
    ),
    ttl=st.one_of(st.none(), st.integers(1, 6)),
    created=st.booleans(),
)
def test_the_join_equals_a_walk_over_all_rows(
    spine: list[tuple[str | None, int]], view: list[Row], ttl: int | None, created: bool
) -> None:
    if not created:
        view = [(k, at, None, v) for k, at, _, v in view]
    expected = reference(spine, view, ttl and ttl * _SECOND, created=created)
    assert join(spine, view, ttl=f"{ttl}s" if ttl else None, created=created) == expected


@settings(max_examples=25, deadline=None)
@given(
    spine=_SPINES,
    view=st.lists(st.tuples(_KEYS, _TIMES, _TIMES, st.integers(0, 99)), max_size=25),
)
def test_parted_on_disk_it_gives_the_same(
    spine: list[tuple[str | None, int]], view: list[Row]
) -> None:
    assert join(spine, view, memory_bytes=100) == join(spine, view)


@settings(max_examples=100, deadline=None)
@given(
    spine=_SPINES,
    view=st.lists(st.tuples(_KEYS, _TIMES, st.none(), st.integers(0, 99)), max_size=25),
    later=st.lists(
        st.tuples(
            _KEYS,
            st.integers(13, 30).map(lambda s: s * _SECOND),
            st.none(),
            st.integers(0, 99),
        ),
        max_size=9,
    ),
)
def test_rows_after_a_spine_rows_time_never_change_its_values(
    spine: list[tuple[str | None, int]], view: list[Row], later: list[Row]
) -> None:
    assert join(spine, view, created=False) == join(spine, [*view, *later], created=False)


def test_a_row_at_the_very_time_is_included() -> None:
    assert join([("a", 5)], [("a", 5, 5, 1)]) == [1]


def test_a_row_a_microsecond_later_is_not() -> None:
    assert join([("a", 5)], [("a", 6, 6, 1)]) == [None]


def test_the_edge_of_the_ttl_is_included() -> None:
    edge = 5 + 10 * _SECOND
    assert join([("a", edge), ("a", edge + 1)], [("a", 5, 5, 1)], ttl="10s") == [1, None]


def test_a_late_row_does_not_leak_into_the_past() -> None:
    # It happened at 5 and was known at 20: at 10 the older row is all there was.
    view: list[Row] = [("a", 1, 1, 100), ("a", 5, 20, 500)]

    assert join([("a", 10), ("a", 20)], view) == [100, 500]


def test_asked_for_event_time_a_late_row_counts_from_then_on() -> None:
    view: list[Row] = [("a", 1, 1, 100), ("a", 5, 20, 500), ("a", 6, None, 600)]
    found = training_frame(
        spine_of([("a", 5), ("a", 10)]),
        [view_of()],
        known_at="event",
        sources={"shop/rows": rows_of(view)},
    )

    assert found.collect()["v"].to_list() == [500, 600]


def test_ties_on_event_time_go_to_the_newest_created() -> None:
    view: list[Row] = [("a", 5, 6, 1), ("a", 5, 8, 2), ("a", 5, 7, 3)]

    assert join([("a", 7), ("a", 9)], view) == [3, 2]


@given(order=st.permutations(range(4)))
@settings(max_examples=24, deadline=None)
def test_rows_alike_in_all_times_do_not_depend_on_the_order_of_files(order: list[int]) -> None:
    rows: list[Row] = [("a", 5, 6, v) for v in (4, 2, 9, 7)]

    assert join([("a", 9)], [rows[i] for i in order]) == [9]


def test_null_keys_match_nothing_and_repeated_spine_rows_stay() -> None:
    assert join([(None, 9), ("a", 9), ("a", 9)], [(None, 1, 1, 7), ("a", 1, 1, 8)]) == [None, 8, 8]


def test_what_nobody_knows_the_creation_of_is_left_out_and_counted() -> None:
    frame = training_frame(
        spine_of([("a", 9), ("b", 9), ("c", 9)]),
        [view_of("5s")],
        sources={
            "shop/rows": rows_of([("a", 1, 1, 7), ("a", 2, None, 8), ("b", -9_000_000, 1, 1)])
        },
    )

    assert frame.collect()["v"].to_list() == [7, None, None]
    (report,) = frame.report
    assert (report.without_created_time, report.matched, report.unmatched) == (1, 1, 2)


@pytest.mark.parametrize("spine_unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("view_unit", ["ms", "us", "ns"])
def test_times_of_other_units_and_zones_are_compared_as_moments(
    spine_unit: str, view_unit: str
) -> None:
    def at(hour: int, zone: str, unit: str) -> pl.Series:
        moment = datetime(2024, 7, 1, hour, tzinfo=UTC)
        return pl.Series([moment]).cast(pl.Datetime(unit, "UTC")).dt.convert_time_zone(zone)

    spine = pl.DataFrame({"k": ["a"], "event_time": at(12, "America/New_York", spine_unit)})
    view = FeatureView("shop/view", _THING, "shop/rows", "at", ("v",))
    for hour, expected in ((12, 1), (13, None)):
        rows = pl.DataFrame({"k": ["a"], "at": at(hour, "Asia/Tokyo", view_unit), "v": [1]})
        found = training_frame(spine, [view], sources={"shop/rows": rows}).collect()
        assert found["v"].to_list() == [expected]


def test_a_nanosecond_later_is_later() -> None:
    spine = pl.DataFrame({"k": ["a"], "event_time": pl.Series([1000]).cast(pl.Datetime("ns"))})
    rows = pl.DataFrame({"k": ["a"], "at": pl.Series([1001]).cast(pl.Datetime("ns")), "v": [1]})
    view = FeatureView("shop/view", _THING, "shop/rows", "at", ("v",))

    assert training_frame(spine, [view], sources={"shop/rows": rows}).collect()["v"][0] is None


def test_a_row_that_is_never_known_is_not_known_in_nanoseconds_either() -> None:
    spine = pl.DataFrame({"k": ["a"], "event_time": [datetime(2024, 1, 1, tzinfo=UTC)]})
    spine = spine.with_columns(pl.col("event_time").dt.cast_time_unit("ns"))
    rows = pl.DataFrame(
        {
            "k": ["a", "a"],
            "at": [datetime(2023, 1, day, tzinfo=UTC) for day in (1, 2)],
            "known": [datetime(2023, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)],
            "v": [1, 2],
        }
    )

    assert training_frame(spine, [view_of()], sources={"shop/rows": rows}).collect()["v"][0] == 1


@pytest.mark.parametrize("memory_bytes", [1 << 30, 1])
def test_nothing_joined_to_nothing_is_nothing(memory_bytes: int) -> None:
    for spine, rows in (([], [("a", 1, 1, 1)]), ([("a", 5)], []), ([], [])):
        assert join(spine, rows, memory_bytes=memory_bytes) == [None] * len(spine)


def test_keys_too_large_for_int64_match_their_own() -> None:
    large = 2**64 - 3
    view = FeatureView("shop/view", _THING, "shop/rows", "at", ("v",))
    time = pl.Series([1, 1]).cast(_TIME)
    rows = pl.DataFrame({"k": pl.Series([large, 5], dtype=pl.UInt64), "at": time, "v": [1, 2]})
    for keys in ([large, 5], [6, 5]):
        spine = pl.DataFrame({"k": pl.Series(keys, dtype=pl.UInt64), "event_time": time})
        found = training_frame(spine, [view], sources={"shop/rows": rows}).collect()
        assert found["v"].to_list() == [1 if keys[0] == large else None, 2]


def test_several_entities_each_keep_to_their_own(tmp_path: Path) -> None:
    spine = pl.DataFrame(
        {
            "who": [1, 2, None, 1],
            "where": ["x", "y", "x", None],
            "event_time": [9, 9, 9, 9],
        }
    ).with_columns(pl.col("event_time").cast(_TIME))
    people = pl.DataFrame({"who": [1, 2], "at": [1, 1], "age": [40, 50]})
    places = pl.DataFrame({"where": ["x", "y"], "at": [1, 10], "rent": [7.5, 8.5]})
    pairs = pl.DataFrame({"who": [1, 2], "where": ["x", "x"], "at": [1, 1], "visits": [3, 4]})
    views = [
        FeatureView("a/people", Entity("person", ("who",)), "a/p", "at", ("age",)),
        FeatureView("a/places", Entity("place", ("where",)), "a/l", "at", ("rent",)),
        FeatureView("a/pairs", Entity("pair", ("who", "where")), "a/v", "at", ("visits",)),
    ]
    sources = {
        name: frame.with_columns(pl.col("at").cast(_TIME))
        for name, frame in (("a/p", people), ("a/l", places), ("a/v", pairs))
    }
    for memory in (1 << 30, 100):
        frame = training_frame(spine, views, sources=sources, memory_bytes=memory)
        found = frame.collect()
        assert found["age"].to_list() == [40, 50, None, 40]
        assert found["rent"].to_list() == [7.5, None, 7.5, None]
        assert found["visits"].to_list() == [3, None, None, None]
        assert frame.write_parquet(tmp_path / "rows.parquet") == 4
        assert pl.read_parquet(tmp_path / "rows.parquet").equals(found)


def test_features_of_features_are_known_when_those_are() -> None:
    spine = spine_of([("a", 5), ("a", 15)])
    events = rows_of([("a", 1, 1, 2), ("a", 10, 10, 3)])
    first = FeatureView("a/one", _THING, "a/rows", "at", (Sum("v", ["1h"], "total"),))
    one = training_frame(spine, [first], sources={"a/rows": events}).collect()
    second = FeatureView(
        "a/two", _THING, "a/one", "event_time", (Value.of("total_1h * 10", "scaled"),)
    )
    later = spine_of([("a", 14), ("a", 16)])

    found = training_frame(later, [second], sources={"a/one": one.drop("n")}).collect()

    assert found["scaled"].to_list() == [20, 50]


def test_derived_features_see_those_of_their_view_and_the_spine() -> None:
    view = FeatureView(
        "a/one",
        _THING,
        "a/rows",
        "at",
        ("v",),
        prefix="thing_",
        derived=(
            Derived.of("per_n", "v / nullif(n, 0)"),
            Derived.of("doubled", lambda frame: frame["v"] * 2, inputs=["v"]),
        ),
    )
    found = training_frame(
        spine_of([("a", 9), ("a", 9)]), [view], sources={"a/rows": rows_of([("a", 1, 1, 8)])}
    ).collect()

    assert found.columns == ["k", "event_time", "n", "thing_v", "thing_per_n", "thing_doubled"]
    assert found["thing_per_n"].to_list() == [None, 8.0]
    assert found["thing_doubled"].to_list() == [16, 16]


def test_a_derived_feature_reads_its_own_view_whatever_others_call_theirs() -> None:
    other = FeatureView("a/other", _THING, "a/others", "at", ("v",))
    view = FeatureView(
        "a/one",
        _THING,
        "a/rows",
        "at",
        ("v",),
        prefix="my_",
        derived=(Derived.of("next", "v + 1"),),
    )
    sources = {"a/rows": rows_of([("a", 1, 1, 8)]), "a/others": rows_of([("a", 1, 1, 70)])}

    found = training_frame(spine_of([("a", 9)]), [other, view], sources=sources).collect()

    assert found.select("v", "my_v", "my_next").row(0) == (70, 8, 9)


_ROWS = rows_of([("a", 1, 1, 1)])


@pytest.mark.parametrize(
    ("spine", "view", "said"),
    [
        (
            pl.DataFrame({"kk": ["a"], "event_time": [datetime(2024, 1, 1, tzinfo=UTC)]}),
            view_of(),
            r"shop/view: its entity thing has the key k, which the spine has no column for",
        ),
        (pl.DataFrame({"k": ["a"]}), view_of(), "the spine has no column event_time"),
        (
            pl.DataFrame({"k": ["a"], "event_time": [datetime(2024, 1, 1)]}),
            view_of(),
            r"shop/view: at and the spine's event_time can't be compared: the spine's has no time",
        ),
        (
            pl.DataFrame({"k": ["a"], "event_time": [datetime(2024, 1, 1).date()]}),
            view_of(),
            "the spine: event_time is Date and no timestamp; a day is not a moment",
        ),
        (
            pl.DataFrame({"k": [7], "event_time": [datetime(2024, 1, 1, tzinfo=UTC)]}),
            view_of(),
            "shop/view: the key k is String in shop/rows and Int64 in the spine; cast one",
        ),
        (
            spine_of([("a", 1)]),
            FeatureView("shop/view", _THING, "shop/rows", "att", ("v",)),
            r"shop/view: its source shop/rows has no column att\. Did you mean at",
        ),
        (
            spine_of([("a", 1)]),
            FeatureView("shop/view", _THING, "shop/rows", "at", (Value.of("w * 2", "x"),)),
            "shop/view: its source shop/rows has no column w",
        ),
        (
            spine_of([("a", 1)]),
            FeatureView("shop/view", _THING, "shop/rows", "at", (Value.of("v", "n"),)),
            'the spine has a column n already; give the view a prefix, .*prefix="thing_"',
        ),
        (
            spine_of([("a", 1)]),
            FeatureView("shop/view", _THING, "shop/rows", "k", ("v",)),
            "shop/view: k is String and no timestamp",
        ),
    ],
    ids=[
        "unknown key",
        "no time",
        "naive against aware",
        "a day",
        "keys of other types",
        "no event time",
        "no such column",
        "a name of the spine's",
        "time is text",
    ],
)
def test_what_cannot_be_joined_is_said_before_a_row_is_read(
    spine: pl.DataFrame, view: FeatureView, said: str
) -> None:
    with pytest.raises(FeatureError, match=said):
        training_frame(spine, [view], sources={"shop/rows": _ROWS})


def test_two_views_with_a_feature_of_one_name_are_refused_with_a_prefix_to_take() -> None:
    other = FeatureView("shop/other", _THING, "shop/rows", "at", ("v",))
    with pytest.raises(
        FeatureError, match=r'shop/view and shop/other both have a feature v; .* prefix="thing_"'
    ):
        training_frame(spine_of([("a", 1)]), [view_of(), other], sources={"shop/rows": _ROWS})


@pytest.mark.parametrize("memory_bytes", [1 << 30, 100])
def test_a_spine_row_without_a_time_is_refused_by_its_place(memory_bytes: int) -> None:
    spine = spine_of([("a", 1), ("a", 2)]).with_columns(
        event_time=pl.when(pl.col("n") == 0).then("event_time")
    )
    frame = training_frame(
        spine, [view_of()], sources={"shop/rows": _ROWS}, memory_bytes=memory_bytes
    )
    with pytest.raises(FeatureError, match=r"1 rows have no event_time \(the first is row 1\)"):
        frame.collect()


@pytest.mark.parametrize("ttl", ["0d", "-1d", "soon"])
def test_a_ttl_that_is_none_is_refused(ttl: str) -> None:
    with pytest.raises(FeatureError, match=r"shop/view: ttl: .* is no length of time"):
        view_of(ttl)


def test_a_view_without_event_time_is_refused() -> None:
    with pytest.raises(FeatureError, match="shop/view: event_time names no column"):
        FeatureView("shop/view", _THING, "shop/rows", "", ("v",))


def test_times_and_entities_too_wide_for_one_number_are_ranked() -> None:
    # Nanoseconds over 250 years leave room for two entities in 63 bits.
    start, end = datetime(1770, 1, 1), datetime(2020, 1, 1)
    keys = [f"k{n}" for n in range(50)]
    moments = [start, end - timedelta(days=1), end]
    rows = pl.DataFrame(
        {"k": keys * 3, "at": [m for m in moments for _ in keys], "v": range(150)}
    ).with_columns(pl.col("at").cast(pl.Datetime("ns")))
    spine = pl.DataFrame(
        {"k": keys * 2, "event_time": [end] * 50 + [end - timedelta(hours=1)] * 50}
    ).with_columns(pl.col("event_time").cast(pl.Datetime("ns")))
    view = FeatureView("shop/view", _THING, "shop/rows", "at", ("v",))

    found = training_frame(spine, [view], sources={"shop/rows": rows}).collect()

    assert found["v"].to_list() == [*range(100, 150), *range(50, 100)]


def test_a_row_tells_which_source_row_gave_it_and_why_no_newer_one_did() -> None:
    view = FeatureView(
        "shop/view",
        _THING,
        "shop/rows",
        "at",
        ("v", Sum("v", ["10s"])),
        created_time="known",
        ttl="1h",
    )
    rows = rows_of(
        [("a", 1, 1, 100), ("a", 5, 20, 500), ("a", 6, None, 600), ("a", 50, 50, 700)]
    ).with_columns(_source_file=pl.lit("day.csv"), _source_row=pl.int_range(pl.len()))
    frame = training_frame(spine_of([("b", 1), ("a", 10)]), [view], sources={"shop/rows": rows})

    (told,) = frame.explain_row(1).views
    (nothing,) = frame.explain_row(0).views

    assert told.values == frame.collect().drop("k", "event_time", "n").to_dicts()[1]
    assert told.chosen is not None
    assert told.chosen.origin == {"_source_file": "day.csv", "_source_row": 0}
    assert [(each.row.origin["_source_row"], each.reason) for each in told.passed_over] == [
        (3, "it happened after the row's time"),
        (2, "nobody knows when it became known"),
        (1, "it was known only after the row's time"),
    ]
    assert [(w.feature, w.events, w.hidden) for w in told.windows] == [("v_sum_10s", 1, 2)]
    assert (nothing.chosen, nothing.why) == (None, "the source has no row of it")
    assert "day.csv, row 0): the newest that was known" in str(frame.explain_row(1))
    with pytest.raises(FeatureError, match="the spine has no row 9"):
        frame.explain_row(9)
