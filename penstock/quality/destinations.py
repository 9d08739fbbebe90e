"""The tables that a contract's rows go to: accepted ones, rejects, and a ledger of both by file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import polars as pl
import pyarrow as pa

from penstock.contracts import Contract
from penstock.errors import ContractError
from penstock.ingest.formats import raw_type
from penstock.ingest.source import Source
from penstock.lake import Lake
from penstock.tables import Snapshot, Table

LEDGER = pa.schema(
    [
        ("batch", pa.int64()),
        ("file", pa.string()),
        ("rows_read", pa.int64()),
        ("rows_accepted", pa.int64()),
        ("rows_rejected", pa.int64()),
        ("replaces", pa.bool_()),
        ("validated_at", pa.timestamp("us", "UTC")),
    ]
)
_TIMES = (
    pa.field("_source_file", pa.string()),
    pa.field("_source_row", pa.int64()),
    pa.field("_ingested_at", pa.timestamp("us", "UTC")),
    pa.field("_batch", pa.int64()),
)


class Tables(NamedTuple):
    """What a contract's rows go to."""

    accepted: Snapshot
    rejects: Snapshot
    ledger: Snapshot

    def advanced(self) -> Tables:
        """Their newest versions; these are not to be used any more."""
        return Tables(*(snapshot.advanced() for snapshot in self))


def open_tables(lake: Lake, source: Source) -> Tables:
    """The three tables, made where they aren't there."""
    accepted = open_accepted(lake, source.contract)
    return Tables(accepted, *open_others(lake, source.contract))


def rejects_name(table: str) -> str:
    """The table that holds a table's rejected rows."""
    return f"{table}__rejected"


def ledger_name(table: str) -> str:
    """The table that holds, for each source file, how many of its rows were accepted."""
    return f"{table}__ledger"


def rows_of_batches(lake: Lake, table: str) -> dict[int, dict[str, int]]:
    """For each batch of a table that was validated, `rows_accepted` and `rows_rejected` by then."""
    ledger = Table(lake, ledger_name(table)).snapshot_or_none()
    if ledger is None:
        return {}
    judged = ("rows_accepted", "rows_rejected")
    found = ledger.scan().group_by("batch").agg(pl.col(judged).sum()).collect()
    return {row.pop("batch"): row for row in found.to_dicts()}


def open_accepted(lake: Lake, contract: Contract) -> Snapshot:
    """The table of accepted rows, with the columns that the contract has now.

    Raises
    ------
    ContractError: a column of a fixed type has another one in the table.
    """
    schema = pa.schema([*contract.arrow_schema(), *_TIMES])
    table = Table(lake, contract.table)
    fixed = [column.name for column in contract.columns if column.evolution == "fixed"]
    if fixed and (found := table.snapshot_or_none()) is not None:
        for name in fixed:
            is_there = name in found.schema.names
            if is_there and (kind := found.schema.field(name).type) != schema.field(name).type:
                raise ContractError(
                    f"{contract.table}: column {name} is {schema.field(name).type} in the contract "
                    f"and {kind} in the table, and its evolution is fixed; take a new name, or "
                    'evolution="widen"'
                )
    return table.create(schema, description=contract.description)


def open_others(lake: Lake, contract: Contract) -> tuple[Snapshot, Snapshot]:
    """Rejects and ledger."""
    reason = pa.struct([(name, pa.string()) for name in ("expectation", "column", "observed")])
    raw = [
        pa.field(c.raw_name, raw_type(c), metadata={"personal": "true"} if c.personal else None)
        for c in contract.columns
    ]
    rest = [pa.field("_rescued", pa.string()), pa.field("_reasons", pa.list_(reason))]
    with ThreadPoolExecutor(1) as pool:  # a few round trips each
        rejects = pool.submit(
            Table(lake, rejects_name(contract.table)).create,
            pa.schema([*raw, *rest, *_TIMES]),
            description=f"Rows that broke {contract.table}",
        )
        ledger = Table(lake, ledger_name(contract.table)).create(
            LEDGER, description=f"Rows accepted and rejected, by source file, of {contract.table}"
        )
        return rejects.result(), ledger
