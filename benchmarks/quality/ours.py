"""Penstock: python -m benchmarks.quality.ours ROWS REJECTS [EXTRA KIND]."""

import json
import sys
from datetime import date

from penstock import contracts as c
from penstock.quality import check

TWELVE = [
    c.expect_column_values_to_not_be_null("id"),
    c.expect_column_values_to_not_be_null("rate", severity="warn", mostly=0.9),
    c.expect_column_values_to_be_between("quantity", 0, 999),
    c.expect_column_values_to_be_between("price", 0),
    c.expect_column_values_to_be_in_set("country", ["GB", "FR", "DE"]),
    c.expect_column_values_to_match_regex("code", "^[0-9]{5,6}$"),
    c.expect_column_pair_values_a_to_be_greater_than_b("price", "paid", or_equal=True),
    c.expect_column_value_lengths_to_be_between("note", 0, 10),
    c.expect_column_values_to_be_between("day", date(2020, 1, 1), date(2026, 1, 1)),
    c.expect_column_values_to_be_between("rate", 0, 1),
    c.expect_column_values_to_not_be_in_set("note", ["spam"]),
    c.expect_column_values_to_be_between("b", 5, 19),
]
extra = int(sys.argv[3]) if len(sys.argv) > 3 else 0
is_noise = extra and sys.argv[4] == "noise"
LIKE = (
    lambda name: c.expect_column_values_to_be_between(name, 0, 999),
    lambda name: c.expect_column_values_to_be_between(name, 0),
    lambda name: c.expect_column_values_to_match_regex(name, "^[0-9]{5,6}$"),
    lambda name: c.expect_column_values_to_be_in_set(name, ["GB", "FR", "DE"]),
    lambda name: c.expect_column_values_to_be_between(name, date(2020, 1, 1), date(2026, 1, 1)),
    lambda name: c.expect_column_values_to_be_between(name, 0, 1),
)
more = [
    expectation
    for n in range(extra)
    for expectation in (
        c.expect_column_values_to_not_be_null(f"x{n:02d}"),
        LIKE[5 if is_noise else n % 6](f"x{n:02d}"),
    )
]
for name in (f"x{n:02d}" for n in range(extra) if n % 6 in (2, 3)):
    if is_noise:
        more.append(c.expect_column_values_to_be_between(name, -1))
    else:
        more.append(c.expect_column_value_lengths_to_be_between(name, 2, 6))
report = check(sys.argv[1], [*TWELVE, *more], rejects=sys.argv[2])
print(json.dumps({"rejected": report.rejected, "expectations": len(report.results)}))
