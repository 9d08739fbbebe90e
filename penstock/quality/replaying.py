"""Rejected rows that today's contract takes, sent into their table, each once.

    rejects ─▶ the contract of now ─▶ accepted, staged beside the table ─┐
                                   └▶ still rejected ─▶ rejects' commit, which notes what is staged
                                                                         └▶ the table's commit

A run killed between the two commits has its second one done by the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from typing import Any

import polars as pl
import pyarrow as pa

from penstock.errors import CommitConflict
from penstock.ingest.source import Source
from penstock.lake import Lake
from penstock.quality.compiled import SOURCE_FILE, UNIQUE
from penstock.quality.history import keep
from penstock.quality.splitting import Splitter
from penstock.quality.validation import LEDGER, ledger_name, open_tables, rejects_name
from penstock.tables import Snapshot, StagedFile, Stager, Table, Transaction
from penstock.tables.staging import discard
from penstock.tables.table import StoredFile

_ATTEMPTS = 5
_CHUNK_ROWS = 100_000


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
    be taken apart stay, as do those that repeat a row of the table, or another one sent with them.

    Raises
    ------
    TableNotFound: nothing was validated yet.
    CommitConflict: another run is at the same table all the time; nothing is lost, run it again.
    """
    contract = source.contract
    keep(lake, contract)
    Table(lake, rejects_name(contract.table)).snapshot()
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
        self.table = open_tables(lake, source)
        self.rejects = Table(lake, rejects_name(source.contract.table)).snapshot()
        self.done = Replay(source.contract.table)

    def run(self) -> Replay:
        self._finish_earlier()
        transaction = Transaction(self.application, self.rejects.transaction(self.application) + 1)
        known = {
            each.name: _Known(each.columns, self.table)
            for each in self.contract.all_expectations
            if each.type == UNIQUE
        }
        splitter = Splitter(self.contract, known)
        removed = list[StoredFile]()
        with (
            Stager(self.lake, self.table.table.name, self.table.schema) as good,
            Stager(self.lake, self.rejects.table.name, self.rejects.schema) as bad,
        ):
            for file in self.rejects.files:
                if self._again(file, splitter, good, bad):
                    removed.append(file)
            good_files, bad_files = good.finish(), bad.finish()
        self.done.reasons = splitter.reasons
        self.done.rows_accepted = good.rows
        self.done.rows_left = self.rejects.rows - good.rows
        self.done.version = self.table.version
        if not good_files:
            discard(self.lake, self.rejects.table.key, bad_files)
            return self.done
        ledger = self._ledger_rows(splitter.accepted, transaction.number)
        note = {
            "staged": [asdict(file) for file in good_files],
            "ledger": [asdict(file) for file in ledger],
            "rows_accepted": good.rows,
            "contract": self.contract.fingerprint(),
        }
        try:
            self.rejects.commit(bad_files, removed, transaction=transaction, note=note)
        except CommitConflict:
            discard(self.lake, self.table.table.key, good_files)
            discard(self.lake, f"tables/{ledger_name(self.contract.table)}", ledger)
            raise
        self._bring_in(transaction, good_files, ledger)
        return self.done

    def _finish_earlier(self) -> None:
        """Do the second commit of a run that was killed before it."""
        number = self.rejects.transaction(self.application)
        if number <= self.table.transaction(self.application):
            return
        noted = self.rejects.metadata(self.application, search=1_000_000)
        staged, ledger = ([StagedFile(**f) for f in noted[k]] for k in ("staged", "ledger"))
        self._bring_in(Transaction(self.application, number), staged, ledger)
        self.table = self.table.table.snapshot()

    def _bring_in(
        self, transaction: Transaction, staged: list[StagedFile], ledger: list[StagedFile]
    ) -> None:
        books = Table(self.lake, ledger_name(self.contract.table)).snapshot()
        if books.transaction(self.application) < transaction.number:
            books.commit(ledger, transaction=transaction, discards=False)
        done = self.table.commit(staged, transaction=transaction, discards=False)
        self.done.version = done.version

    def _again(self, file: StoredFile, splitter: Splitter, good: Stager, bad: Stager) -> bool:
        """Look at a file of rejects again; whether rows of it are accepted now.

        What is left of it is written anew then, and not otherwise.
        """
        first, kept = good.rows, list[pl.DataFrame]()
        names = self.rejects.schema.names
        for chunk in self.rejects.read([file], names).collect_batches(
            chunk_size=_CHUNK_ROWS, maintain_order=True
        ):
            stays = chunk.select(self._stays().alias("stays")).to_series()
            kept.append(chunk.filter(stays))
            looked = chunk.filter(~stays).with_columns(_error=pl.lit(None, pl.String))
            split = splitter.split(looked)
            if split is not None:
                accepted, rejected = split
                if accepted.height:
                    good.write(accepted.to_arrow())
                kept.append(rejected.select(names))
        if good.rows == first:
            return False
        for rows in kept:
            if rows.height:
                bad.write(rows.to_arrow())
        return True

    def _stays(self) -> pl.Expr:
        """Whether a row's reasons are such that no other contract of the same columns takes it."""
        reasons = pl.col("_reasons").list.eval(pl.element().struct.field("expectation"))
        unique = [e.name for e in self.contract.all_expectations if e.type == UNIQUE]
        marks = [reasons.list.contains(name) for name in ("malformed_row", *unique)]
        return reduce(or_, marks).fill_null(value=False)

    def _ledger_rows(self, accepted: dict[str, int], number: int) -> list[StagedFile]:
        """What changes of each source file's counts, so that all of its rows add up."""
        rows: list[dict[str, Any]] = [
            {
                "batch": -number,  # of no batch
                "file": file,
                "rows_read": 0,
                "rows_accepted": count,
                "rows_rejected": -count,
                "replaces": False,
                "validated_at": datetime.now(UTC),
            }
            for file, count in accepted.items()
        ]
        with Stager(self.lake, ledger_name(self.contract.table), LEDGER) as stager:
            stager.write(pa.Table.from_pylist(rows, schema=LEDGER))
            return stager.finish()


class _Known:
    """Marks rows whose values a row of the same source file has, in the table or sent before."""

    def __init__(self, columns: Sequence[str], table: Snapshot) -> None:
        self._columns = [SOURCE_FILE, *columns]
        self._table = table
        self._sent: pl.DataFrame | None = None

    def mark(self, chunk: pl.DataFrame) -> pl.Series:
        compared = chunk.select(self._columns).with_row_index("_place")
        files = chunk[SOURCE_FILE].unique()
        there = (
            self._table.scan()
            .filter(pl.col(SOURCE_FILE).is_in(files.implode()))
            .select(self._columns)
            .collect(engine="streaming")
        )
        if self._sent is not None:
            there = pl.concat([there, self._sent])
        places = compared.join(there, on=self._columns, how="semi", nulls_equal=True)["_place"]
        repeated = ~compared.select(pl.struct(self._columns).is_first_distinct()).to_series()
        sent = compared.select(self._columns)
        self._sent = sent if self._sent is None else pl.concat([self._sent, sent])
        return repeated.scatter(places, True) if len(places) else repeated
