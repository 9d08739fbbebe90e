"""Bronze rows against a contract: accepted into the table, rejected beside it, none lost.

Each bronze batch is validated once, in one streaming pass. Rejected rows, the ledger and the
accepted rows are committed under the batch's number, the accepted ones last; a run killed in
between does the batch again, and what is committed already is refused by its number.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from penstock.contracts import Contract, Expectation
from penstock.errors import CommitConflict, ContractError
from penstock.ingest.formats import raw_type
from penstock.ingest.ledger import mend_ledger, read_ledger
from penstock.ingest.source import Source
from penstock.lake import Lake
from penstock.quality.cast import typed, uncast
from penstock.quality.checking import checked
from penstock.quality.columns import judged
from penstock.quality.compiled import UNIQUE, broken, considered, looked_at
from penstock.quality.history import keep
from penstock.quality.reasons import reason, with_reasons
from penstock.quality.repeats import Repeats
from penstock.quality.results import EXAMPLES, MASK, Result, add_examples, explain
from penstock.tables import Snapshot, StagedFile, Stager, Table, Transaction
from penstock.tables.rewrite import changes_without, origin, rewrite_without
from penstock.tables.staging import discard
from penstock.tables.table import StoredFile

log = logging.getLogger(__name__)

_ATTEMPTS = 5
PASS_ROWS = 100_000
"""Rows evaluated at once."""
_PASS_BYTES = 64 << 20
"""As stored, that are evaluated at once where rows hold the bytes of files."""
_PROVENANCE = ("_source_file", "_source_row", "_ingested_at", "_batch")
_LEDGER = pa.schema(
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
    ContractError: an expectation of severity `fail` is broken, or the rows don't add up. Nothing
        of that batch is in the table.
    TableNotFound: nothing was ingested yet.
    """
    contract = source.contract
    bronze = Table(lake, source.table).snapshot()
    newest = bronze.transaction(source.application)
    mend_ledger(lake, source, bronze)
    # What came in after this version waits for the next run.
    files = read_ledger(lake, source).filter(pl.col("batch") <= newest)
    run = Validation(contract.table, results=[Result(e) for e in contract.all_expectations])
    application = f"validate/{source.table}"
    keep(lake, contract)
    table = _open_tables(lake, source)
    done = table.transaction(application)
    for number in range(done + 1, newest + 1):
        _validate_batch(bronze, source, Transaction(application, number), files, run)
    run.version = Table(lake, contract.table).snapshot().version
    return run


def _validate_batch(
    bronze: Snapshot, source: Source, transaction: Transaction, files: pl.DataFrame, run: Validation
) -> None:
    """Validate one batch, again where another writer came in between.

    A batch must never be passed over: the next one's number would stand for it too.
    """
    # Files that a later batch has in a newer state are left to it: their rows would go out again.
    later = files.filter((pl.col("batch") > transaction.number) & pl.col("replaces"))
    batch = files.filter(
        (pl.col("batch") == transaction.number) & ~pl.col("file").is_in(later["file"].implode())
    )
    if batch.is_empty():
        batch = files.filter(batch=transaction.number).with_columns(
            rows_read=pl.lit(0, pl.Int64), replaces=pl.lit(value=False)
        )
    for attempt in range(_ATTEMPTS):
        try:
            _Batch(bronze, source, transaction, batch, run).run()
        except CommitConflict:
            table = Table(bronze.table.lake, source.contract.table).snapshot()
            if table.transaction(transaction.application) >= transaction.number:
                return  # another run validated it
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def rejects_name(table: str) -> str:
    """The table that holds a table's rejected rows."""
    return f"{table}__rejected"


def ledger_name(table: str) -> str:
    """The table that holds, for each source file, how many of its rows were accepted."""
    return f"{table}__ledger"


class _Batch:
    """One bronze batch on its way into three tables."""

    def __init__(
        self,
        bronze: Snapshot,
        source: Source,
        transaction: Transaction,
        files: pl.DataFrame,
        run: Validation,
    ) -> None:
        self.bronze, self.lake = bronze, bronze.table.lake
        self.source, self.contract = source, source.contract
        self.transaction, self.files, self.run_total = transaction, files, run
        self.results = [Result(expectation) for expectation in self.contract.all_expectations]
        self.repeats = {
            expectation.name: Repeats(expectation.columns)
            for expectation in self.contract.all_expectations
            if expectation.type == UNIQUE
        }
        self.personal = {c.name for c in self.contract.columns if c.personal}
        self.reasons: dict[str, int] = {}
        self.accepted: dict[str, int] = {}
        self.rejected: dict[str, int] = {}

    def run(self) -> None:
        contract, lake = self.contract, self.lake
        table = Table(lake, contract.table).snapshot()
        rejects = Table(lake, rejects_name(contract.table)).snapshot()
        with (
            Stager(lake, contract.table, table.schema) as good,
            Stager(lake, rejects.table.name, rejects.schema) as bad,
        ):
            # Rows are written while the next ones are evaluated.
            with ThreadPoolExecutor(1, thread_name_prefix="penstock-validate") as writer:
                written: Future[None] | None = None
                for raw in self._raw_frames():
                    split = self._split(raw)
                    if written is not None:
                        written.result()
                    written = writer.submit(_write, split, good, bad) if split else None
                if written is not None:
                    written.result()
            self._check(good.rows, bad.rows)
            good_files = good.finish()
            self._check_columns(good_files)
            replaced = self.files.filter(pl.col("replaces"))["file"].to_list()
            rejects_out, rejects_gone = rewrite_without(rejects, "_source_file", replaced)
            table_out, table_gone = rewrite_without(table, "_source_file", replaced)
            bad_files = bad.finish()
            changes = changes_without(table, "_source_file", replaced, table_gone, good_files)
        note = {
            "rows_accepted": good.rows,
            "rows_rejected": bad.rows,
            "reasons": self.reasons,
            "contract": contract.fingerprint(),
            "results": [result.to_json() for result in self.results],
        }
        self._commit(rejects, [*bad_files, *rejects_out], rejects_gone, {})
        ledger = Table(lake, ledger_name(contract.table)).snapshot()
        self._commit(ledger, self._stage_ledger(), [], {})
        adds = [*good_files, *table_out]
        table.commit(adds, table_gone, transaction=self.transaction, note=note, changes=changes)
        self._add_to_run(good.rows, bad.rows)

    def _raw_frames(self) -> Iterator[pl.DataFrame]:
        """The batch's bronze rows in file order, a file's rows one after the other."""
        bronze, number = self.bronze, self.transaction.number
        wanted = self.files.filter(pl.col("rows_read") > 0)["file"]
        # By name: the files of one stager are numbered, so that a source file spread over several
        # comes in its order.
        files = sorted(
            (f for f in bronze.files if f.lowest["_batch"] <= number <= f.highest["_batch"]),
            key=lambda file: file.path,
        )
        for file in files:
            rows = bronze.read([file], bronze.schema.names).filter(
                (pl.col("_batch") == number) & origin("_source_file").is_in(wanted.implode())
            )
            a_row = max(1, file.size_bytes // max(1, file.rows))
            chunk = max(1, min(PASS_ROWS, _PASS_BYTES // a_row))
            yield from rows.collect_batches(chunk_size=chunk, maintain_order=True)

    def _split(self, raw: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame] | None:
        """Evaluate everything on the rows: those accepted, and those rejected with the reasons."""
        if raw.is_empty():
            return None
        columns = self.contract.columns
        frame = raw.select(
            *(typed(column) for column in columns),
            *(pl.col(column.raw_name).alias(f"raw:{column.name}") for column in columns),
            *_PROVENANCE,
            pl.col("_rescued"),
            pl.col("_error"),
        )
        is_whole = pl.col("_error").is_null()
        rules = [result for result in self.results if result.expectation.is_about_rows]
        marks = [
            *(uncast(column).alias(f"uncast:{column.name}") for column in columns),
            *(
                (broken(rule.expectation) & is_whole & ~_any_uncast(rule.expectation)).alias(
                    f"broken:{rule.expectation.name}"
                )
                for rule in rules
            ),
            *(
                (looked_at(rule.expectation) & is_whole).alias(f"looked:{rule.expectation.name}")
                for rule in rules
            ),
            *(
                (considered(rule.expectation) & is_whole).alias(f"all:{rule.expectation.name}")
                for rule in rules
            ),
        ]
        marked = frame.with_columns(*marks)
        repeats = [self.repeats[rule].mark(frame).alias(f"repeat:{rule}") for rule in self.repeats]
        marked = marked.with_columns(*repeats).with_columns(
            (pl.col(f"broken:{rule}") & pl.col(f"repeat:{rule}")).alias(f"broken:{rule}")
            for rule in self.repeats
        )
        for rule in rules:
            rule.elements += int(marked[f"all:{rule.expectation.name}"].sum())
            rule.looked_at += int(marked[f"looked:{rule.expectation.name}"].sum())
            count = int(marked[f"broken:{rule.expectation.name}"].sum())
            rule.broken += count
            if count:
                add_examples(rule, marked, f"broken:{rule.expectation.name}", self.personal)
        ways = self._ways(rules)
        is_rejected = pl.any_horizontal(*(when for when, _ in ways))
        accepted = marked.filter(~is_rejected)
        rejected = with_reasons(marked.filter(is_rejected), ways)
        for counts, rows in ((self.accepted, accepted), (self.rejected, rejected)):
            _count(counts, rows.select(origin("_source_file")).to_series())
        names = rejected["_reasons"].explode().struct.field("expectation")
        _count(self.reasons, names)
        raw_values = [pl.col(f"raw:{c.name}").alias(c.raw_name) for c in columns]
        return (
            accepted.select(good_columns(self.contract)),
            rejected.select(*raw_values, "_rescued", "_reasons", *_PROVENANCE),
        )

    def _ways(self, rules: list[Result]) -> list[tuple[pl.Expr, pl.Expr]]:
        """Each way for a row to be rejected: whether it is, and the reason."""
        error = pl.col("_error")
        ways = [(error.is_not_null(), reason("malformed_row", "", error))]
        for column in self.contract.columns:
            name, kind = column.name, column.kind
            if kind == "binary":
                continue  # bytes are bytes
            value = pl.lit(MASK) if column.personal else _raw(name)
            ways.append((pl.col(f"uncast:{name}"), reason(f"{name}_is_{kind}", name, value)))
        for rule in rules:
            expectation = rule.expectation
            if expectation.severity == "warn":
                continue
            shown = [self._shown(name) for name in expectation.columns[:3]]
            observed = pl.concat_str(shown, separator=", ", ignore_nulls=True)
            why = reason(expectation.name, ", ".join(expectation.columns), observed)
            ways.append((pl.col(f"broken:{expectation.name}"), why))
        return ways

    def _shown(self, name: str) -> pl.Expr:
        """A column as a reason shows it; a personal one stays in its own, masked column."""
        column = self.contract.column(name)
        if column.kind == "binary":
            return pl.format("{} bytes", pl.col(name).bin.size())
        return pl.lit(MASK) if column.personal else pl.col(name).cast(pl.String)

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
        for file, rows in self.files.select("file", "rows_read").rows():
            kept = self.accepted.get(file, 0), self.rejected.get(file, 0)
            if sum(kept) != rows:
                raise ContractError(
                    f"{where}: {rows:,} rows of {file} were read, but {kept[0]:,} accepted + "
                    f"{kept[1]:,} rejected; nothing was committed. This is a defect of Penstock: "
                    "keep the lake as it is and report it"
                )
        for result in self.results:
            if result.expectation.type.startswith("expect_table_row_count"):
                judged(result, {}, {}, read)
            self._refuse(result)

    def _check_columns(self, files: list[StagedFile]) -> None:
        """What columns come to, over the rows that were accepted."""
        places = [n for n, r in enumerate(self.results) if r.holds is None and not _by_row(r)]
        if not places:
            return
        table, lake = self.contract.table, self.lake
        paths = [f"{lake.table_uri(table)}/{file.path}" for file in files]
        empty = pl.DataFrame(pl.from_arrow(self.contract.arrow_schema().empty_table())).lazy()
        options: Any = lake.storage_options or None
        rows = pl.scan_parquet(paths, storage_options=options, glob=False) if paths else empty
        wanted = [self.results[n].expectation for n in places]
        names = [column.name for column in self.contract.columns]
        _, results, _ = checked(rows.select(names), wanted, personal=self.personal)
        for place, result in zip(places, results, strict=True):
            self.results[place] = result
            self._refuse(result)

    def _refuse(self, result: Result) -> None:
        """Raise `ContractError` where what was found may not commit."""
        if result.expectation.severity != "fail" or result.success:
            return
        where = f"{self.contract.table}: batch {self.transaction.number}"
        raise ContractError(
            f"{where}: {explain(self.contract.table, result)}, which may not commit (severity "
            "fail). Mend the source files and run again"
        )

    def _stage_ledger(self) -> list[StagedFile]:
        now = datetime.now(UTC)
        rows: list[dict[str, Any]] = [
            {
                "batch": self.transaction.number,
                "file": file["file"],
                "rows_read": file["rows_read"],
                "rows_accepted": self.accepted.get(file["file"], 0),
                "rows_rejected": self.rejected.get(file["file"], 0),
                "replaces": file["replaces"],
                "validated_at": now,
            }
            for file in self.files.iter_rows(named=True)
        ]
        with Stager(self.lake, ledger_name(self.contract.table), _LEDGER) as stager:
            stager.write(pa.Table.from_pylist(rows, schema=_LEDGER))
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
        for why, count in self.reasons.items():
            run.reasons[why] = run.reasons.get(why, 0) + count
        for total, result in zip(run.results, self.results, strict=True):
            total.elements += result.elements
            total.looked_at += result.looked_at
            total.broken += result.broken
            total.examples = [*total.examples, *result.examples][:EXAMPLES]
            if result.holds is not None:
                total.observed = result.observed
                total.holds = result.holds and total.holds is not False
        log.info("%s batch %d: %d accepted, %d rejected", run.table, number, accepted, rejected)


def good_columns(contract: Contract) -> list[str]:
    """The columns of the validated table: the contract's, then where each row came from."""
    return [*(column.name for column in contract.columns), *_PROVENANCE]


def _open_tables(lake: Lake, source: Source) -> Snapshot:
    """Make the three tables where they aren't there; the validated one."""
    contract = source.contract
    times = [
        pa.field("_source_file", pa.string()),
        pa.field("_source_row", pa.int64()),
        pa.field("_ingested_at", pa.timestamp("us", "UTC")),
        pa.field("_batch", pa.int64()),
    ]
    reason = pa.struct([(name, pa.string()) for name in ("expectation", "column", "observed")])
    raw = [
        pa.field(c.raw_name, raw_type(c), metadata={"personal": "true"} if c.personal else None)
        for c in contract.columns
    ]
    rest = [pa.field("_rescued", pa.string()), pa.field("_reasons", pa.list_(reason))]
    Table(lake, rejects_name(contract.table)).create(
        pa.schema([*raw, *rest, *times]), description=f"Rows that broke {contract.table}"
    )
    Table(lake, ledger_name(contract.table)).create(
        _LEDGER, description=f"Rows accepted and rejected, by source file, of {contract.table}"
    )
    schema = pa.schema([*contract.arrow_schema(), *times])
    return Table(lake, contract.table).create(schema, description=contract.description)


def _any_uncast(expectation: Expectation) -> pl.Expr:
    """Text that is no value has its own reason; what follows from the null is not another."""
    if expectation.type == UNIQUE:
        return pl.lit(value=False)
    marks = [
        pl.col(f"raw:{name}").is_not_null() & pl.col(name).is_null() for name in expectation.columns
    ]
    return pl.any_horizontal(*marks)


def _write(split: tuple[pl.DataFrame, pl.DataFrame], good: Stager, bad: Stager) -> None:
    for rows, stager in zip(split, (good, bad), strict=True):
        if rows.height:
            stager.write(rows.to_arrow())


def _by_row(result: Result) -> bool:
    return result.expectation.is_about_rows


def _raw(name: str) -> pl.Expr:
    return pl.col(f"raw:{name}")


def _count(into: dict[str, int], values: pl.Series) -> None:
    for value, count in values.value_counts().rows():
        into[value] = into.get(value, 0) + count
