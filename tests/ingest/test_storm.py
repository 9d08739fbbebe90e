"""Storms in short; `make soak` is the long one."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from pathlib import Path

import pytest

from penstock import Lake, Table, validate
from penstock.errors import PenstockError, StorageError
from penstock.ingest import ingest
from penstock.ingest.ledger import read_ledger
from tests.conftest import S3Server, Shop, order_server
from tests.ingest.storm import (
    check_truth,
    contended,
    killed_over_and_over,
    watched,
    write_files,
)
from tests.proxy import Faults, proxied

# A request that a frozen server leaves without an answer is given up after 30 s.
_LONG = os.environ.get("PENSTOCK_TROUBLE_SECONDS")
_TROUBLES = [("crash", "restart"), *([("freeze", "thaw")] if _LONG else [])]


@pytest.mark.slow
def test_killed_at_every_step_and_at_random_nothing_is_lost_or_doubled(shop: Shop) -> None:
    expected = write_files(shop.raw, 120, 10)

    with watched(shop.lake, shop.source) as check:
        killed_over_and_over(shop.lake, shop.source, 20, 7, max_files=8, patience=2)
        check()

    check_truth(shop.lake, shop.source, expected)


@pytest.mark.slow
def test_the_same_on_s3(shop: Shop, s3_lake: Lake) -> None:
    shop = dataclasses.replace(shop, lake=s3_lake)
    expected = write_files(shop.raw, 60, 10)

    with watched(shop.lake, shop.source) as check:
        killed_over_and_over(shop.lake, shop.source, 10, 8, max_files=8, patience=3)
        check()

    check_truth(shop.lake, shop.source, expected)


@pytest.mark.slow
def test_eight_runners_two_compactions_and_two_upserts_at_once(shop: Shop) -> None:
    expected = write_files(shop.raw, 100, 10)

    contended(shop.lake, shop.source, 8, max_files=6, turns=4)
    validate(shop.lake, shop.source)

    check_truth(shop.lake, shop.source, expected)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2])
def test_a_store_on_a_bad_day(shop: Shop, s3_server: S3Server, tmp_path: Path, seed: int) -> None:
    expected = write_files(shop.raw, 12, 5)
    faults = Faults(seed, busy=0.2, cut=0.04, lost=0.04)
    bucket = s3_server.new_bucket()
    with proxied(s3_server.endpoint, faults) as endpoint:
        options = {**s3_server.options, "aws_endpoint_url": endpoint}
        lake = Lake(f"s3://{bucket}/lake", storage_options=options)
        for _ in range(20):  # a run completes, or fails with one clear error and the next goes on
            try:
                ingest(lake, shop.source, max_files=8)
                validate(lake, shop.source)
            except PenstockError as error:
                assert str(error).count("\n") == 0
                assert bucket in str(error) or "shop/" in str(error)
            else:
                break
        else:
            pytest.fail("no run came through")
    assert faults.seen["busy"] > 10
    assert faults.seen["lost"] + faults.seen["cut"] > 3
    check_truth(Lake(lake.uri, storage_options=s3_server.options), shop.source, expected)


@pytest.mark.slow
@pytest.mark.parametrize("trouble", _TROUBLES)
def test_a_store_that_hangs_or_dies_and_comes_back(
    shop: Shop, s3_lake: Lake, gateway: str, trouble: tuple[str, str]
) -> None:
    for number in range(120):
        shop.write_orders(f"{number:03d}.csv", 50, first=50 * number)
    seconds = float(_LONG or 2)
    ended = list[BaseException | None]()

    def bring_in() -> None:
        try:
            ingest(s3_lake, shop.source, max_files=10)
            ended.append(None)
        except StorageError as error:  # one clear error
            ended.append(error)

    runner = threading.Thread(target=bring_in)
    runner.start()
    time.sleep(1.5)
    order_server(gateway, trouble[0])
    try:
        time.sleep(seconds)
    finally:
        order_server(gateway, trouble[1])
    runner.join(180)

    assert not runner.is_alive()
    assert len(ended) == 1
    ingest(s3_lake, shop.source)
    validate(s3_lake, shop.source)
    bronze = Table(s3_lake, "shop/orders_raw").snapshot().scan().collect()
    assert sorted(bronze["id"]) == sorted(f"o{n}" for n in range(6000))
    assert Table(s3_lake, "shop/orders").snapshot().rows == 6000


@pytest.mark.slow
def test_a_clock_that_is_skewed_is_told(shop: Shop, s3_server: S3Server) -> None:
    with proxied(s3_server.endpoint, Faults(skewed=1.0)) as endpoint:
        options = {**s3_server.options, "aws_endpoint_url": endpoint}
        lake = Lake(f"s3://{s3_server.new_bucket()}/lake", storage_options=options)
        shop.write_orders("a.csv", 3)

        with pytest.raises(PenstockError, match=r"(?i)clock|skew"):
            ingest(lake, shop.source)


@pytest.mark.slow
def test_an_answer_that_is_lost_does_not_lose_the_commit(shop: Shop, s3_server: S3Server) -> None:
    """Its own commit must not be taken for another's: what it names would be deleted."""
    expected = write_files(shop.raw, 12, 5)
    bucket = s3_server.new_bucket()
    for seed in range(1):
        with proxied(s3_server.endpoint, Faults(seed, lost=0.2)) as endpoint:
            options = {**s3_server.options, "aws_endpoint_url": endpoint}
            lake = Lake(f"s3://{bucket}/lake-{seed}", storage_options=options)
            for _ in range(20):
                try:
                    ingest(lake, shop.source, max_files=6)
                    validate(lake, shop.source)
                except PenstockError:
                    continue
                break
        sound = Lake(lake.uri, storage_options=s3_server.options)
        check_truth(sound, shop.source, expected)


def test_many_make_the_table_at_once(lake: Lake, shop: Shop) -> None:
    from concurrent.futures import ThreadPoolExecutor

    shop.write_orders("a.csv", 10)
    shop.write_orders("b.csv", 10, first=10)

    with ThreadPoolExecutor(6) as pool:
        reports = [*pool.map(lambda _: ingest(lake, shop.source), range(6))]

    assert sum(report.rows_read for report in reports) == 20
    assert Table(lake, "shop/orders_raw").snapshot().rows == 20
    assert read_ledger(lake, shop.source).height == 2
