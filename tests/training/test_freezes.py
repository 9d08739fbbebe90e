"""What a freeze refuses, by name and before rows are read; freezes that go wrong, and after."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from penstock import Lake, Table
from penstock.errors import CommitConflict, FeatureError, TableNotFound
from penstock.features import Derived, FeatureView, Value, registry
from penstock.labels import LabelSet
from penstock.tables import append, delete
from penstock.training import (
    ColumnSplit,
    GroupSplit,
    Sample,
    Spine,
    TimeSplit,
    diff,
    freeze,
    publish,
    rebuild,
)
from penstock.training import split as split_module
from tests.training.test_specs import CUSTOMER, NEXT_WEEK, SPEC, SPENT, changed, orders

STRATIFIED = changed(
    split=GroupSplit("customer", test=0.25, validation=0.25, stratify="country"),
    views=(SPENT,),
    derived=(),
)


@pytest.fixture
def shop(lake: Lake) -> Lake:
    """A lake with sixty days of orders."""
    append(Table(lake, "shop/orders"), orders().to_arrow())
    return lake


def _later(customers: range) -> pl.DataFrame:
    new = orders(customers=len(customers))
    return new.with_columns(pl.col("customer") + customers.start)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"where": "nosuch > 1"}, "nosuch"),
        ({"where": "country"}, "where=, weight= or sample= can't be worked out"),
        ({"weight": "nosuch"}, "nosuch"),
        ({"weight": "country"}, "weight= is String and no number"),
        ({"derived": (Derived.of("d", "nosuch + 1"),)}, "d is derived from nosuch"),
        ({"split": ColumnSplit("nosuch")}, "no column nosuch to split them by"),
        ({"split": ColumnSplit("customer")}, "customer is Int64; it may be train"),
        ({"split": GroupSplit("customer", test=0.2, stratify="nosuch")}, "no column nosuch"),
        ({"sample": Sample(of_label={"a": 0.5})}, "sample= can't be worked out"),
        (
            {"labels": NEXT_WEEK.__class__("shop/n", CUSTOMER, "shop/orders", "nosuch", "amount",
                                          horizon="7d", population="7d")},
            "has no column nosuch",
        ),
    ],
    ids=lambda given: str(given)[:30],
)  # fmt: skip
def test_what_cannot_be_frozen_is_said_and_no_table_made(
    shop: Lake, how: dict[str, Any], said: str
) -> None:
    with pytest.raises(FeatureError, match=said):
        freeze(shop, changed(**how))
    assert Table(shop, SPEC.table).snapshot_or_none() is None


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"split": GroupSplit("label", test=0.2)}, "label is a column of every training set"),
        ({"split": GroupSplit("event_time", test=0.2)}, "event_time is a column of every"),
        ({"derived": (Derived.of("label", "spent_7d"),)}, "the feature label has the name of"),
        ({"derived": (Derived.of("spent_7d", "1"),)}, "spent_7d has the name of another feature"),
        (
            {"views": (FeatureView("shop/v", CUSTOMER, "shop/orders", "at", ("customer",)),)},
            "the feature customer has the name of a key",
        ),
    ],
    ids=["group", "time", "label", "twice", "key"],
)
def test_names_that_are_taken_are_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(FeatureError, match=said):
        changed(**how)


def test_a_spines_own_label_is_not_taken_for_the_one_asked_for(shop: Lake) -> None:
    labels = pl.DataFrame(
        {"customer": [0], "event_time": [orders()["at"][0]], "label": [1.0]}
    ).with_columns(
        label_source=pl.lit("a"), confidence=pl.lit(1.0), created_time=pl.col("event_time")
    )
    append(Table(shop, "shop/labels"), labels.to_arrow())
    spine = Spine("shop/orders", "SELECT *, amount AS label FROM orders", event_time="at")
    with pytest.raises(FeatureError, match="has a column label of its own"):
        freeze(shop, changed(labels=LabelSet("shop/labels", CUSTOMER), spine=spine))


def test_a_spine_row_without_a_time_is_named(shop: Lake) -> None:
    untimed = orders().head(1).with_columns(at=pl.lit(None, pl.Datetime("us", "UTC")))
    append(Table(shop, "shop/orders"), untimed.to_arrow())
    with pytest.raises(FeatureError, match="have no event_time"):
        freeze(shop, SPEC)


def test_whole_numbers_beyond_floats_are_rounded(shop: Lake) -> None:
    view = FeatureView(
        "shop/big",
        CUSTOMER,
        "shop/orders",
        "at",
        (Value.of("cast(amount as bigint) + 16777217", "big"),),
    )
    freeze(shop, changed(views=(view,), derived=()))
    found = Table(shop, SPEC.table).snapshot().scan().collect()["big"]
    assert found.dtype == pl.Float32
    assert found.min() >= 16_777_216


def test_a_dataset_without_weights_has_none_though_it_once_had(shop: Lake) -> None:
    weighted = changed(weight="amount_weight", derived=(Derived.of("amount_weight", "spent_7d"),))
    one = publish(shop, weighted, freeze(shop, weighted)).manifest
    other = publish(shop, SPEC, freeze(shop, SPEC)).manifest

    assert ("weight" in one.schema.names, "weight" in other.schema.names) == (True, False)


def test_rows_taken_out_of_a_frozen_table_are_frozen_again(shop: Lake) -> None:
    first = freeze(shop, SPEC)
    delete(Table(shop, SPEC.table), "customer = 3")

    again = freeze(shop, SPEC)

    assert (again.is_new, again.fingerprint, again.rows) == (True, first.fingerprint, first.rows)
    publish(shop, SPEC, again)


def test_versions_of_tables_that_are_not_read_are_refused(shop: Lake) -> None:
    with pytest.raises(FeatureError, match=r"does not read shop/order;.*Did you mean shop/orders"):
        freeze(shop, SPEC, versions={"shop/order": 0})


def test_a_table_made_anew_is_not_the_one_that_was_frozen(shop: Lake) -> None:
    first = freeze(shop, SPEC)
    table = Table(shop, "shop/orders")
    shop.objects.delete([entry.key for entry in shop.objects.list(table.key)])
    append(table, orders(customers=20).to_arrow())
    append(table, _later(range(20, 22)).to_arrow())

    with pytest.raises(TableNotFound, match="shop/orders was made anew since"):
        rebuild(shop, SPEC, first.inputs)


def test_strata_are_rebuilt_to_the_same_fingerprint_after_new_groups(shop: Lake) -> None:
    first = freeze(shop, STRATIFIED)
    append(Table(shop, "shop/orders"), _later(range(40, 60)).to_arrow())
    freeze(shop, STRATIFIED)

    again = rebuild(shop, STRATIFIED, first.inputs)

    assert (again.fingerprint, again.rows) == (first.fingerprint, first.rows)


def test_groups_dealt_by_two_runs_at_once_are_settled_by_one(
    shop: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real = [0], split_module._dealt
    before = freeze(shop, STRATIFIED)

    def _slow(lake: Lake, name: str, split: GroupSplit) -> Any:
        found = real(lake, name, split)
        asked[0] += 1
        if asked[0] == 1:  # another run deals more, and freezes wholly, meanwhile
            append(Table(lake, "shop/orders"), _later(range(40, 60)).to_arrow())
            freeze(lake, STRATIFIED)
        return found

    append(Table(shop, "shop/orders"), _later(range(60, 61)).to_arrow())
    monkeypatch.setattr(split_module, "_dealt", _slow)
    freeze(shop, STRATIFIED)

    (versions,) = [
        {
            row["customer"]: row["split"]
            for row in Table(shop, SPEC.table).snapshot(v).scan().collect().iter_rows(named=True)
        }
        for v in [Table(shop, SPEC.table).snapshot().version]
    ]
    for version in range(before.version, Table(shop, SPEC.table).snapshot().version):
        rows = Table(shop, SPEC.table).snapshot(version).scan().collect()
        for customer, split in rows.select("customer", "split").unique().iter_rows():
            assert versions[customer] == split


def test_dealing_over_anothers_groups_is_a_conflict(shop: Lake) -> None:
    rows = orders().select("customer", "country")
    assert isinstance(STRATIFIED.split, GroupSplit)
    one = split_module.dealt_groups(shop, "shop/value", STRATIFIED.split, rows)
    other = split_module.dealt_groups(shop, "shop/value", STRATIFIED.split, rows.head(5))
    split_module.keep_groups(shop, "shop/value", one)
    with pytest.raises(CommitConflict, match="another run dealt groups"):
        split_module.keep_groups(shop, "shop/value", other)


def test_repeated_rows_and_features_gone_are_counted_right(shop: Lake) -> None:
    append(Table(shop, "shop/orders"), orders().to_arrow())  # every order twice
    spec = changed(views=(SPENT,), derived=(Derived.of("half", "spent_7d / 2"),))
    first = freeze(shop, spec)
    less = changed(views=(SPENT,), derived=(), where="customer < 20")
    second = freeze(shop, less)

    same = diff(shop, "shop/value", first.fingerprint, first.fingerprint)
    found = diff(shop, "shop/value", first.fingerprint, second.fingerprint)

    total = sum(first.rows.values())
    assert (same.added, same.removed, same.changed, same.moved) == (0, 0, 0, 0)
    assert (found.added, found.removed, found.changed) == (0, total // 2, 0)
    assert "no column half any more" in str(found)


def test_an_outcome_worked_out_on_a_spine_is_written_down(shop: Lake) -> None:
    freeze(shop, SPEC)
    assert registry.history(shop, "shop/next_week")


def test_a_split_without_rows_is_warned_of(shop: Lake, caplog: pytest.LogCaptureFixture) -> None:
    freeze(shop, changed(split=TimeSplit(test=0.05, validation=0.05)))
    assert "no row falls into the validation split" in caplog.text


def test_tables_of_many_columns_are_frozen_by_their_last_ones(lake: Lake) -> None:
    wide = orders().select(
        *(pl.col("amount").alias(f"x{n}") for n in range(40)), "customer", "country", "at", "amount"
    )
    append(Table(lake, "shop/orders"), wide.to_arrow())

    assert sum(freeze(lake, SPEC).rows.values()) > 0
    low, high = Table(lake, "shop/orders").snapshot().bounds("at")
    assert (low, high) == (orders()["at"].min(), orders()["at"].max())


def test_bounds_without_statistics_are_those_of_the_rows(lake: Lake) -> None:
    import deltalake

    wide = orders().select(*(pl.lit(n).alias(f"x{n}") for n in range(40)), "at")
    table = Table(lake, "shop/wide")
    deltalake.write_deltalake(table.uri, wide.to_arrow())

    assert "at" not in table.snapshot().files[0].lowest
    assert table.snapshot().bounds("at") == (orders()["at"].min(), orders()["at"].max())
    assert table.snapshot().bounds("x3") == (3, 3)
