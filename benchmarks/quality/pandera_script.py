"""pandera's polars backend, lazily: python pandera_script.py ROWS REJECTS [EXTRA]; no rejects."""

import json
import sys
from datetime import date

import pandera.polars as pa
import polars as pl

schema = pa.DataFrameSchema(
    {
        "id": pa.Column(int, nullable=False),
        "quantity": pa.Column(int, pa.Check.in_range(0, 999)),
        "price": pa.Column(float, pa.Check.ge(0)),
        "country": pa.Column(str, pa.Check.isin(["GB", "FR", "DE"])),
        "code": pa.Column(str, pa.Check.str_matches("^[0-9]{5,6}$")),
        "note": pa.Column(str, [pa.Check.str_length(0, 10), pa.Check.notin(["spam"])]),
        "day": pa.Column(pl.Date, pa.Check.in_range(date(2020, 1, 1), date(2026, 1, 1))),
        "rate": pa.Column(float, pa.Check.in_range(0, 1), nullable=True),
        "b": pa.Column(int, pa.Check.in_range(5, 19)),
    },
    checks=pa.Check(lambda data: data.lazyframe.select(pl.col("price") >= pl.col("paid"))),
)
frame = pl.read_parquet(f"{sys.argv[1]}/*.parquet")
try:
    schema.validate(frame, lazy=True)
    failed = 0
except pa.errors.SchemaErrors as error:
    failed = error.failure_cases.height
print(json.dumps({"rejected": failed, "expectations": 11}))
