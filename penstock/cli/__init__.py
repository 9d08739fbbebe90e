"""The `penstock` command.

app.py      the group, and the commands of a domain: ls, show, ingest, validate, rejects, publish
tables.py   the commands of tables: sql, optimize, vacuum, upkeep, tag, restore
output.py   their options, and how they print
"""

from penstock.cli.app import main

__all__ = ["main"]
