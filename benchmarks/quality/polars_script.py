"""The same predicates by hand: python polars_script.py ROWS REJECTS [EXTRA KIND]."""

import json
import sys
from datetime import date

import polars as pl

rows = pl.scan_parquet(f"{sys.argv[1]}/*.parquet")
extra = int(sys.argv[3]) if len(sys.argv) > 3 else 0
bad = {
    "id": pl.col("id").is_null(),
    "quantity": ~pl.col("quantity").is_between(0, 999),
    "price": pl.col("price") < 0,
    "country": ~pl.col("country").is_in(["GB", "FR", "DE"]),
    "code": ~pl.col("code").str.contains("^[0-9]{5,6}$"),
    "paid": pl.col("price") < pl.col("paid"),
    "note_length": ~pl.col("note").str.len_chars().is_between(0, 10),
    "day": ~pl.col("day").is_between(date(2020, 1, 1), date(2026, 1, 1)),
    "rate": ~pl.col("rate").is_between(0, 1),
    "note": pl.col("note").is_in(["spam"]),
    "b": ~pl.col("b").is_between(5, 19),
}
is_noise = extra and sys.argv[4] == "noise"
LIKE = (
    lambda value: ~value.is_between(0, 999),
    lambda value: value < 0,
    lambda value: ~value.str.contains("^[0-9]{5,6}$"),
    lambda value: ~value.is_in(["GB", "FR", "DE"]),
    lambda value: ~value.is_between(date(2020, 1, 1), date(2026, 1, 1)),
    lambda value: ~value.is_between(0, 1),
)
for n in range(extra):
    bad[f"null{n}"] = pl.col(f"x{n:02d}").is_null()
    bad[f"kind{n}"] = LIKE[5 if is_noise else n % 6](pl.col(f"x{n:02d}"))
    if n % 6 in (2, 3):
        value = pl.col(f"x{n:02d}")
        bad[f"more{n}"] = value < -1 if is_noise else ~value.str.len_chars().is_between(2, 6)
bad = {name: when.fill_null(value=False) for name, when in bad.items()}
counts = rows.select(
    pl.len(),
    pl.col("rate").is_null().sum().alias("no_rate"),
    *(when.sum().alias(f"bad_{name}") for name, when in bad.items()),
).collect(engine="streaming")
rows.filter(pl.any_horizontal(*bad.values())).sink_parquet(sys.argv[2])
rejected = pl.scan_parquet(sys.argv[2]).select(pl.len()).collect().item()
print(json.dumps({"rejected": rejected, "expectations": len(bad) + 1}))
