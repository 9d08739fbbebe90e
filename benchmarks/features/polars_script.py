"""The join by hand in polars: sort, join_asof.  polars_script.py WORK FOLDER OUT."""

import sys
import time
from pathlib import Path

import polars as pl

work, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
TTL = pl.duration(days=7)


def peak_kb() -> int:
    """The most memory that this process has held; a parent's is not counted in."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return int(line.split()[1])


def join_known(spine: pl.DataFrame, view: pl.DataFrame) -> pl.DataFrame:
    """The row that is newest of those known: found by its number, then looked up."""
    view = view.sort("event_timestamp", "created").with_row_index("row")
    known = view.select(
        "entity", "row", pl.max_horizontal("event_timestamp", "created").alias("known")
    )
    known = known.sort("known").with_columns(pl.col("row").cum_max().over("entity"))
    found = spine.select("entity", "event_timestamp").join_asof(
        known, left_on="event_timestamp", right_on="known", by="entity", check_sortedness=False
    )
    row = found["row"]
    view = view.select(*names, pl.col("event_timestamp").alias("event"))
    return spine.hstack([view[name].gather(row) for name in view.columns])


began = time.perf_counter()
spine = pl.read_parquet(folder / "spine.parquet").sort("event_timestamp")
for path in sorted(folder.glob("table*.parquet")):
    view = pl.read_parquet(path)
    names = [name for name in view.columns if name[0] == "t"]
    if work == "created":
        spine = join_known(spine, view)
    else:
        view = view.sort("event_timestamp", "created").drop("created")
        view = view.with_columns(pl.col("event_timestamp").alias("event"))
        spine = spine.join_asof(view, on="event_timestamp", by="entity", check_sortedness=False)
    fresh = pl.col("event_timestamp") - pl.col("event") <= TTL
    spine = spine.with_columns(pl.when(fresh).then(pl.col(names))).drop("event")
spine = spine.sort("id")
print(time.perf_counter() - began, peak_kb())
spine.write_parquet(out)
