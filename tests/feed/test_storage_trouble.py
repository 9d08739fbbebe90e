"""Storage that hangs, dies, comes back, or was tampered with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from penstock import CacheOptions, FetchOptions, Lake, load_dataset
from penstock.errors import StorageError
from tests.conftest import S3Server, order_server
from tests.shards.test_shards import publish

QUICK = FetchOptions(stall_seconds=0.6, attempts=2, backoff_seconds=0.1)
PATIENT = FetchOptions(stall_seconds=2, attempts=20, backoff_seconds=0.5)


@pytest.mark.slow
def test_a_stalled_server_times_out_and_names_the_object(
    gateway: str, s3_lake: Lake, tmp_path: Path
) -> None:
    publish(s3_lake)
    feed = load_dataset("shop/numbers", lake=s3_lake, cache=tmp_path, fetch=QUICK).batch(100)
    order_server(gateway, "freeze")
    began = time.monotonic()
    try:
        with pytest.raises(
            StorageError, match=r"shard-0000\d\.arrow: no answer for 0.6 s; gave up"
        ):
            list(feed)
        waited = time.monotonic() - began
        feed.close()
    finally:
        order_server(gateway, "thaw")

    assert waited < 10
    assert time.monotonic() - began < 15
    assert sorted(n for batch in feed for n in batch["label"]) == sorted(-np.arange(1000.0))


_WAITS = """
import sys
from penstock import load_dataset
feed = load_dataset("shop/numbers", lake=sys.argv[1], cache=sys.argv[2]).batch(100)
print("asks", flush=True)
try:
    sys.stdin.readline()
    next(iter(feed))
except KeyboardInterrupt:
    print("left", flush=True)
"""


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_storage_that_hangs(
    gateway: str, s3_server: S3Server, s3_lake: Lake, tmp_path: Path
) -> None:
    publish(s3_lake)
    job = subprocess.Popen(
        [sys.executable, "-c", _WAITS, s3_lake.uri, str(tmp_path)],
        env={**os.environ, **s3_server.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert job.stdin is not None
    assert job.stdout is not None
    assert job.stdout.readline() == "asks\n"
    order_server(gateway, "freeze")
    try:
        job.stdin.write("\n")
        job.stdin.flush()
        time.sleep(2)
        job.send_signal(signal.SIGINT)
        told, _ = job.communicate(timeout=10)  # by default a request may take 80 s
    finally:
        job.kill()
        order_server(gateway, "thaw")

    assert told == "left\n"
    assert job.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("harm", "cure"), [("freeze", "thaw"), ("crash", "restart")])
def test_a_run_goes_on_when_the_server_comes_back(
    gateway: str, s3_lake: Lake, tmp_path: Path, harm: str, cure: str
) -> None:
    publish(s3_lake)
    feed = load_dataset("shop/numbers", lake=s3_lake, cache=tmp_path, fetch=PATIENT).batch(100)
    order_server(gateway, harm)
    healer = threading.Timer(2.5, order_server, (gateway, cure))
    healer.start()
    try:
        labels = [n for batch in feed for n in batch["label"]]
    finally:
        healer.join()

    assert sorted(labels) == sorted(-np.arange(1000.0))
    assert feed.metrics()["retries"] > 0
    feed.close()


def test_a_wrong_key_is_told_at_once(s3_server: S3Server, s3_lake: Lake, tmp_path: Path) -> None:
    if s3_server.kind == "moto":
        pytest.skip("moto accepts any key")
    publish(s3_lake)
    feed = load_dataset("shop/numbers", lake=s3_lake, cache=tmp_path, fetch=PATIENT).batch(100)
    wrong = Lake(s3_lake.uri, storage_options={**s3_server.options, "aws_secret_access_key": "no"})
    object.__setattr__(feed._opened.source, "lake", wrong)
    began = time.monotonic()

    with pytest.raises(StorageError, match="Check the credentials"):
        list(feed)

    assert time.monotonic() - began < 5


def test_a_slow_request_is_asked_a_second_time(
    s3_lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    from penstock.storage.objects import ObjectStore

    publish(s3_lake, rows=20_000)
    ask, asked = ObjectStore.get_range_async, 0

    async def sometimes_slow(store: ObjectStore, key: str, start: int, length: int) -> object:
        nonlocal asked
        asked += 1
        if asked == 60:
            await asyncio.sleep(30)
        return await ask(store, key, start, length)

    monkeypatch.setattr(ObjectStore, "get_range_async", sometimes_slow)
    feed = load_dataset(
        "shop/numbers", lake=s3_lake, cache=CacheOptions(tmp_path), fetch=FetchOptions(in_flight=4)
    ).batch(500)
    monkeypatch.setattr("penstock.feed.source._RUN_BYTES", 1)  # a request a block
    began = time.monotonic()

    assert len(list(feed)) == 40

    assert time.monotonic() - began < 15
    assert asked > 60
    assert feed.metrics()["hedges"] >= 1
    feed.close()
