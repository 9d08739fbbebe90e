"""Penstock: ledger, lineage columns, contract, rejects and all.

python -m benchmarks.ingest.ours RAW LAKE
"""

import sys

from penstock import Lake, validate
from penstock.ingest import Source, ingest
from schemas.retail import SALES

source = Source("retail/sales_raw", sys.argv[1], SALES, pattern="*.csv")
lake = Lake(sys.argv[2])
report = ingest(lake, source)
if "--bronze" not in sys.argv:
    validate(lake, source)
print(report.rows_read)
