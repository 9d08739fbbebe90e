"""Columns that files call otherwise than they did."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock import Table, validate
from penstock.contracts import Column, Contract
from penstock.errors import ContractError
from penstock.ingest import ingest
from penstock.quality import replay
from tests.conftest import ORDERS, Shop, order

_HEADER = "{},product,units,price,at,email\n"


def _renamed(shop: Shop) -> Shop:
    """The shop whose files now say `number` for `id`."""
    columns = tuple(
        replace(column, source_name="number", former_names=("id", "no"))
        if column.name == "order_id"
        else column
        for column in ORDERS.columns
    )
    return shop.with_source(contract=replace(ORDERS, columns=columns))


def _run(shop: Shop) -> list[str]:
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)
    return sorted(shop.rows("shop/orders")["order_id"])


def test_rows_from_before_and_late_files_keep_their_values(shop: Shop) -> None:
    shop.write("old.csv", order(1))
    ingest(shop.lake, shop.source)  # and not validated yet
    shop = _renamed(shop)
    (shop.raw / "new.csv").write_text(_HEADER.format("number") + order(2) + "\n")
    assert _run(shop) == ["o1", "o2"]

    shop.write("late.csv", order(3))
    (shop.raw / "other.csv").write_text(_HEADER.format("no") + order(4) + "\n")

    assert _run(shop) == ["o1", "o2", "o3", "o4"]
    assert (
        Table(shop.lake, "shop/orders_raw").snapshot().scan().collect()["_rescued"].null_count()
        == 4
    )


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_every_format_knows_former_names(shop: Shop, form: str) -> None:
    shop = _renamed(shop)
    names = _HEADER.strip().format("id").split(",")
    row: dict[str, Any] = dict(zip(names, order(1).split(","), strict=True))
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), shop.raw / "a.parquet")
    else:
        both = {**row, "number": "o2"}
        (shop.raw / "a.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(both) + "\n")

    assert _run(shop) == (["o1"] if form == "parquet" else ["o1", "o2"])
    rescued = shop.rows("shop/orders_raw").sort("_source_row")["_rescued"].to_list()
    assert rescued == ([None] if form == "parquet" else [None, '{"id":"o1"}'])


def test_rejects_from_before_are_replayed_by_their_former_name(shop: Shop) -> None:
    shop.write("old.csv", order(1, units=5000))
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)
    shop = _renamed(shop)
    shop = shop.with_source(contract=replace(shop.source.contract, expectations=()))
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    replay(shop.lake, shop.source)

    assert shop.rows("shop/orders")["order_id"].to_list() == ["o1"]


@pytest.mark.parametrize("former", [("product",), ("a", "a")])
def test_a_former_name_is_of_one_column(former: tuple[str, ...]) -> None:
    columns = (Column("id", "string", former_names=former), *ORDERS.columns[1:])

    with pytest.raises(ContractError, match="former name"):
        Contract("a/b", columns, "at")


def test_names_are_told_by_what_is_there() -> None:
    columns = (Column("n", "int64", former_names=("m", "o")), Column("t", "timestamp"))
    contract = Contract("a/b", columns, "t")

    assert contract.renamed(["t", "o", "m"]) == ["t", "o", "n"]
    assert contract.renamed(["m", "n"]) == ["m", "n"]
    assert pl.DataFrame(pl.from_arrow(contract.arrow_schema().empty_table())).columns == ["n", "t"]


@pytest.mark.parametrize("policy", ["rescue", "add", "fail"])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_former_name_beside_the_one_of_now_is_another_column(
    shop: Shop, policy: Any, form: str
) -> None:
    columns = (
        Column("t", "timestamp"),
        Column("n", "string", former_names=("m", "o")),
    )
    shop = shop.with_source(contract=Contract("a/b", columns, "t", unknown_columns=policy))
    row = {"t": "2024-01-01", "m": "1", "o": "2"}
    text = ",".join(row) + "\n" + ",".join(row.values()) if form == "csv" else json.dumps(row)
    (shop.raw / f"a.{form}").write_text(text + "\n")

    report = ingest(shop.lake, shop.source)

    if policy == "fail":
        assert "not in the contract: o" in report.failed[f"a.{form}"]
        return
    (found,) = shop.rows("shop/orders_raw").to_dicts()
    assert found["n"] == "1"
    assert (found["o"] if policy == "add" else json.loads(found["_rescued"])["o"]) == "2"


def test_a_path_may_name_a_column_as_it_was_called(shop: Shop) -> None:
    columns = (Column("t", "timestamp"), Column("n", "int32", nullable=False, former_names=("m",)))
    shop = shop.with_source(contract=Contract("shop/orders", columns, "t"))
    (shop.raw / "m=3").mkdir()
    (shop.raw / "m=3" / "x.csv").write_text("t\n2024-01-01\n")
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    assert shop.rows("shop/orders")["n"].to_list() == [3]
