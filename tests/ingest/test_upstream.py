"""Tables as sources: databases by a high-water mark, and Delta change feeds."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from penstock import Lake, validate
from penstock.contracts import Column, Contract
from penstock.errors import SourceError
from penstock.ingest import DatabaseSource, DeltaSource, ingest, waiting_files
from penstock.ingest import run as run_module
from penstock.ingest import work as work_module
from penstock.tables import Snapshot, Table

SALES = Contract(
    "shop/sales",
    (
        Column("id", "int64", nullable=False),
        Column("product", "string"),
        Column("price", "float64"),
        Column("at", "timestamp", nullable=False),
    ),
    event_time="at",
)
Run = Callable[[str], Any]


def sales(table: str, first: int, count: int) -> str:
    """An INSERT of sales, a minute apart."""
    rows = ", ".join(
        f"({n}, 'p{n % 3}', {n}.5, '2024-03-01 {n // 60:02d}:{n % 60:02d}:00')"
        for n in range(first, first + count)
    )
    return f"INSERT INTO {table} VALUES {rows}"


@pytest.fixture(params=["sqlite", "duckdb", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Run]:
    """A URI, and a function that runs SQL there."""
    match request.param:
        case "sqlite":

            def run(query: str) -> None:
                with sqlite3.connect(tmp_path / "shop.db") as connection:
                    connection.execute(query)

            return f"sqlite:///{tmp_path}/shop.db", run
        case "duckdb":

            def run(query: str) -> None:
                with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
                    connection.execute(query)

            return f"duckdb:///{tmp_path}/shop.duckdb", run
        case _:
            uri = request.getfixturevalue("postgres")

            def run(query: str) -> None:
                from adbc_driver_postgresql import dbapi

                connected = dbapi.connect(uri, autocommit=True)
                with connected as connection, connection.cursor() as cursor:
                    cursor.execute(query)

            run("DROP TABLE IF EXISTS sales")
            return uri, run


def source_of(uri: str, **settings: Any) -> DatabaseSource:
    settings = {"relation": "sales", "mark": "id", **settings}
    return DatabaseSource("shop/sales_raw", uri, SALES, **settings)


_TABLE = 'CREATE TABLE sales (id BIGINT, product TEXT, price DOUBLE PRECISION, "at" TIMESTAMP)'


@pytest.mark.parametrize("mark", ["id", "at"])
def test_rows_past_the_mark_come_in_once(lake: Lake, database: tuple[str, Run], mark: str) -> None:
    uri, run = database
    run(_TABLE)
    source = source_of(uri, mark=mark)
    assert ingest(lake, source).rows_read == 0

    run(sales("sales", 0, 100))
    first = ingest(lake, source)
    again = ingest(lake, source)
    run(sales("sales", 100, 50))
    assert waiting_files(lake, source).height == 1
    second = ingest(lake, source)

    assert (first.rows_read, again.rows_read, second.rows_read) == (100, 0, 50)
    assert validate(lake, source).rows_accepted == 150
    rows = Table(lake, "shop/sales").snapshot().scan().sort("id").collect()
    assert rows["id"].to_list() == list(range(150))
    assert rows["price"].to_list() == [n + 0.5 for n in range(150)]
    assert rows["at"][149] == datetime(2024, 3, 1, 2, 29, tzinfo=UTC)
    bound = "149" if mark == "id" else "2024-03-01"
    assert bound in rows["_source_file"][149]


def test_a_stretch_whose_run_was_killed_is_read_again(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute(_TABLE)
        connection.execute(sales("sales", 0, 10))
    source = source_of(f"sqlite:///{tmp_path}/shop.db")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Snapshot, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            ingest(lake, source)
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute(sales("sales", 10, 5))  # past what was planned

    report = ingest(lake, source)

    assert (len(report.batches), report.rows_read) == (2, 15)
    ids = Table(lake, "shop/sales_raw").snapshot().scan().collect()["id"]
    assert sorted(map(int, ids)) == list(range(15))


def test_times_settle_before_they_count(lake: Lake, tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(tzinfo=None)
    path = tmp_path / "shop.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(_TABLE)
        for n, age in enumerate((3600, 1800, 1)):
            connection.execute(
                "INSERT INTO sales VALUES (?, 'p', 1, ?)", [n, now - timedelta(seconds=age)]
            )
    source = source_of(f"duckdb:///{path}", mark="at", settle=timedelta(minutes=10))

    assert ingest(lake, source).rows_read == 2
    assert ingest(lake, dataclasses.replace(source, settle=timedelta(0))).rows_read == 1


def test_a_large_table_comes_as_a_stream(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shop.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(_TABLE)
        connection.execute(
            "INSERT INTO sales SELECT range, 'p', 1, TIMESTAMP '2024-01-01' FROM range(300000)"
        )
    monkeypatch.setattr(work_module, "FILE_BYTES", 1 << 20)

    report = ingest(lake, source_of(f"duckdb:///{path}"))

    bronze = Table(lake, "shop/sales_raw").snapshot()
    assert (report.rows_read, bronze.rows) == (300_000, 300_000)
    assert len(bronze.files) > 3
    assert bronze.scan().collect()["_source_row"].n_unique() == 300_000


def test_what_a_database_says_is_passed_on(lake: Lake, database: tuple[str, Run]) -> None:
    uri, run = database
    run(_TABLE)
    run(sales("sales", 0, 3))
    with pytest.raises(SourceError, match=r"(?i)nowhere"):
        ingest(lake, source_of(uri, relation="nowhere"))
    with pytest.raises(SourceError, match="the contract has no column changed, the mark"):
        source_of(uri, mark="changed")
    with pytest.raises(SourceError, match="not float"):
        ingest(lake, source_of(uri, mark="price"))


def test_a_database_that_cannot_be_had_is_named_without_its_password(lake: Lake) -> None:
    source = source_of("postgresql://me:hunter2@127.0.0.1:1/shop")
    with pytest.raises(SourceError, match=r"postgresql://127\.0\.0\.1:1/shop#sales") as raised:
        ingest(lake, source)
    assert "hunter2" not in str(raised.value)
    with pytest.raises(SourceError, match="none of postgresql, sqlite and duckdb"):
        ingest(lake, source_of("oracle://somewhere/shop"))
    with pytest.raises(SourceError, match="on_delete, pattern, format, lookback and notifications"):
        source_of("sqlite:////x.db", on_delete="remove")


def bring_in(path: Path, *numbers: int) -> None:
    with duckdb.connect(str(path)) as connection:
        for number in numbers:
            connection.execute(sales("sales", number, 1))


def ids_in(lake: Lake) -> list[int]:
    bronze = Table(lake, "shop/sales_raw").snapshot().scan().collect()
    return sorted(map(int, bronze["id"]))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A DuckDB file with an empty table of sales."""
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
        connection.execute(_TABLE)
    return tmp_path / "shop.duckdb"


def test_a_mark_never_goes_back(lake: Lake, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs look at once, and the one that saw less commits last."""
    source = source_of(f"duckdb:///{path}")
    bring_in(path, 1, 2)
    ingest(lake, source)
    bring_in(path, 3)
    look, seen = run_module._look, list[Any]()

    def slow_look(*given: Any, **settings: Any) -> Any:
        found = look(*given, **settings)
        if not seen:
            seen.append(found)
            bring_in(path, 4, 5)
            ingest(lake, source)
        return found

    monkeypatch.setattr(run_module, "_look", slow_look)
    ingest(lake, source)
    monkeypatch.undo()
    ingest(lake, source)

    assert ids_in(lake) == [1, 2, 3, 4, 5]


def test_rows_that_come_back_do_not_come_twice(lake: Lake, path: Path) -> None:
    source = source_of(f"duckdb:///{path}")
    bring_in(path, 1, 2, 3)
    ingest(lake, source)
    with duckdb.connect(str(path)) as connection:
        connection.execute("DELETE FROM sales WHERE id > 1")
    assert ingest(lake, source).batches == ()
    bring_in(path, 2, 3, 4)

    ingest(lake, source)

    assert ids_in(lake) == [1, 2, 3, 4]


def test_another_table_or_mark_needs_a_bronze_table_of_its_own(lake: Lake, path: Path) -> None:
    bring_in(path, 1, 2)
    ingest(lake, source_of(f"duckdb:///{path}"))
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE other AS SELECT * FROM sales")
    for changed in ({"relation": "other"}, {"mark": "at"}):
        with pytest.raises(SourceError, match="was fed by sales by id, and this is"):
            ingest(lake, source_of(f"duckdb:///{path}", **changed))


def test_a_mark_in_the_future_waits(lake: Lake, path: Path) -> None:
    source = source_of(f"duckdb:///{path}", mark="at")
    bring_in(path, 1)
    with duckdb.connect(str(path)) as connection:
        connection.execute("INSERT INTO sales VALUES (99, 'p', 1, '2924-01-01')")
    ingest(lake, source)
    bring_in(path, 2)
    ingest(lake, source)

    assert ids_in(lake) == [1, 2]


def test_marks_that_have_no_order_are_refused(lake: Lake, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("CREATE TABLE sales (id, product, price, at)")
        connection.execute("INSERT INTO sales VALUES (1, 'p', 1, '2024-01-01'), ('x', 'p', 1, 2)")
    uri = f"sqlite:///{tmp_path}/shop.db"
    with pytest.raises(SourceError, match="id has values of several types"):
        ingest(lake, source_of(uri))
    with pytest.raises(
        SourceError, match="settle is for a mark of times or dates; product has str"
    ):
        ingest(lake, source_of(uri, mark="product", settle=timedelta(days=1)))


def test_values_of_any_type_come_from_sqlite(lake: Lake, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("CREATE TABLE sales (id INTEGER, product INTEGER, price, at TEXT)")
        products = [None] * 1100 + ["text"] * 100
        rows = [(n, products[n], n if n % 2 else 2.5, "2024-01-01") for n in range(1200)]
        connection.executemany("INSERT INTO sales VALUES (?, ?, ?, ?)", rows)

    report = ingest(lake, source_of(f"sqlite:///{tmp_path}/shop.db"))

    assert (report.rows_read, report.failed) == (1200, {})


def test_a_text_mark_is_no_path(lake: Lake, path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("INSERT INTO sales VALUES (1, 'u//x/price=7/1', NULL, '2024-01-01')")
    source = source_of(f"duckdb:///{path}", mark="product")

    ingest(lake, source)

    assert validate(lake, source).rows_accepted == 1
    assert Table(lake, "shop/sales").snapshot().scan().collect()["price"].to_list() == [None]


# Delta's change feed


def frame(first: int, count: int) -> Any:
    at = datetime(2024, 3, 1, tzinfo=UTC)
    rows = [(n, f"p{n % 3}", n + 0.5, at) for n in range(first, first + count)]
    return pl.DataFrame(rows, schema=["id", "product", "price", "at"], orient="row").to_arrow()


def feed_of(path: Path, contract: Contract = SALES) -> DeltaSource:
    return DeltaSource("shop/sales_raw", str(path), contract)


def test_a_delta_tables_new_rows_come_in_once(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "upstream"
    write_deltalake(str(path), frame(0, 10))
    write_deltalake(str(path), frame(10, 10), mode="append")
    first = ingest(lake, feed_of(path))
    write_deltalake(str(path), frame(20, 5), mode="append")
    DeltaTable(str(path)).optimize.compact()
    second = ingest(lake, feed_of(path))
    again = ingest(lake, feed_of(path))

    assert (first.rows_read, second.rows_read, again.rows_read) == (20, 5, 0)
    ids = Table(lake, "shop/sales_raw").snapshot().scan().collect()["id"]
    assert sorted(map(int, ids)) == list(range(25))


def test_a_change_feed_brings_updates_and_deletes(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "upstream"
    columns = (*SALES.columns, Column("change", "string", source_name="_change_type"))
    contract = dataclasses.replace(SALES, columns=columns)
    enabled = {"delta.enableChangeDataFeed": "true"}
    write_deltalake(str(path), frame(0, 4), configuration=enabled)
    ingest(lake, feed_of(path, contract))
    DeltaTable(str(path)).update({"price": "99.0"}, predicate="id = 1")
    DeltaTable(str(path)).delete("id = 2")

    ingest(lake, feed_of(path, contract))

    validate(lake, feed_of(path, contract))
    rows = Table(lake, "shop/sales").snapshot().scan().filter(pl.col("_batch") == 2).collect()
    assert sorted(rows.select("id", "price", "change").rows()) == [
        (1, 99.0, "update_postimage"),
        (2, 2.5, "delete"),
    ]


def test_changes_without_a_feed_are_not_taken_for_new_rows(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "upstream"
    write_deltalake(str(path), frame(0, 4))
    ingest(lake, feed_of(path))
    DeltaTable(str(path)).update({"price": "99.0"}, predicate="id = 1")

    report = ingest(lake, feed_of(path))

    (reason,) = report.failed.values()
    assert "version 1 changed rows, without a change feed" in reason
    assert Table(lake, "shop/sales_raw").snapshot().rows == 4


def test_what_is_no_delta_table_is_named(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no Delta table"):
        ingest(lake, feed_of(tmp_path / "nowhere"))


def test_types_of_postgresql_become_text(lake: Lake, postgres: str) -> None:
    from adbc_driver_postgresql import dbapi

    names = ("n", "money", "who", "doc", "tags", "at", "day", "ok", "raw", "host", "cost")
    with dbapi.connect(postgres, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS kinds")
        cursor.execute(
            "CREATE TABLE kinds (n int, money numeric(12,3), who uuid, doc jsonb, tags text[],"
            " at timestamptz, day date, ok boolean, raw bytea, host inet, cost money)"
        )
        cursor.execute(
            "INSERT INTO kinds VALUES (1, 12345.678, 'c0ffee00-0000-4000-8000-000000000000',"
            """ '{"a": [1, 2]}', '{x,NULL,"y z"}', '2024-03-01 10:00:00.5+02',"""
            " '2024-03-01', true, '\\xff00', '10.0.0.1/8', 1.5),"
            " (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"
        )
    columns = [Column(name, "string") for name in names]
    columns[names.index("raw")] = Column("raw", "binary")
    columns[names.index("at")] = Column("at", "timestamp")
    contract = Contract("shop/kinds", tuple(columns), event_time="at")
    source = DatabaseSource("shop/kinds_raw", postgres, contract, relation="kinds", mark="n")

    report = ingest(lake, source)

    assert report.failed == {}
    bronze = Table(lake, "shop/kinds_raw").snapshot().scan()
    first, second = bronze.sort("n").collect().rows(named=True)
    assert {name: second[name] for name in names[1:]} == dict.fromkeys(names[1:])
    assert first["money"] == "12345.678"
    assert first["who"] == "c0ffee00-0000-4000-8000-000000000000"
    assert first["doc"] == '{"a": [1, 2]}'
    assert first["tags"] == '["x",null,"y z"]'
    assert first["day"] == "2024-03-01"
    assert first["host"] == "10.0.0.1/8"
    assert "1.50" in first["cost"]
    assert first["raw"] == b"\xff\x00"
    assert validate(lake, source).rows_accepted == 2
    at = Table(lake, "shop/kinds").snapshot().scan().sort("n").collect()["at"][0]
    assert at == datetime(2024, 3, 1, 8, 0, 0, 500_000, UTC)
