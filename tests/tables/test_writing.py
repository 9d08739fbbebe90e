"""Writes against a model in memory: whatever is done, in whatever order, it has those rows."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, cast
from unittest import mock

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import Lake
from penstock.errors import LakeError, StorageError, TableNotFound
from penstock.tables import (
    Snapshot,
    Table,
    append,
    changes,
    delete,
    enable_change_feed,
    enable_deletion_vectors,
    optimize,
    overwrite,
    replace_where,
    restore,
    schema_history,
    upsert,
)
from penstock.tables import upserting as upserting_module

Model = dict[int, tuple[str | None, int]]


def _frame(rows: Model) -> pl.DataFrame:
    values = [(key, name, n) for key, (name, n) in rows.items()]
    schema = {"id": pl.Int64, "name": pl.String, "n": pl.Int32}
    return pl.DataFrame(values, schema=schema, orient="row")


def _rows(table: Table) -> Model:
    frame = table.snapshot().scan().collect()
    found = {key: (name, n) for key, name, n in frame.select("id", "name", "n").rows()}
    assert len(found) == frame.height, "a row is there twice"
    return found


_VALUE = st.tuples(st.none() | st.sampled_from("abc"), st.integers(-5, 5))
_SOME = st.dictionaries(st.integers(0, 40), _VALUE, max_size=12)
_OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), _SOME),
        st.tuples(st.just("append"), _SOME),
        st.tuples(st.just("delete"), st.integers(-5, 5)),
        st.tuples(st.just("replace"), _SOME),
        st.tuples(st.just("overwrite"), _SOME),
        st.tuples(st.just("optimize"), st.sampled_from(["", "n", "id,n"])),
        st.tuples(st.just("restore"), st.integers(0, 20)),
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=60)
@given(_OPERATIONS, st.booleans())
def test_the_table_is_the_model(
    tmp_path_factory: pytest.TempPathFactory, operations: list, has_vectors: bool
) -> None:
    with mock.patch.object(upserting_module, "_GONE", 0.7):  # so that small files keep vectors
        _check_against_a_model(tmp_path_factory.mktemp("lake"), operations, has_vectors)


def _check_against_a_model(folder: Path, operations: list, has_vectors: bool) -> None:
    table = Table(Lake(folder), "some/table")
    model: Model = {}
    table.create(pa.schema([("id", pa.int64()), ("name", pa.string()), ("n", pa.int32())]))
    versions: dict[int, Model] = {0: {}}
    if has_vectors:
        versions[enable_deletion_vectors(table).version] = {}
    for what, given_ in operations:
        before = table.snapshot()
        match what:
            case "upsert":
                done = upsert(table, _frame(given_), ["id"])
                assert done.rows_updated == len(model.keys() & given_.keys())
                assert done.rows_inserted == len(given_.keys() - model.keys())
                model = model | given_
            case "append":
                fresh = {key: v for key, v in given_.items() if key not in model}
                append(table, _frame(fresh))
                model = model | fresh
            case "delete":
                done = delete(table, f"n < {given_}")
                left = {key: v for key, v in model.items() if v[1] >= given_}
                assert done.rows_deleted == len(model) - len(left)
                model = left
            case "replace":
                fresh = {key: v for key, v in given_.items() if v[1] > 0}
                left = {key: v for key, v in model.items() if v[1] <= 0}
                fresh = {key: v for key, v in fresh.items() if key not in left}
                replace_where(table, "n > 0", _frame(fresh))
                model = left | fresh
            case "overwrite":
                overwrite(table, _frame(given_))
                model = dict(given_)
            case "optimize":
                optimize(table, z_order_by=[*filter(None, given_.split(","))])
            case _:
                known = [version for version in versions if version <= given_]
                restore(table, known[-1])
                model = versions[known[-1]]
        assert _rows(table) == model
        now = table.snapshot()
        assert now.rows == len(model)
        assert now.read(now.files, ["id"]).select(pl.len()).collect().item() == len(model)
        assert _rows_at(table, before.version) == versions[before.version]
        versions[table.snapshot().version] = dict(model)
    named = {file.path for v in versions for file in table.snapshot(v).files}
    there = {p.name for p in (Path(table.lake.uri) / table.key).glob("*.parquet")}
    assert there == named, "a file that no version names was left"


def _rows_at(table: Table, version: int) -> Model:
    frame = table.snapshot(version).scan().collect()
    return {key: (name, n) for key, name, n in frame.select("id", "name", "n").rows()}


def test_columns_that_an_upsert_lacks_stay(lake: Lake) -> None:
    table = Table(lake, "some/table")
    append(table, _frame({1: ("a", 1), 2: ("b", 2)}))

    upsert(
        table, pl.DataFrame({"id": [2, 3], "n": [20, 30]}, schema_overrides={"n": pl.Int32}), ["id"]
    )

    assert _rows(table) == {1: ("a", 1), 2: ("b", 20), 3: (None, 30)}


def test_an_upsert_takes_out_what_it_is_told_to(lake: Lake) -> None:
    table = Table(lake, "some/table")
    append(table, _frame({1: ("a", 1), 2: ("b", 2), 3: ("c", 3)}))

    done = upsert(
        table, _frame({2: (None, -1), 3: ("z", 9), 7: (None, -1)}), ["id"], delete_where="n < 0"
    )

    assert _rows(table) == {1: ("a", 1), 3: ("z", 9)}
    assert (done.rows_inserted, done.rows_updated, done.rows_deleted) == (0, 1, 1)


def test_only_files_that_hold_a_key_are_copied(lake: Lake) -> None:
    table = Table(lake, "some/table")
    for start in range(0, 1000, 100):
        append(table, _frame(dict.fromkeys(range(start, start + 100), ("a", 1))))
    before = {file.path for file in table.snapshot().files}

    done = upsert(table, _frame({550: ("b", 2), 2000: ("c", 3)}), ["id"])

    assert (done.files_removed, done.rows_updated, done.rows_inserted) == (1, 1, 1)
    assert len(before & {file.path for file in done.snapshot.files}) == 9


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ({"id": [1, 1], "n": [1, 2]}, "1 keys are there twice, such as {'id': 1}"),
        ({"id": [None, 1], "n": [1, 2]}, r"a key \(id\) is null"),
        ({"other": [1]}, "the rows have no column id"),
    ],
)
def test_keys_that_name_no_row_are_refused(lake: Lake, rows: dict, what: str) -> None:
    table = Table(lake, "some/table")
    append(table, _frame({1: ("a", 1)}))
    frame = pl.DataFrame(rows, schema_overrides={"id": pl.Int64} if "id" in rows else None)

    with pytest.raises(LakeError, match=what):
        upsert(table, frame, ["id"])
    assert _rows(table) == {1: ("a", 1)}


def test_rows_outside_of_what_is_replaced_are_refused(lake: Lake) -> None:
    table = Table(lake, "some/table")
    append(table, _frame({1: ("a", 1), 2: ("b", -2)}))

    with pytest.raises(LakeError, match="1 of the new rows are outside of what is replaced"):
        replace_where(table, "n > 0", _frame({5: ("c", 5), 6: ("d", -6)}))

    assert _rows(table) == {1: ("a", 1), 2: ("b", -2)}
    assert len([*(Path(lake.uri) / table.key).glob("*.parquet")]) == 1


def test_a_column_that_is_not_there_or_of_another_type_is_refused(lake: Lake) -> None:
    table = Table(lake, "some/table")
    append(table, _frame({1: ("a", 1)}))

    with pytest.raises(LakeError, match="column n is int32 in the table and string"):
        append(table, pl.DataFrame({"id": [1], "n": ["x"]}))
    wider = append(table, pl.DataFrame({"id": [2], "colour": ["red"]}))

    rows = wider.snapshot.scan().collect().sort("id")
    assert rows["colour"].to_list() == [None, "red"]
    upsert(table, pl.DataFrame({"id": [1], "colour": ["blue"]}), ["id"])
    delete(table, "colour = 'green'")
    optimize(table)
    rows = table.snapshot().scan().collect().sort("id")
    assert rows.select("id", "name", "colour").rows() == [(1, "a", "blue"), (2, None, "red")]


def test_partitions_are_written_and_rewritten_apart(lake: Lake) -> None:
    table = Table(lake, "some/table")
    rows = pl.DataFrame(
        {"day": [date(2024, 3, n % 3 + 1) for n in range(30)], "id": range(30), "n": [1] * 30}
    )
    append(table, rows, partition_by=["day"])
    assert len(table.snapshot().files) == 3

    delete(table, "day = DATE '2024-03-01' AND id < 10")
    upsert(table, rows.filter(pl.col("id") == 5).with_columns(n=pl.lit(7, pl.Int64)), ["day", "id"])
    optimize(table, sort_by=["id"])

    found = table.snapshot().scan().collect().sort("id")
    assert found["id"].to_list() == [n for n in range(30) if n % 3 or n >= 10]
    assert found.filter(id=5)["n"].to_list() == [7]
    assert {file.partition["day"] for file in table.snapshot().files} == {
        "2024-03-01",
        "2024-03-02",
        "2024-03-03",
    }


def test_a_time_names_the_version_of_then(lake: Lake) -> None:
    table = Table(lake, "some/table")
    append(table, _frame({1: ("a", 1)}))
    then = datetime.now(UTC)
    append(table, _frame({2: ("a", 1)}))

    assert table.snapshot(then).rows == 1
    assert table.snapshot(datetime.now(UTC)).rows == 2
    with pytest.raises(LakeError, match="say the time zone"):
        table.snapshot(datetime(2024, 1, 1))
    with pytest.raises(LakeError, match="has no version as of 1999"):
        table.snapshot(datetime(1999, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("has_vectors", [False, True])
def test_writers_at_once_lose_and_double_nothing(lake: Lake, has_vectors: bool) -> None:
    table = Table(lake, "some/table")
    append(table, _frame(dict.fromkeys(range(100), ("start", 0))))
    if has_vectors:
        enable_deletion_vectors(table)
    began = threading.Barrier(6)

    def write(number: int) -> None:
        began.wait()
        for turn in range(4):
            own = 1000 * (number + 1) + turn
            match number % 3:
                case 0:
                    append(table, _frame({own: ("append", 1)}))
                case 1:
                    upsert(
                        table, _frame({own: ("new", 1), turn * 6 + number: ("up", number)}), ["id"]
                    )
                case _:
                    delete(table, f"id = {50 + turn * 6 + number}")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))

    rows = _rows(table)
    expected = dict.fromkeys(range(100), ("start", 0))
    for number in range(6):
        for turn in range(4):
            match number % 3:
                case 0:
                    expected[1000 * (number + 1) + turn] = ("append", 1)
                case 1:
                    expected[1000 * (number + 1) + turn] = ("new", 1)
                    expected[turn * 6 + number] = ("up", number)
                case _:
                    expected.pop(50 + turn * 6 + number, None)
    assert rows == expected


def test_a_write_that_is_killed_in_between_changes_nothing(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(lake, "some/table")
    append(table, _frame({n: ("a", n) for n in range(10)}))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(upserting_module._Merge, "inserted", killed)
        upsert(table, _frame({3: ("b", 3)}), ["id"])

    assert _rows(table)[3] == ("a", 3)
    assert len([*(Path(lake.uri) / table.key).glob("*.parquet")]) == 1


def test_types_widen_in_one_commit_and_their_history_is_kept(lake: Lake) -> None:
    table = Table(lake, "some/table")
    first = pl.DataFrame({"id": [1, 2], "n": [1, None], "day": [date(2024, 3, 1), None]})
    append(table, first.with_columns(pl.col("n").cast(pl.Int32)))
    append(table, first.with_columns(pl.col("id") + 2, pl.col("n").cast(pl.Int32)))
    wide = pa.schema(
        [
            ("id", pa.int64()),
            ("n", pa.float64()),
            ("day", pa.timestamp("us", "UTC")),
            ("x", pa.string()),
        ]
    )

    table.create(wide)
    append(table, pl.DataFrame({"id": [9], "n": [0.5], "x": ["new"]}))

    rows = table.snapshot().scan().collect().sort("id")
    assert rows["n"].to_list() == [1.0, None, 1.0, None, 0.5]
    assert rows["day"][0] == datetime(2024, 3, 1, tzinfo=UTC)
    assert table.snapshot(2).scan().collect().schema["n"] == pl.Int32
    changes = schema_history(table)
    assert [change.changed for change in changes] == [
        (),
        ("n integer to double", "day date to timestamp"),
        (),
    ]
    assert changes[-1].added == ("x string",)
    with pytest.raises(LakeError, match="column x is string in the table and int64 in its"):
        table.create(pa.schema([("x", pa.int64())]))


def test_a_number_that_has_no_exact_counterpart_is_not_widened(lake: Lake) -> None:
    table = Table(lake, "some/table")
    append(table, pl.DataFrame({"id": [2**60 + 1]}))

    with pytest.raises(LakeError, match="can't be widened"):
        table.create(pa.schema([("id", pa.float64())]))
    assert table.snapshot().scan().collect()["id"].to_list() == [2**60 + 1]
    assert len([*(Path(lake.uri) / table.key).glob("*.parquet")]) == 1


def test_a_log_that_cant_be_read_on_is_told_by_the_tables_name(lake: Lake) -> None:
    class Broken:  # as deltalake is where the store goes away between two answers
        def version(self) -> int:
            return 0

        def transaction_version(self, _: str) -> int:
            raise OSError("Kernel error -> Generic S3 error")

        get_add_actions = transaction_version

    snapshot = Snapshot(Table(lake, "shop/orders"), cast("Any", Broken()))

    with pytest.raises(StorageError, match="shop/orders: Kernel error"):
        snapshot.transaction("ingest/x")


def test_a_predicate_about_other_rows_is_refused(lake: Lake) -> None:
    table = Table(lake, "shop/prices")
    append(table, pl.DataFrame({"id": [1, 2, 2]}))
    before = table.snapshot().version
    for predicate in (
        "id = MAX(id)",
        "id = (select 1)",
        ~pl.col("id").is_first_distinct(),
    ):
        with pytest.raises(LakeError, match="says of a row depends on others"):
            delete(table, predicate)
        with pytest.raises(LakeError, match="says of a row depends on others"):
            replace_where(table, predicate, pl.DataFrame({"id": [2]}))
    assert table.snapshot().version == before
    ids = pl.Series([2])
    assert delete(table, pl.col("id").is_in(ids.implode())).rows_deleted == 2


NO_CONDITIONS = {
    "price >": "unable to parse",
    "price > 1; drop table x": "unexpected token ';'",
    "bogus > 1": 'unable to find column "bogus"; valid columns:.*"price"',
    "price = 'x'": "cannot compare string with numeric type",
    "price + 1": "must be of type `Boolean`",
    "": "unable to parse",
    "nosuch(price)": "unsupported function 'nosuch'",
    "cast(name as int) > 1": "conversion from `str` to `i32` failed",
}


@pytest.mark.parametrize(("predicate", "why"), NO_CONDITIONS.items(), ids=NO_CONDITIONS.keys())
def test_a_predicate_that_is_no_condition_is_refused(lake: Lake, predicate: str, why: str) -> None:
    table = Table(lake, "shop/prices")
    rows = pl.DataFrame({"id": [1], "price": [2.0], "name": ["a"]})
    version = append(table, rows).version
    for what, write in {
        "delete": lambda: delete(table, predicate),
        "replace_where": lambda: replace_where(table, predicate, rows),
        "upsert": lambda: upsert(table, rows, ["id"], delete_where=predicate),
    }.items():
        with pytest.raises(LakeError, match=rf"(?s)shop/prices: {what}\(.*{why}.*condition such"):
            write()
    assert table.snapshot().version == version


@pytest.mark.parametrize("rows", [{"id": [1]}, [1, 2], "rows", 5, None, [{"id": 1}]], ids=repr)
def test_what_is_no_rows_is_refused(lake: Lake, rows: Any) -> None:
    table = Table(lake, "shop/prices")
    for write in (append, overwrite, lambda table, rows: upsert(table, rows, ["id"])):
        with pytest.raises(LakeError, match="is not rows to write; give a polars frame"):
            write(table, rows)
    assert table.snapshot_or_none() is None


@pytest.mark.parametrize("version", [-1, 2, 2**70])
def test_a_version_that_is_not_there_is_named(lake: Lake, version: int) -> None:
    table = Table(lake, "shop/prices")
    append(table, pl.DataFrame({"id": [1]}))
    for read in (table.snapshot, lambda at: restore(table, at), lambda at: [*changes(table, at)]):
        with pytest.raises(TableNotFound, match=f"has no version {version}; the newest is 1"):
            read(version)


@pytest.mark.parametrize("has_vectors", [False, True], ids=["copies", "vectors"])
@pytest.mark.parametrize(
    ("flag", "predicate"),
    [
        ([True, False], "gone"),
        ([True, False], pl.col("gone")),
        (["D", "U"], "gone = 'D' and price < 100"),
        (["D", "U"], "gone = 'D' and id > 0"),
    ],
    ids=["sql", "expression", "with_a_column", "with_the_key"],
)
def test_a_column_that_only_says_what_goes_stays_outside(
    lake: Lake, flag: list[Any], predicate: str | pl.Expr, has_vectors: bool
) -> None:
    table = Table(lake, "shop/prices")
    append(table, pl.DataFrame({"id": [1, 2], "price": [1.0, 2.0]}))
    if has_vectors:
        enable_deletion_vectors(table)
    begun = enable_change_feed(table).version
    rows = pl.DataFrame({"id": [1, 2], "price": [5.0, 6.0], "new": ["a", "b"], "gone": flag})

    done = upsert(table, rows, ["id"], delete_where=predicate)

    assert (done.rows_deleted, done.rows_updated) == (1, 1)
    found = table.snapshot().scan().collect()
    assert found.to_dicts() == [{"id": 2, "price": 6.0, "new": "b"}]
    assert all("gone" not in batch.schema.names for batch in changes(table, begun))
    upsert(Table(lake, "shop/made"), rows, ["id"], delete_where="price > 5")
    assert Table(lake, "shop/made").snapshot().schema.names == rows.columns


def test_a_predicate_of_pythons_may_take_no_rows_amiss(lake: Lake) -> None:
    table = Table(lake, "shop/t")
    append(table, pl.DataFrame({"id": [1, 2], "v": ["a", "b"]}))
    first = pl.col("v").map_batches(lambda s: s == s[0], return_dtype=pl.Boolean)

    assert delete(table, first).rows_deleted == 1
    assert table.snapshot().scan().collect()["id"].to_list() == [2]
