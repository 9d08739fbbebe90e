"""A file that kills the process that reads it is found, set aside, and holds up no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from penstock.ingest import ingest, poison
from penstock.ingest.ledger import read_ledger, unread_files
from penstock.ingest.plan import plan_batch
from tests.conftest import ROOT, Shop

_RUN = """
import os, signal, sys
from pathlib import Path
from penstock import Lake
from penstock.ingest import Source, ingest
from penstock.storage import disk
from tests.conftest import ORDERS

read = disk._read_whole

def deadly(path):
    if path.endswith("poison.csv"):
        os.kill(os.getpid(), signal.SIGKILL)
    return read(path)

disk._read_whole = deadly
report = ingest(Lake(sys.argv[1]), Source("shop/orders_raw", sys.argv[2], ORDERS, tries=3))
print(report.rows_read)
"""


@pytest.mark.slow
def test_a_file_that_kills_its_readers_is_set_aside(shop: Shop, tmp_path: Path) -> None:
    for number in range(40):
        shop.write_orders(f"{number:02d}.csv", 2, first=2 * number)
    (shop.raw / "poison.csv").write_text("id\n")
    script = tmp_path / "run.py"
    script.write_text(_RUN)
    command = [sys.executable, str(script), shop.lake.uri, str(shop.raw)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    codes = list[int]()
    while not codes or codes[-1]:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
        codes.append(done.returncode)
        assert len(codes) < 12, done.stderr.decode()

    assert set(codes[:-1]) == {-signal.SIGKILL}
    assert len(codes) <= 8
    unread = unread_files(read_ledger(shop.lake, shop.source))
    assert list(unread) == ["poison.csv"]
    assert "3 runs died while they read it" in unread["poison.csv"]
    rows = shop.rows("shop/orders_raw")
    assert sorted(rows["id"]) == sorted(f"o{n}" for n in range(80))
    assert not list(shop.lake.objects.list("sources/shop/orders_raw/runs"))
    assert ingest(shop.lake, shop.source, retry=True).rows_read == 0  # it is no longer deadly


def test_a_run_that_lives_is_no_death(shop: Shop) -> None:
    shop.write_orders("a.csv", 2)
    folder = "sources/shop/orders_raw/runs/00000001"
    with subprocess.Popen(["sleep", "60"]) as other:
        alive = {
            "host": poison._SELF["host"],
            "pid": other.pid,
            "started": poison._started(other.pid),
            "at": 0,
            "reading": ["a.csv"],
        }
        elsewhere = {**alive, "host": "another", "at": time.time()}
        for number, record in enumerate((alive, elsewhere)):
            shop.lake.objects.put(f"{folder}/{number}.json", json.dumps(record).encode())
        ledger = read_ledger(shop.lake, shop.source)
        listing = shop.source.folder().list()
        for _ in range(2):
            plan = plan_batch(shop.lake, shop.source, 1, ledger, listing)
        assert plan is not None
        assert plan.is_resumed
        for _ in range(5):
            with poison.Watch(shop.lake, shop.source, plan) as watch:
                assert (watch.suspects, watch.poisoned) == ([], [])
        other.kill()
    elsewhere["at"] = time.time() - 1000
    shop.lake.objects.put(f"{folder}/1.json", json.dumps(elsewhere).encode())
    with poison.Watch(shop.lake, shop.source, plan) as watch:
        assert [[file.path for file in group] for group in watch.suspects] == [["a.csv"]]


def test_a_first_run_writes_nothing_of_it(shop: Shop) -> None:
    shop.write_orders("a.csv", 2)
    ingest(shop.lake, shop.source)
    assert not list(shop.lake.objects.list("sources/shop/orders_raw/runs"))
