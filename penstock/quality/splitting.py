"""Rows told apart by a contract: accepted ones typed, rejected ones as they came, with reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from penstock.contracts import Contract, Expectation
from penstock.quality.beyond import Past
from penstock.quality.cast import typed, uncast
from penstock.quality.compiled import UNIQUE, broken, considered, looked_at
from penstock.quality.reasons import reason, with_reasons
from penstock.quality.refusals import SHOWN
from penstock.quality.results import MASK, Result, add_examples
from penstock.tables.rewrite import origin

PROVENANCE = ("_source_file", "_source_row", "_ingested_at", "_batch")


class Marker(Protocol):
    """Says of rows whether they break a promise that is not theirs alone."""

    def prepared(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """What `mark` needs of a chunk; several may be asked for at once, in any order."""
        ...

    def mark(self, prepared: pl.DataFrame) -> pl.Series:
        """Whether each row breaks it; asked of each chunk once, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A chunk of rows, and all that can be said of it without the others."""

    marked: pl.DataFrame
    """Typed and raw columns, and which are uncast and what is broken."""
    prepared: Mapping[str, pl.DataFrame]
    """For each marker, by name."""


class Splitter:
    """Evaluates all that a contract expects of rows, chunk by chunk, and counts.

    A chunk is `evaluated`, which is most of the work, and then `split`.

    Parameters
    ----------
    repeats: for each expectation of unique rows and each foreign key, by name.
    past: is told of raw columns that the contract doesn't know.
    """

    def __init__(
        self, contract: Contract, repeats: Mapping[str, Marker], past: Past | None = None
    ) -> None:
        self.past = past
        self.contract, self.repeats = contract, repeats
        self.results = [Result(expectation) for expectation in contract.all_expectations]
        self.personal = {column.name for column in contract.columns if column.personal}
        self.reasons: dict[str, int] = {}
        self.accepted: dict[str, int] = {}
        self.rejected: dict[str, int] = {}
        """By source file."""
        self.shown = list[dict[str, Any]]()
        """Some of the rejected rows: file, row, reasons."""

    def evaluated(self, raw: pl.DataFrame) -> Evaluated:
        """Evaluate what each row says for itself; of several chunks at once, as may be."""
        columns = self.contract.columns
        frame = raw.select(
            *(typed(column) for column in columns),
            *(pl.col(column.raw_name).alias(f"raw:{column.name}") for column in columns),
            *PROVENANCE,
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
        ]
        prepared = {rule: marker.prepared(frame) for rule, marker in self.repeats.items()}
        return Evaluated(frame.with_columns(*marks), prepared)

    def split(self, chunk: Evaluated) -> tuple[pl.DataFrame, pl.DataFrame] | None:
        """The rows that are accepted, and those rejected, with the reasons; of each chunk once, in
        order.
        """
        columns, marked = self.contract.columns, chunk.marked
        rules = [result for result in self.results if result.expectation.is_about_rows]
        if marked.is_empty():
            return None
        if self.past is not None:
            self.past.saw(marked["_rescued"])
        repeats = [
            marker.mark(chunk.prepared[rule]).alias(f"repeat:{rule}")
            for rule, marker in self.repeats.items()
        ]
        marked = marked.with_columns(*repeats).with_columns(
            (pl.col(f"broken:{rule}") & pl.col(f"repeat:{rule}")).alias(f"broken:{rule}")
            for rule in self.repeats
        )
        self._count_rules(marked, rules)
        ways = self._ways(rules)
        is_rejected = marked.select(pl.any_horizontal(*(when for when, _ in ways))).to_series()
        # Most rows are accepted: their marks and raw values are not copied.
        accepted = marked.select(good_columns(self.contract)).filter(~is_rejected)
        rejected = with_reasons(marked.filter(is_rejected), ways)
        for counts, rows in ((self.accepted, accepted), (self.rejected, rejected)):
            _count_files(counts, rows["_source_file"])
        if len(self.shown) < SHOWN:
            some = rejected.select("_source_file", "_source_row", "_reasons")
            self.shown += some.head(SHOWN - len(self.shown)).to_dicts()
        names = rejected["_reasons"].explode().struct.field("expectation")
        _count(self.reasons, names)
        raw_values = [pl.col(f"raw:{c.name}").alias(c.raw_name) for c in columns]
        return (
            accepted,
            rejected.select(*raw_values, "_rescued", "_reasons", *PROVENANCE),
        )

    def _count_rules(self, marked: pl.DataFrame, rules: list[Result]) -> None:
        """Add to each rule's result the rows that it is about, and those that break it."""
        is_whole = pl.col("_error").is_null()
        names = [rule.expectation.name for rule in rules]
        about = [(considered(rule.expectation) & is_whole).sum() for rule in rules]
        looked = [(looked_at(rule.expectation) & is_whole).sum() for rule in rules]
        counts = marked.select(
            pl.len(),  # a row, also without any rule
            *(expr.alias(f"all:{name}") for name, expr in zip(names, about, strict=True)),
            *(expr.alias(f"looked:{name}") for name, expr in zip(names, looked, strict=True)),
            *(pl.col(f"broken:{name}").sum() for name in names),
        ).row(0, named=True)
        for rule, name in zip(rules, names, strict=True):
            rule.elements += counts[f"all:{name}"]
            rule.looked_at += counts[f"looked:{name}"]
            rule.broken += counts[f"broken:{name}"]
            if counts[f"broken:{name}"]:
                add_examples(rule, marked, f"broken:{name}", self.personal)

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


def good_columns(contract: Contract) -> list[str]:
    """The columns of the validated table: the contract's, then where each row came from."""
    return [*(column.name for column in contract.columns), *PROVENANCE]


def _any_uncast(expectation: Expectation) -> pl.Expr:
    """Text that is no value has its own reason; what follows from the null is not another."""
    if expectation.type == UNIQUE:
        return pl.lit(value=False)
    marks = [
        pl.col(f"raw:{name}").is_not_null() & pl.col(name).is_null() for name in expectation.columns
    ]
    return pl.any_horizontal(*marks)


def _raw(name: str) -> pl.Expr:
    return pl.col(f"raw:{name}")


def _count_files(into: dict[str, int], names: pl.Series) -> None:
    """Add how many rows are of each file; an archive's members count as the archive."""
    distinct = names.value_counts()
    for file, count in distinct.select(origin(names.name), "count").rows():
        into[file] = into.get(file, 0) + count


def _count(into: dict[str, int], values: pl.Series) -> None:
    for value, count in values.value_counts().rows():
        into[value] = into.get(value, 0) + count
