"""Expressions over columns, as SQL text or as polars expressions: plain values that compare."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import xxhash
from polars.exceptions import ColumnNotFoundError, PolarsError

from penstock.errors import FeatureError


@dataclass(frozen=True, slots=True)
class Expression:
    """What is computed of a row.

    Raises
    ------
    FeatureError: the text is no expression, or one that looks at more than one row.
    """

    text: str
    """A column's name or SQL, as polars reads it; or a polars expression written as JSON."""
    is_json: bool = False

    def __post_init__(self) -> None:
        _check_by_row(self.polars(), self)

    def polars(self) -> pl.Expr:
        """To be evaluated."""
        if self.is_json:
            return pl.Expr.deserialize(self.text.encode(), format="json")
        if self.text.isidentifier() and self.text.lower() not in ("true", "false", "null"):
            return pl.col(self.text)
        try:
            return pl.sql_expr(self.text)
        except PolarsError as error:
            raise FeatureError(f"{self.text!r} is no SQL expression: {error}") from error

    @property
    def identity(self) -> str:
        """What it says, told from whatever says anything else; for fingerprints."""
        if not self.is_json:
            return self.text
        # As polars shows an expression, some of its arguments are left out.
        return f"{self} #{xxhash.xxh3_64_hexdigest(self.text.encode())}"

    @property
    def columns(self) -> list[str]:
        """Those that it reads, each once."""
        return list(dict.fromkeys(self.polars().meta.root_names()))

    @property
    def is_column(self) -> bool:
        """Whether it is a column as it stands."""
        return self.columns == [self.text]

    def __str__(self) -> str:
        return str(self.polars()) if self.is_json else self.text


def expression(given: str | pl.Expr | Expression) -> Expression:
    """What a user writes, as a value."""
    match given:
        case Expression():
            return given
        case str():
            return Expression(given)
        case _:
            try:
                return Expression(given.meta.serialize(format="json"), is_json=True)
            except (PolarsError, ImportError) as error:
                raise FeatureError(
                    f"{given} holds a Python function, which can't be written down: use polars' "
                    "own expressions, or Derived.of with a function"
                ) from error


def _check_by_row(given: pl.Expr, whole: Expression) -> None:
    """Refuse what looks at more than one row: of those, some come later."""
    waiting = [given]
    while waiting:
        each = waiting.pop()
        inputs = each.meta.pop()
        try:
            is_by_row = each.meta.is_row_separable() and (
                each.meta.is_length_preserving() or each.meta.is_scalar()
            )
        except (ColumnNotFoundError, PolarsError):  # some functions tell only of real columns
            is_by_row = True
        is_list = not inputs and each is not given and str(each) == "Series"
        if not is_by_row and not is_list:
            raise FeatureError(
                f"{whole}: {each} looks at more than one row, and some of them come later: use a "
                "window (Sum, Mean, Last, Quantile, ...), or work the column out in a table before"
            )
        # What is done within a list's own elements concerns one row.
        waiting += [one for one in inputs if "element()" not in str(one)]
