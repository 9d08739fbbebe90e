"""What one writes by hand with polars: all new files in one commit, a JSON list of those done.

python polars_script.py RAW TABLE
"""

import json
import sys
from pathlib import Path

import polars as pl
from deltalake import write_deltalake

raw, table = Path(sys.argv[1]), Path(sys.argv[2])
done_file = table.with_suffix(".json")
done = set(json.loads(done_file.read_text())) if done_file.exists() else set()
new = [file for file in sorted(raw.glob("*.csv")) if file.name not in done]
if new:
    rows = pl.scan_csv(
        new,
        schema_overrides={"InvoiceNo": pl.String, "StockCode": pl.String},
        include_file_paths="_source_file",
        try_parse_dates=True,
    ).collect()
    write_deltalake(str(table), rows.to_arrow(), mode="append")
    done_file.write_text(json.dumps([*done, *(file.name for file in new)]))
    print(rows.height)
else:
    print(0)
