"""A feature table of many days at once, then one more day: python -m benchmarks.features.daily.

Six aggregates over 1, 7, 28, 90 and 365 days for every entity and day of two years.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import polars as pl

from benchmarks.features.data import made
from benchmarks.features.ours import WINDOWS
from penstock import Lake, Table
from penstock.features import materialize, stale_days
from penstock.tables import append


def main() -> None:
    """Rebuild, add a day, measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default="data/bench/features")
    parser.add_argument("--scale", type=float, default=0.1, help="1: 20 M events")
    told = parser.parse_args()
    events = pl.read_parquet(made("windows", Path(told.folder), told.scale) / "events.parquet")
    entities = int(100_000 * told.scale)
    events = events.with_columns(pl.col("entity") % entities).sort("at")
    last = events["at"].max()
    assert last is not None
    cut = pl.lit(last).dt.truncate("1d")
    with tempfile.TemporaryDirectory() as folder:
        lake, daily = Lake(Path(folder)), WINDOWS.daily()
        append(Table(lake, WINDOWS.source), events.filter(pl.col("at") <= cut).to_arrow())
        seconds = dict[str, float]()
        for what in ("rebuild", "one more day"):
            began = time.perf_counter()
            done = materialize(lake, daily, stale_days(lake, daily))
            seconds[what] = time.perf_counter() - began
            print(
                f"{what}: {done.days} days, {done.rows:,} rows, {seconds[what]:.2f} s", flush=True
            )
            new = events.filter(pl.col("at") > cut, pl.col("at") <= cut + timedelta(days=1))
            append(Table(lake, WINDOWS.source), new.to_arrow())
        print(f"{seconds['one more day'] / seconds['rebuild']:.2%} of the rebuild")


if __name__ == "__main__":
    main()
