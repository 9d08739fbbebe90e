"""Files become rows exactly once.

source.py      where files land, and how they are read
discovery.py   list the source, leave out what the ledger has
plan.py        a batch's files, put if absent
upstream.py    tables as sources: a database's by a high-water mark, a Delta table's change feed
read.py        rows as text, all of a file or none of it; formats.py, delimited.py for CSV,
               archives.py, media.py
poison.py      files that kill whoever reads them, found and set aside
notifications.py  messages in the place of a listing
run.py         workers stage Parquet files; one Delta commit names them and carries the batch number
metrics.py     what runs did, for Prometheus
ledger.py      which files were read, with rows or the error; mended after any crash
"""

from penstock.ingest.run import IngestReport, Progress, batches, ingest, waiting_files
from penstock.ingest.source import Source
from penstock.ingest.upstream import DatabaseSource, DeltaSource

__all__ = [
    "DatabaseSource",
    "DeltaSource",
    "IngestReport",
    "Progress",
    "Source",
    "batches",
    "ingest",
    "waiting_files",
]
