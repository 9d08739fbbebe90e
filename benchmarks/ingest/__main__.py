"""Ingest beside what one would write by hand, and beside dlt: the same files, one run, one table.

    python -m benchmarks.ingest                          all works
    python -m benchmarks.ingest --works retail --raw DIR one's own files of retail's layout

Each runs as a process of its own, its start included; the best of `--runs`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import environment_of
from benchmarks.ingest.data import write_files, write_large

HERE = Path(__file__).parent
RESULTS = HERE.parents[0] / "results" / "ingest.md"
WORKS = {"retail": (271, 1600), "small": (20_000, 20), "large": (1, 5 << 30)}
"""Files, and rows of each (of `large`, bytes)."""
BY_HAND = {"retail": ("polars", "duckdb"), "small": ("polars", "duckdb"), "large": ("streaming",)}
"""Of the large file, ours stops where that does too: at the rows as they came."""


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--works", nargs="*", default=["retail", "small"], choices=list(WORKS))
    parser.add_argument("--raw", default=None, help="a folder of files for the work `retail`")
    parser.add_argument("--folder", default="data/bench/ingest")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--dlt", default=None, help="a Python that has dlt; else this one, if it does"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of the usual sizes, for a try")
    told = parser.parse_args()
    lines = [
        f"# Ingest beside scripts by hand and dlt, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; whole "
        f"processes, the best of {told.runs}; `ours` is how many times as long the other takes.",
        "",
        "| work | who | seconds | then, nothing new | peak MB | rows | ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for work in told.works:
        raw = _raw(work, told.raw, Path(told.folder), told.scale)
        ours = 0.0
        others = BY_HAND[work] if work == "large" else (*BY_HAND[work], "dlt")
        for who in ("ours", *others):
            if who == "dlt" and not told.dlt and importlib.util.find_spec("dlt") is None:
                print("dlt is not installed", file=sys.stderr)
                continue
            runs = 1 if who == "dlt" else told.runs
            python = told.dlt if who == "dlt" and told.dlt else sys.executable
            tries = [_measured(work, who, raw, python) for _ in range(runs)]
            first, again = min(t[0] for t in tries), min(t[1] for t in tries)
            ours = ours or first
            lines.append(
                f"| {work} | {who} | {first:.2f} | {again:.2f} | {max(t[2] for t in tries):,.0f} "
                f"| {tries[0][3]:,} | {first / ours:.2f} x |"
            )
            print(lines[-1])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")


def _raw(work: str, own: str | None, folder: Path, scale: float) -> Path:
    files, size = WORKS[work]
    if work == "retail" and own:
        return Path(own).resolve()
    raw = (folder / work).resolve()
    if work == "large":
        write_large(raw / "large.csv", int(size * scale))
    else:
        write_files(raw, max(1, int(files * scale)), size)
    return raw


def _measured(work: str, who: str, raw: Path, python: str) -> tuple[float, float, float, int]:
    """Seconds of a first run and of one right after, peak MB, rows."""
    target = Path(tempfile.mkdtemp(prefix="bench-ingest-"))
    command = [python]
    command += (
        ["-m", "benchmarks.ingest.ours"] if who == "ours" else [str(HERE / f"{who}_script.py")]
    )
    command += [str(raw), str(target / "lake")]
    command += ["--bronze"] if work == "large" and who == "ours" else []
    environment = environment_of(RUNTIME__DLTHUB_TELEMETRY="false")
    try:
        seconds, peak, rows = _run(command, environment)
        again, _, none = _run(command, environment)
        if none:
            raise SystemExit(f"{who} read {none} rows again")
    finally:
        shutil.rmtree(target, ignore_errors=True)
    return seconds, again, peak, rows


def _run(command: list[str], environment: dict[str, str]) -> tuple[float, float, int]:
    with tempfile.TemporaryFile("w+") as out:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            raise SystemExit(f"{' '.join(command)} failed")
        out.seek(0)
        return seconds, usage.ru_maxrss / 1e3, int(out.read().split()[-1])


if __name__ == "__main__":
    main()
