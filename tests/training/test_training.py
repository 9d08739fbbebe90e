"""Training sets: pinned, split without leaking, the same name for the same rows."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import Lake, Table, TimeSplit, TrainingSet, freeze, load_dataset, publish
from penstock.errors import FeatureError
from penstock.features import Sum, materialize, stale_days
from penstock.training import TimeCuts
from tests.features.test_windows import _DAY, _START, LABEL, VIEW, Event, append

SPEC = TrainingSet("shop/demand", LABEL, (VIEW.materialized(),), TimeSplit(test=0.3))


def _events(days: int, first: int = 0) -> list[Event]:
    return [
        (key, _START + n * _DAY + timedelta(hours=12), float(n + shift))
        for n in range(first, first + days)
        for shift, key in enumerate("abc")
    ]


def refresh(lake: Lake) -> None:
    """Recompute what is stale."""
    for definition in (VIEW.daily(), LABEL.daily()):
        materialize(lake, definition, stale_days(lake, definition))


@pytest.fixture
def filled(lake: Lake) -> Lake:
    """A lake with forty days of features and labels."""
    append(lake, _events(40))
    refresh(lake)
    return lake


def test_freezing_twice_writes_nothing_the_second_time(filled: Lake) -> None:
    first, second = freeze(filled, SPEC), freeze(filled, SPEC)

    assert (first.is_new, second.is_new) == (True, False)
    assert first.fingerprint == second.fingerprint
    assert first.version == second.version


def test_publishing_twice_gives_the_same_fingerprint_and_writes_nothing(filled: Lake) -> None:
    first = publish(filled, SPEC, freeze(filled, SPEC))
    objects = {info.key: info.etag for info in filled.objects.list("datasets")}

    second = publish(filled, SPEC, freeze(filled, SPEC))

    assert (first.is_new, second.is_new) == (True, False)
    assert first.manifest.fingerprint == second.manifest.fingerprint
    assert {info.key: info.etag for info in filled.objects.list("datasets")} == objects


def test_a_publish_that_was_killed_is_done_again(filled: Lake) -> None:
    frozen = freeze(filled, SPEC)
    first = publish(filled, SPEC, frozen).manifest
    folder = f"datasets/shop/demand/{first.fingerprint}"
    filled.objects.delete([f"{folder}/manifest.json"])
    filled.objects.put(f"{folder}/shard-00000.arrow", b"half")

    again = publish(filled, SPEC, frozen)

    assert again.is_new
    assert again.manifest.shards == first.shards


def test_inputs_are_pinned_to_versions(filled: Lake) -> None:
    frozen = freeze(filled, SPEC)

    assert {name: pin["version"] for name, pin in frozen.inputs.items()} == {
        "shop/features": Table(filled, "shop/features").snapshot().version,
        "shop/labels": Table(filled, "shop/labels").snapshot().version,
    }
    append(filled, _events(1, first=40))
    refresh(filled)
    assert freeze(filled, SPEC).fingerprint != frozen.fingerprint


def test_another_spec_is_another_fingerprint(filled: Lake) -> None:
    other = dataclasses.replace(SPEC, where="total_7d > 50")

    assert freeze(filled, SPEC).fingerprint != freeze(filled, other).fingerprint


def test_features_and_labels_are_of_the_rows_own_time(filled: Lake) -> None:
    publish(filled, SPEC, freeze(filled, SPEC))
    rows = load_dataset("shop/demand", lake=filled).batch(10_000).to("numpy")

    (batch,) = rows
    names = VIEW.feature_names
    last_day = batch["features"][:, names.index("total_1d")]
    # Key "a" sells n on day n: the day before t sold what total_1d says, and the next three follow.
    shift = {"a": 0, "b": 1, "c": 2}
    for key, sold, label in zip(batch["k"], last_day, batch["label"], strict=True):
        day = sold - shift[key]
        assert label == sum(day + ahead + shift[key] for ahead in (1, 2, 3))


def test_no_label_of_train_reaches_into_test(filled: Lake) -> None:
    publish(filled, SPEC, freeze(filled, SPEC))

    train, test = (
        next(iter(load_dataset("shop/demand", split=split, lake=filled).batch(10_000)))
        for split in ("train", "test")
    )

    horizon_us = 3 * 86_400_000_000
    assert train["event_time"].max() + horizon_us <= test["event_time"].min()


def test_later_rows_move_no_row_to_another_split(filled: Lake) -> None:
    def splits(lake: Lake) -> dict[tuple[object, ...], str]:
        frame = Table(lake, SPEC.table).snapshot().scan().collect()
        return {(k, t): split for k, t, split in frame.select("k", "event_time", "split").rows()}

    freeze(filled, SPEC)
    before = splits(filled)
    append(filled, _events(30, first=40))
    refresh(filled)
    freeze(filled, SPEC)
    after = splits(filled)

    assert len(after) > len(before)
    assert {row: after[row] for row in before} == before
    assert {after[row] for row in after.keys() - before.keys()} == {"test"}


@given(
    t=st.integers(0, 10_000),
    test_from=st.integers(100, 9_000),
    gap=st.integers(0, 90),
    embargo=st.integers(0, 50),
)
def test_splits_of_time_never_overlap(t: int, test_from: int, gap: int, embargo: int) -> None:
    cuts = TimeCuts(test_from - gap, test_from, embargo)
    time = pl.DataFrame({"t": [t]}).select(pl.col("t").cast(pl.Datetime("us", "UTC")))
    split = time.select(cuts.of(pl.col("t"))).item()

    if t >= test_from:
        assert split == "test"
    elif t > test_from - embargo:
        assert split is None
    elif split == "validation":
        assert t >= test_from - gap
    elif split == "train":
        assert t + embargo <= test_from - gap


def test_a_training_set_over_nothing_says_what_is_missing(lake: Lake) -> None:
    with pytest.raises(FeatureError, match=r"shop/labels has no labelled row yet. .* 3d after"):
        freeze(lake, SPEC)


def test_labels_that_are_all_still_open_say_so(lake: Lake) -> None:
    append(lake, _events(2))
    refresh(lake)

    with pytest.raises(FeatureError, match="no labelled row yet"):
        freeze(lake, SPEC)


def test_a_first_freeze_made_too_early_spoils_no_later_one(lake: Lake) -> None:
    append(lake, _events(5))
    refresh(lake)
    with pytest.raises(FeatureError, match="none falls into the train split"):
        freeze(lake, SPEC)
    assert Table(lake, SPEC.table).snapshot().rows == 0

    append(lake, _events(40, first=5))
    refresh(lake)

    assert freeze(lake, SPEC).rows["train"] > 0


def test_freezers_at_once_never_double_a_row(filled: Lake) -> None:
    with ThreadPoolExecutor(4) as pool:
        frozen = list(pool.map(lambda _: freeze(filled, SPEC), range(4)))

    assert len({(f.fingerprint, f.version) for f in frozen}) == 1
    assert Table(filled, SPEC.table).snapshot().rows == sum(frozen[0].rows.values())


def test_rows_of_something_else_are_never_published(filled: Lake) -> None:
    frozen = freeze(filled, SPEC)
    other = freeze(filled, dataclasses.replace(SPEC, where="total_7d > 50"))

    with pytest.raises(FeatureError, match="Freeze again"):
        publish(filled, SPEC, dataclasses.replace(frozen, version=other.version))
    assert filled.dataset_names() == []


def test_a_feature_added_and_one_taken_away_change_the_table_and_the_dataset(filled: Lake) -> None:
    publish(filled, SPEC, freeze(filled, SPEC))
    view = dataclasses.replace(VIEW, features=(Sum("x", ("1d", "2d"), "total"), VIEW.features[2]))
    spec = dataclasses.replace(SPEC, views=(view.materialized(),))
    materialize(filled, view.daily(), stale_days(filled, view.daily()))

    manifest = publish(filled, spec, freeze(filled, spec)).manifest

    assert manifest.feature_names == ["total_1d", "total_2d", "mean_7d"]
    assert manifest.schema.names == ["features", "k", "event_time", "label"]
    assert manifest.statistics["nulls"][:2] == [0, 0]
    rows = load_dataset("shop/demand", lake=filled)[:]["features"]
    assert (rows[:, 1] >= rows[:, 0]).all()


def test_a_longer_horizon_leaves_no_label_of_the_shorter(filled: Lake) -> None:
    longer = dataclasses.replace(LABEL, horizon="10d")
    materialize(filled, longer.daily(), stale_days(filled, longer.daily()))

    labels = Table(filled, LABEL.table).snapshot().scan().collect()

    waited = labels.select((pl.col("created_time") - pl.col("event_time")).unique()).to_series()
    assert waited.to_list() == [timedelta(days=10)]


def test_two_views_with_a_feature_of_one_name_are_refused() -> None:
    with pytest.raises(
        FeatureError, match="shop/features and shop/features both have a feature total_1d"
    ):
        TrainingSet("shop/demand", LABEL, (VIEW, VIEW), TimeSplit(test=0.3))


def test_the_frozen_rows_are_in_order(filled: Lake) -> None:
    freeze(filled, SPEC)

    frame = Table(filled, SPEC.table).snapshot().scan().collect()

    assert frame.equals(frame.sort("event_time", "k"))
    assert frame.filter(pl.struct("k", "event_time").is_duplicated()).is_empty()
