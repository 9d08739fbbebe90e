"""Expectations beside polars by hand and other tools: one run, one table.

    python -m benchmarks.quality
    python -m benchmarks.quality --python OTHER    an interpreter that has the peers installed
    python -m benchmarks.quality --rows 50000000 --works narrow --who      memory at another size

Each runs as a process of its own, its start included; the best of `--runs`.
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
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

from benchmarks import environment_of
from benchmarks.quality.data import write_rows

HERE = Path(__file__).parent
WORKS = {
    "narrow": ("12 expectations", 0, "like"),
    "wide": ("100 on 50 columns", 38, "like"),
    "noise": ("the same, 38 columns of noise", 38, "noise"),
}
"""What is expected, how many more columns there are, and what is in them."""
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
    for work, extra, kind in (WORKS[name] for name in told.works):
        rows = Path(told.folder) / f"{told.rows}-{extra}-{kind}"
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as maker:
            # Its memory is its own: whoever it starts would begin with its peak.
            maker.submit(write_rows, rows, told.rows, extra, are_noise=kind == "noise").result()
        size_mb = sum(file.stat().st_size for file in rows.iterdir()) / 1e6
        work = f"{work}, {size_mb:,.0f} MB"
        ours = 0.0
        for who in ("ours", *(told.who if not extra else ["polars"] if told.who else [])):
            tries = [_measured(who, rows, extra, kind, told.python) for _ in range(told.runs)]
            seconds, peak = min(t[0] for t in tries), max(t[1] for t in tries)
            ours = ours or seconds
            rejected = "-" if tries[0][2] is None else f"{tries[0][2]:,}"
            lines.append(
                f"| {work} | {who} | {seconds:.2f} | {peak:,.0f} | {rejected} "
                f"| {seconds / ours:.2f} x |"
            )
            print(lines[-1], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")


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
