"""Expectations held against any table: a frame, a Parquet or CSV file, a Delta table.

first scan   counts of every row expectation, and what columns come to, in one streaming pass, and
             what breaks something: rejects with every reason, and examples
(beside it: hashes for uniqueness, the order of values, batch by batch)
second scan  what breaks something, where it is much, or known only from the whole column

Where only rows are counted, files of this machine are scanned piece by piece, some at once:
memory is that of the pieces, however large the table.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from penstock.contracts import Contract, Expectation
from penstock.engines import Threads
from penstock.errors import ContractError, SourceError
from penstock.quality.beyond import NEEDS_LAKE, judge_frame, judge_table, refuse_without_lake
from penstock.quality.breaking import OWN, Few, RejectsWriter, Told, broken_by
from penstock.quality.columns import AFTERWARDS, ORDERED, REPEATED, judged, mask, measures, second
from penstock.quality.compiled import broken, considered, looked_at, read_by
from penstock.quality.data import (
    PIECE_BYTES,
    Piece,
    in_pieces,
    named,
    personal_in,
    scanned,
    settled,
)
from penstock.quality.proving import prove
from penstock.quality.reasons import reason, shown, with_reasons
from penstock.quality.results import MASK, Result

if TYPE_CHECKING:  # each takes as long to import as a small table to check
    import numpy as np

    from penstock.quality.beyond import Past
    from penstock.quality.data import Data
    from penstock.quality.passing import Hashes, Steps

BATCH_ROWS = 1 << 17
_ROW = f"{OWN}row"
_AT_ONCE = max(1, (os.cpu_count() or 1) // 4) * PIECE_BYTES
"""Bytes of pieces, as stored, that are scanned at once; each keeps a few cores busy."""


@dataclass(slots=True)
class Report:
    """What a check came to."""

    name: str
    rows: int
    results: list[Result]
    rejected: int = 0
    """Rows that break an expectation of severity `reject` or `fail`."""
    checked_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def success(self) -> bool:
        """Whether every expectation holds, but those of severity `warn`."""
        return all(r.success for r in self.results if r.expectation.severity != "warn")

    def to_json(self) -> dict[str, Any]:
        """As Great Expectations' validation result of a suite."""
        good = sum(result.success for result in self.results)
        count = len(self.results)
        statistics = {
            "evaluated_expectations": count,
            "successful_expectations": good,
            "unsuccessful_expectations": count - good,
            "success_percent": 100 * good / count if count else None,
        }
        return {
            "success": good == count,
            "suite_name": self.name,
            "results": [result.to_json() for result in self.results],
            "statistics": statistics,
            "meta": {"rows": self.rows, "validation_time": self.checked_at.isoformat()},
        }

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.rows:,} rows, {self.rejected:,} of them rejected"]
        for result in self.results:
            mark = "holds " if result.success else "BROKEN" if self._weighs(result) else "warns "
            lines.append(f"  {mark} {result.expectation.describe()}{_came_to(result)}")
        return "\n".join(lines)

    @staticmethod
    def _weighs(result: Result) -> bool:
        return result.expectation.severity != "warn"


def check(
    data: Data,
    expectations: Contract | Sequence[Expectation],
    *,
    rejects: str | Path | None = None,
    name: str = "",
) -> Report:
    """Hold expectations against all rows of a table, as it is.

    Parameters
    ----------
    data: a frame, an Arrow table, a table of the lake, or the path or URI of Parquet or CSV files
        or of a Delta table. A CSV file's types are inferred. NaN counts as missing.
    expectations: or a contract, whose columns are looked for by their names in the table, and of
        which what is asked of other tables and earlier batches is left out.
    rejects: a Parquet file to write the rows to that break an expectation of severity `reject` or
        `fail`, with `_row` (from 0) and `_reasons`; it is complete or isn't there.

    Raises
    ------
    ContractError: an expectation names a column that isn't there, or one whose type it can't be
        asked of; nothing was read by then.
    """
    contract = expectations if isinstance(expectations, Contract) else None
    wanted = cast("Sequence[Expectation]", expectations)
    if contract is not None:
        wanted = [each for each in contract.all_expectations if each.type not in NEEDS_LAKE]
    personal = {c.name for c in contract.columns if c.personal} if contract else set[str]()
    path = None if rejects is None else Path(rejects)
    name = name or (contract.table if contract else named(data))
    if path is not None:
        _refuse_path(path, data)
    try:
        data = settled(data)
        frame, personal = scanned(data), personal | personal_in(data)
        pieces = in_pieces(data, frame.collect_schema())
        rows, results, rejected = checked(
            frame, wanted, personal=personal, rejects=path, pieces=pieces
        )
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise SourceError(f"{name}: can't be read: {reason}") from error
    return Report(name, rows, results, rejected)


def _refuse_path(path: Path, data: Data) -> None:
    """Raise `ContractError` where rejects can't be written, or would lie on what is checked."""
    parents = [path, *path.parents]
    if path.is_dir() or path.name in ("", ".", ".."):
        raise ContractError(f"{path}: rejects are written to a file, and this is a folder")
    if any(parent.is_file() for parent in parents[1:]):
        raise ContractError(f"{path}: rejects can't be written there: a file is in the way")
    if isinstance(data, str | Path) and "://" not in str(data):
        source = Path(data).resolve()
        if source in [each.resolve() for each in parents if each.exists() or each == path]:
            raise ContractError(
                f"{path}: rejects would be written over what is checked, or among it; take a path "
                "outside of it"
            )


def checked(
    frame: pl.LazyFrame,
    expectations: Sequence[Expectation],
    *,
    personal: set[str],
    rejects: Path | None = None,
    past: Past | None = None,
    pieces: Sequence[Piece] = (),
) -> tuple[int, list[Result], int]:
    """Rows, what each expectation comes to over them, and how many are rejected; see `check`.

    Parameters
    ----------
    personal: columns whose values are not shown.
    past: what came before, for those that are asked of it.
    pieces: the frame's rows in parts, in order, to read one by one; none: it is read as a whole.
    """
    schema = dict(frame.collect_schema())
    if rejects is not None and (taken := sorted({"_row", "_reasons"} & set(schema))):
        raise ContractError(f"{rejects}: rejects have columns {', '.join(taken)} of their own")
    if own := [name for name in schema if name.startswith(OWN)]:
        raise ContractError(
            f"{', '.join(own)}: columns called {OWN}... are those of a check; rename them first"
        )
    if past is None:
        refuse_without_lake(expectations)
    prove(expectations, schema)
    run = _Run(frame, pieces, schema, [Result(each) for each in expectations], personal, past)
    try:
        rejected = run.run(rejects)
    except _HasNaN:
        run = _Run(frame, pieces, schema, [Result(each) for each in expectations], personal, past)
        run.without_nan()
        rejected = run.run(rejects)
    return run.rows, run.results, rejected


class _HasNaN(Exception):  # noqa: N818 - caught by who asked
    """There is a NaN, which counts as missing: it is to be made null first."""


class _Run:
    """One check: its frame, and what was found so far."""

    def __init__(
        self,
        frame: pl.LazyFrame,
        pieces: Sequence[Piece],
        schema: Mapping[str, pl.DataType],
        results: list[Result],
        personal: set[str],
        past: Past | None,
    ) -> None:
        self.past = past
        self.frame, self.pieces = frame, pieces
        self.schema, self.results, self.personal = schema, results, personal
        self.rows = 0
        self.hashes: dict[int, np.ndarray[Any, Any]] = {}
        self.hashed: dict[int, Hashes] = {}
        self.breaks: dict[int, pl.Expr] = {}
        """By result: which rows break it, where an expression says so."""
        used = {column for result in results for column in read_by(result.expectation)}
        self.floats = [n for n, kind in schema.items() if kind.is_float() and n in used]
        self.raw = set[str]()
        """Columns that are kept as they came beside what they are made."""

    def without_nan(self) -> None:
        """Make every NaN null, which takes a copy of its column: only where there are some."""
        self.raw, self.floats = set(self.floats), []
        as_they_came = (pl.col(column).alias(_raw(column)) for column in sorted(self.raw))
        made = pl.col(sorted(self.raw)).fill_nan(None)
        exprs = [*as_they_came, made]
        self.frame = self.frame.with_columns(exprs)
        self.pieces = [
            Piece(each.rows.with_columns(exprs), each.size_bytes) for each in self.pieces
        ]

    def run(self, rejects: Path | None) -> int:
        """Count and explain, in one scan unless only its sums tell which rows are broken; how many
        rows were rejected.
        """
        types = {result.expectation.type for result in self.results}
        asked = self._asked()
        if types & {*REPEATED, *AFTERWARDS} or not self.breaks:
            self._judge(self._collected(asked))
            return self._explain(rejects)
        if self.pieces and not any(measures(result.expectation) for result in self.results):
            return self._piece_by_piece(asked, rejects)
        return self._at_once(asked, rejects)

    def _asked(self) -> dict[str, pl.Expr]:
        """What the first scan counts and measures."""
        asked: dict[str, pl.Expr] = {"rows": pl.len()}
        if self.floats:
            asked["nan"] = pl.any_horizontal(pl.col(self.floats).is_nan().any())
        for number, result in enumerate(self.results):
            expectation = result.expectation
            for what, measure in measures(expectation).items():
                asked[f"{number}:{what}"] = measure
            if expectation.is_about_rows and expectation.type not in REPEATED:
                self.breaks[number] = broken(expectation)
                asked |= _counts(number, expectation, self.breaks[number])
        return asked

    def _at_once(self, asked: Mapping[str, pl.Expr], path: Path | None) -> int:
        """Sums and broken rows of one scan, for which each expectation is evaluated once."""
        few = Few()
        self._judge(self._scan(self.frame, asked, few, with_all=path is not None))
        if few.are_too_many:
            return self._explain(path)
        with self._told(path) as told:
            for batch in few.batches:
                told.take(batch)
            return told.finish()

    def _piece_by_piece(self, asked: Mapping[str, pl.Expr], path: Path | None) -> int:
        """The same, of some pieces at once; what breaks something is told as each is done."""
        with_all = path is not None

        def scan(piece: Piece) -> tuple[Piece, dict[str, Any], Few]:
            few = Few()
            return piece, self._scan(piece.rows, asked, few, with_all=with_all), few

        total = Counter[str]()
        largest = max(piece.size_bytes for piece in self.pieces)
        workers = min(len(self.pieces), max(1, _AT_ONCE // max(1, largest)))
        with self._told(path) as told:
            for piece, sums, few in Threads(workers).run(scan, self.pieces):
                if sums.get("nan"):
                    raise _HasNaN
                batches: Iterable[pl.DataFrame] = few.batches
                if few.are_too_many:
                    batches = _batches(self._broken(self._marked(piece.rows), with_all=with_all))
                for batch in batches:
                    told.take(batch.with_columns(pl.col(_ROW) + total["rows"]))
                total.update({name: int(count or 0) for name, count in sums.items()})
            self._judge(total)
            return told.finish()

    def _scan(
        self, frame: pl.LazyFrame, asked: Mapping[str, pl.Expr], few: Few, *, with_all: bool
    ) -> dict[str, Any]:
        """What is asked of a frame; its broken rows go to `few`.

        with_all: whether they have all columns, or only what examples need.
        """
        marked, sums = self._marked(frame), dict(asked)
        for number in self.breaks:
            sums[f"{number}:broken"] = pl.col(broken_by(number)).sum()
        rows = self._broken(marked, with_all=with_all)
        sink = rows.sink_batches(few.take, maintain_order=True, lazy=True)
        measured = marked.select(expr.alias(name) for name, expr in sums.items())
        found, _ = pl.collect_all([measured, sink], engine="streaming")
        return found.row(0, named=True)

    def _marked(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """With a column for each expectation that says which rows break it."""
        marks = (breaks.alias(broken_by(number)) for number, breaks in self.breaks.items())
        return _numbered(frame).with_columns(marks)

    def _broken(self, marked: pl.LazyFrame, *, with_all: bool) -> pl.LazyFrame:
        rows = _own(marked.filter(pl.any_horizontal(broken_by(number) for number in self.breaks)))
        return rows if with_all else rows.select(self._shown(self.breaks))

    def _told(self, path: Path | None) -> Told:
        writer = None if path is None else RejectsWriter(path, self.schema)
        return Told(self.results, self.personal, writer, self._reasoned)

    def _shown(self, blamed: Iterable[int]) -> list[str]:
        """What examples alone need of a row."""
        needed = {c for n in blamed for c in read_by(self.results[n].expectation)}
        return [_ROW, *sorted(needed), *(broken_by(n) for n in blamed)]

    def _judge(self, values: Mapping[str, Any]) -> None:
        """Fill in what the first scan found, and ask what can only be asked once that is known."""
        if values.get("nan"):
            raise _HasNaN
        self.rows = int(values["rows"])
        later: dict[str, pl.Expr] = {}
        for number, result in enumerate(self.results):
            expectation = result.expectation
            own = {k.split(":", 1)[1]: v for k, v in values.items() if k.startswith(f"{number}:")}
            if expectation.is_about_rows or expectation.type in (*ORDERED, *REPEATED):
                _fill(result, own)
                continue
            if judge_frame(result, self.frame, self.personal, self.past):
                continue
            if judge_table(result, self.rows, self.past):
                continue
            breaks = second(expectation, own) if expectation.kind == "column" else None
            if breaks is None:
                judged(result, own, self.schema, self.rows)
                if self.personal & set(expectation.columns):
                    mask(result)
            else:
                there = pl.col(expectation.columns[0]).is_not_null()
                self.breaks[number] = breaks.fill_null(value=False) & there
                later |= _counts(number, expectation, self.breaks[number])
        if later:
            values = self._collected(later)
            for number, result in enumerate(self.results):
                if f"{number}:broken" in later:
                    own = {w: values[f"{number}:{w}"] for w in ("elements", "looked", "broken")}
                    _fill(result, own)
        self._carry_on()

    def _collected(self, asked: Mapping[str, pl.Expr]) -> dict[str, Any]:
        exprs = [expr.alias(name) for name, expr in asked.items()]
        return self.frame.select(exprs).collect(engine="streaming").row(0, named=True)

    def _carry_on(self) -> None:
        """What needs one row after another: repeats, and order."""
        if not any(r.expectation.type in (*ORDERED, *REPEATED) for r in self.results):
            return
        from penstock.quality.passing import Hashes, Steps

        steps: dict[int, Steps] = {}
        for number, result in enumerate(self.results):
            expectation = result.expectation
            if expectation.type in ORDERED:
                strictly = bool(expectation.arguments.get("strictly"))
                way = ORDERED[expectation.type]
                steps[number] = Steps(expectation.columns[0], way, strictly=strictly)
            elif expectation.type in REPEATED:
                self.hashed[number] = Hashes(expectation.columns)
        needed = dict.fromkeys(
            c for n in (*steps, *self.hashed) for c in read_by(self.results[n].expectation)
        )
        conditions = {
            n: looked_at(self.results[n].expectation)
            if self.results[n].expectation.kind == "rows"
            else pl.col(self.results[n].expectation.columns[0]).is_not_null()
            for n in self.hashed
        }
        frame = self.frame.select(
            *needed, *(pick.alias(_looked(n)) for n, pick in conditions.items())
        )
        counted = dict.fromkeys(self.hashed, 0)
        for batch in _batches(frame):
            for step in steps.values():
                step.add(batch)
            for number, hashes in self.hashed.items():
                rows = batch.filter(pl.col(_looked(number)))
                counted[number] += rows.height
                hashes.add(rows)
        for number, step in steps.items():
            result = self.results[number]
            result.elements, result.looked_at, result.broken = self.rows, step.values, step.broken
            result.examples = step.examples
            if self.personal & set(result.expectation.columns):
                mask(result)
        for number, hashes in self.hashed.items():
            with hashes:
                self.hashes[number], broken_rows = hashes.repeated()
            result = self.results[number]
            result.elements, result.looked_at = self.rows, counted[number]
            result.broken = broken_rows

    def _explain(self, path: Path | None) -> int:
        """The second scan: examples, and the rejects; how many rows were rejected."""
        blamed = [n for n, result in enumerate(self.results) if result.broken and self._can(n)]
        if not blamed and path is None:
            return 0
        marks = [self.breaks[n].alias(broken_by(n)) for n in blamed if n in self.breaks]
        frame = _numbered(self.frame)
        is_told = all(n in self.breaks for n in blamed)  # which rows break them, by expressions
        if is_told and blamed:
            frame = _own(frame.filter(reduce(or_, (self.breaks[n] for n in blamed))))
        frame = frame.with_columns(marks)
        if is_told and path is None:  # examples alone, and how many rows in all
            frame = frame.select(self._shown(blamed))
        with self._told(path) as told:
            for batch in _batches(frame) if blamed else ():
                told.take(self._with_repeats(batch, blamed))
            return told.finish()

    def _can(self, number: int) -> bool:
        return number in self.breaks or number in self.hashes

    def _with_repeats(self, batch: pl.DataFrame, blamed: list[int]) -> pl.DataFrame:
        if not self.hashes:
            return batch
        import numpy as np

        marks = list[pl.Series]()
        for number in blamed:
            if number not in self.hashes:
                continue
            expectation = self.results[number].expectation
            is_found = np.isin(self.hashed[number].of(batch), self.hashes[number])
            is_looked = looked_at(expectation)
            if expectation.kind != "rows":
                is_looked = pl.col(expectation.columns[0]).is_not_null()
            looked = batch.select(is_looked.alias("looked")).to_series()
            marks.append((pl.Series(is_found) & looked).alias(broken_by(number)))
        return batch.with_columns(marks) if marks else batch

    def _reasoned(self, rows: pl.DataFrame, blamed: list[int]) -> pl.DataFrame:
        ways = list[tuple[pl.Expr, pl.Expr]]()
        for number in blamed:
            expectation = self.results[number].expectation
            if expectation.severity == "warn":
                continue
            said = [
                pl.lit(MASK) if c in self.personal else shown(c, self.schema[c])
                for c in expectation.columns[:3]
            ]
            seen = pl.concat_str(said, separator=", ", ignore_nulls=True)
            why = reason(expectation.name, ", ".join(expectation.columns), seen)
            ways.append((pl.col(broken_by(number)), why))
        raw = [
            pl.col(_raw(column)).alias(column) if column in self.raw else column
            for column in self.schema
        ]
        return with_reasons(rows, ways).select(pl.col(_ROW).alias("_row"), *raw, "_reasons")


def _numbered(frame: pl.LazyFrame) -> pl.LazyFrame:
    """With each row's number, from 0."""
    return frame.with_row_index(_ROW).with_columns(pl.col(_ROW).cast(pl.Int64))


def _own(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Rows with texts of their own: those that a filter leaves keep all others in memory."""
    return rows.with_columns(pl.col(pl.String) + "")


def _looked(number: int) -> str:
    return f"{OWN}{number}_looked"


def _raw(column: str) -> str:
    """The column with another one's values as they came."""
    return f"{OWN}raw_{column}"


def _counts(number: int, expectation: Expectation, breaks: pl.Expr) -> dict[str, pl.Expr]:
    looked = pl.col(expectation.columns[0]).is_not_null()
    if expectation.is_about_rows:
        looked = looked_at(expectation)
    picks = expectation.row_condition is not None
    elements = considered(expectation).sum() if picks else pl.len()
    counted = looked.sum()
    if not picks and not looked.meta.root_names():
        counted = pl.len()  # of a literal the length is 1
    elif not picks and len(expectation.columns) == 1:
        counted = pl.col(expectation.columns[0]).count()  # which is known without looking
    return {
        f"{number}:elements": elements,
        f"{number}:looked": counted,
        f"{number}:broken": breaks.sum(),
    }


def _fill(result: Result, values: Mapping[str, Any]) -> None:
    result.elements = int(values.get("elements") or 0)
    result.looked_at = int(values.get("looked") or 0)
    result.broken = int(values.get("broken") or 0)


def _batches(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """Rows in order, some at a time."""
    return frame.collect_batches(
        chunk_size=BATCH_ROWS, maintain_order=True, lazy=False, engine="streaming"
    )


def _came_to(result: Result) -> str:
    if result.holds is not None and not result.looked_at:
        return f": {json.dumps(result.to_json()['result']['observed_value'])}"
    return f": {result.broken:,} of {result.looked_at:,}"
