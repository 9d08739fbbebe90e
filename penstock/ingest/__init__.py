"""Files become rows exactly once.

source.py      where files land, and how they are read
discovery.py   list the source, leave out what the ledger has
plan.py        a batch's files, put if absent
read.py        rows as text, all of a file or none of it; delimited.py for CSV
run.py         workers stage Parquet files; one Delta commit names them and carries the batch number
metrics.py     what runs did, for Prometheus
ledger.py      which files were read, with rows or the error; mended after any crash
"""

from penstock.ingest.run import IngestReport, Progress, batches, ingest, waiting_files
from penstock.ingest.source import Source

__all__ = ["IngestReport", "Progress", "Source", "batches", "ingest", "waiting_files"]
