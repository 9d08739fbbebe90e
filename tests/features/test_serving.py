"""Current values: those that a training frame as of now would have."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from penstock import Lake, Table
from penstock.errors import FeatureError
from penstock.features import (
    Derived,
    Entity,
    FeatureView,
    LastK,
    LatestValues,
    Max,
    Mean,
    Sum,
    Value,
    latest,
    refresh,
    training_frame,
)
from penstock.tables import append

_START = datetime(2024, 1, 1, tzinfo=UTC)
_NOW = _START + timedelta(days=9, hours=3)
VIEW = FeatureView(
    "shop/pairs",
    Entity("pair", ("who", "where")),
    "shop/visits",
    "at",
    (
        Sum("spent", ["1d", "7d"]),
        Mean("spent", ["7d"]),
        Max("at", ["7d"], "seen"),
        LastK("spent", 2, ["7d"]),
        Value.of("spent", "newest"),
    ),
    created_time="known",
    ttl="3d",
    prefix="pair_",
    derived=(
        Derived.of("share", "spent_sum_1d / spent_sum_7d"),
        Derived.of("over", lambda f: f["basket"] - f["spent_mean_7d"], ["basket", "spent_mean_7d"]),
    ),
)


@pytest.fixture
def visits(lake: Lake) -> Lake:
    """A lake of visits, some known late."""
    rows = [
        (n % 7, "abc"[n % 3], _START + timedelta(hours=n), _START + timedelta(hours=n + n % 40), n)
        for n in range(240)
    ]
    schema = {
        "who": pl.Int32,
        "where": pl.String,
        "at": pl.Datetime("us", "UTC"),
        "known": pl.Datetime("us", "UTC"),
        "spent": pl.Float64,
    }
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    append(Table(lake, "shop/visits"), frame.to_arrow())
    return lake


def test_current_values_are_those_of_a_training_frame_as_of_now(visits: Lake) -> None:
    done = refresh(visits, VIEW, at=_NOW)
    asked = pl.DataFrame(
        {
            "who": [3, 99, 0, 3, None],
            "where": ["b", "a", "c", "b", "a"],
            "basket": [1.0, 2.0, 3.0, 4.0, 5.0],
        },
        schema_overrides={"who": pl.Int32},
    )

    served = latest(VIEW, asked, lake=visits)

    spine = asked.with_columns(pl.lit(_NOW).cast(pl.Datetime("us", "UTC")).alias("event_time"))
    trained = training_frame(spine, [VIEW], lake=visits).collect().drop("event_time")
    known = pl.Series([True, False, True, True, False])
    assert served.filter(known).equals(trained.filter(known))
    assert served.filter(~known)["pair_spent_sum_7d"].null_count() == 2
    assert done.rows == 21


def test_every_entity_is_found_and_no_other(visits: Lake) -> None:
    refresh(visits, VIEW, at=_NOW)
    every = pl.DataFrame(
        [(who, where) for who in range(-5, 20) for where in "abcd"],
        schema={"who": pl.Int64, "where": pl.String},
        orient="row",
    ).with_columns(basket=pl.lit(0.0))

    found = LatestValues(visits, VIEW).of(every)

    is_known = found["pair_spent_sum_7d"].is_not_null()
    assert is_known.sum() == 21
    assert (
        found.filter(is_known)
        .select("who", "where")
        .equals(
            every.filter(pl.col("who").is_between(0, 6), pl.col("where") != "d").select(
                "who", "where"
            )
        )
    )


def test_values_of_another_definition_or_none_are_refused(visits: Lake) -> None:
    from dataclasses import replace

    with pytest.raises(FeatureError, match="shop/pairs: the current values served are none yet"):
        LatestValues(visits, VIEW)
    refresh(visits, VIEW, at=_NOW)
    with pytest.raises(FeatureError, match="are those of another definition; refresh them"):
        LatestValues(visits, replace(VIEW, ttl="4d"))
    served = LatestValues(visits, VIEW)
    with pytest.raises(FeatureError, match="the key where, which wasn't given"):
        served.of({"who": [1]})
    with pytest.raises(FeatureError, match="the key who is Int64 and was given as String"):
        served.of({"who": ["1"], "where": ["a"]})


def test_refreshing_keeps_the_table_before_for_those_who_read_it(visits: Lake) -> None:
    refresh(visits, VIEW, at=_NOW - timedelta(days=2))
    reader = LatestValues(visits, VIEW)
    before = reader.of({"who": [3], "where": ["b"], "basket": [0.0]})
    for hours in range(3):
        refresh(visits, VIEW, at=_NOW + timedelta(hours=hours))

    files = [e.key for e in visits.objects.list("serving/shop/pairs") if e.key.endswith("arrow")]
    assert len(files) == 2
    assert reader.of({"who": [3], "where": ["b"], "basket": [0.0]}).equals(before)
    assert LatestValues(visits, VIEW).refreshed.at == _NOW + timedelta(hours=2)


def test_values_are_served_from_object_storage(s3_lake: Lake, visits: Lake) -> None:
    rows = Table(visits, "shop/visits").snapshot().scan().collect()
    append(Table(s3_lake, "shop/visits"), rows.to_arrow())
    asked = {"who": [3, 5], "where": ["b", "a"], "basket": [0.0, 0.0]}
    for lake in (s3_lake, visits):
        refresh(lake, VIEW, at=_NOW)

    assert latest(VIEW, asked, lake=s3_lake).equals(latest(VIEW, asked, lake=visits))
