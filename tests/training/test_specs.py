"""Spines, label sets, split policies, samples, weights; comparing and rebuilding freezes."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import Lake, Table, load_dataset
from penstock.errors import FeatureError, TableNotFound
from penstock.features import Derived, Entity, FeatureView, Last, Sum
from penstock.features.hashing import shares_of
from penstock.labels import LabelSet, Outcome
from penstock.tables import append, delete, vacuum
from penstock.training import (
    ColumnSplit,
    GroupSplit,
    Sample,
    Spine,
    TimeSplit,
    TrainingSet,
    diff,
    freeze,
    publish,
    rebuild,
)
from penstock.upkeep import pinned_versions

_START = datetime(2024, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)
CUSTOMER, COUNTRY = Entity("customer", ("customer",)), Entity("country", ("country",))


def orders(days: int = 60, customers: int = 40) -> pl.DataFrame:
    """An order a customer every other day, at noon."""
    rows = [
        (c, "FR" if c % 4 == 0 else "UK", _START + d * _DAY + timedelta(hours=12), float(d + c))
        for d in range(days)
        for c in range(customers)
        if (d + c) % 2 == 0
    ]
    schema = {
        "customer": pl.Int64,
        "country": pl.String,
        "at": pl.Datetime("us", "UTC"),
        "amount": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


SPENT = FeatureView("shop/spent", CUSTOMER, "shop/orders", "at", (Sum("amount", ["7d"], "spent"),))
BY_COUNTRY = FeatureView(
    "shop/by_country",
    COUNTRY,
    "shop/orders",
    "at",
    (Sum("amount", ["7d"], "spent"), Last("country", ["7d"], "name")),
    prefix="country_",
)
NEXT_WEEK = Outcome(
    "shop/next_week",
    CUSTOMER,
    "shop/orders",
    "at",
    expression="amount",
    horizon="7d",
    population="28d",
)
SPEC = TrainingSet(
    "shop/value",
    NEXT_WEEK,
    (SPENT, BY_COUNTRY),
    GroupSplit("customer", test=0.25, validation=0.25),
    spine=Spine("shop/orders", event_time="at"),
    derived=(Derived.of("share", "spent_7d / country_spent_7d"),),
)


def changed(**how: Any) -> TrainingSet:
    """The spec, but for what is given."""
    return replace(SPEC, **how)


@pytest.fixture
def shop(lake: Lake) -> Lake:
    """A lake with sixty days of orders."""
    append(Table(lake, "shop/orders"), orders().to_arrow())
    return lake


def frozen(lake: Lake, spec: TrainingSet) -> pl.DataFrame:
    """The rows that a spec is frozen to."""
    freeze(lake, spec)
    return Table(lake, spec.table).snapshot().scan().collect()


def test_labels_and_windows_are_as_of_each_rows_own_time(shop: Lake) -> None:
    rows = frozen(shop, SPEC)
    all_orders = orders()
    last = all_orders["at"].max()

    assert rows.height == all_orders.filter(pl.col("at") <= last - 7 * _DAY).height
    for row in rows.sample(50, seed=1).iter_rows(named=True):
        mine = all_orders.filter(pl.col("customer") == row["customer"])
        t = row["event_time"]
        ahead = mine.filter(pl.col("at") > t, pl.col("at") <= t + 7 * _DAY)
        back = mine.filter(pl.col("at") > t - 7 * _DAY, pl.col("at") <= t)
        assert row["label"] == ahead["amount"].sum()
        assert row["spent_7d"] == back["amount"].sum()
        assert row["country_name_7d"] == row["country"]
        assert row["share"] == pytest.approx(row["spent_7d"] / row["country_spent_7d"], rel=1e-5)


def test_a_personal_key_stays_known_as_personal(lake: Lake) -> None:
    rows = orders().to_arrow()
    field = pa.field("customer", pa.int64(), metadata={"personal": "true"})
    schema = rows.schema.set(0, field)
    Table(lake, "shop/orders").create(pa.schema(schema))
    append(Table(lake, "shop/orders"), rows)

    manifest = publish(lake, SPEC, freeze(lake, SPEC)).manifest

    assert manifest.schema.field("customer").metadata[b"personal"] == b"true"


def test_nearly_the_same_texts_on_both_sides_of_a_split_are_told(lake: Lake) -> None:
    said = "a story of some length that is told again and again, but for its number"
    rows = orders().with_columns(
        pl.format("{} {}", pl.lit(said), pl.int_range(pl.len()) % 7).alias("country")
    )
    append(Table(lake, "shop/orders"), rows.to_arrow())
    view = replace(BY_COUNTRY, entity=CUSTOMER, prefix="its_")

    spec = changed(views=(SPENT, view), derived=())
    manifest = publish(lake, spec, freeze(lake, spec)).manifest

    found = {(each["kind"], each["column"]) for each in manifest.details["warnings"]}
    assert ("near_duplicates", "its_name_7d") in found


def test_a_query_may_be_the_spine(shop: Lake) -> None:
    query = (
        "SELECT customer, country, max(at) - interval '10 days' AS event_time FROM orders "
        "GROUP BY customer, country"
    )
    rows = frozen(shop, changed(spine=Spine("shop/orders", query)))

    assert rows["customer"].n_unique() == rows.height == 40


def test_a_dataset_has_texts_beside_its_packed_numbers(shop: Lake) -> None:
    manifest = publish(shop, SPEC, freeze(shop, SPEC)).manifest

    assert manifest.feature_names == ["spent_7d", "country_spent_7d", "share"]
    assert manifest.details["spec"] == json.loads(json.dumps(SPEC.definition()))
    batch = next(iter(load_dataset("shop/value", lake=shop).batch(8).to("polars")))
    assert set(batch["country_name_7d"]) <= {"UK", "FR"}


def test_no_group_is_ever_in_two_splits_and_later_rows_move_none(shop: Lake) -> None:
    before = frozen(shop, SPEC).select("customer", "split").unique()
    later = orders(80, 60).join(orders(), on=["customer", "at"], how="anti")
    append(Table(shop, "shop/orders"), later.to_arrow())
    after = frozen(shop, SPEC).select("customer", "split").unique()

    assert before["customer"].is_unique().all()
    assert after["customer"].is_unique().all()
    assert before.join(after, on=["customer", "split"], how="anti").is_empty()
    assert set(after["split"]) == {"train", "validation", "test"}


def test_strata_have_their_shares_and_keep_their_groups(shop: Lake) -> None:
    spec = changed(split=GroupSplit("customer", test=0.3, stratify="country"))
    before = frozen(shop, spec).select("customer", "country", "split").unique()
    counts = before.group_by("country", "split").len().sort("country", "split")

    assert counts.rows() == [
        ("FR", "test", 3),
        ("FR", "train", 7),
        ("UK", "test", 9),
        ("UK", "train", 21),
    ]

    later = orders(80, 80).join(orders(), on=["customer", "at"], how="anti")
    append(Table(shop, "shop/orders"), later.to_arrow())
    after = frozen(shop, spec).select("customer", "country", "split").unique()

    assert before.join(after, on=["customer", "split"], how="anti").is_empty()
    counts = after.group_by("country", "split").len().sort("country", "split")
    assert counts.rows() == [
        ("FR", "test", 6),
        ("FR", "train", 14),
        ("UK", "test", 18),
        ("UK", "train", 42),
    ]


def test_a_column_may_say_the_split_and_nothing_else(shop: Lake) -> None:
    query = (
        "SELECT *, CASE WHEN customer < 30 THEN 'train' WHEN customer < 39 THEN 'test' END AS part "
        "FROM orders"
    )
    spec = changed(split=ColumnSplit("part"), spine=Spine("shop/orders", query, "at"))
    rows = frozen(shop, spec)

    assert rows.filter(pl.col("split") == "train")["customer"].max() == 29
    assert rows["customer"].max() == 38  # null is no split
    wrong = query.replace("'test'", "'holdout'")
    with pytest.raises(FeatureError, match="part is 'holdout' in .* rows; it may be train"):
        freeze(shop, changed(split=ColumnSplit("part"), spine=Spine("shop/orders", wrong, "at")))


def test_an_embargo_is_never_shorter_than_the_horizon(shop: Lake) -> None:
    for embargo, days in (("2d", 7), ("14d", 14)):
        rows = frozen(shop, changed(split=TimeSplit(test=0.3, embargo=embargo)))
        train = rows.filter(pl.col("split") == "train")["event_time"].max()
        test = rows.filter(pl.col("split") == "test")["event_time"].min()
        assert isinstance(train, datetime)
        assert isinstance(test, datetime)
        assert test - train >= days * _DAY


def test_a_sample_keeps_the_same_rows_whatever_comes_and_weighs_them(shop: Lake) -> None:
    spec = changed(sample=Sample(fraction=0.5))
    before = frozen(shop, spec)
    whole = frozen(shop, SPEC)
    append(
        Table(shop, "shop/orders"), orders(80).filter(pl.col("at") >= _START + 60 * _DAY).to_arrow()
    )
    after = frozen(shop, spec)

    keys = ["customer", "event_time"]
    assert 0.4 < before.height / whole.height < 0.6
    assert before.join(after, on=keys, how="anti").is_empty()
    label = float(whole["label"][0])
    weighed = frozen(shop, changed(sample=Sample(of_label={label: 0.25})))
    assert set(weighed["weight"]) == {1.0, 4.0}
    assert (weighed.filter(pl.col("label") == label)["weight"] == 4.0).all()
    assert set(frozen(shop, changed(weight="spent_7d * 0 + 3"))["weight"]) == {3.0}


def test_label_sets_give_one_label_a_row_and_may_be_texts(lake: Lake) -> None:
    append(Table(lake, "shop/orders"), orders().to_arrow())
    times = [_START + d * _DAY for d in range(10, 30)]
    rows = [
        {
            "customer": c,
            "event_time": t,
            "label": label,
            "label_source": source,
            "confidence": sure,
            "created_time": t + timedelta(hours=hours),
        }
        for c in range(20)
        for t in times
        for label, source, sure, hours in (
            ("good", "rule", 1.0, 1),
            ("bad", "ann", 0.9, 2),
            ("worse", "ann", 0.9, 3),
            ("unsure", "ann", 0.2, 9),
            ("spam", "bot", None, 9),
        )
    ]
    append(Table(lake, "shop/labels"), pl.DataFrame(rows).to_arrow())
    every = TrainingSet(
        "shop/judged",
        LabelSet("shop/labels", CUSTOMER),
        (SPENT,),
        GroupSplit("customer", test=0.3),
    )
    assert set(frozen(lake, every)["label"]) == {"good"}
    trusted = TrainingSet(
        "shop/trusted",
        LabelSet("shop/labels", CUSTOMER, sources=("ann", "rule"), min_confidence=0.5),
        (SPENT,),
        GroupSplit("customer", test=0.3),
    )
    found = frozen(lake, trusted)
    assert set(found["label"]) == {"worse"}
    assert found.height == 20 * 20
    publish(lake, trusted, freeze(lake, trusted))
    batch = next(iter(load_dataset("shop/trusted", lake=lake).batch(8).to("polars")))
    assert set(batch["label"]) == {"worse"}


def test_two_freezes_tell_what_differs(shop: Lake) -> None:
    first = freeze(shop, SPEC)
    append(
        Table(shop, "shop/orders"), orders(62).filter(pl.col("at") >= _START + 60 * _DAY).to_arrow()
    )
    second = freeze(shop, SPEC)
    third = freeze(shop, changed(where="spent_7d > 50"))

    grown = diff(shop, "shop/value", first.fingerprint, second.fingerprint)
    assert dict(grown.inputs) == {"shop/orders": (1, 2)}
    assert (grown.added, grown.removed, grown.changed, grown.moved) == (40, 0, 0, 0)
    assert grown.spec == {}
    smaller = diff(shop, "shop/value", second.fingerprint[:12], third.fingerprint[:12])
    assert smaller.spec == {"where": ("true", "spent_7d > 50")}
    assert smaller.removed > 0
    assert "rows added" in str(grown)
    with pytest.raises(FeatureError, match="shop/value has 0 freezes nothing"):
        diff(shop, "shop/value", "nothing", second.fingerprint)


def test_an_old_freeze_is_rebuilt_with_the_same_fingerprint_and_rows(shop: Lake) -> None:
    old = freeze(shop, SPEC)
    rows = Table(shop, SPEC.table).snapshot().scan().collect()
    publish(shop, SPEC, old)
    delete(Table(shop, "shop/orders"), "customer < 10")
    assert freeze(shop, SPEC).fingerprint != old.fingerprint

    again = rebuild(shop, SPEC, old.inputs)

    assert again.fingerprint == old.fingerprint
    assert Table(shop, SPEC.table).snapshot().scan().collect().equals(rows)
    assert pinned_versions(shop)["shop/orders"] == (old.inputs["shop/orders"]["version"],)


def test_a_version_that_vacuum_took_is_named(shop: Lake) -> None:
    old = freeze(shop, SPEC)
    delete(Table(shop, "shop/orders"), "customer < 10")
    vacuum(Table(shop, "shop/orders"), keep=timedelta(0))

    with pytest.raises(TableNotFound, match=r"shop/orders version 1: vacuum has taken 1 of its 1 "):
        rebuild(shop, SPEC, old.inputs)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.one_of(st.none(), st.text(max_size=9)), st.integers(-(2**60), 2**60)),
        min_size=1,
        max_size=30,
    )
)
def test_a_rows_share_depends_on_its_values_alone(rows: list[tuple[str | None, int]]) -> None:
    frame = pl.DataFrame(rows, schema={"a": pl.String, "b": pl.Int64}, orient="row")
    shares = shares_of(frame, 3)

    assert ((shares >= 0) & (shares < 1)).all()
    for i in range(len(rows)):
        assert shares_of(frame[i : i + 1], 3)[0] == shares[i]
    assert shares_of(frame.with_columns(pl.col("b").cast(pl.Int64)), 3).equals(shares)


def test_shares_are_the_same_for_ever_and_even() -> None:
    named = pl.DataFrame({"k": [f"k{n}" for n in range(20_000)], "n": range(20_000)})
    shares = shares_of(named, 0)

    assert [round(x, 6) for x in shares[:3]] == [0.593083, 0.70582, 0.537988]
    assert shares.mean() == pytest.approx(0.5, abs=0.01)
    assert (
        (shares * 10).cast(pl.Int64).value_counts()["count"].cast(pl.Int64) - 2000
    ).abs().max() < 150


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GroupSplit("c", test=0.9, validation=0.2), "must leave some for train"),
        (lambda: GroupSplit((), test=0.2), "needs by="),
        (lambda: Sample(fraction=0.0), "above 0 and at most 1"),
        (lambda: LabelSet("shop/l", CUSTOMER, min_confidence=2), "min_confidence lies between"),
        (
            lambda: TrainingSet("shop/x", NEXT_WEEK, (BY_COUNTRY,), TimeSplit(0.2)),
            "shop/by_country is keyed by country, which shop/next_week lacks; give a spine",
        ),
    ],
    ids=["shares", "no group", "sample", "confidence", "entity"],
)
def test_a_spec_that_cannot_be_is_refused(make: Any, said: str) -> None:
    with pytest.raises(FeatureError, match=said):
        make()


def test_a_label_window_past_the_data_is_said(lake: Lake) -> None:
    append(Table(lake, "shop/orders"), orders(3).to_arrow())
    with pytest.raises(FeatureError, match="no labelled row yet. A label is known 7d after"):
        freeze(lake, changed(split=TimeSplit(0.2)))
    with pytest.raises(FeatureError, match="of 0 rows none falls into the train split"):
        freeze(lake, SPEC)


def test_a_list_is_no_feature_of_a_training_set(shop: Lake) -> None:
    from penstock.features import LastK

    view = FeatureView("shop/l", CUSTOMER, "shop/orders", "at", (LastK("amount", 2, ["7d"]),))
    with pytest.raises(FeatureError, match=r"shop/value: amount_last_k_7d is List\(Float64\)"):
        freeze(shop, changed(views=(view, BY_COUNTRY), derived=()))
