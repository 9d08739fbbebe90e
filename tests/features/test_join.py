"""The point-in-time join, case by case and against a slow, obviously right reference."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.dataset as pads
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.features import JoinedView, point_in_time_join
from penstock.tables import sql

Row = tuple[str | None, int, int | None, int]
"""Key, event time, created time, value; times in microseconds."""

_VIEW_SCHEMA = pa.schema(
    [
        ("k", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
        ("known", pa.timestamp("us", "UTC")),
        ("v", pa.int64()),
    ]
)


def join(
    spine: Sequence[tuple[str | None, int]],
    view: Sequence[Row],
    *,
    created: bool = True,
    ttl_us: int | None = None,
) -> list[int | None]:
    """The value that each spine row gets, in the spine's order."""
    names = ("k", "at", "known", "v")
    columns = zip(*view, strict=True) if view else ([], [], [], [])
    arrays = [pa.array(c, _VIEW_SCHEMA.field(n).type) for n, c in zip(names, columns, strict=True)]
    joined = JoinedView(
        "view",
        pads.dataset(pa.table(arrays, schema=_VIEW_SCHEMA)),
        ("k",),
        "at",
        ("v",),
        created_time="known" if created else None,
        ttl_us=ttl_us,
    )
    rows = pa.table(
        {
            "k": pa.array([k for k, _ in spine], pa.string()),
            "event_time": pa.array([t for _, t in spine], pa.timestamp("us", "UTC")),
            "n": list(range(len(spine))),
        }
    )
    with sql.connect() as connection:
        connection.register("spine", rows)
        query = point_in_time_join(connection, "spine", [joined])
        found = connection.sql(f"SELECT n, v FROM ({query}) ORDER BY n").fetchall()
    assert [n for n, _ in found] == list(range(len(spine)))
    return [v for _, v in found]


def reference(
    spine: Sequence[tuple[str | None, int]], view: Sequence[Row], ttl_us: int | None
) -> list[int | None]:
    """For each spine row, the newest of all rows known by its time."""
    values: list[int | None] = []
    for key, t in spine:
        known = [
            (at, -1 if created is None else created, v)
            for k, at, created, v in view
            if k == key and key is not None and at <= t and (created is None or created <= t)
        ]
        newest = max(known, default=None)
        is_fresh = newest is not None and (ttl_us is None or t - newest[0] <= ttl_us)
        values.append(newest[2] if newest and is_fresh else None)
    return values


_KEYS = st.sampled_from(["a", "b", None])
_TIMES = st.integers(0, 12)


@settings(max_examples=150, deadline=None)
@given(
    spine=st.lists(st.tuples(_KEYS, _TIMES), min_size=1, max_size=15),
    view=st.lists(
        st.tuples(_KEYS, _TIMES, st.one_of(st.none(), _TIMES), st.integers(0, 99)), max_size=25
    ),
    ttl_us=st.one_of(st.none(), st.integers(0, 6)),
)
def test_the_join_equals_a_walk_over_all_rows(
    spine: list[tuple[str | None, int]], view: list[Row], ttl_us: int | None
) -> None:
    assert join(spine, view, ttl_us=ttl_us) == reference(spine, view, ttl_us)


@settings(max_examples=50, deadline=None)
@given(
    spine=st.lists(st.tuples(_KEYS, _TIMES), min_size=1, max_size=15),
    view=st.lists(st.tuples(_KEYS, _TIMES, st.none(), st.integers(0, 99)), max_size=25),
    later=st.lists(
        st.tuples(_KEYS, st.integers(13, 30), st.none(), st.integers(0, 99)), max_size=9
    ),
)
def test_rows_after_a_spine_rows_time_never_change_its_values(
    spine: list[tuple[str | None, int]], view: list[Row], later: list[Row]
) -> None:
    assert join(spine, view, created=False) == join(spine, [*view, *later], created=False)


def test_a_row_at_the_very_time_is_included() -> None:
    assert join([("a", 5)], [("a", 5, None, 1)]) == [1]


def test_a_row_a_microsecond_later_is_not() -> None:
    assert join([("a", 5)], [("a", 6, None, 1)]) == [None]


def test_the_edge_of_the_ttl_is_included() -> None:
    assert join([("a", 15), ("a", 16)], [("a", 5, None, 1)], ttl_us=10) == [1, None]


def test_a_late_row_does_not_leak_into_the_past() -> None:
    # It happened at 5 and was known at 20: at 10 the older row is all there was.
    view: list[Row] = [("a", 1, 1, 100), ("a", 5, 20, 500)]

    assert join([("a", 10), ("a", 20)], view) == [100, 500]


def test_ties_on_event_time_go_to_the_newest_created() -> None:
    view: list[Row] = [("a", 5, 6, 1), ("a", 5, 8, 2), ("a", 5, 7, 3)]

    assert join([("a", 7), ("a", 9)], view) == [3, 2]


def test_null_keys_match_nothing_and_repeated_spine_rows_stay() -> None:
    assert join([(None, 9), ("a", 9), ("a", 9)], [(None, 1, None, 7), ("a", 1, None, 8)]) == [
        None,
        8,
        8,
    ]


def test_a_large_spine_is_joined_in_order_of_its_size() -> None:
    # Rows of an Arrow table are not counted beforehand; a nested loop here would take minutes.
    rows = 60_000
    view: list[Row] = [(f"k{n % 500}", n, None, n) for n in range(rows)]

    found = join([(f"k{n % 500}", n) for n in range(rows)], view, created=False)

    assert found == list(range(rows))
