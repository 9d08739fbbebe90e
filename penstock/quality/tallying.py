"""How many rows an expectation is about: counted as the rows pass by on their way elsewhere.

A second branch of a query, beside the one that rows take, would hold them until both had them; on
the way, their counts cost neither memory nor a look at what each column knows of itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from penstock.contracts import Expectation
from penstock.quality.breaking import OWN
from penstock.quality.compiled import considered, looked_at

_NAN = f"{OWN}nan"


@dataclass(frozen=True, slots=True)
class Counted:
    """Which rows an expectation is about."""

    elements: pl.Expr | None
    """Whether a row is one of them; None: every row is."""
    looked: pl.Expr | str | None
    """Whether its values are looked at; a column: where that has some; None: of every row."""

    def counts(self, number: int) -> dict[str, pl.Expr]:
        """Both, of a whole frame."""
        elements, looked = self.elements, self.looked
        counted = looked.sum() if isinstance(looked, pl.Expr) else pl.len()
        if isinstance(looked, str):
            counted = pl.col(looked).count()
        return {
            f"{number}:elements": pl.len() if elements is None else elements.sum(),
            f"{number}:looked": counted,
        }


def counted(expectation: Expectation) -> Counted:
    """Of an expectation, which rows it is about."""
    looked = looked_at(expectation)
    if expectation.row_condition is not None:
        return Counted(considered(expectation), looked)
    if not looked.meta.root_names():
        return Counted(None, None)  # of a literal the length is 1
    return Counted(None, expectation.columns[0] if len(expectation.columns) == 1 else looked)


class _Seen(NamedTuple):
    rows: int
    there: tuple[int, ...]
    picked: tuple[int, ...]


class Tally:
    """Counts of the rows that pass by.

    Parameters
    ----------
    of: by an expectation's number.
    floats: columns in which NaN is looked for.
    """

    def __init__(self, of: Mapping[int, Counted], floats: Sequence[str]) -> None:
        self._of, self._seen = of, list[_Seen]()
        self._flags = dict[str, pl.Expr]()
        for number, each in of.items():
            if each.elements is not None:
                self._flags[_flag(number, "elements")] = each.elements
            if isinstance(each.looked, pl.Expr):
                self._flags[_flag(number, "looked")] = each.looked
        if floats:
            self._flags[_NAN] = pl.any_horizontal(pl.col(floats).is_nan())
        self._columns = sorted(
            {each.looked for each in of.values() if isinstance(each.looked, str)}
        )

    def watched(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """The frame, whose rows are counted when it is collected, all of its columns read."""
        flagged = frame.with_columns(expr.alias(name) for name, expr in self._flags.items())
        seen = flagged.map_batches(
            self._see, streamable=True, predicate_pushdown=False, projection_pushdown=False
        )
        return seen.drop(self._flags)

    def _see(self, rows: pl.DataFrame) -> pl.DataFrame:
        # From several threads, in any order; a list takes that.
        there = (rows.height - rows.get_column(name).null_count() for name in self._columns)
        picked = (int(rows.get_column(name).sum() or 0) for name in self._flags)
        self._seen.append(_Seen(rows.height, tuple(there), tuple(picked)))
        return rows

    def values(self) -> dict[str, int]:
        """What `Counted.counts` calls them, and `rows`, and `nan`, how many rows have some."""
        seen = self._seen
        rows = sum(each.rows for each in seen)
        known = Counter[str]()
        for each in seen:
            known.update(dict(zip(self._columns, each.there, strict=True)))
            known.update(dict(zip(self._flags, each.picked, strict=True)))
        found = {"rows": rows, "nan": known[_NAN]}
        for number, each in self._of.items():
            is_picked, looked = each.elements is not None, each.looked
            found[f"{number}:elements"] = known[_flag(number, "elements")] if is_picked else rows
            if looked is None:
                found[f"{number}:looked"] = rows
            else:
                name = looked if isinstance(looked, str) else _flag(number, "looked")
                found[f"{number}:looked"] = known[name]
        return found


def _flag(number: int, what: str) -> str:
    return f"{OWN}{number}_{what}"
