"""Expressions over columns, as SQL text or as polars expressions: plain values that compare."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
from polars.exceptions import PolarsError

from penstock.errors import FeatureError


@dataclass(frozen=True, slots=True)
class Expression:
    """What is computed of a row.

    Raises
    ------
    FeatureError: the text is no expression.
    """

    text: str
    """A column's name or SQL, as polars reads it; or a polars expression written as JSON."""
    is_json: bool = False

    def __post_init__(self) -> None:
        if not self.is_json:
            self.polars()

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
            return Expression(given.meta.serialize(format="json"), is_json=True)
