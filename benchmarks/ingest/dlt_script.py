"""dlt as its documentation advises: its filesystem source and its CSV reader, into a Delta table.

python dlt_script.py RAW TABLE
"""

import sys
from pathlib import Path

import dlt
from dlt.sources.filesystem import filesystem, read_csv

raw, table = Path(sys.argv[1]), Path(sys.argv[2])
files = filesystem(bucket_url=raw.as_uri(), file_glob="*.csv")
files.apply_hints(incremental=dlt.sources.incremental("modification_date"))
pipeline = dlt.pipeline(
    "bench",
    pipelines_dir=str(table.parent / "pipelines"),
    destination=dlt.destinations.filesystem(table.parent.as_uri()),
    dataset_name=table.name,
)
pipeline.run((files | read_csv()).with_name("sales"), table_format="delta")
counts = pipeline.last_trace.last_normalize_info.row_counts
print(counts.get("sales", 0))
