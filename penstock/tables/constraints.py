"""Rules that every row of a table keeps, as Delta's CHECK constraints have them.

They are part of the table: other engines that write to it hold to them too.
"""

from __future__ import annotations

import polars as pl

from penstock.errors import LakeError
from penstock.tables.table import Snapshot, Table
from penstock.tables.version import CONSTRAINT


def add_constraint(table: Table, name: str, rule: str) -> Snapshot:
    """From now on a commit with a row for which the rule is not true is refused; null is not true.

    Parameters
    ----------
    rule: an SQL expression over the table's columns, such as `price > 0`.

    Raises
    ------
    LakeError: a row of the table breaks it, the name is taken, or it is no expression.
    CommitConflict: another writer came first; do it again.
    """
    snapshot = table.snapshot()
    if name in snapshot.constraints:
        raise LakeError(f"{table.name}: there is a constraint {name}: {snapshot.constraints[name]}")
    try:
        held = snapshot.scan().filter(~pl.sql_expr(rule).fill_null(value=False)).head(1).collect()
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise LakeError(f"{table.name}: constraint {name}: {rule}: {reason}") from error
    if held.height:
        raise LakeError(
            f"{table.name}: constraint {name}: {rule}: broken by {held.row(0, named=True)}; take "
            "such rows out first (delete)"
        )
    # Not through deltalake, which stores the rule as DataFusion reads it, and that is another one.
    return snapshot.configure(
        {f"{CONSTRAINT}{name}": rule}, writer_version=3, feature="checkConstraints"
    )


def drop_constraint(table: Table, name: str) -> Snapshot:
    """The rule holds no longer.

    Raises
    ------
    LakeError: there is none of that name.
    """
    snapshot = table.snapshot()
    if f"{CONSTRAINT}{name}" not in snapshot.delta.metadata().configuration:
        known = ", ".join(snapshot.constraints) or "none"
        raise LakeError(f"{table.name}: no constraint {name}; there are: {known}")
    return snapshot.configure(
        {f"{CONSTRAINT}{name}": None}, writer_version=2, feature="checkConstraints"
    )
