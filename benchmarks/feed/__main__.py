"""The feed beside its peers: the same data in each one's format, one run, one table.

    python -m benchmarks.feed                       all local works
    python -m benchmarks.feed --works rows tokens   some
    python -m benchmarks.feed --s3 s3://bucket/x    also the cold ones, from a server in AWS_*

Each loader runs in a process of its own, a peer with 0 and with 2 workers: its better one counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.feed.measure import LIMITS, PEERS

LOCAL = ("rows", "rows-parquet", "tokens", "jpegs", "jpegs-bytes", "images", "images-cached")
COLD = ("cold-blobs", "cold-rows")
# What ours is held beside where the peers have no such work of their own.
SAME_AS = {"rows-parquet": "rows", "jpegs-bytes": "jpegs", "images-cached": "images"}
RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--works", nargs="*", default=None)
    parser.add_argument("--peers", nargs="*", default=list(PEERS))
    parser.add_argument("--s3", default=None, help="s3://bucket/prefix for the cold works")
    parser.add_argument("--folder", default="data/bench", help="where the formats are written")
    parser.add_argument("--flowers", default=None, help="a folder of JPEGs; else made ones")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60, help="at which an epoch is broken off")
    parser.add_argument("--scale", type=float, default=1.0, help="of the usual sizes, for a try")
    told = parser.parse_args()
    works = told.works or [*LOCAL, *(COLD if told.s3 else ())]
    sizes = {"rows": 2_000_000, "token_lists": 200_000, "jpegs": 20_000}
    sizes |= {"cold_blobs": 3_000, "cold_rows": 1_000_000}
    data: dict[str, Any] = {name: max(1, int(size * told.scale)) for name, size in sizes.items()}
    data["flowers"] = told.flowers and str(Path(told.flowers).resolve())
    table = list[dict[str, Any]]()
    for work in works:
        root = told.s3 if work.startswith("cold") else told.folder
        epochs = 1 if work.startswith("cold") else told.epochs
        limits = ["--epochs", str(epochs), "--seconds", str(told.seconds)]
        table += _kept(work, _run("penstock", work, root, 0, limits, data))
        for limit in (name for name, works in LIMITS.items() if work in works):
            table += _kept(work, _run(limit, work, root, 0, limits, data))
        for peer in told.peers if work not in SAME_AS else ():
            tries = [_run(peer, work, root, workers, limits, data) for workers in (0, 2)]
            done = [found for found in tries if found is not None]
            table += _kept(work, max(done, key=_best, default=None))
    text = _text(table, data)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "feed.md").write_text(text)


def _run(
    loader: str, work: str, root: str, workers: int, limits: list[str], data: dict[str, Any]
) -> dict[str, Any] | None:
    """A loader's figures; None where it isn't installed or doesn't do the work."""
    folder = f"{root}/{loader}/{work}"
    command = [sys.executable, "-m", "benchmarks.feed.measure", loader, work, "--folder", folder]
    command += ["--workers", str(workers), *limits, "--data", json.dumps(data)]
    environment = {"AWS_EC2_METADATA_DISABLED": "true", **os.environ}
    if loader not in LIMITS:
        prepared = subprocess.run(
            [*command, "--prepare"], env=environment, capture_output=True, text=True, check=False
        )
        if prepared.returncode:
            last = (prepared.stderr.strip().splitlines() or ["?"])[-1]
            print(f"{loader} {work}: left out: {last}", file=sys.stderr)
            return None
    with tempfile.TemporaryFile("w+") as errors:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, check=False
        )
        if done.returncode:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["?"])[-1]
            print(f"{loader} {work}, {workers} workers: failed: {last}", file=sys.stderr)
            return None
    found = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{found['name']} {work}, {workers} workers: {found['seconds']}", file=sys.stderr)
    return {**found, "workers": workers}


def _best(found: dict[str, Any]) -> float:
    """Samples a second of its best epoch."""
    return max(_rates(found))


def _rates(found: dict[str, Any]) -> list[float]:
    pairs = zip(found["samples"], found["seconds"], strict=True)
    return [samples / seconds for samples, seconds in pairs]


def _kept(work: str, found: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [] if found is None else [{**found, "work": work}]


def _text(table: list[dict[str, Any]], data: dict[str, Any]) -> str:
    lines = [
        f"# The feed beside its peers, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; "
        f"sizes {json.dumps({name: size for name, size in data.items() if name != 'flowers'})}.",
        "Samples a second of a loader's best epoch, with 0 or 2 workers, the better one; `first "
        "epoch` and `first batch` are of a standing start, `MB` the process's peak. `ours` says "
        "how many times as fast Penstock's best epoch is.",
        "",
        "| work | loader | version | workers | samples/s | first epoch | first batch | MB | ours |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ours = {row["work"]: row for row in table if row["name"] == "Penstock"}
    for row in table:
        mine = ours.get(row["work"])
        times = "" if mine is None else f"{_best(mine) / _best(row):.2f} x"
        lines.append(
            f"| {row['work']} | {row['name']} | {row['version']} | {row['workers']} "
            f"| {_best(row):,.0f} | {_rates(row)[0]:,.0f} | {row['first_batch'][0] * 1e3:,.0f} ms "
            f"| {row['peak_mb']:,.0f} | {times} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
