"""Tables as sources: a database's by a high-water mark, a Delta table's by its change feed.

What such a source gives is cut into stretches: past the mark that was reached last, up to the one
that the table had when the batch was planned. To the ledger a stretch is a file, and so it comes in
exactly once.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import polars as pl
import pyarrow as pa

from penstock.errors import SourceError
from penstock.ingest.source import Source
from penstock.storage.listing import LISTING

BATCH_ROWS = 1 << 16
_SAFE = " :+,-.~"
"""What the name of a stretch keeps as it is: no slash, and no `name=value`."""


class Upstream:
    """A table that rows are taken from, in the place of a folder."""

    identity: str

    def list(self, pattern: str = "", *, after: str = "") -> pl.DataFrame:
        """A listing of one row, the stretch behind the mark `after` (JSON); of none if it is empty.

        Raises
        ------
        SourceError: the table can't be reached, isn't there, or isn't the one of `after`.
        """
        begun = json.loads(after) if after else None
        of = self.of
        if begun is not None and begun[1] != of:
            raise SourceError(
                f"{self.identity}: its bronze table was fed by {begun[1]}, and this is {of}; give "
                "the rows of another table, or by another mark, a bronze table of their own"
            )
        mark = None if begun is None else begun[0]
        reached = self.reached(mark)
        rows = []
        if reached is not None:
            path = f"{quote(self.name, safe=_SAFE)}/{_shown(mark)}..{_shown(reached)}"
            rows = [(path, 0, json.dumps([mark, reached, of]), datetime.now(UTC), None)]
        return pl.DataFrame(rows, schema=LISTING, orient="row")

    @property
    @abstractmethod
    def name(self) -> str:
        """As stretches of it are called."""

    @property
    @abstractmethod
    def of(self) -> str:
        """What marks belong to: they mean nothing of another table, or by another column."""

    @abstractmethod
    def reached(self, after: Any) -> Any:
        """The mark now, as JSON has it; None where there is no row behind `after`."""

    @abstractmethod
    def read(self, after: Any, upto: Any) -> Iterator[pa.RecordBatch]:
        """The rows past one mark (None: from the start) up to another."""


@dataclass(frozen=True, slots=True)
class UpstreamSource(Source):
    """A source that is a table and not a folder. Patterns and formats don't apply."""

    def __post_init__(self) -> None:
        Source.__post_init__(self)
        others = (self.on_delete != "keep", self.pattern != "**/*", self.format, self.notifications)
        if any(others) or self.lookback is not None:
            raise SourceError(
                f"{self.table}: on_delete, pattern, format, lookback and notifications are for "
                "folders, not for a table"
            )

    def is_read(self) -> pl.Expr:
        """Each stretch is."""
        return pl.lit(value=True)

    def reached(self, ledger: pl.LazyFrame) -> str:
        """The mark of the newest stretch in the ledger and what it is of, as JSON; "" before any.

        Raises
        ------
        SourceError: the ledger is of a folder.
        """
        loaded = ledger.filter(status="loaded").select("batch", "tag").collect().sort("batch")
        if loaded.is_empty():
            return ""
        try:
            _, upto, of = json.loads(loaded["tag"][-1])
        except ValueError as error:
            raise SourceError(
                f"{self.table}: it was fed by a folder; a table's rows need a bronze table of "
                "their own"
            ) from error
        return json.dumps([upto, of])

    def still_new(self, ledger: pl.LazyFrame, listing: pl.DataFrame) -> pl.DataFrame:
        """Of a listing, the stretch that begins where the ledger ends; others have come first."""
        reached = self.reached(ledger)
        mark = json.loads(reached)[0] if reached else None
        fresh = [json.loads(tag)[0] == mark for tag in listing["tag"]]
        return listing.filter(pl.Series(fresh, dtype=pl.Boolean))


def stretch_of(tag: str) -> tuple[Any, Any]:
    """The marks that a planned stretch lies between."""
    after, upto, _ = json.loads(tag)
    return after, upto


def _shown(mark: Any) -> str:
    shown = next(iter(mark.values())) if isinstance(mark, dict) else mark
    return "" if shown is None else quote(str(shown), safe=_SAFE)


def first_line(error: BaseException) -> str:
    """Of an error's message."""
    return (str(error) or repr(error)).strip().splitlines()[0][:400]
