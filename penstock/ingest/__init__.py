"""Files become rows exactly once.

plan.py      list the source, leave out what the ledger has, put the plan if absent
read.py      each file's rows as text, all of a file or none of it
run.py       tasks stage Parquet files; one Delta commit names them and carries the batch number
ledger.py    which files were read, with rows or the error; mended after any crash
"""

from penstock.ingest.plan import Source
from penstock.ingest.run import IngestReport, ingest

__all__ = ["IngestReport", "Source", "ingest"]
