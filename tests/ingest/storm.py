"""Processes that are killed while they ingest, over and over, and what has to be true after.

python -m tests.ingest.storm --rounds 200 [--s3 s3://bucket/prefix]     or: make soak
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

# What the tests' own settings take out of the environment, for --s3.
_SERVER = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}

from penstock import Lake, Table, validate
from penstock.errors import CommitConflict
from penstock.ingest import Source, ingest
from penstock.ingest import ledger as ledger_module
from penstock.ingest import plan as plan_module
from penstock.ingest import run as run_module
from penstock.ingest import work as work_module
from penstock.ingest.ledger import mend_ledger, read_ledger
from penstock.quality import validation as validation_module
from penstock.tables import optimize, upsert, vacuum
from penstock.tables import table as table_module
from tests.conftest import HEADER, ORDERS, order

STEPS: dict[str, tuple[Any, str]] = {
    "before the plan is put": (plan_module.Plan, "to_parquet"),
    "before files are read": (run_module, "read_all"),
    "while a worker reads": (work_module.Worker, "_small"),
    "while a file is staged": (table_module.StagedFile, "__init__"),
    "before the ledger's rows are staged": (run_module, "stage_results"),
    "at a commit": (table_module, "put_entry"),
    "before the ledger's commit": (ledger_module, "_commit"),
    "while rows are validated": (validation_module._Batch, "_split"),
    "between validation's commits": (validation_module._Batch, "_commit"),
}
"""Where a run is killed, before or after this function."""
# Of a server that has imported all and used nothing: neither obstore nor polars outlives a fork.
_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(["tests.ingest.storm"])


def write_files(raw: Path, files: int, rows: int) -> dict[str, int]:
    """Write files of which some can't be read; the rows of each that can."""
    raw.mkdir(parents=True, exist_ok=True)
    expected = dict[str, int]()
    for number in range(files):
        name = f"{number:05}.csv"
        lines = [order(number * rows + row) for row in range(rows)]
        match number % 50:
            case 7:
                (raw / name).write_bytes(b"")
                continue
            case 23:
                (raw / name).write_text("what,is\nthis,1\n")
                continue
            case 31:
                lines[0] = "too,few"
            case 43:
                lines[1] = order(number * rows + 1, units="many")
        (raw / name).write_text(HEADER + "".join(f"{line}\n" for line in lines))
        expected[name] = rows
    return expected


def killed_over_and_over(
    lake: Lake, source: Source, rounds: int, seed: int, *, max_files: int, patience: float
) -> None:
    """Start a run and kill it at a random moment or step, so many times; then let one finish."""
    dice = random.Random(seed)
    steps = list(STEPS)
    for number in range(rounds):
        step = steps[number % len(steps)] if number % 2 else None
        arguments = (lake, source, max_files, step, dice.randrange(1, 4), bool(dice.getrandbits(1)))
        process = _FORK.Process(target=_run, args=arguments)
        process.start()
        process.join(patience if step else dice.uniform(0, patience))
        if process.is_alive() and process.pid:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
    last = _FORK.Process(target=_run, args=(lake, source, max_files, None, 0, False))
    last.start()
    last.join()
    if last.exitcode:
        raise AssertionError(f"the last run, which nobody killed, failed: {last.exitcode}")


def _run(
    lake: Lake, source: Source, max_files: int, step: str | None, turn: int, is_after: bool
) -> None:
    if step is not None:
        _die_at(step, turn, is_after)
    ingest(lake, source, max_files=max_files)
    validate(lake, source)


def _die_at(step: str, turn: int, is_after: bool) -> None:
    owner, name = STEPS[step]
    done, left = getattr(owner, name), [turn]

    def deadly(*given: Any, **named: Any) -> Any:
        left[0] -= 1
        if not left[0] and not is_after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = done(*given, **named)
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


@contextmanager
def watched(lake: Lake, source: Source) -> Iterator[Callable[[], None]]:
    """A reader that looks all the while; to be called at the end: it never saw half a batch."""
    seen: list[tuple[int, dict[int, int]]] = []
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            snapshot = Table(lake, source.table).snapshot_or_none()
            if snapshot is not None:
                counts = snapshot.scan().group_by("_batch").len().collect()
                seen.append((snapshot.version, dict(counts.rows())))
            time.sleep(0.05)

    def check() -> None:
        is_over.set()
        reader.join()
        final = dict(
            Table(lake, source.table).snapshot().scan().group_by("_batch").len().collect().rows()
        )
        for version, counts in seen:
            for batch, rows in counts.items():
                assert rows == final[batch], f"version {version} had {rows} rows of batch {batch}"
            assert sorted(counts) == [*range(1, len(counts) + 1)] or 0 in final

    reader = threading.Thread(target=look)
    reader.start()
    try:
        yield check
    finally:
        is_over.set()
        reader.join()


def check_truth(lake: Lake, source: Source, expected: dict[str, int]) -> None:
    """Every good row once, every reject once, the ledger as it is, and no orphan after a vacuum."""
    rows = Table(lake, source.table).snapshot().scan().filter(pl.col("_batch") > 0).collect()
    counts = dict(rows.group_by("_source_file").len().rows())
    assert counts == expected
    assert not rows.select("_source_file", "_source_row").is_duplicated().any()
    ledger = read_ledger(lake, source).unique("file", keep="last")
    loaded = ledger.filter(status="loaded")
    assert dict(loaded.select("file", "rows_read").rows()) == expected
    assert loaded.height + ledger.filter(status="failed").height == ledger.height
    contract = source.contract.table
    good = Table(lake, contract).snapshot().scan().collect()
    bad = Table(lake, f"{contract}__rejected").snapshot().scan().collect()
    both = pl.concat([t.select("_source_file", "_source_row") for t in (good, bad)])
    assert both.height == sum(expected.values())
    assert not both.is_duplicated().any()
    for name in (source.table, contract, f"{contract}__rejected", f"{source.table}__ledger"):
        table = Table(lake, name)
        vacuum(table, keep=timedelta(0))
        named = {f"{table.key}/{file.path}" for file in table.snapshot().files}
        listed = lake.objects.list(table.key)
        there = {found.key for found in listed if "/_delta_log/" not in found.key}
        assert there == named, f"{name}: {sorted(there ^ named)[:5]}"


def contended(lake: Lake, source: Source, runners: int, *, max_files: int, turns: int) -> None:
    """Runners of one source at once, while two others compact its table and two upsert into it."""
    ingest(lake, source, max_files=max_files, max_batches=1)
    jobs = [(_ingest_all, (lake, source, max_files))] * runners
    jobs += [(_compact, (lake, source, turns))] * 2
    jobs += [(_upsert, (lake, source, number, turns)) for number in (1, 2)]
    processes = [_FORK.Process(target=job, args=arguments) for job, arguments in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)
    _ingest_all(lake, source, max_files)
    manual = Table(lake, source.table).snapshot().scan().filter(pl.col("_batch") == 0).collect()
    wanted = sorted(f"m{number}-{turn}" for number in (1, 2) for turn in range(turns))
    assert sorted(manual["id"]) == wanted
    assert set(manual["product"]) == {"second"}


def _ingest_all(lake: Lake, source: Source, max_files: int) -> None:
    ingest(lake, source, max_files=max_files)
    mend_ledger(lake, source, Table(lake, source.table).snapshot())


def _compact(lake: Lake, source: Source, turns: int) -> None:
    for _ in range(turns):
        try:
            optimize(Table(lake, source.table))
        except CommitConflict:
            continue  # of two that compact the same files one is refused
        time.sleep(0.05)


def _upsert(lake: Lake, source: Source, number: int, turns: int) -> None:
    for said in ("first", "second"):
        for turn in range(turns):
            row = pl.DataFrame({"id": [f"m{number}-{turn}"], "product": [said], "_batch": [0]})
            upsert(Table(lake, source.table), row, ["id"])


def main() -> None:
    """Storms for as long as is asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--s3", default=None, help="s3://bucket/prefix, its server in AWS_*")
    told = parser.parse_args()
    for seed in told.seeds:
        _soak(told.files, told.rounds, seed, told.s3)


def _soak(files: int, rounds: int, seed: int, s3: str | None) -> None:
    folder = Path(tempfile.mkdtemp(prefix="penstock-soak-"))
    expected = write_files(folder / "raw", files, 20)
    if s3:
        lake = Lake(f"{s3}/{seed}-{os.getpid()}", storage_options=_SERVER)
    else:
        lake = Lake(folder / "lake")
    source = Source("shop/orders_raw", str(folder / "raw"), ORDERS)
    began = time.perf_counter()
    watcher = _FORK.Process(target=_watch, args=(lake, source, folder / "stop"))
    watcher.start()
    killed_over_and_over(lake, source, rounds, seed, max_files=max(1, files // 40), patience=3)
    (folder / "stop").touch()
    watcher.join()
    check_truth(lake, source, expected)
    if watcher.exitcode:
        sys.exit("a reader saw half a batch")
    seconds = time.perf_counter() - began
    sys.stdout.write(f"seed {seed}: {rounds} kills in {seconds:.0f} s, nothing lost or doubled\n")


def _watch(lake: Lake, source: Source, stop: Path) -> None:
    with watched(lake, source) as check:
        while not stop.exists():
            time.sleep(0.2)
        check()


if __name__ == "__main__":
    main()
