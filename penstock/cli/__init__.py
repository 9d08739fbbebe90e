"""The `penstock` command.

app.py         the group; ls, show, validate, rejects, publish, demo
ingesting.py   ingest, once or watching; batches
tables.py      sql, schema, optimize, vacuum, upkeep, tag, restore
output.py      their options, and how they print
"""

from penstock.cli.app import main

__all__ = ["main"]
