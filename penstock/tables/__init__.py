"""One Delta table: read it at a version, stage files beside it, commit them all at once.

    batches ─▶ staging.py: Parquet files that no commit names ─▶ table.py: one commit ─▶ log.py
                                                      version.py: what the log says, and the rows

    writing.py   append, overwrite, replace_where, delete; upserting.py; copying.py, rewrite.py
    creating.py  a table's first entry; protocol.py, what a table asks of who reads and writes it
    deletions.py rows of a file that are gone; differences.py, files that came and went
    changes.py   what each version did to rows; change_feed.py reads that from the log
    constraints.py  rules that every row keeps
    upkeep.py    optimize, vacuum, checkpoint, restore, clone; tags.py; history.py
    querying.py  SQL over tables by their names; sql.py, DuckDB; arrow_files.py, pyarrow's reading

A staged file does not exist for readers until a commit names it; whoever staged it and did not
commit deletes it, and what a killed process left behind is part of no version.
"""

from penstock.tables.changes import changes, enable_change_feed
from penstock.tables.constraints import add_constraint, drop_constraint
from penstock.tables.copying import Written
from penstock.tables.history import SchemaChange, schema_history
from penstock.tables.querying import query
from penstock.tables.staging import StagedFile, Stager
from penstock.tables.table import Snapshot, Table, Transaction
from penstock.tables.tags import tag, tags, untag
from penstock.tables.upkeep import checkpoint, clone, optimize, restore, vacuum
from penstock.tables.upserting import enable_deletion_vectors, upsert
from penstock.tables.writing import append, delete, overwrite, replace_where

__all__ = [
    "SchemaChange",
    "Snapshot",
    "StagedFile",
    "Stager",
    "Table",
    "Transaction",
    "Written",
    "add_constraint",
    "append",
    "changes",
    "checkpoint",
    "clone",
    "delete",
    "drop_constraint",
    "enable_change_feed",
    "enable_deletion_vectors",
    "optimize",
    "overwrite",
    "query",
    "replace_where",
    "restore",
    "schema_history",
    "tag",
    "tags",
    "untag",
    "upsert",
    "vacuum",
]
