"""Rejected rows that today's contract takes, sent into their table, each once.

    rejects ─▶ the contract of now ─▶ accepted ─▶ the table's commit ─▶ the rejects' commit

A run killed between the two leaves rows in both, which the next one knows by the file and row that
they came from, and only takes out of the rejects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from typing import Any

import polars as pl
import pyarrow as pa

from penstock.contracts import Column
from penstock.errors import CommitConflict
from penstock.ingest.source import Source
from penstock.lake import Lake
from penstock.quality.beyond import absences
from penstock.quality.compiled import SOURCE_FILE, UNIQUE
from penstock.quality.destinations import LEDGER, ledger_name, open_tables, rejects_name
from penstock.quality.history import keep
from penstock.quality.proving import prove_contract
from penstock.quality.splitting import Splitter
from penstock.quality.validation import refuse_columns
from penstock.tables import Snapshot, Stager, Table, Transaction
from penstock.tables.rewrite import origin
from penstock.tables.staging import StoredFile, discard

_ATTEMPTS = 5
_CHUNK_ROWS = 100_000
_PLACE = "__penstock_place"
_IDENTITY = ["_source_file", "_source_row", "_batch"]
"""What a row is known by, wherever it is."""


@dataclass(slots=True)
class Replay:
    """What a replay did."""

    table: str
    rows_accepted: int = 0
    rows_left: int = 0
    """Still rejected."""
    reasons: dict[str, int] = field(default_factory=dict[str, int])
    """Of those that were looked at again and are still rejected."""
    version: int | None = None
    """The table's newest version."""


def replay(lake: Lake, source: Source) -> Replay:
    """Validate rejected rows anew, and move those that hold now into their table.

    Rows keep where they came from (`_source_file`, `_source_row`, `_batch`). Those that could not
    be taken apart stay, as do those that repeat a row of the table, or another one sent with them,
    and those with a value in a raw column that the contract doesn't know any more.

    Raises
    ------
    TableNotFound: nothing was validated yet.
    ContractError: the rows taken break an expectation of severity `fail` about a whole column;
        nothing was moved.
    CommitConflict: another run is at the same table all the time; nothing is lost, run it again.
    """
    prove_contract(source.contract)
    keep(lake, source.contract)
    Table(lake, rejects_name(source.contract.table)).snapshot()
    for attempt in range(_ATTEMPTS):
        try:
            return _Replaying(lake, source).run()
        except CommitConflict:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError


class _Replaying:
    """One replay, on the versions that it began with."""

    def __init__(self, lake: Lake, source: Source) -> None:
        self.lake, self.contract = lake, source.contract
        self.application = f"replay/{source.table}"
        self.table, self.rejects, _ = open_tables(lake, source)
        self.done = Replay(source.contract.table, version=self.table.version)
        self.moved: dict[str, int] = {}
        """Rows that leave the rejects, by source file."""

    def run(self) -> Replay:
        known = {
            each.name: _Known(each.columns, self.table)
            for each in self.contract.all_expectations
            if each.type == UNIQUE
        }
        splitter = Splitter(self.contract, {**known, **absences(self.lake, self.contract)})
        removed, moved = list[StoredFile](), 0
        with (
            Stager(self.lake, self.table.table.name, self.table.schema) as good,
            Stager(self.lake, self.rejects.table.name, self.rejects.schema) as bad,
        ):
            for file in self.rejects.files:
                rows = self._again(file, splitter, good, bad)
                moved += rows
                if rows:
                    removed.append(file)
            good_files, bad_files = good.finish(), bad.finish()
            refuse_columns(self.lake, self.contract, good_files, "replay")
        self.done.reasons = splitter.reasons
        self.done.rows_accepted, self.done.rows_left = good.rows, self.rejects.rows - moved
        if not moved:
            return self.done
        number = self.rejects.transaction(self.application) + 1
        transaction = Transaction(self.application, number)
        note = {"rows_accepted": good.rows, "contract": self.contract.fingerprint()}
        if good_files:
            try:
                # Alone, as whatever came in between may have replaced the file of a row.
                committed = self.table.commit(
                    good_files, application=self.application, note=note, is_alone=True
                )
            except CommitConflict:
                discard(self.lake, self.rejects.table.key, bad_files)
                raise
            self.done.version = committed.version
        self._book(transaction)
        self.rejects.commit(bad_files, removed, transaction=transaction, note=note)
        return self.done

    def _again(self, file: StoredFile, splitter: Splitter, good: Stager, bad: Stager) -> int:
        """Look at a file of rejects again; how many of its rows leave it.

        What is left of it is written anew then, and not otherwise.
        """
        left, kept = 0, list[pl.DataFrame]()
        names = self.rejects.schema.names
        for chunk in self.rejects.read([file], names).collect_batches(
            chunk_size=_CHUNK_ROWS, maintain_order=True
        ):
            there = self._there_already(chunk)
            rows = chunk.join(there, on=_IDENTITY, how="anti", maintain_order="left")
            left += chunk.height - rows.height
            self._count(chunk.join(there, on=_IDENTITY, how="semi"))
            stays = rows.select(self._stays().alias("stays")).to_series()
            kept.append(rows.filter(stays))
            looked = rows.filter(~stays)
            again = looked.with_columns(
                *(_value(column, self.rejects.schema.names) for column in self.contract.columns),
                _error=pl.lit(None, pl.String),
            )
            split = splitter.split(splitter.evaluated(again))
            if split is None:
                continue
            accepted, rejected = split
            left += accepted.height
            self._count(accepted)
            if accepted.height:
                good.write(accepted.to_arrow())
            # As they came, with the reasons of now.
            reasons = rejected.select(*_IDENTITY, "_reasons")
            again = looked.drop("_reasons").join(reasons, on=_IDENTITY, maintain_order="left")
            kept.append(again.select(names))
        if left:
            for rows in kept:
                if rows.height:
                    bad.write(rows.to_arrow())
        return left

    def _count(self, rows: pl.DataFrame) -> None:
        for file, count in rows.select(origin(SOURCE_FILE)).to_series().value_counts().rows():
            self.moved[file] = self.moved.get(file, 0) + count

    def _there_already(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """Rows of these files that the table has."""
        files = chunk[SOURCE_FILE].unique()
        there = self.table.scan().filter(pl.col(SOURCE_FILE).is_in(files.implode()))
        return there.select(_IDENTITY).collect(engine="streaming")

    def _stays(self) -> pl.Expr:
        """Whether a row's reasons, or its values, are such that it is not to be looked at again."""
        reasons = pl.col("_reasons").list.eval(pl.element().struct.field("expectation"))
        unique = [e.name for e in self.contract.all_expectations if e.type == UNIQUE]
        marks = [reasons.list.contains(name) for name in ("malformed_row", *unique)]
        former = [name for column in self.contract.columns for name in column.former_names]
        known = {*self.contract.raw_names, *former, "_rescued", "_reasons", "_ingested_at"}
        known |= {*_IDENTITY}
        marks += [pl.col(n).is_not_null() for n in self.rejects.schema.names if n not in known]
        return reduce(or_, (mark.fill_null(value=False) for mark in marks))

    def _book(self, transaction: Transaction) -> None:
        """Note what changes of each source file's counts, so that all of its rows add up."""
        ledger = Table(self.lake, ledger_name(self.contract.table)).snapshot()
        if ledger.transaction(self.application) >= transaction.number:
            return  # by a run that was killed just after it
        rows: list[dict[str, Any]] = [
            {
                "batch": -transaction.number,  # of no batch
                "file": file,
                "rows_read": 0,
                "rows_accepted": count,
                "rows_rejected": -count,
                "replaces": False,
                "validated_at": datetime.now(UTC),
            }
            for file, count in self.moved.items()
        ]
        with Stager(self.lake, ledger.table.name, LEDGER) as stager:
            stager.write(pa.Table.from_pylist(rows, schema=LEDGER))
            ledger.commit(stager.finish(), transaction=transaction)


def _value(column: Column, there: Sequence[str]) -> pl.Expr:
    """A raw column, by a former name too, or what `_rescued` has of it: it may be new in the
    contract.
    """
    names = [column.raw_name, *column.former_names]
    ways = [pl.col(name) for name in names if name in there]
    if column.kind != "binary":
        plain = [name for name in names if '"' not in name and "'" not in name]
        ways += [pl.col("_rescued").str.json_path_match(f"$['{name}']") for name in plain]
    return pl.coalesce(ways).alias(column.raw_name)


class _Known:
    """Marks rows whose values a row of the same source file has, in the table or sent before."""

    def __init__(self, columns: Sequence[str], table: Snapshot) -> None:
        self._columns = [SOURCE_FILE, *columns]
        self._table = table
        self._sent: pl.DataFrame | None = None

    def prepared(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """The values that are compared."""
        return chunk.select(self._columns)

    def mark(self, prepared: pl.DataFrame) -> pl.Series:
        """Whether each row repeats another."""
        compared = prepared.with_row_index(_PLACE)
        files = prepared[SOURCE_FILE].unique()
        there = (
            self._table.scan()
            .filter(pl.col(SOURCE_FILE).is_in(files.implode()))
            .select(self._columns)
            .collect(engine="streaming")
        )
        if self._sent is not None:
            there = pl.concat([there, self._sent])
        places = compared.join(there, on=self._columns, how="semi", nulls_equal=True)[_PLACE]
        repeated = ~compared.select(pl.struct(self._columns).is_first_distinct()).to_series()
        sent = compared.select(self._columns)
        self._sent = sent if self._sent is None else pl.concat([self._sent, sent])
        return repeated.scatter(places, True) if len(places) else repeated
