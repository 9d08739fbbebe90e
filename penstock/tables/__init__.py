"""One Delta table: read it at a version, stage files beside it, commit them all at once.

    batches ─▶ staging.py: Parquet files that no commit names ─▶ table.py: one commit ─▶ readers

A staged file does not exist for readers until a commit names it; whoever staged it and did not
commit deletes it, and what a killed process left behind is part of no version.
"""

from penstock.tables.staging import StagedFile, Stager
from penstock.tables.table import Snapshot, Table, Transaction

__all__ = ["Snapshot", "StagedFile", "Stager", "Table", "Transaction"]
