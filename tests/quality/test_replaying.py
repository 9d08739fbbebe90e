"""Rejects that today's contract takes, and contracts that allow only so many."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from penstock import Lake, Source, validate
from penstock.contracts import expect_column_values_to_be_between
from penstock.errors import CommitConflict, ContractError
from penstock.ingest import ingest
from penstock.quality import replay
from penstock.quality.validation import ledger_name
from penstock.tables import Snapshot
from tests.conftest import Shop, order


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


def _killed_before_the_table(lake: Lake, source: Source) -> None:
    commit = Snapshot.commit

    def dying(self: Snapshot, *arguments: Any, **named: Any) -> Snapshot:
        if self.table.name == "shop/orders":
            os.kill(os.getpid(), signal.SIGKILL)
        return commit(self, *arguments, **named)

    Snapshot.commit = dying  # type: ignore[method-assign]
    replay(lake, source)


@pytest.mark.slow
def test_a_replay_killed_between_its_commits_is_finished_by_the_next(rejected: Shop) -> None:
    again = allowing(rejected, 10_000)
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_killed_before_the_table, args=(again.lake, again.source))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert again.rows("shop/orders").height == 4
    assert again.rows("shop/orders__rejected").height == 3

    done = replay(again.lake, again.source)

    assert done.rows_accepted == 0
    assert again.rows("shop/orders").height == 6
    books = again.rows(ledger_name("shop/orders"))
    assert books["rows_accepted"].sum() == 6


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
