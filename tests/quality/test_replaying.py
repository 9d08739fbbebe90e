"""Rejects that today's contract takes, and contracts that allow only so many."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import replace
from datetime import timedelta
from typing import Any

import polars as pl
import pytest

from penstock import Column, Lake, Source, validate
from penstock.contracts import (
    expect_column_max_to_be_between,
    expect_column_values_to_be_between,
)
from penstock.errors import CommitConflict, ContractError
from penstock.ingest import ingest
from penstock.quality import replay
from penstock.quality.destinations import ledger_name
from penstock.tables import Snapshot, Table, vacuum
from tests.conftest import HEADER, Shop, order


def allowing(shop: Shop, most: int) -> Shop:
    """The shop with so many units allowed in one order."""
    contract = shop.source.contract
    rest = contract.expectations[1:]
    units = expect_column_values_to_be_between("units", 1, most)
    return shop.with_source(contract=replace(contract, expectations=(units, *rest)))


@pytest.fixture
def rejected(shop: Shop) -> Shop:
    """A shop of 4 good orders, 2 of 5,000 units, a repeat, one of -1 units, and a torn row."""
    rows = [order(n) for n in range(4)]
    rows += [order(10, units=5000), order(11, units=5000), order(0), order(12, units=-1), "torn"]
    shop.write("a.csv", *rows)
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)
    assert shop.rows("shop/orders__rejected").height == 5
    return shop


def test_rows_that_the_contract_takes_by_now_go_in_once(rejected: Shop) -> None:
    again = allowing(rejected, 10_000)
    before = rejected.rows("shop/orders__rejected")

    done = replay(again.lake, again.source)
    twice = replay(again.lake, again.source)

    assert (done.rows_accepted, done.rows_left) == (2, 3)
    assert (twice.rows_accepted, twice.rows_left) == (0, 3)
    good = again.rows("shop/orders").filter(pl.col("units") == 5000).sort("_source_row")
    was = before.filter(pl.col("units") == "5000").sort("_source_row")
    for name in ("_source_file", "_source_row", "_ingested_at", "_batch"):
        assert good[name].to_list() == was[name].to_list()
    left = again.rows("shop/orders__rejected")
    assert sorted(r["expectation"] for row in left["_reasons"] for r in row) == [
        "malformed_row",
        "order_id_product_to_be_unique",
        "units_values_to_be_between",
    ]
    books = again.rows(ledger_name("shop/orders"))
    assert books.select("rows_read", "rows_accepted", "rows_rejected").sum().row(0) == (9, 6, 3)


def test_nothing_new_to_take_changes_nothing(rejected: Shop) -> None:
    done = replay(rejected.lake, rejected.source)

    assert (done.rows_accepted, done.rows_left) == (0, 5)
    assert rejected.rows("shop/orders").height == 4


def test_rows_sent_through_are_unique_among_themselves_and_in_the_table(shop: Shop) -> None:
    """Order 1 is in the table; it and order 2, twice, were refused for their units alone."""
    contract = shop.source.contract
    loose = replace(contract, expectations=contract.expectations[:1])
    shop.write("a.csv", order(1), order(1, units=5000), order(2, units=5000), order(2, units=6000))
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.with_source(contract=loose).source)
    assert shop.rows("shop/orders__rejected").height == 3

    done = replay(shop.lake, allowing(shop, 10_000).source)

    assert (done.rows_accepted, done.reasons) == (1, {"order_id_product_to_be_unique": 2})
    assert sorted(shop.rows("shop/orders")["units"]) == [2, 5000]


def _killed_between(lake: Lake, source: Source) -> None:
    commit = Snapshot.commit

    def dying(self: Snapshot, *arguments: Any, **named: Any) -> Snapshot:
        if self.table.name == "shop/orders__rejected":
            os.kill(os.getpid(), signal.SIGKILL)
        return commit(self, *arguments, **named)

    Snapshot.commit = dying  # type: ignore[method-assign]
    replay(lake, source)


@pytest.fixture
def killed(rejected: Shop) -> Shop:
    """Rows of 5,000 units are in the table, and among the rejects still."""
    again = allowing(rejected, 10_000)
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_killed_between, args=(again.lake, again.source))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert again.rows("shop/orders").height == 6
    assert again.rows("shop/orders__rejected").height == 5
    return again


@pytest.mark.slow
def test_a_replay_killed_between_its_commits_is_finished_by_the_next(killed: Shop) -> None:
    vacuum(Table(killed.lake, "shop/orders"), keep=timedelta(0))

    done = replay(killed.lake, killed.source)

    assert (done.rows_accepted, done.rows_left) == (0, 3)
    assert killed.rows("shop/orders").height == 6
    books = killed.rows(ledger_name("shop/orders"))
    assert books.select("rows_read", "rows_accepted", "rows_rejected").sum().row(0) == (9, 6, 3)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [[], [order(10, units=7000), order(20)]], ids=["gone", "mended"])
def test_a_file_that_changes_after_the_kill_has_its_own_rows_alone(
    killed: Shop, rows: list[str]
) -> None:
    killed.write("a.csv", order(1), *rows)
    ingest(killed.lake, killed.source)
    validate(killed.lake, killed.source)

    replay(killed.lake, killed.source)

    orders = killed.rows("shop/orders")["order_id"].to_list()
    assert sorted(orders) == sorted(["o1", *(row.split(",")[0] for row in rows)])


def test_a_value_that_was_rescued_is_there_once_the_contract_has_its_column(shop: Shop) -> None:
    shop.write("a.csv", order(1, units=5000) + ",red", header=HEADER.strip() + ",colour\n")
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)
    contract = allowing(shop, 10_000).source.contract
    wider = replace(contract, columns=(*contract.columns, Column("colour", "string")))

    replay(shop.lake, shop.with_source(contract=wider).source)

    assert shop.rows("shop/orders")["colour"].to_list() == ["red"]


def test_rows_with_a_value_that_the_contract_knows_no_more_stay(rejected: Shop) -> None:
    contract = allowing(rejected, 10_000).source.contract
    columns = tuple(each for each in contract.columns if each.name != "email")
    slim = replace(
        contract,
        columns=columns,
        expectations=tuple(e for e in contract.expectations if "email" not in e.columns),
    )

    done = replay(rejected.lake, rejected.with_source(contract=slim).source)

    assert (done.rows_accepted, done.rows_left) == (0, 5)


def test_a_column_that_may_not_break_moves_nothing(rejected: Shop) -> None:
    contract = allowing(rejected, 10_000).source.contract
    most = expect_column_max_to_be_between("units", 0, 100, severity="fail")
    strict = replace(contract, expectations=(*contract.expectations, most))

    with pytest.raises(ContractError, match="5000, which may not commit"):
        replay(rejected.lake, rejected.with_source(contract=strict).source)
    assert rejected.rows("shop/orders").height == 4
    assert rejected.rows("shop/orders__rejected").height == 5


def test_a_replay_beside_another_writer_is_done_again(
    rejected: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = allowing(rejected, 10_000)
    commit, refused = Snapshot.commit, [True]

    def busy(self: Snapshot, adds: Any, *arguments: Any, **named: Any) -> Snapshot:
        if self.table.name.endswith("__rejected") and refused.pop():
            refused.append(False)
            for file in adds:
                self.table.lake.objects.delete([f"{self.table.key}/{file.path}"])
            raise CommitConflict("another writer came first")
        refused.append(False)
        return commit(self, adds, *arguments, **named)

    monkeypatch.setattr(Snapshot, "commit", busy)

    assert replay(again.lake, again.source).rows_accepted == 2
    assert again.rows("shop/orders").height == 6


@pytest.mark.parametrize(("most", "commits"), [(0.5, True), (2, True), (0.4, False), (1, False)])
def test_more_rejects_than_the_contract_allows_commit_nothing(
    shop: Shop, most: float, commits: bool
) -> None:
    shop = shop.with_source(contract=replace(shop.source.contract, max_rejected=most))
    shop.write("a.csv", order(1), order(2), order(3, units=0), order(4, units=0))
    ingest(shop.lake, shop.source)

    if commits:
        assert validate(shop.lake, shop.source).rows_rejected == 2
        return
    with pytest.raises(ContractError, match=r"2 of 4 rows \(50.00%\) were rejected.*units_values"):
        validate(shop.lake, shop.source)
    assert shop.rows("shop/orders").is_empty()
    assert shop.rows("shop/orders__rejected").is_empty()


@pytest.mark.parametrize("most", [-1, 1.5, float("nan")])
def test_a_share_of_rejects_is_one(shop: Shop, most: float) -> None:
    with pytest.raises(ContractError, match="a share up to 1.0 or a number"):
        replace(shop.source.contract, max_rejected=most)
