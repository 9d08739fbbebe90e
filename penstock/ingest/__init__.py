"""Files become rows exactly once.

source.py      where files land, and how they are read
discovery.py   list the source, leave out what the ledger has
plan.py        a batch's files, put if absent
upstream.py    tables as sources, in stretches: databases.py by a mark, change_feeds.py of Delta
read.py        rows as text, all of a file or none of it; formats.py, delimited.py for CSV,
               archives.py, media.py
poison.py      files that kill whoever reads them, found and set aside
notifications.py  messages in the place of a listing
run.py         workers stage Parquet files; one Delta commit names them and carries the batch number
metrics.py     what runs did, for Prometheus
ledger.py      which files were read, with rows or the error; mended after any crash
"""

from penstock.ingest.change_feeds import DeltaSource
from penstock.ingest.databases import DatabaseSource
from penstock.ingest.run import IngestReport, Progress, batches, ingest, waiting_files
from penstock.ingest.source import Source

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
