"""Values and logs that are seldom seen: no row is doubled, lost, hidden or brought back."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from deltalake import write_deltalake
from hypothesis import given
from hypothesis import strategies as st

from penstock import Lake
from penstock.errors import ConstraintBroken, ContractError, LakeError, ShardError
from penstock.feed import load_dataset
from penstock.quality.data import scanned
from penstock.tables import (
    Table,
    add_constraint,
    append,
    changes,
    delete,
    enable_change_feed,
    enable_deletion_vectors,
    restore,
    tag,
    upsert,
    vacuum,
)
from penstock.tables import upserting as upserting_module
from penstock.tables.querying import query
from tests.tables.test_deletions import vector_of_its_own


@pytest.fixture(params=[False, True], ids=["copies", "vectors"])
def has_vectors(request: pytest.FixtureRequest) -> bool:
    return request.param


def _ids(*ids: int) -> pl.DataFrame:
    return pl.DataFrame({"id": ids}, schema={"id": pl.Int64})


def _made(lake: Lake, rows: pl.DataFrame, has_vectors: bool = True, **settings: Any) -> Table:
    table = Table(lake, "shop/odd")
    append(table, rows, **settings)
    if has_vectors:
        enable_deletion_vectors(table)
    return table


@pytest.mark.parametrize(
    "name", ["𠮷野", "a" * 63 + "𠮷𠮷", "z" * 64 + "\U0010ffffq", "é😀\U000e0001"]
)
def test_any_character_is_found_again(lake: Lake, name: str, has_vectors: bool) -> None:
    table = _made(
        lake, pl.DataFrame({"name": [f"a{n:02d}" for n in range(50)] + [name]}), has_vectors
    )
    rows = table.snapshot().scan()
    assert rows.filter(pl.col("name") == name).collect().height == 1
    assert query(lake, f"select count(*) n from shop.odd where name = '{name}'") == [{"n": 1}]
    for _ in range(3):
        upsert(table, pl.DataFrame({"name": [name]}), ["name"])
        assert table.snapshot().rows == 51


def test_partitions_of_any_character_are_upserted(lake: Lake, has_vectors: bool) -> None:
    rows = pl.DataFrame({"id": range(50), "at": ["𠮷 = 50 %"] * 50})
    table = _made(lake, rows, has_vectors, partition_by=["at"])
    upsert(table, rows.filter(pl.col("id") == 5), ["id", "at"])
    assert table.snapshot().rows == 50
    assert table.snapshot().scan().collect().sort("id").equals(rows)


@given(st.lists(st.floats(width=32), unique_by=repr, min_size=1, max_size=8), st.booleans())
def test_keys_of_any_float_are_upserted(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], has_vectors: bool
) -> None:
    keys = pl.DataFrame({"k": values}, schema={"k": pl.Float64}).unique()
    stored = pl.concat([keys, pl.DataFrame({"k": [1e300]})])
    table = _made(Lake(tmp_path_factory.mktemp("lake")), stored, has_vectors)
    done = upsert(table, keys, ["k"])
    assert (done.rows_updated, done.rows_inserted) == (keys.height, 0)
    assert table.snapshot().rows == stored.height


def test_keys_of_narrower_types_are_the_tables(lake: Lake, has_vectors: bool) -> None:
    table = _made(lake, pl.DataFrame({"k": [1.0, 2.0], "s": ["a", "b"]}), has_vectors)
    upsert(table, pl.DataFrame({"k": [1], "s": ["a"]}), ["k"])
    kind = pl.Enum(["a", "b"])
    upsert(table, pl.DataFrame({"k": [5.0], "s": pl.Series(["b"], dtype=kind)}), ["s"])
    assert sorted(table.snapshot().scan().collect().rows()) == [(1.0, "a"), (5.0, "b")]


def test_a_column_that_comes_meanwhile_keeps_its_values(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, has_vectors: bool
) -> None:
    table = _made(lake, pl.DataFrame({"id": range(20), "a": [0] * 20}), has_vectors)
    run = upserting_module.Rewriting.run

    def later(self: Any, *arguments: Any, **settings: Any) -> Any:
        monkeypatch.setattr(upserting_module.Rewriting, "run", run)
        rows = pl.DataFrame({"id": range(20), "a": [1] * 20, "extra": range(20)})
        upsert(table, rows, ["id"])
        return run(self, *arguments, **settings)

    monkeypatch.setattr(upserting_module.Rewriting, "run", later)
    upsert(table, pl.DataFrame({"id": [5], "a": [2]}), ["id"])
    rows = table.snapshot().scan().filter(pl.col("id") == 5).collect().rows()
    assert rows == [(5, 2, 5)]


def test_files_without_statistics_are_read_and_written(lake: Lake, has_vectors: bool) -> None:
    table = Table(lake, "shop/odd")
    values = pl.Series([1.25] * 100).cast(pl.Decimal(10, 2)).to_arrow()
    write_deltalake(table.uri, pa.table({"id": pa.array(range(100)), "d": values}))
    log = Path(table.uri) / "_delta_log" / f"{0:020d}.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        action.get("add", {}).pop("stats", None)
    log.write_text("\n".join(map(json.dumps, actions)))
    if has_vectors:
        enable_deletion_vectors(table)
    assert table.snapshot().rows == 100
    upsert(table, _ids(5), ["id"])
    delete(table, "id = 6")
    assert table.snapshot().rows == 99


def test_bounds_that_json_cannot_hold_are_left_out(lake: Lake) -> None:
    table = Table(lake, "shop/odd")
    values = pl.Series([1.25] * 100).cast(pl.Decimal(10, 2)).to_arrow()
    write_deltalake(table.uri, pa.table({"id": pa.array(range(100)), "d": values}))
    enable_deletion_vectors(table)
    upsert(table, _ids(5), ["id"])
    assert table.snapshot().rows == 100


def test_a_filter_on_a_column_without_bounds_finds_its_rows(lake: Lake) -> None:
    rows = _ids(*range(100)).with_columns(
        d=pl.col("id").cast(pl.Decimal(12, 2)),
        f=pl.when(pl.col("id") == 3).then(float("inf")).otherwise(pl.col("id") * 1.0),
        p=pl.col("id") % 2,
    )
    table = _made(lake, rows, has_vectors=False, partition_by=["p"])
    dataset = table.snapshot().dataset()
    assert dataset.to_table(filter=pads.field("d") > Decimal("50.00")).num_rows == 49
    assert dataset.to_table(filter=(pads.field("f") < 50) & (pads.field("p") == 1)).num_rows == 24
    assert query(lake, "select count(*) n from shop.odd where d > 50") == [{"n": 49}]
    assert query(lake, "select count(*) n from shop.odd where f < 50 and p = 0") == [{"n": 25}]
    assert query(lake, "select count(*) n from shop.odd where id > 1000") == [{"n": 0}]


@pytest.mark.parametrize("zone", ["UTC", None])
@pytest.mark.parametrize("writes", ["ours", "deltalake"])
def test_files_are_pruned_by_times_and_none_too_many(
    lake: Lake, zone: str | None, writes: str
) -> None:
    table, first = Table(lake, "shop/odd"), datetime(2024, 1, 1, 0, 0, 0, 1)
    times = [first.replace(day=day, microsecond=n) for day in (1, 2) for n in (1, 1501, 999_999)]
    rows = pl.DataFrame({"at": [*times, datetime.max, None]}).with_columns(
        pl.col("at").dt.replace_time_zone(zone), day=pl.col("at").dt.date()
    )
    for part in (rows[:3], rows[3:6], rows[6:]):
        if writes == "ours":
            append(table, part)
        else:
            write_deltalake(table.uri, part.to_arrow(), mode="append")
    snapshot = table.snapshot()
    dataset = snapshot.dataset()
    for time in rows["at"].drop_nulls():
        at = pa.scalar(time, dataset.schema.field("at").type)
        assert dataset.to_table(filter=pads.field("at") == at).num_rows == 1
        assert (
            dataset.to_table(filter=pads.field("at") >= at).num_rows == (rows["at"] >= time).sum()
        )
    day = pads.field("day") == datetime(2024, 1, 2).date()
    assert dataset.to_table(filter=day).num_rows == 3
    assert len([*dataset.get_fragments(day)]) == 1
    later = pads.field("at") > pa.scalar(rows["at"][3], dataset.schema.field("at").type)
    assert len([*dataset.get_fragments(later)]) < 3
    assert dataset.to_table(filter=pads.field("at").is_null()).num_rows == 1
    wanted = "select count(*) n from shop.odd where \"at\" >= TIMESTAMP '2024-01-02'"
    assert query(lake, wanted) == [{"n": 4}]


def test_statistics_of_marked_files_say_that_bounds_are_loose(lake: Lake) -> None:
    table = _made(lake, _ids(*range(100)))
    upsert(table, _ids(99), ["id"], delete_where="true")
    text = (Path(table.uri) / "_delta_log" / f"{table.snapshot().version:020d}.json").read_text()
    (add,) = [json.loads(line)["add"] for line in text.splitlines() if '"add"' in line]
    assert json.loads(add["stats"])["tightBounds"] is False
    assert table.snapshot().bounds("id") == (0, 98)


def test_the_feed_refuses_a_table_that_hides_rows(lake: Lake) -> None:
    table = _made(lake, _ids(*range(100)))
    assert len(load_dataset(table.uri)) == 100
    upsert(table, _ids(5), ["id"])
    with pytest.raises(ShardError, match="deletion vectors"):
        load_dataset(table.uri)


def test_a_check_by_path_shows_no_row_that_is_gone(lake: Lake) -> None:
    rows = _ids(*range(50)).with_columns(city=pl.lit("New York"))
    table = _made(lake, rows, partition_by=["city"])
    upsert(table, rows.filter(pl.col("id") == 5), ["id"])
    assert scanned(table.snapshot()).collect().height == 50
    with pytest.raises(ContractError, match="polars overlooks deletion vectors"):
        scanned(table.uri)


def _told(table: Table) -> list[str]:
    batches = changes(table, table.snapshot().version)
    rows = [row for batch in batches for row in pa.record_batch(batch).to_pylist()]
    return sorted(f"{row['_change_type']} {row['id']}" for row in rows)


def test_what_a_restore_changes_is_told(lake: Lake) -> None:
    table = _made(lake, _ids(*range(50)))
    enable_change_feed(table)
    upsert(table, _ids(1).with_columns(x=pl.lit(1)), ["id"])
    marked = table.snapshot().version
    upsert(table, _ids(1, 2).with_columns(x=pl.lit(2)), ["id"], delete_where="id = 2")
    restore(table, marked)
    assert _told(table) == ["delete 1", "insert 1", "insert 2"]
    delete(table, "true")
    restore(table, marked)
    assert _told(table) == sorted(f"insert {n}" for n in range(50))


def test_a_restore_keeps_to_constraints(lake: Lake) -> None:
    table = _made(lake, _ids(*range(-1, 100)))
    upsert(table, _ids(5), ["id"])
    marked = table.snapshot().version
    delete(table, "id < 0")
    add_constraint(table, "positive", "id >= 0")
    with pytest.raises(ConstraintBroken):
        restore(table, marked)


def test_a_tagged_version_of_another_engine_is_kept_whole(lake: Lake) -> None:
    table = _made(lake, _ids(*range(100)))
    vector_of_its_own(table, [1, 2])
    tag(table, "release")
    upsert(table, _ids(3), ["id"])
    with pytest.raises(LakeError, match="vacuum with that engine"):
        vacuum(table, keep=timedelta(0))
    assert table.snapshot("release").scan().collect().height == 98


def test_the_newest_time_is_not_that_of_a_row_that_is_gone(lake: Lake) -> None:
    late, right = datetime(2030, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)
    rows = _ids(*range(50)).with_columns(
        at=pl.when(pl.col("id") == 7).then(pl.lit(late)).otherwise(pl.lit(right))
    )
    table = _made(lake, rows)
    upsert(table, rows.filter(pl.col("id") == 7).with_columns(at=pl.lit(right)), ["id"])
    assert table.snapshot().bounds("at") == (right, right)


def test_names_and_descriptions_may_have_line_breaks_of_unicode(lake: Lake) -> None:
    schema = pa.schema([pa.field("a\u2028b", pa.int64(), metadata={"comment": "one\u2029two"})])

    Table(lake, "d/t").create(schema, description="one\u2028two\u0085three")

    found = Table(lake, "d/t").snapshot()
    assert found.schema.names == ["a\u2028b"]
    assert found.delta.metadata().description == "one\u2028two\u0085three"


@pytest.mark.parametrize(
    "kind", [pa.duration("us"), pa.float16(), pa.timestamp("us", "Asia/Tokyo")]
)
def test_types_that_delta_lacks_are_refused(lake: Lake, kind: pa.DataType) -> None:
    table = Table(lake, "d/t")
    with pytest.raises(LakeError, match="no Delta table has such columns"):
        table.create(pa.schema([("a", kind)]))
    assert table.snapshot_or_none() is None
    table.create(pa.schema([("b", pa.uint64())]))
    table.create(pa.schema([("b", pa.uint64())]))  # which it has as int64
    with pytest.raises(LakeError, match="no Delta table has such columns"):
        table.create(pa.schema([("a", kind)]))


def test_writers_that_make_a_table_at_once_each_find_their_columns(lake: Lake) -> None:
    table, found = Table(lake, "d/t"), dict[int, list[str]]()

    def make(number: int) -> None:
        schema = pa.schema([("a", pa.int64()), (f"x{number}", pa.int64())])
        found[number] = table.create(schema).schema.names

    threads = [threading.Thread(target=make, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(f"x{number}" in found[number] for number in range(5))


def test_times_past_the_year_9999_have_no_bound(lake: Lake) -> None:
    table = Table(lake, "shop/prices")
    far = pl.Series("at", [0, 1 << 60], dtype=pl.Int64).cast(pl.Datetime("us", "UTC"))
    append(table, far.to_frame().with_columns(id=1))
    snapshot = table.snapshot()
    (file,) = snapshot.files
    assert file.highest.get("at") is None
    late = snapshot.scan().filter(pl.col("at") > datetime(2000, 1, 1, tzinfo=UTC)).collect()
    assert late["at"].cast(pl.Int64).to_list() == [1 << 60]
