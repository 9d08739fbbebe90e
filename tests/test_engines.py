"""Engines: results in order, no more at once than workers, threads and processes alike."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engines import Engine, Processes, Threads, engine_of
from penstock.errors import PenstockError
from penstock.features import Count, Derived, Entity, FeatureView, Sum, training_frame


def _squared(number: int) -> tuple[int, int]:
    if number < 0:
        raise ValueError("below zero")
    return number * number, os.getpid()


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 20), workers=st.integers(1, 5))
def test_results_come_in_order_and_no_more_run_than_workers(count: int, workers: int) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def task(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.0005 * (number % 3))
        with lock:
            running -= 1
        return number

    assert list(Threads(workers).run(task, range(count))) == list(range(count))
    assert most <= workers


@pytest.mark.parametrize("engine", [Threads(2), Processes(2)], ids=["threads", "processes"])
def test_a_failure_is_raised_in_its_place_and_ends_the_run(engine: Engine) -> None:
    found = list[int]()
    with pytest.raises(ValueError, match="below zero"):
        found += [square for square, _ in engine.run(_squared, [1, 2, -1, 4, 5])]
    run = engine.run(_squared, [1, 2, -1, 4, 5])
    assert [next(run)[0], next(run)[0]] == [1, 4]
    with pytest.raises(ValueError, match="below zero"):
        next(run)


def test_processes_are_others() -> None:
    pids = {pid for _, pid in Processes(2).run(_squared, range(4))}
    assert os.getpid() not in pids


def test_an_engine_is_named_by_text(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_of("threads:3") == Threads(3)
    assert engine_of("processes:4") == Processes(4)
    monkeypatch.setenv("PENSTOCK_ENGINE", "processes")
    assert isinstance(engine_of(), Processes)
    for wrong in ("ray", "threads:0", "threads:x"):
        with pytest.raises(PenstockError, match="is no engine"):
            engine_of(wrong)


def test_a_join_in_processes_has_the_same_bits() -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    rows = pl.DataFrame(
        {
            "k": [n % 17 for n in range(300)],
            "at": [start + timedelta(hours=n) for n in range(300)],
            "known": [start + timedelta(hours=n + n % 50) for n in range(300)],
            "x": [n / 7 for n in range(300)],
        }
    )
    view = FeatureView(
        "shop/view",
        Entity("thing", ("k",)),
        "shop/rows",
        "at",
        ("x", Sum("x", ["2d"], "sum"), Count(["2d"])),
        created_time="known",
        derived=(Derived.of("twice", lambda f: f["sum_2d"] * 2, ["sum_2d"]),),
    )
    spine = pl.DataFrame(
        {
            "k": [n % 19 for n in range(200)],
            "event_time": [start + timedelta(hours=n) for n in range(200)],
        }
    )

    frames = [
        training_frame(spine, view, sources={"shop/rows": rows}, memory_bytes=memory, engine=engine)
        for memory, engine in ((1 << 30, Threads(1)), (20_000, Threads(3)), (20_000, Processes(2)))
    ]
    one, threads, processes = (frame.collect() for frame in frames)

    assert one.equals(threads)
    assert one.equals(processes)
    assert frames[0].report == frames[2].report
