"""One large CSV file streamed by polars into Parquet: the columns as they came, and where from.

python streaming_script.py RAW TABLE
"""

import sys
from pathlib import Path

import polars as pl

raw, table = Path(sys.argv[1]), Path(sys.argv[2])
target = table / "rows.parquet"
if target.exists():
    print(0)
else:
    table.mkdir(parents=True)
    pl.scan_csv(
        sorted(raw.glob("*.csv")),
        infer_schema=False,
        row_index_name="_source_row",
        include_file_paths="_source_file",
    ).sink_parquet(target)
    print(pl.scan_parquet(target).select(pl.len()).collect().item())
