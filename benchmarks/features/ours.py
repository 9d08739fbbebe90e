"""Penstock's part: python -m benchmarks.features.ours WORK FOLDER OUT."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import polars as pl

from benchmarks.features.data import FEATURES, TABLES, TTL_DAYS
from penstock import Lake
from penstock.features import (
    Count,
    Entity,
    FeatureView,
    Max,
    Mean,
    Min,
    Std,
    Sum,
    training_frame,
)

_ENTITY = Entity("thing", ("entity",))
OVER = ("1d", "7d", "28d", "90d", "365d")


def views(tables: int = TABLES, features: int = FEATURES) -> list[FeatureView]:
    """A view a table."""
    return [
        FeatureView(
            table=f"bench/view{n}",
            entity=_ENTITY,
            source=f"bench/table{n}",
            event_time="event_timestamp",
            created_time="created",
            ttl=f"{TTL_DAYS}d",
            features=tuple(f"t{n}_f{i}" for i in range(features)),
        )
        for n in range(tables)
    ]


WINDOWS = FeatureView(
    table="bench/windows",
    entity=_ENTITY,
    source="bench/events",
    event_time="at",
    features=(
        Sum("x", OVER, "sum"),
        Count(OVER, "count"),
        Mean("x", OVER, "mean"),
        Min("x", OVER, "min"),
        Max("x", OVER, "max"),
        Std("x", OVER, "std"),
    ),
)


def peak_kb() -> int:
    """The most memory that this process has held; a parent's is not counted in."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return int(line.split()[1])


def main(work: str, folder: Path, out: Path) -> None:
    """Read and join, and say how long that took; write."""
    began = time.perf_counter()
    spine = pl.scan_parquet(folder / "spine.parquet")
    if work == "windows":
        views_, sources = [WINDOWS], {"bench/events": pl.scan_parquet(folder / "events.parquet")}
    else:
        found = sorted(folder.glob("table*.parquet"))
        width = len(pl.scan_parquet(found[0]).collect_schema()) - 3
        views_ = views(len(found), width)
        sources = {
            f"bench/table{n}": pl.scan_parquet(folder / f"table{n}.parquet")
            for n in range(len(found))
        }
    if work == "clustered":
        sources = {}
    frame = training_frame(
        spine,
        views_,
        lake=Lake(folder / "lake"),
        known_at="event" if work == "event" else "created",
        event_time="event_timestamp",
        sources=sources,
    )
    if work == "large":  # more than is to be held: each batch is let go
        count = sum(batch.height for batch in frame.batches())
        print(time.perf_counter() - began, peak_kb())
        pl.DataFrame({"rows": [count]}).write_parquet(out)
        return
    rows = frame.collect()
    print(time.perf_counter() - began, peak_kb())
    rows.write_parquet(out)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
