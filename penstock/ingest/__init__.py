"""Files become rows exactly once.

source.py      where files land, and how they are read
discovery.py   list the source, leave out what the ledger has
plan.py        a batch's files, put if absent
upstream.py    tables as sources, in stretches: databases.py by a mark, change_feeds.py of Delta
read.py        rows as text, all of a file or none of it; formats.py, typed.py for values that
               have types, delimited.py for CSV, archives.py, media.py, streams.py for bytes on
               their way
poison.py      files that kill whoever reads them, found and set aside
notifications.py  messages in the place of a listing
run.py         batch after batch; one Delta commit names its files and carries the batch number
work.py        workers that read a batch's files and stage Parquet files
metrics.py     what runs did, for Prometheus
ledger.py      which files were read, with rows or the error; mended after any crash
"""

from penstock.ingest.change_feeds import DeltaSource
from penstock.ingest.databases import DatabaseSource
from penstock.ingest.run import IngestReport, batches, ingest, waiting_files
from penstock.ingest.source import Source
from penstock.ingest.work import Progress

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
