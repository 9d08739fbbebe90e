"""Rows that break something: examples of them, and rejects with their reasons."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import polars as pl

from penstock.errors import ContractError
from penstock.quality.reasons import REASON
from penstock.quality.results import Result, add_examples

TOLD_ROWS = 1 << 14
"""Broken rows that get their reasons together: texts that take many times the room of a row."""
FEW = 64 << 20
"""Bytes of broken rows that are held while the others are still counted."""
PART = 8 << 20
"""Bytes of rejects that are held before they are written, as a part of their file."""
OWN = "__penstock_"
"""How the columns of a check are called, and none of a table."""


def broken_by(number: int) -> str:
    """The column that says which rows break an expectation."""
    return f"{OWN}{number}_broken"


class Few:
    """Broken rows that come while all rows are counted, as long as they are few.

    Who takes them has to be quick: whatever the scan has read waits for it in memory.
    """

    def __init__(self) -> None:
        self._held, self.are_too_many = list[pl.DataFrame](), False
        self._bytes = 0

    def rows(self) -> list[pl.DataFrame]:
        """What was held, together."""
        return [pl.concat(self._held)] if self._held else []

    def take(self, rows: pl.DataFrame) -> bool:
        """Hold rows; whether no more are wanted."""
        self._bytes += int(rows.estimated_size())
        self._held.append(rows)
        if self._bytes > FEW:
            self._held, self.are_too_many = [], True
        return self.are_too_many


class Told:
    """Broken rows as they come: examples are kept of them, rejects written, and counted.

    A context manager: leaving it by an error leaves no rejects behind.

    Parameters
    ----------
    reasoned: gives the rows that some of the results reject their reasons.
    """

    def __init__(
        self,
        results: Sequence[Result],
        personal: Collection[str],
        writer: RejectsWriter | None,
        reasoned: Callable[[pl.DataFrame, list[int]], pl.DataFrame],
    ) -> None:
        self._results, self._personal, self._rejected = results, personal, 0
        self._writer, self._reasoned = writer, reasoned
        self._held, self._rows = list[pl.DataFrame](), 0

    def __enter__(self) -> Told:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._writer is not None:
            self._writer.abandon()

    def take(self, rows: pl.DataFrame) -> None:
        """Take rows, in order.

        Few at a time cost more than they are worth, so that they are held until they are some.
        """
        self._held.append(rows)
        self._rows += rows.height
        if self._rows >= TOLD_ROWS:
            self._tell()

    def finish(self) -> int:
        """How many rows were rejected, once all came."""
        self._tell()
        if self._writer is not None:
            self._writer.close()
        return self._rejected

    def _tell(self) -> None:
        if not self._rows:
            return
        rows = pl.concat(self._held)
        self._held, self._rows = [], 0
        numbers = [n for n in range(len(self._results)) if broken_by(n) in rows.columns]
        counts = rows.select(pl.col(broken_by(n)).sum() for n in numbers).row(0)
        blamed = [n for n, count in zip(numbers, counts, strict=True) if count]
        for number in blamed:
            add_examples(self._results[number], rows, broken_by(number), self._personal)
        severities = {n: self._results[n].expectation.severity for n in blamed}
        rejecting = [broken_by(n) for n, severity in severities.items() if severity != "warn"]
        if not rejecting:
            return
        bad = rows.filter(pl.any_horizontal(rejecting))
        self._rejected += bad.height
        if self._writer is not None and bad.height:
            self._writer.write(self._reasoned(bad, blamed))


class RejectsWriter:
    """A Parquet file that is there once it is whole: written in parts, then put together."""

    def __init__(self, path: Path, schema: Mapping[str, pl.DataType]) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # It goes with this object: polars interrupts twice, and the second one may strike
            # where the first is answered.
            self._folder = tempfile.TemporaryDirectory(
                prefix=f".{path.name}.part-", dir=path.parent, ignore_cleanup_errors=True
            )
        except OSError as error:
            raise ContractError(f"{path}: rejects can't be written there: {error}") from error
        whole = {"_row": pl.Int64, **schema, "_reasons": pl.List(pl.Struct(REASON))}
        self._parts = list[Path]()
        self._held, self._bytes = [pl.DataFrame(schema=whole)], 0

    def write(self, rows: pl.DataFrame) -> None:
        """Add rows."""
        self._held.append(rows)
        self._bytes += int(rows.estimated_size())
        if self._bytes >= PART:
            self._write_part()

    def _write_part(self) -> None:
        self._parts.append(Path(self._folder.name, f"{len(self._parts):06d}.parquet"))
        pl.concat(self._held).write_parquet(self._parts[-1])
        self._held, self._bytes = [], 0

    def close(self) -> None:
        """Have the file there."""
        if self._held:
            self._write_part()
        whole = self._parts[0]
        if len(self._parts) > 1:
            whole = Path(self._folder.name, "whole.parquet")
            pl.scan_parquet(self._parts, glob=False).sink_parquet(whole)
        whole.replace(self._path)
        self.abandon()

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._folder.cleanup()
