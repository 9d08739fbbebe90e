"""Expectations beside polars by hand and other tools: one run, one table.

    python -m benchmarks.quality
    python -m benchmarks.quality --python OTHER    an interpreter that has the peers installed

Each runs as a process of its own, its start included, in turns. The table has the best of `--runs`
and the most memory of any; the line below compares medians, which one lucky run doesn't move.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from benchmarks import environment_of
from benchmarks.quality.data import write_rows

HERE = Path(__file__).parent
WORKS = {
    "narrow": ("12 expectations", 0, "like", 1),
    "wide": ("100 on 50 columns", 38, "like", 1),
    "noise": ("the same, 38 columns of noise", 38, "noise", 1),
    "long": ("12 expectations, ten times the rows", 0, "like", 10),
}
"""What is expected, how many more columns there are and what is in them, and times the rows."""
RESULTS = HERE.parents[0] / "results" / "quality.md"


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", default="data/bench/quality")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--who", nargs="*", default=["polars", "gx", "pandera", "pointblank"])
    parser.add_argument("--works", nargs="*", default=[*WORKS], choices=[*WORKS])
    told = parser.parse_args()
    lines = [
        f"# Expectations beside other tools, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; "
        f"{told.rows:,} rows of Parquet, about 1 in 200 broken; whole processes, the best of "
        f"{told.runs}; `ours` is how many times as long the other takes. Great Expectations, "
        "pandera and pointblank write no rejects.",
        "",
        "| work | who | seconds | peak MB | rejected | ours |",
        "|---|---|---|---|---|---|",
    ]
    folders = {name: _written(Path(told.folder), told.rows, name) for name in told.works}
    tries = dict[tuple[str, str], list[tuple[float, float, int | None]]]()
    for _ in range(told.runs):  # one after the other, as the machine is faster at times
        for name in told.works:
            others = [w for w in told.who if name == "narrow" or (w == "polars" and name != "long")]
            for who in ("ours", *others):
                one = _measured(who, folders[name], *WORKS[name][1:3], told.python)
                tries.setdefault((name, who), []).append(one)
    best = dict[str, float]()
    for (name, who), each in tries.items():
        size_mb = sum(file.stat().st_size for file in folders[name].iterdir()) / 1e6
        seconds, peak = min(one[0] for one in each), max(one[1] for one in each)
        if who == "ours":
            best[name] = seconds
        rejected = "-" if each[0][2] is None else f"{each[0][2]:,}"
        lines.append(
            f"| {WORKS[name][0]}, {size_mb:,.0f} MB | {who} | {seconds:.2f} | {peak:,.0f} "
            f"| {rejected} | {seconds / best[name]:.2f} x |"
        )
        print(lines[-1])
    ours = {name: each for (name, who), each in tries.items() if who == "ours"}
    if "narrow" in ours:
        lines += ["", "Ours, beside the 12 expectations: " + ", ".join(_beside(ours)) + "."]
        print(lines[-1])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")


def _written(folder: Path, rows: int, name: str) -> Path:
    """Where a work's rows are."""
    _, extra, kind, times = WORKS[name]
    path = folder / f"{rows * times}-{extra}-{kind}"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as maker:
        # Its memory is its own: whoever it starts would begin with its peak.
        made = maker.submit(write_rows, path, rows * times, extra, are_noise=kind == "noise")
        made.result()
    return path


def _beside(tries: Mapping[str, Sequence[tuple[float, float, int | None]]]) -> list[str]:
    """What the other works take of the first one's time, and of its memory, by the medians."""
    middle = {
        name: (median(t[0] for t in each), median(t[1] for t in each))
        for name, each in tries.items()
    }
    seconds, peak = middle.pop("narrow")
    return [
        f"{WORKS[name][0]} take {each[0] / seconds:.2f} x the time and {each[1] / peak:.2f} x the "
        "memory"
        for name, each in middle.items()
    ]


def _measured(
    who: str, rows: Path, extra: int, kind: str, python: str
) -> tuple[float, float, int | None]:
    """Seconds, peak MB, rows rejected."""
    if who == "ours":
        command = [sys.executable, "-m", "benchmarks.quality.ours"]
    else:
        python = sys.executable if who == "polars" else python
        command = [python, str(HERE / f"{who}_script.py")]
    environment = environment_of(GX_ANALYTICS_ENABLED="false")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as out:
        command += [str(rows), f"{folder}/rejects.parquet", str(extra), kind]
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            raise SystemExit(f"{' '.join(command)} failed; is it installed there?")
        out.seek(0)
        told = json.loads(out.read().splitlines()[-1])
        return seconds, usage.ru_maxrss / 1e3, told["rejected"]


if __name__ == "__main__":
    main()
