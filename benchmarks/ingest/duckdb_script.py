"""What one writes by hand with DuckDB, its dialect fixed: one commit, a JSON list of files done.

python duckdb_script.py RAW TABLE
"""

import json
import sys
from pathlib import Path

import duckdb
from deltalake import write_deltalake

raw, table = Path(sys.argv[1]), Path(sys.argv[2])
done_file = table.with_suffix(".json")
done = set(json.loads(done_file.read_text())) if done_file.exists() else set()
new = [str(file) for file in sorted(raw.glob("*.csv")) if file.name not in done]
if new:
    rows = duckdb.read_csv(
        new,
        header=True,
        delimiter=",",
        quotechar='"',
        filename=True,
        columns={
            "InvoiceNo": "VARCHAR",
            "StockCode": "VARCHAR",
            "Description": "VARCHAR",
            "Quantity": "INTEGER",
            "InvoiceDate": "TIMESTAMP",
            "UnitPrice": "DOUBLE",
            "CustomerID": "DOUBLE",
            "Country": "VARCHAR",
        },
    ).to_arrow_table()
    write_deltalake(str(table), rows, mode="append")
    done_file.write_text(json.dumps([*done, *(Path(file).name for file in new)]))
    print(rows.num_rows)
else:
    print(0)
