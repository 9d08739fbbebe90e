"""The scans of one check: what breaks something is counted, shown and written.

first scan   counts of every row expectation as rows pass by (tallying.py), what columns come to,
             and what breaks something: rejects with every reason, and examples
(beside it: hashes for uniqueness, the order of values, batch by batch)
second scan  what breaks something, where it is much, or known only from the whole column

Where only rows are counted, files of this machine are scanned piece by piece, some at once:
memory is that of the pieces, however large the table.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from penstock.contracts import Expectation
from penstock.engines import Threads
from penstock.quality.beyond import judge_frame, judge_table
from penstock.quality.breaking import OWN, Few, RejectsWriter, Told, broken_by
from penstock.quality.columns import AFTERWARDS, ORDERED, REPEATED, judged, mask, measures, second
from penstock.quality.compiled import broken, considered, looked_at, read_by
from penstock.quality.data import PIECE_BYTES, Piece, little_read_ahead
from penstock.quality.implied import implied
from penstock.quality.reasons import reason, shown, with_reasons
from penstock.quality.results import MASK, Result
from penstock.quality.tallying import Counted, Tally, counted

if TYPE_CHECKING:  # each takes as long to import as a small table to check
    import numpy as np

    from penstock.quality.beyond import Past
    from penstock.quality.passing import Hashes, Steps

BATCH_ROWS = 1 << 17
LONG = 1 << 23
"""Values of columns together, from which on they are not held to measure them."""
_HELD_BY_MODE = 8
"""Times as much as others, by what finds the most frequent values."""
_ROW = f"{OWN}row"
_AT_ONCE = max(1, (os.cpu_count() or 1) // 4) * PIECE_BYTES
"""Bytes of pieces, as stored, that are scanned at once; each keeps a few cores busy."""


class HasNaN(Exception):  # noqa: N818 - caught by who asked
    """There is a NaN, which counts as missing: it is to be made null first."""


class Run:
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
        self.implied = set[int]()
        """Those that only rows break that break another one too."""
        self.counted: dict[int, Counted] = {}
        self.known: dict[str, Any] = {}
        """What was measured of columns that are too long to hold."""
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
        self.known = self._measured_of_long()
        measured = {name: e for name, e in self._measures().items() if name not in self.known}
        for number, result in enumerate(self.results):
            if result.expectation.is_about_rows and result.expectation.type not in REPEATED:
                self.breaks[number] = broken(result.expectation)
                self.counted[number] = counted(result.expectation)
        if types & {*REPEATED, *AFTERWARDS} or not self.breaks:
            self._judge(self._collected({**self._counts(), **measured}))
            return self._explain(rejects)
        asked = {number: self.results[number].expectation for number in self.breaks}
        self.implied = implied(asked, self.schema)
        return self._piece_by_piece(measured, rejects)

    def _measures(self) -> dict[str, pl.Expr]:
        """What is to be known of whole columns."""
        return {
            f"{number}:{what}": measure
            for number, result in enumerate(self.results)
            for what, measure in measures(result.expectation).items()
        }

    def _measured_of_long(self) -> dict[str, Any]:
        """What polars would hold whole columns for, where they are long."""
        by_column = dict[tuple[str, str | None], dict[int, Expectation]]()
        for number, result in enumerate(self.results):
            if measures(result.expectation):
                key = result.expectation.columns[0], result.expectation.row_condition
                by_column.setdefault(key, {})[number] = result.expectation
        held = sum(
            _HELD_BY_MODE if any("most_common" in each.type for each in mine.values()) else 1
            for mine in by_column.values()
        )
        if not held or self._rows() * held < LONG:
            return {}
        from penstock.quality.long import (
            counts_values,
            measured_quantiles,
            measured_values,
            quantiles,
        )

        found = dict[str, Any]()
        for (column, condition), expectations in by_column.items():
            kind = self.schema[column]
            frame = self.frame
            if condition is not None:
                frame = frame.filter(considered(next(iter(expectations.values()))))

            def batches(name: str, rows: pl.LazyFrame = frame) -> Iterator[pl.DataFrame]:
                return _batches(rows.select(name))

            asked = {
                f"{number}:{what}": quantile
                for number, expectation in expectations.items()
                for what, quantile in quantiles(expectation, kind).items()
            }
            if asked:
                found |= measured_quantiles(batches, column, kind, asked)
            counting = {n: e for n, e in expectations.items() if counts_values(e, kind)}
            if counting:
                found |= measured_values(batches, column, counting)
        return found

    def _rows(self) -> int:
        return int(self.frame.select(pl.len()).collect(engine="streaming").item())

    def _counts(self) -> dict[str, pl.Expr]:
        """What the first scan counts."""
        found: dict[str, pl.Expr] = {"rows": pl.len()}
        if self.floats:
            found["nan"] = pl.any_horizontal(pl.col(self.floats).is_nan().any())
        for number in self.breaks:
            found |= self._counts_of(number)
        return found

    def _counts_of(self, number: int) -> dict[str, pl.Expr]:
        counts = self.counted[number].counts(number)
        return {**counts, f"{number}:broken": self.breaks[number].sum()}

    def _piece_by_piece(self, measured: Mapping[str, pl.Expr], path: Path | None) -> int:
        """What is counted and what breaks something, of some pieces at once, for which each
        expectation is evaluated once; broken rows are told as each piece is done.
        """
        with_all = path is not None
        # What is measured is measured of the whole.
        pieces = [Piece(self.frame, 0)] if measured or not self.pieces else self.pieces

        def scan(piece: Piece) -> tuple[Piece, dict[str, Any], Tally, Few]:
            few, tally = Few(), Tally(self.counted, self.floats)
            rows = self._broken(piece.rows, tally, with_all=with_all)
            wanted = [rows.sink_batches(few.take, maintain_order=True, lazy=True)]
            if measured:
                wanted.append(piece.rows.select(e.alias(name) for name, e in measured.items()))
            found = pl.collect_all(wanted, engine="streaming")
            return piece, found[1].row(0, named=True) if measured else {}, tally, few

        values, total = dict[str, Any](), Counter[str]()
        largest = max(piece.size_bytes for piece in pieces)
        workers = min(len(pieces), max(1, _AT_ONCE // max(1, largest)))
        with little_read_ahead(pieces), self._told(path) as told:
            for piece, found, tally, few in Threads(workers).run(scan, pieces):
                values |= found
                batches: Iterable[pl.DataFrame] = few.rows()
                if few.are_too_many:
                    tally = Tally(self.counted, self.floats)
                    batches = _batches(self._broken(piece.rows, tally, with_all=with_all))
                for batch in batches:
                    total.update(self._marks(batch))
                    told.take(batch.with_columns(pl.col(_ROW) + total["rows"]))
                counts = tally.values()
                if counts["nan"]:
                    raise HasNaN
                total.update(counts)
            self._judge({**values, **total})
            return told.finish()

    def _broken(self, frame: pl.LazyFrame, tally: Tally, *, with_all: bool) -> pl.LazyFrame:
        """The rows that break something, marked, of a frame of which all rows are counted.

        with_all: whether they have all columns, or only what examples need.
        """
        marks = {n: breaks.alias(broken_by(n)) for n, breaks in self.breaks.items()}
        first = [n for n in marks if n not in self.implied]
        marked = _numbered(frame).with_columns(marks[n] for n in first)
        if not with_all:
            needed = [_ROW, *self._read(self.breaks), *map(broken_by, first), *self.floats]
            marked = marked.select(list(dict.fromkeys(needed)))
        seen = tally.watched(marked)
        rows = seen.filter(pl.any_horizontal(broken_by(n) for n in first))
        return _own(rows).with_columns(marks[n] for n in sorted(self.implied))

    def _marks(self, rows: pl.DataFrame) -> dict[str, int]:
        """How many of them break what."""
        sums = rows.select(
            pl.col(broken_by(number)).sum().alias(f"{number}:broken") for number in self.breaks
        )
        return {name: int(count or 0) for name, count in sums.row(0, named=True).items()}

    def _told(self, path: Path | None) -> Told:
        writer = None if path is None else RejectsWriter(path, self.schema)
        return Told(self.results, self.personal, writer, self._reasoned)

    def _shown(self, blamed: Iterable[int]) -> list[str]:
        """What examples alone need of a row."""
        return [_ROW, *self._read(blamed), *(broken_by(n) for n in blamed)]

    def _read(self, numbers: Iterable[int]) -> list[str]:
        return sorted({c for n in numbers for c in read_by(self.results[n].expectation)})

    def _judge(self, values: Mapping[str, Any]) -> None:
        """Fill in what the first scan found, and ask what can only be asked once that is known."""
        if values.get("nan"):
            raise HasNaN
        values = {**values, **self.known}
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
                judged(result, own, self.schema, self.rows, self.past)
                if self.personal & set(expectation.columns):
                    mask(result)
            else:
                self.breaks[number] = breaks.fill_null(value=False) & looked_at(expectation)
                self.counted[number] = counted(expectation)
                later |= self._counts_of(number)
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
        asked = {n: self.results[n].expectation for n in (*steps, *self.hashed)}
        frame = self.frame.select(
            *needed,
            *(looked_at(each).alias(_looked(n)) for n, each in asked.items()),
            *(
                considered(each).alias(_considered(n))
                for n, each in asked.items()
                if each.row_condition
            ),
        )
        counted, elements = dict.fromkeys(self.hashed, 0), Counter[int]()
        for batch in _batches(frame):
            for number, each in asked.items():
                is_picked = each.row_condition is not None
                picked = batch[_considered(number)].sum() if is_picked else batch.height
                elements[number] += int(picked or 0)
            for number, step in steps.items():
                step.add(batch.filter(pl.col(_looked(number))))
            for number, hashes in self.hashed.items():
                rows = batch.filter(pl.col(_looked(number)))
                counted[number] += rows.height
                hashes.add(rows)
        for number, step in steps.items():
            result = self.results[number]
            result.elements, result.looked_at = elements[number], step.values
            result.broken, result.examples = step.broken, step.examples
            if self.personal & set(result.expectation.columns):
                mask(result)
        for number, hashes in self.hashed.items():
            with hashes:
                self.hashes[number], broken_rows = hashes.repeated()
            result = self.results[number]
            result.elements, result.looked_at = elements[number], counted[number]
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
            looked = batch.select(looked_at(expectation).alias("looked")).to_series()
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


def _considered(number: int) -> str:
    return f"{OWN}{number}_considered"


def _looked(number: int) -> str:
    return f"{OWN}{number}_looked"


def _raw(column: str) -> str:
    """The column with another one's values as they came."""
    return f"{OWN}raw_{column}"


def _fill(result: Result, values: Mapping[str, Any]) -> None:
    result.elements = int(values.get("elements") or 0)
    result.looked_at = int(values.get("looked") or 0)
    result.broken = int(values.get("broken") or 0)


def _batches(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """Rows in order, some at a time."""
    return frame.collect_batches(
        chunk_size=BATCH_ROWS, maintain_order=True, lazy=False, engine="streaming"
    )
