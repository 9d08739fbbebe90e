"""pointblank over polars: python pointblank_script.py ROWS REJECTS [EXTRA]; no rejects."""

import json
import sys
from datetime import date

import pointblank as pb
import polars as pl

frame = pl.read_parquet(f"{sys.argv[1]}/*.parquet")
validation = (
    pb.Validate(frame)
    .col_vals_not_null("id")
    .col_vals_between("quantity", 0, 999)
    .col_vals_ge("price", 0)
    .col_vals_in_set("country", ["GB", "FR", "DE"])
    .col_vals_regex("code", "^[0-9]{5,6}$")
    .col_vals_ge("price", pb.col("paid"))
    .col_vals_expr(pl.col("note").str.len_chars().is_between(0, 10))
    .col_vals_between("day", date(2020, 1, 1), date(2026, 1, 1))
    .col_vals_between("rate", 0, 1, na_pass=True)
    .col_vals_not_in_set("note", ["spam"])
    .col_vals_between("b", 5, 19)
    .col_vals_not_null("rate")
    .interrogate(collect_extracts=False)
)
failed = validation.n_failed()
print(json.dumps({"rejected": None, "expectations": len(failed)}))
