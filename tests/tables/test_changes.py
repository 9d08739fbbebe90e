"""The change feed and constraints: what a version did, and what none may."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import Lake, validate
from penstock.errors import CommitConflict, ConstraintBroken, LakeError
from penstock.ingest import ingest
from penstock.tables import (
    Table,
    add_constraint,
    append,
    changes,
    clone,
    delete,
    drop_constraint,
    enable_change_feed,
    enable_deletion_vectors,
    optimize,
    overwrite,
    replace_where,
    upsert,
    vacuum,
)
from penstock.tables.change_feed import CHANGE_FEED, TIME, VERSION
from penstock.tables.log import path_of
from tests.conftest import Shop

Rows = dict[int, tuple[str, int]]
_SOME = st.dictionaries(st.integers(0, 12), st.tuples(st.sampled_from("abc"), st.integers(0, 4)))
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), _SOME),
        st.tuples(st.just("delete"), st.integers(0, 4)),
        st.tuples(st.just("replace"), _SOME),
        st.tuples(st.just("overwrite"), _SOME),
        st.tuples(st.just("optimize"), st.none()),
    ),
    max_size=6,
)


def frame(rows: Rows) -> pl.DataFrame:
    values = [(key, name, n) for key, (name, n) in rows.items()]
    return pl.DataFrame(
        values, schema={"id": pl.Int64, "name": pl.String, "n": pl.Int64}, orient="row"
    )


def read(table: Table, first: int, last: int | None = None) -> pl.DataFrame:
    batches = [pl.DataFrame(pl.from_arrow(batch)) for batch in changes(table, first, last)]
    return pl.concat(batches) if batches else pl.DataFrame()


def replayed(table: Table, first: int) -> Rows:
    """The rows that the changes since a version add up to, in the order of versions."""
    found: Rows = {}
    all_changes = read(table, first)
    if all_changes.is_empty():
        return found
    for _, version in sorted(
        all_changes.partition_by("_commit_version", as_dict=True).items(), key=lambda item: item[0]
    ):
        gone = version.filter(pl.col("_change_type").is_in(["delete", "update_preimage"]))
        for key, name, n in gone.select("id", "name", "n").rows():
            assert found.pop(key) == (name, n)
        come = version.filter(pl.col("_change_type").is_in(["insert", "update_postimage"]))
        for key, name, n in come.select("id", "name", "n").rows():
            assert key not in found
            found[key] = (name, n)
    return found


@pytest.mark.parametrize("partitions", [[], ["name"]])
@settings(deadline=None, max_examples=12)
@given(steps=_STEPS)
def test_the_feed_adds_up_to_the_rows(
    tmp_path_factory: pytest.TempPathFactory, partitions: list[str], steps: list[tuple[str, Rows]]
) -> None:
    table = Table(Lake(tmp_path_factory.mktemp("feed")), "shop/prices")
    table.create(frame({}).to_arrow().schema, partition_by=partitions)
    begun = enable_change_feed(table).version
    model: Rows = {}
    for step, what in steps:
        match step:
            case "upsert":
                upsert(table, frame(what), ["id"])
                model |= what
            case "delete":
                delete(table, f"n = {what}")
                model = {key: row for key, row in model.items() if row[1] != what}
            case "replace":
                others = {key: row for key, row in what.items() if key not in model}
                low = {key: (name, 0) for key, (name, _) in others.items()}
                replace_where(table, "n = 0", frame(low))
                model = {key: row for key, row in model.items() if row[1] != 0} | low
            case "overwrite":
                overwrite(table, frame(what))
                model = dict(what)
            case _:
                optimize(table)
        rows = table.snapshot().scan().select("id", "name", "n").collect().rows()
        assert {key: (name, n) for key, name, n in rows} == model
    assert replayed(table, begun) == model


def test_an_upsert_tells_old_values_from_new(lake: Lake) -> None:
    table = Table(lake, "shop/prices")
    append(table, frame({1: ("a", 1), 2: ("b", 2), 3: ("c", 3)}))
    enable_change_feed(table)
    given = pl.DataFrame({"id": [1, 2, 9], "n": [10, 0, 90]})

    done = upsert(table, given, ["id"], delete_where="n = 0")

    told = read(table, done.version).sort("id", "_change_type")
    assert told.select("id", "name", "n", "_change_type").rows() == [
        (1, "a", 10, "update_postimage"),
        (1, "a", 1, "update_preimage"),
        (2, "b", 2, "delete"),
        (9, None, 90, "insert"),
    ]
    assert done.rows_deleted == 1


def test_a_file_that_changed_is_told_by_bronze_and_table(shop: Shop) -> None:
    shop.write_orders("a.csv", 3)
    shop.write_orders("b.csv", 2, first=10)
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)
    tables = [Table(shop.lake, name) for name in ("shop/orders_raw", "shop/orders")]
    begun = [enable_change_feed(table).version for table in tables]
    shop.write_orders("a.csv", 2, first=2)

    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    for table, first, key in zip(tables, begun, ("id", "order_id"), strict=True):
        told = read(table, first).select("_change_type", key).sort(pl.all()).rows()
        assert told == [
            ("delete", "o0"),
            ("delete", "o1"),
            ("delete", "o2"),
            ("insert", "o2"),
            ("insert", "o3"),
        ]


def test_a_table_without_a_feed_says_how_to_have_one(lake: Lake) -> None:
    table = Table(lake, "shop/prices")
    append(table, frame({1: ("a", 1)}))
    with pytest.raises(LakeError, match=r"version 0 has no change feed; enable_change_feed"):
        read(table, 0)


def test_marks_tell_their_changes_without_files_of_them(lake: Lake) -> None:
    table = Table(lake, "shop/prices")
    append(table, frame({n: ("a", n) for n in range(10)}))
    enable_deletion_vectors(table)
    enable_change_feed(table)
    upsert(table, frame({1: ("a", 0)}), ["id"])
    version = upsert(table, frame({2: ("b", 0)}), ["id"]).version
    told = replayed_steps(table, version)
    entry = lake.objects.get(path_of(table.key, version))
    rest = [line for line in entry.splitlines() if b'"cdc"' not in line]
    lake.objects.put(path_of(table.key, version), b"\n".join(rest))  # as some engines leave it

    assert told == [(2, "a", 2, "update_preimage"), (2, "b", 0, "update_postimage")]
    assert replayed_steps(table, version) == [(2, "a", 2, "delete"), (2, "b", 0, "insert")]


def replayed_steps(table: Table, version: int) -> list[tuple[Any, ...]]:
    """What a version did to rows, old values first."""
    return read(table, version, version).sort("n", descending=True).drop(VERSION, TIME).rows()


def test_versions_without_a_feed_are_named(lake: Lake) -> None:
    table = Table(lake, "shop/prices")
    append(table, frame({1: ("a", 1)}))
    begun = enable_change_feed(table).version
    table.snapshot().configure({CHANGE_FEED: None}, writer_version=4, feature="changeDataFeed")
    delete(table, "id = 1")

    with pytest.raises(LakeError, match=f"version {begun + 1} turned its change feed off"):
        read(table, begun)
    enable_change_feed(table)
    with pytest.raises(LakeError, match="comes after the last"):
        read(table, begun, begun - 1)


def test_a_refused_write_leaves_no_file_of_changes(lake: Lake) -> None:
    table = Table(lake, "shop/prices")
    append(table, frame({1: ("a", 1), 2: ("b", 2)}))
    enable_change_feed(table)
    add_constraint(table, "few", "n < 100")

    with pytest.raises(ConstraintBroken, match=r"constraint few \(n < 100\) is broken by .*500"):
        upsert(table, frame({1: ("a", 500)}), ["id"])

    assert vacuum(table, keep=timedelta(0)).files_deleted == 0


# Constraints


def test_a_commit_that_breaks_a_constraint_is_refused(lake: Lake) -> None:
    table = Table(lake, "shop/prices")
    append(table, frame({1: ("a", 1)}))
    add_constraint(table, "positive", "n > 0 AND name <> 'z'")
    before = table.snapshot().version

    for write in (
        lambda: append(table, frame({2: ("b", 0)})),
        lambda: overwrite(table, frame({2: ("z", 5)})),
        lambda: upsert(table, frame({1: ("a", -1)}), ["id"]),
        lambda: append(table, pl.DataFrame({"id": [3]})),  # null is not true
    ):
        with pytest.raises(ConstraintBroken, match="positive"):
            write()
    append(table, frame({2: ("b", 2)}))

    assert table.snapshot().version == before + 1
    folder = lake.objects.local_path(table.key)
    assert folder is not None
    assert len(list(folder.glob("*.parquet"))) == 2
    assert DeltaTable(table.uri).protocol().min_writer_version == 3


def test_a_constraint_that_rows_break_is_not_added(lake: Lake) -> None:
    table = Table(lake, "shop/prices")
    append(table, frame({1: ("a", 1), 2: ("b", -2)}))
    with pytest.raises(LakeError, match=r"positive: n > 0: broken by .*-2.*take such rows out"):
        add_constraint(table, "positive", "n > 0")
    with pytest.raises(LakeError, match="constraint odd: n >>: "):
        add_constraint(table, "odd", "n >>")
    with pytest.raises(LakeError, match="constraint other: "):
        add_constraint(table, "other", "no_such_column > 0")
    delete(table, "n < 0")
    add_constraint(table, "positive", "n > 0")
    with pytest.raises(LakeError, match="there is a constraint positive: n > 0"):
        add_constraint(table, "positive", "n > 1")
    drop_constraint(table, "positive")
    append(table, frame({5: ("e", -5)}))
    with pytest.raises(LakeError, match="no constraint positive; there are: none"):
        drop_constraint(table, "positive")


def test_a_constraint_is_kept_as_it_was_given(lake: Lake) -> None:
    """Whoever rewrites it, as deltalake does, keeps another one."""
    table = Table(lake, "shop/prices")
    append(table, frame({1: ("a", 3)}))
    rules = ("n / 2 = 1.5 OR n > 7", "cast(n AS double) > 1", "trim(name) <> ''")
    for number, rule in enumerate(rules):
        add_constraint(table, f"rule{number}", rule)
        assert table.snapshot().constraints[f"rule{number}"] == rule
        append(table, frame({2: ("b", 3)}))
    with pytest.raises(ConstraintBroken, match="rule0"):
        append(table, frame({3: ("b", 4)}))
    assert DeltaTable(table.uri).protocol().min_writer_version == 3


def test_a_table_with_a_constraint_and_a_feed_widens(lake: Lake) -> None:
    table = Table(lake, "shop/prices")
    append(table, frame({1: ("a", 3), 2: ("b", 4)}).with_columns(pl.col("n").cast(pl.Int32)))
    add_constraint(table, "positive", "n > 0")
    begun = enable_change_feed(table).version

    append(table, frame({3: ("c", 2**40)}))

    assert table.snapshot().schema.field("n").type == pa.int64()
    told = read(table, begun)
    assert told.select("id", "_change_type").rows() == [(3, "insert")]


def test_a_feed_that_is_enabled_meanwhile_is_not_passed_by(lake: Lake) -> None:
    table = Table(lake, "shop/prices")
    append(table, frame({1: ("a", 1), 2: ("b", 2)}))
    before = table.snapshot()
    enable_change_feed(table)
    with pytest.raises(CommitConflict, match="changed the table's"):
        before.commit([], before.files, application="delete")
    delete(table, "n = 1")
    assert read(table, table.snapshot().version)["_change_type"].to_list() == ["delete"]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pl.String, ["a", None, "b_c", "None"]),
        (pl.Int64, [1, None, -3, 0]),
        (pl.Boolean, [True, None, False, True]),
        (pl.Date, [date(2024, 3, 1), None, date(1969, 12, 31), date(2024, 3, 2)]),
        (pl.Datetime("us", "UTC"), [datetime(2024, 3, 1, 10, 0, 0, 5, UTC), None, None, None]),
    ],
)
def test_partitions_of_any_value_are_kept(lake: Lake, kind: Any, values: list[Any]) -> None:
    table = Table(lake, "shop/prices")
    rows = pl.DataFrame({"id": range(4), "p": pl.Series(values, dtype=kind)})
    append(table, rows.clear(), partition_by=["p"])
    begun = enable_change_feed(table).version
    append(table, rows)
    upsert(table, pl.DataFrame({"id": [1], "p": pl.Series([values[0]], dtype=kind)}), ["id"])
    delete(table, "id = 3")

    expected = [(0, values[0]), (1, values[0]), (2, values[2])]
    assert table.snapshot().scan().select("id", "p").sort("id").collect().rows() == expected
    other = pl.DataFrame(pl.from_arrow(DeltaTable(table.uri).to_pyarrow_dataset().to_table()))
    assert other.select("id", "p").sort("id").rows() == expected
    told = read(table, begun + 2).filter(pl.col("_change_type") == "update_preimage")
    assert told.select("id", "p").rows() == [(1, None)]


def test_a_table_of_another_engine_that_names_columns_otherwise_is_refused(lake: Lake) -> None:
    table = Table(lake, "shop/prices")
    append(table, frame({1: ("a", 1)}))
    folder = lake.objects.local_path(table.key)
    assert folder is not None
    protocol = {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": ["columnMapping"],
        "writerFeatures": ["columnMapping"],
    }
    log = folder / "_delta_log" / f"{1:020d}.json"
    log.write_text(json.dumps({"protocol": protocol}))
    with pytest.raises(LakeError, match="asks of its readers columnMapping"):
        clone(table, "shop/copy")
    with pytest.raises(LakeError, match="columnMapping"):
        append(table, frame({2: ("b", 2)}))
