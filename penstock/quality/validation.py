"""Bronze rows against a contract: accepted into the table, rejected beside it, none lost.

Each bronze batch is validated once, in one streaming pass. Rejected rows, the ledger and the
accepted rows are committed under the batch's number, the accepted ones last; a run killed in
between does the batch again, and what is committed already is refused by its number.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from penstock.contracts import Contract
from penstock.engines import Threads
from penstock.errors import BatchRefused, CommitConflict, ContractError
from penstock.ingest.ledger import mend_ledger, scan_ledger
from penstock.ingest.source import Source
from penstock.lake import Lake
from penstock.quality.beyond import KNOWN_COLUMNS, NEEDS_LAKE, Past, absences, judge_table
from penstock.quality.cast import typed
from penstock.quality.checking import checked
from penstock.quality.columns import judged
from penstock.quality.compiled import UNIQUE
from penstock.quality.destinations import LEDGER, Tables, ledger_name, open_accepted, open_others
from penstock.quality.history import VALIDATE, keep
from penstock.quality.proving import prove_contract
from penstock.quality.refusals import forget_refusal, keep_refusal
from penstock.quality.repeats import LONG, Repeats
from penstock.quality.results import EXAMPLES, Result, explain
from penstock.quality.splitting import Splitter
from penstock.tables import Snapshot, StagedFile, Stager, Table, Transaction
from penstock.tables.rewrite import changes_without, origin, rewrite_without
from penstock.tables.staging import SOURCE_FILE, StoredFile, discard

log = logging.getLogger(__name__)

_ATTEMPTS = 5
PASS_ROWS = 1 << 17
"""Rows evaluated at once."""
_NAMED = 5
"""Rows that a refusal names."""
_EVALUATED = 2
"""Chunks at once; each is many columns' work for the cores."""
_PASS_BYTES = 64 << 20
"""As stored, that are evaluated at once where rows hold the bytes of files."""


@dataclass(slots=True)
class Validation:
    """What a run of validate did; all zeros when nothing was new."""

    table: str
    batches: list[int] = field(default_factory=list[int])
    rows_read: int = 0
    rows_accepted: int = 0
    rows_rejected: int = 0
    reasons: dict[str, int] = field(default_factory=dict[str, int])
    """Rows rejected for each reason; a row with several counts for each."""
    results: list[Result] = field(default_factory=list[Result])
    version: int | None = None
    """The table's newest version."""


def validate(lake: Lake, source: Source) -> Validation:
    """Validate every bronze batch of the source that its table hasn't yet.

    Raises
    ------
    BatchRefused: an expectation of severity `fail` is broken, or too many rows are rejected.
        Nothing of that batch is in the table; `refused_batches` says why.
    ContractError: the contract can't be asked of the rows.
    TableNotFound: nothing was ingested yet.
    """
    contract = source.contract
    bronze = Table(lake, source.table).snapshot()
    # What comes in after this version waits for the next run.
    newest = bronze.transaction(source.application)
    run = Validation(contract.table, results=[Result(e) for e in contract.all_expectations])
    application = f"{VALIDATE}{source.table}"
    prove_contract(contract)
    with ThreadPoolExecutor(1) as pool:  # here and below, so that round trips are made at once
        kept = pool.submit(keep, lake, contract)
        accepted = open_accepted(lake, contract)
        kept.result()
    done, run.version = accepted.transaction(application), accepted.version
    if done < newest or not done:
        if lacking := sorted({*contract.raw_names} - {*bronze.schema.names}):
            raise ContractError(
                f"{contract.table}: {source.table} has no column {', '.join(lacking)}, which came "
                "into the contract after its newest batch; `penstock ingest` adds it"
            )
        with ThreadPoolExecutor(1) as pool:
            others = pool.submit(open_others, lake, contract)
            ledger = scan_ledger(lake, source, mend_ledger(lake, source, bronze))
            files = ledger.filter(pl.col("batch") <= newest).collect().sort("batch", "file")
            tables = Tables(accepted, *others.result())
        first = done + 1
        try:
            for number in range(first, newest + 1):
                tables = tables if number == first else tables.advanced()
                transaction = Transaction(application, number)
                run.version = _validate_batch(bronze, source, transaction, files, tables, run)
                done = number
        finally:
            forget_refusal(lake, contract.table, source.table, done)
    else:  # perhaps a run was killed just before it
        forget_refusal(lake, contract.table, source.table, done)
    return run


def _validate_batch(
    bronze: Snapshot,
    source: Source,
    transaction: Transaction,
    files: pl.DataFrame,
    tables: Tables,
    run: Validation,
) -> int:
    """Validate one batch, again where another writer came in between; the version that has it.

    A batch must never be passed over: the next one's number would stand for it too.
    """
    # Files that a later batch has in a newer state are left to it: their rows would go out again.
    later = files.filter((pl.col("batch") > transaction.number) & pl.col("replaces"))
    whole = files.filter(batch=transaction.number)
    batch = whole.filter(~pl.col("file").is_in(later["file"].implode()))
    is_whole = batch.height == whole.height
    if batch.is_empty():
        batch = whole.with_columns(rows_read=pl.lit(0, pl.Int64), replaces=pl.lit(value=False))
    for attempt in range(_ATTEMPTS):
        try:
            return _Batch(bronze, source, transaction, batch, is_whole, tables, run).run()
        except CommitConflict:
            tables = tables.advanced()
            if tables.accepted.transaction(transaction.application) >= transaction.number:
                break  # another run validated it
            if attempt == _ATTEMPTS - 1:
                raise
    return tables.accepted.version


def refuse(result: Result, where: str) -> None:
    """Raise `ContractError` where what was found may not commit."""
    if result.expectation.severity != "fail" or result.success:
        return
    raise BatchRefused(
        f"{where}: {explain('the batch', result)}, which may not commit (severity "
        "fail). Mend the source files and run again"
    )


def columns_of(
    lake: Lake, contract: Contract, files: list[StagedFile], past: Past | None = None
) -> dict[str, Result]:
    """What is expected of columns, by name, over rows that are staged beside the table.

    Parameters
    ----------
    past: without one nothing is asked of what came before.
    """
    wanted = [
        each
        for each in contract.all_expectations
        if not each.is_about_rows
        and not each.type.startswith("expect_table_row_count")
        and (past is not None or each.type not in NEEDS_LAKE)
    ]
    if not wanted:
        return {}
    paths = [f"{lake.table_uri(contract.table)}/{file.path}" for file in files]
    empty = pl.DataFrame(pl.from_arrow(contract.arrow_schema().empty_table())).lazy()
    options: Any = lake.storage_options or None
    rows = pl.scan_parquet(paths, storage_options=options, glob=False) if paths else empty
    names = [column.name for column in contract.columns]
    personal = {column.name for column in contract.columns if column.personal}
    _, results, _ = checked(rows.select(names), wanted, personal=personal, past=past)
    return {result.expectation.name: result for result in results}


def refuse_columns(lake: Lake, contract: Contract, files: list[StagedFile], what: str) -> None:
    """Raise `ContractError` where columns of staged rows come to what may not commit."""
    if not files:
        return
    for result in columns_of(lake, contract, files).values():
        refuse(result, f"{contract.table}: {what}")


class _Batch:
    """One bronze batch on its way into three tables.

    Parameters
    ----------
    files: the ledger's rows of it.
    is_whole: whether these are all of its files.
    """

    def __init__(
        self,
        bronze: Snapshot,
        source: Source,
        transaction: Transaction,
        files: pl.DataFrame,
        is_whole: bool,
        tables: Tables,
        run: Validation,
    ) -> None:
        self.is_whole = is_whole
        self.bronze, self.lake, self.tables = bronze, bronze.table.lake, tables
        self.source, self.contract = source, source.contract
        self.transaction, self.files, self.run_total = transaction, files, run
        self.repeats = repeats = {
            expectation.name: Repeats(expectation.columns)
            for expectation in self.contract.all_expectations
            if expectation.type == UNIQUE
        }
        self.past = Past(self.lake, self.contract.table)
        marks = {**repeats, **absences(self.lake, self.contract)}
        asks = any(each.type == KNOWN_COLUMNS for each in self.contract.all_expectations)
        self.rows = Splitter(self.contract, marks, self.past if asks else None)
        self.results = self.rows.results

    def run(self) -> int:
        """Commit it; the table's version."""
        contract, lake = self.contract, self.lake
        table, rejects, ledger = self.tables
        with (
            Stager(lake, contract.table, table.schema) as good,
            Stager(lake, rejects.table.name, rejects.schema) as bad,
        ):
            self._look_ahead()
            # Rows are written while the next ones are told apart and those after them evaluated.
            with ThreadPoolExecutor(1, thread_name_prefix="penstock-validate") as writer:
                written: Future[None] | None = None
                frames = self._raw_frames(self.bronze.schema.names)
                for chunk in Threads(_EVALUATED).run(self.rows.evaluated, frames):
                    split = self.rows.split(chunk)
                    if written is not None:
                        written.result()
                    written = writer.submit(_write, split, good, bad) if split else None
                if written is not None:
                    written.result()
            try:
                self._check(good.rows, bad.rows)
                good_files = good.finish()
                self.past.replaced = self.files.filter(pl.col("replaces"))["file"].to_list()
                self._check_columns(good_files)
            except BatchRefused as refused:
                raise self._kept(refused) from None
            replaced = self.files.filter(pl.col("replaces"))["file"].to_list()
            rejects_out, rejects_gone = rewrite_without(rejects, "_source_file", replaced)
            table_out, table_gone = rewrite_without(table, "_source_file", replaced)
            bad_files = bad.finish()
            changes = changes_without(table, "_source_file", replaced, table_gone, good_files)
        note = {
            "rows_accepted": good.rows,
            "rows_rejected": bad.rows,
            "reasons": self.rows.reasons,
            "contract": contract.fingerprint(),
            "results": [result.to_json() for result in self.results],
        }
        self._commit(rejects, [*bad_files, *rejects_out], rejects_gone, {})
        self._commit(ledger, self._stage_ledger(), [], {})
        adds = [*good_files, *table_out]
        # Alone where rows go out: what a replay brings in meanwhile may be of such a file.
        committed = table.commit(
            adds,
            table_gone,
            transaction=self.transaction,
            note=note,
            changes=changes,
            is_alone=bool(replaced),
        )
        self._add_to_run(good.rows, bad.rows)
        return committed.version

    def _look_ahead(self) -> None:
        """Where a file is long, see which of its rows repeat others before any is told apart."""
        if not self.repeats or int(self.files["rows_read"].max() or 0) < LONG:  # pyright: ignore[reportArgumentType]
            return
        compared = {name for each in self.repeats.values() for name in each.columns}
        columns = [column for column in self.contract.columns if column.name in compared]

        def keys(raw: pl.DataFrame) -> dict[str, pl.DataFrame]:
            rows = raw.select(SOURCE_FILE, *(typed(column) for column in columns))
            return {name: each.keys(rows) for name, each in self.repeats.items()}

        frames = self._raw_frames([SOURCE_FILE, *(column.raw_name for column in columns)])
        for found in Threads(_EVALUATED).run(keys, frames):
            for name, each in self.repeats.items():
                each.look_ahead(found[name])

    def _raw_frames(self, names: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Columns of the batch's bronze rows in file order, a file's rows one after the other."""
        bronze, number = self.bronze, self.transaction.number
        wanted = self.files.filter(pl.col("rows_read") > 0)["file"]
        # By name: the files of one stager are numbered, so that a source file spread over several
        # comes in its order.
        files = sorted(
            (f for f in bronze.files if _may_hold(f, number)),
            key=lambda file: file.path,
        )
        is_wanted = list[pl.Expr]()
        if not all(_holds_only(file, number) for file in files):
            is_wanted.append(pl.col("_batch") == number)
        if not self.is_whole:  # which takes as long as all else
            is_wanted.append(origin(SOURCE_FILE).is_in(wanted.implode()))
        size = sum(file.size_bytes for file in files)
        a_row = max(1, size // max(1, sum(file.rows for file in files)))
        chunk = max(1, min(PASS_ROWS, _PASS_BYTES // a_row))
        # Rows that came before a column was called otherwise have it under its former name.
        renamed = [
            pl.coalesce(column.raw_name, *there).alias(column.raw_name)
            for column in self.contract.columns
            if (there := [name for name in column.former_names if name in bronze.schema.names])
        ]

        def made(rows: pl.LazyFrame) -> pl.LazyFrame:
            wanted_rows = rows.filter(is_wanted) if is_wanted else rows
            return wanted_rows.with_columns(renamed).select(names)

        for frame in bronze.stream(files, made):
            yield from frame.iter_slices(chunk)

    def _check(self, accepted: int, rejected: int) -> None:
        """That the rows add up, and that nothing forbids the commit."""
        read = int(self.files["rows_read"].sum())
        where = f"{self.contract.table}: batch {self.transaction.number}"
        if accepted + rejected != read:
            raise ContractError(
                f"{where}: {read:,} rows were read, but {accepted:,} accepted + {rejected:,} "
                "rejected; nothing was committed. This is a defect of Penstock: keep the lake "
                "as it is and report it"
            )
        self._refuse_too_many(rejected, read)
        for file, rows in self.files.select("file", "rows_read").rows():
            kept = self.rows.accepted.get(file, 0), self.rows.rejected.get(file, 0)
            if sum(kept) != rows:
                raise ContractError(
                    f"{where}: {rows:,} rows of {file} were read, but {kept[0]:,} accepted + "
                    f"{kept[1]:,} rejected; nothing was committed. This is a defect of Penstock: "
                    "keep the lake as it is and report it"
                )
        for result in self.results:
            is_count = result.expectation.type.startswith("expect_table_row_count")
            if is_count and not judge_table(result, read, self.past):
                judged(result, {}, {}, read)
            self._refuse(result)

    def _kept(self, refused: BatchRefused) -> BatchRefused:
        """The refusal with some of its rows, kept for whoever mends the files."""
        rows = self.rows.shown
        said = f"{refused}. Such as {_listed(rows)}" if rows else str(refused)
        source, number = self.source.table, self.transaction.number
        keep_refusal(self.lake, self.contract.table, source, number, said, self.results, rows)
        return BatchRefused(said, [result for result in self.results if result.is_known])

    def _refuse_too_many(self, rejected: int, read: int) -> None:
        """Raise `ContractError` where more rows were rejected than the contract allows."""
        most = self.contract.max_rejected
        if most is None or not rejected:
            return
        limit, said = (
            (most * read, f"{most:.2%}") if isinstance(most, float) else (most, f"{most:,}")
        )
        if rejected <= limit:
            return
        worst = sorted(self.rows.reasons.items(), key=lambda item: -item[1])[:3]
        reasons = ", ".join(f"{why} {count:,}" for why, count in worst)
        raise BatchRefused(
            f"{self.contract.table}: batch {self.transaction.number}: {rejected:,} of {read:,} "
            f"rows ({rejected / read:.2%}) were rejected, more than the {said} that the contract "
            f"allows (max_rejected): {reasons}. Nothing was committed. Mend the source files, or "
            "the contract, and run again"
        )

    def _check_columns(self, files: list[StagedFile]) -> None:
        """What columns come to, over the rows that were accepted."""
        found = columns_of(self.lake, self.contract, files, self.past)
        for place, result in enumerate(self.results):
            if result.expectation.name in found:
                self.results[place] = found[result.expectation.name]
                self._refuse(self.results[place])

    def _refuse(self, result: Result) -> None:
        refuse(result, f"{self.contract.table}: batch {self.transaction.number}")

    def _stage_ledger(self) -> list[StagedFile]:
        now = datetime.now(UTC)
        rows: list[dict[str, Any]] = [
            {
                "batch": self.transaction.number,
                "file": file["file"],
                "rows_read": file["rows_read"],
                "rows_accepted": self.rows.accepted.get(file["file"], 0),
                "rows_rejected": self.rows.rejected.get(file["file"], 0),
                "replaces": file["replaces"],
                "validated_at": now,
            }
            for file in self.files.iter_rows(named=True)
        ]
        with Stager(self.lake, ledger_name(self.contract.table), LEDGER) as stager:
            stager.write(pa.Table.from_pylist(rows, schema=LEDGER))
            return stager.finish()

    def _commit(
        self,
        snapshot: Snapshot,
        adds: list[StagedFile],
        removes: list[StoredFile],
        note: dict[str, Any],
    ) -> None:
        if snapshot.transaction(self.transaction.application) >= self.transaction.number:
            discard(self.lake, snapshot.table.key, adds)  # done by a run that was killed after it
            return
        snapshot.commit(adds, removes, transaction=self.transaction, note=note)

    def _add_to_run(self, accepted: int, rejected: int) -> None:
        run, number = self.run_total, self.transaction.number
        run.batches.append(number)
        run.rows_read += accepted + rejected
        run.rows_accepted += accepted
        run.rows_rejected += rejected
        for why, count in self.rows.reasons.items():
            run.reasons[why] = run.reasons.get(why, 0) + count
        for total, result in zip(run.results, self.results, strict=True):
            total.elements += result.elements
            total.looked_at += result.looked_at
            total.broken += result.broken
            total.examples = [*total.examples, *result.examples][:EXAMPLES]
            if result.holds is not None:
                # What is told of several batches is of one that broke it, if any did.
                if total.holds is not False or not result.holds:
                    total.observed, total.details = result.observed, result.details
                total.holds = result.holds and total.holds is not False
        log.info("%s batch %d: %d accepted, %d rejected", run.table, number, accepted, rejected)


def _listed(rows: Sequence[Mapping[str, Any]]) -> str:
    """A few rejected rows by file and row, each with what was seen."""
    said = list[str]()
    for row in rows[:_NAMED]:
        reasons = [f"{each['expectation']} ({each['observed']})" for each in row["_reasons"]]
        said.append(f"{row['_source_file']} row {row['_source_row']}: {', '.join(reasons)}")
    return "; ".join(said)


def _write(split: tuple[pl.DataFrame, pl.DataFrame], good: Stager, bad: Stager) -> None:
    for rows, stager in zip(split, (good, bad), strict=True):
        if rows.height:
            stager.write(rows.to_arrow())


def _holds_only(file: StoredFile, batch: int) -> bool:
    return file.lowest.get("_batch") == file.highest.get("_batch") == batch


def _may_hold(file: StoredFile, batch: int) -> bool:
    low, high = file.lowest.get("_batch"), file.highest.get("_batch")
    return low is None or high is None or low <= batch <= high
