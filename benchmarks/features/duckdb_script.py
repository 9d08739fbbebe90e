"""Joins and windows by hand in DuckDB.  duckdb_script.py WORK FOLDER OUT."""

import sys
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

work, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])


def peak_kb() -> int:
    """The most memory that this process has held; a parent's is not counted in."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return int(line.split()[1])


began = time.perf_counter()
connection = duckdb.connect()
connection.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
if work == "windows":
    windows = ("1d", 1), ("7d", 7), ("28d", 28), ("90d", 90), ("365d", 365)
    aggregates = (
        ("coalesce(sum(x) {}, 0)", "sum"),
        ("count(x) {}", "count"),
        ("avg(x) {}", "mean"),
        ("min(x) {}", "min"),
        ("max(x) {}", "max"),
        ("stddev_samp(x) {}", "std"),
    )
    columns = ", ".join(
        call.format(f"FILTER (e.at > s.event_timestamp - INTERVAL {days} DAY)") + f" AS {name}_{w}"
        for call, name in aggregates
        for w, days in windows
    )
    query = f"""
        SELECT s.id, any_value(s.entity) AS entity, s.event_timestamp, {columns}
        FROM '{folder}/spine.parquet' s LEFT JOIN '{folder}/events.parquet' e
          ON e.entity = s.entity AND e.at <= s.event_timestamp
         AND e.at > s.event_timestamp - INTERVAL 365 DAY
        GROUP BY s.id, s.event_timestamp ORDER BY s.id"""
else:
    query = f"SELECT * FROM '{folder}/spine.parquet'"
    for path in sorted(folder.glob("table*.parquet")):
        described = connection.sql(f"DESCRIBE SELECT * FROM '{path}'").fetchall()
        names = [row[0] for row in described if row[0][0] == "t"]
        if work == "created":
            # The newest by (event, created) of those known at each moment.
            view = f"""
                SELECT entity, known, max(struct_pack(e := event_timestamp, c := created,
                       {", ".join(f"{n} := {n}" for n in names)}))
                       OVER (PARTITION BY entity ORDER BY known) AS best
                FROM (SELECT *, greatest(event_timestamp, created) AS known FROM '{path}')"""
            view = f"SELECT DISTINCT ON (entity, known) * FROM ({view})"
            event, known = "v.best.e", "v.known"
        else:
            view = f"""SELECT * FROM '{path}'
                QUALIFY row_number() OVER (PARTITION BY entity, event_timestamp
                                           ORDER BY created DESC) = 1"""
            event = known = "v.event_timestamp"
        fresh = f"s.event_timestamp - {event} <= INTERVAL 7 DAY"
        chosen = ", ".join(
            f"CASE WHEN {fresh} THEN {'v.best.' if work == 'created' else 'v.'}{n} END AS {n}"
            for n in names
        )
        query = f"""SELECT s.*, {chosen} FROM ({query}) s ASOF LEFT JOIN ({view}) v
                    ON s.entity = v.entity AND s.event_timestamp >= {known}"""
    query = f"SELECT * FROM ({query}) ORDER BY id"
rows = connection.sql(query).to_arrow_table()
print(time.perf_counter() - began, peak_kb())
pq.write_table(rows, out)
