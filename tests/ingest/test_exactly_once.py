"""Promises 1 to 3: each file's rows once, none lost, whole commits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from penstock import Table, validate
from penstock.ingest import ingest
from penstock.ingest import ledger as ledger_module
from penstock.ingest import run as run_module
from penstock.ingest.ledger import read_ledger
from penstock.upkeep import tend
from tests.conftest import Shop, order


def test_files_are_ingested_once_and_a_second_run_finds_nothing(shop: Shop) -> None:
    shop.write_orders("a.csv", 10)
    shop.write_orders("b.csv", 5, first=10)

    first, second = ingest(shop.lake, shop.source), ingest(shop.lake, shop.source)

    assert (first.files_loaded, first.rows_read) == (2, 15)
    assert (second.files_loaded, second.batches) == (0, ())
    rows = shop.rows("shop/orders_raw")
    assert rows["id"].n_unique() == rows.height == 15


def test_a_new_file_makes_a_batch_of_itself_alone(shop: Shop) -> None:
    shop.write_orders("a.csv", 10)
    ingest(shop.lake, shop.source)
    shop.write_orders("b.csv", 5, first=10)

    report = ingest(shop.lake, shop.source)

    assert (report.batches, report.files_loaded, report.rows_read) == ((2,), 1, 5)


def test_every_row_says_where_it_came_from(shop: Shop) -> None:
    shop.write_orders("day/a.csv", 3)

    ingest(shop.lake, shop.source)

    rows = shop.rows("shop/orders_raw").sort("_source_row")
    assert rows["_source_file"].unique().to_list() == ["day/a.csv"]
    assert rows["_source_row"].to_list() == [1, 2, 3]
    assert rows["id"].to_list() == ["o0", "o1", "o2"]
    assert rows["_batch"].unique().to_list() == [1]


def test_a_changed_file_replaces_its_rows_in_one_commit(shop: Shop) -> None:
    shop.write_orders("a.csv", 10)
    shop.write_orders("b.csv", 5, first=10)
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)
    shop.write_orders("a.csv", 3, first=100)

    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    expected = {f"o{n}" for n in (*range(10, 15), *range(100, 103))}
    assert set(shop.rows("shop/orders_raw")["id"]) == expected
    assert sorted(shop.rows("shop/orders")["order_id"]) == sorted(expected)


def test_a_changed_file_whose_new_state_has_no_row_takes_its_rows_out(shop: Shop) -> None:
    shop.write_orders("a.csv", 4)
    shop.write_orders("b.csv", 2, first=10)
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)
    shop.write("a.csv")

    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    assert sorted(shop.rows("shop/orders")["order_id"]) == ["o10", "o11"]


@pytest.mark.parametrize(("policy", "rows"), [("append", 13), ("ignore", 10)])
def test_a_changed_file_follows_the_sources_policy(shop: Shop, policy: str, rows: int) -> None:
    shop = shop.with_source(on_change=policy)
    shop.write_orders("a.csv", 10)
    ingest(shop.lake, shop.source)
    shop.write_orders("a.csv", 3, first=100)

    ingest(shop.lake, shop.source)

    assert shop.rows("shop/orders_raw").height == rows


def test_two_runners_at_once_double_no_row(shop: Shop) -> None:
    for number in range(12):
        shop.write_orders(f"{number}.csv", 20, first=20 * number)

    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda _: ingest(shop.lake, shop.source, max_files=2), range(4)))

    rows = shop.rows("shop/orders_raw")
    assert rows.height == rows["id"].n_unique() == 240
    assert sum(report.rows_read for report in reports) == 240
    assert sorted(batch for report in reports for batch in report.batches) == [1, 2, 3, 4, 5, 6]


def test_a_batch_committed_between_two_looks_is_not_planned_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.write_orders("a.csv", 10)
    mended, rival = run_module.mend_ledger, list[int]()

    def other_commits_first(*given: object) -> int:
        batch = mended(*given)
        if not rival:  # the other runner is killed before its ledger commit
            rival.append(1)
            with monkeypatch.context() as patch, pytest.raises(_Killed):
                patch.setattr(ledger_module, "_commit", _killed)
                ingest(shop.lake, shop.source)
        return batch

    monkeypatch.setattr(run_module, "mend_ledger", other_commits_first)

    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    assert shop.rows("shop/orders_raw").height == shop.rows("shop/orders").height == 10


class _Killed(BaseException):
    """Stands for SIGKILL at a chosen point: nothing of ours handles it."""


def _killed(*_: object, **__: object) -> None:
    raise _Killed


@pytest.mark.parametrize("point", ["after the plan", "before the commit", "before the ledger"])
def test_a_run_killed_at_any_point_doubles_and_loses_nothing(
    shop: Shop, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.write_orders("a.csv", 10)
    shop.write_orders("b.csv", 10, first=10)

    with monkeypatch.context() as patch:
        match point:
            case "after the plan":
                patch.setattr(run_module, "read_all", _killed)
            case "before the commit":
                patch.setattr(run_module, "stage_results", _killed)
            case _:
                patch.setattr(ledger_module, "_commit", _killed)
        with pytest.raises(_Killed):
            ingest(shop.lake, shop.source)
    shop.write_orders("c.csv", 10, first=20)

    ingest(shop.lake, shop.source)

    rows, ledger = shop.rows("shop/orders_raw"), read_ledger(shop.lake, shop.source)
    assert sorted(rows["id"]) == sorted(f"o{n}" for n in range(30))
    assert ledger["rows_read"].sum() == 30
    assert ledger["file"].to_list() == ["a.csv", "b.csv", "c.csv"]


def test_upkeep_leaves_what_a_killed_run_staged_for_its_ledger(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.write_orders("a.csv", 10)
    ingest(shop.lake, shop.source)
    shop.write_orders("b.csv", 10, first=10)
    with monkeypatch.context() as patch, pytest.raises(_Killed):
        patch.setattr(ledger_module, "_commit", _killed)
        ingest(shop.lake, shop.source)

    tended = {done.table: done for done in tend(shop.lake, keep=timedelta(0))}
    ingest(shop.lake, shop.source)

    assert "lacks 1 batches" in tended["shop/orders_raw__ledger"].problem
    ledger = read_ledger(shop.lake, shop.source)
    assert ledger.select("file", "rows_read").rows() == [("a.csv", 10), ("b.csv", 10)]
    assert all(not done.problem for done in tend(shop.lake, keep=timedelta(0)))


_RUNNER = """
import sys, dataclasses
from penstock import Lake, validate
from penstock.ingest import Source, ingest
from tests.conftest import ORDERS
source = Source("shop/orders_raw", sys.argv[1], ORDERS)
ingest(Lake(sys.argv[2]), source, max_files=3)
validate(Lake(sys.argv[2]), source)
"""


@pytest.mark.slow
def test_sigkill_at_random_moments_doubles_and_loses_nothing(shop: Shop) -> None:
    for number in range(30):
        shop.write_orders(f"{number:02}.csv", 50, first=50 * number)
    command = [sys.executable, "-c", _RUNNER, str(shop.raw), shop.lake.uri]
    clock = random.Random(5)
    for _ in range(12):
        process = subprocess.Popen(command)
        time.sleep(clock.uniform(0.4, 1.3))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    subprocess.run(command, check=True)

    raw, accepted = shop.rows("shop/orders_raw"), shop.rows("shop/orders")
    assert raw.height == raw["id"].n_unique() == 1500
    assert accepted.height == accepted["order_id"].n_unique() == 1500
    counts = shop.rows("shop/orders__ledger")
    assert counts.height == 30
    assert counts["rows_accepted"].sum() + counts["rows_rejected"].sum() == 1500


def test_read_equals_accepted_plus_rejected_for_every_file(shop: Shop) -> None:
    shop.write("a.csv", order(1), order(2, units=0), order(3, units="many"))
    shop.write("b.csv", order(4), order(4))

    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    ledger = shop.rows("shop/orders__ledger").sort("file")
    counts = ledger.select("rows_read", "rows_accepted", "rows_rejected")
    assert counts.rows() == [(3, 1, 2), (2, 1, 1)]
    assert Table(shop.lake, "shop/orders__rejected").snapshot().rows == 3
