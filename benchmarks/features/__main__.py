"""Joins and windows beside feature stores and joins by hand: one run, one table.

    python -m benchmarks.features
    python -m benchmarks.features --feast OTHER    an interpreter that has Feast installed
    python -m benchmarks.features --works event created --runs 3

Each runs as a process of its own; the time is that from the inputs' files to all rows in memory, in
order (the largest: to the last batch, each let go), the best of `--runs` (Feast's default store: of
one). Cells that differ from ours are counted.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import polars as pl

from benchmarks import environment_of
from benchmarks.features.data import made

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "features.md"
WORKS = {
    "event": "1 M rows, 3 tables of 2 M rows x 5, event time",
    "created": "the same, `created <= spine time`",
    "clustered": "the same, tables that Penstock wrote, created time",
    "large": "10 M rows, 3 tables of 20 M rows x 5, created time",
    "wide": "20,000 rows, 1,000 features of 10 views",
    "windows": "6 aggregates x 1, 7, 28, 90, 365 d, 1 M rows over 20 M events",
}
WHO = {
    "event": ["polars", "duckdb", "feast duckdb", "feast dask"],
    "created": ["polars", "duckdb", "feast duckdb", "feast dask"],
    "clustered": ["polars"],
    "large": [],
    "wide": ["feast duckdb", "feast dask"],
    "windows": ["duckdb"],
}


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", default="data/bench/features")
    parser.add_argument("--feast", default=sys.executable)
    parser.add_argument("--works", nargs="*", default=[*WORKS], choices=[*WORKS])
    parser.add_argument("--who", nargs="*")
    parser.add_argument("--scale", type=float, default=1.0)
    told = parser.parse_args()
    lines = [
        f"# Joins and windows beside others, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; from "
        f"files to rows in memory (of the largest, a batch at a time), the best of {told.runs}; "
        "100,000 entities, 90 days, TTL 7 days, 5 % ties, 20 % of rows late. `ours` is how many "
        "times as long the other takes; `differ` "
        "are cells that are not as ours (windows: by more than 1e-9 of the value; rows alike in "
        "both times have no right order).",
        "",
        "| work | who | seconds | peak MB | rows | differ | ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for work in told.works:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as maker:
            folder = maker.submit(made, work, Path(told.folder), told.scale).result()
        who = ["ours", *(told.who if told.who is not None else WHO[work])]
        ours, reference = 0.0, None
        for name in who:
            runs = 1 if name == "feast dask" else told.runs
            with tempfile.TemporaryDirectory() as place:
                out = Path(place) / "out.parquet"
                tries = [_measured(name, work, folder, out, told.feast) for _ in range(runs)]
                if not out.exists():
                    lines.append(f"| {WORKS[work]} | {name} | failed | | | | |")
                    print(lines[-1], flush=True)
                    continue
                seconds, peak = min(t[0] for t in tries), max(t[1] for t in tries)
                ours = ours or seconds
                found = pl.read_parquet(out) if work != "large" else None
            rows, wrong = "", ""
            if found is not None:
                reference = found if reference is None else reference
                rows, wrong = f"{found.height:,}", f"{_wrong(reference, found):,}"
            lines.append(
                f"| {WORKS[work]} | {name} | {seconds:.2f} | {peak:,.0f} | {rows} | {wrong} "
                f"| {seconds / ours:.2f} x |"
            )
            print(lines[-1], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")


def _wrong(reference: pl.DataFrame, found: pl.DataFrame) -> int:
    """Cells of the reference's features that differ, those of missing rows too."""
    names = [name for name in reference.columns if name not in ("id", "entity", "event_timestamp")]
    both = reference.select("id", *names).join(
        found.select("id", *names), on="id", how="left", suffix="_other"
    )
    close = [
        (
            pl.col(name).eq_missing(pl.col(f"{name}_other"))
            | (
                (pl.col(name) - pl.col(f"{name}_other")).abs()
                <= 1e-9 * pl.max_horizontal(pl.col(name).abs(), 1.0)
            ).fill_null(value=False)
        )
        for name in names
    ]
    return int(both.select((~each).sum() for each in close).sum_horizontal().item())


def _measured(who: str, work: str, folder: Path, out: Path, feast: str) -> tuple[float, float]:
    """Seconds, peak MB."""
    asked = "created" if work in ("clustered", "large", "wide") else work
    tool, _, store = who.partition(" ")
    match tool:
        case "ours":
            name = work if work in ("clustered", "large") else asked
            command = [sys.executable, "-m", "benchmarks.features.ours", name]
        case "feast":
            command = [feast, str(HERE / "feast_script.py"), asked]
        case _:
            command = [sys.executable, str(HERE / f"{tool}_script.py"), asked]
    command += [str(folder), str(out), *([store] if store else [])]
    environment = environment_of(FEAST_USAGE="False")
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as wrong:
        child = subprocess.Popen(command, env=environment, stdout=said, stderr=wrong)
        child.wait()
        said.seek(0)
        wrong.seek(0)
        if child.returncode:
            print(wrong.read().decode()[-600:], file=sys.stderr)
            return 0.0, 0.0
        seconds, peak_kb = said.read().split()[-2:]
        return float(seconds), int(peak_kb) / 1024


if __name__ == "__main__":
    main()
