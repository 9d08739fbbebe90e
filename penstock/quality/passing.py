"""What a scan in pieces carries on: which rows repeat others, and whether values are in order.

Rows are known by 64 bits of hash of their values, held in memory up to a bound and beyond it in
files by their highest bits, so that each file's can be sorted alone: memory doesn't grow with the
table. Two rows that differ are taken for equal with odds of 1 to 10,000 at 50 million rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

_HELD = 1 << 23
"""Hashes held in memory, of 8 bytes each."""
_PARTS = 64


class Spilled:
    """What goes with hashes, past a bound, in files by their highest bits."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def delete(self) -> None:
        """Leave no files behind."""
        if self._folder is not None:
            self._folder.cleanup()

    @property
    def is_there(self) -> bool:
        """Whether something was put."""
        return self._folder is not None

    def put(self, rows: NDArray[Any], hashes: NDArray[np.uint64]) -> None:
        """Add rows, in the order of their hashes' highest bits."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="penstock-hashes-")
        cuts = np.searchsorted(hashes >> np.uint64(58), np.arange(1, _PARTS, dtype=np.uint64))
        for number, part in enumerate(np.split(rows, cuts)):
            with Path(self._folder.name, f"{number:02d}").open("ab") as file:
                part.tofile(file)

    def parts(self, kind: Any) -> Iterator[NDArray[Any]]:
        """All rows, those of equal hashes together, the least hashes first."""
        if self._folder is not None:
            for path in sorted(Path(self._folder.name).iterdir()):
                yield np.fromfile(path, kind)


class Hashes:
    """Hashes of rows as they come, and those that came more than once.

    A context manager: leaving it deletes the files.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = list(columns)
        self._held, self._count = list[NDArray[np.uint64]](), 0
        self._spilled = Spilled()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._spilled.delete()

    def of(self, rows: pl.DataFrame) -> NDArray[np.uint64]:
        """The hash of each row's values; nulls are equal."""
        return rows.select(self.columns).hash_rows(7).to_numpy()

    def add(self, rows: pl.DataFrame) -> None:
        """Rows to count."""
        hashes = self.of(rows)
        self._held.append(hashes)
        self._count += len(hashes)
        if self._count >= _HELD:
            self._spill()

    def repeated(self) -> tuple[NDArray[np.uint64], int]:
        """Hashes that came more than once, sorted, and how many rows have one of them."""
        found = [_repeated(part) for part in self._parts()]
        hashes = np.concatenate([hashes for hashes, _ in found] or [np.zeros(0, np.uint64)])
        return np.sort(hashes), sum(count for _, count in found)

    def _parts(self) -> Iterable[NDArray[np.uint64]]:
        if not self._spilled.is_there:
            if self._held:
                yield np.concatenate(self._held)
            return
        self._spill()
        yield from self._spilled.parts(np.uint64)

    def _spill(self) -> None:
        if not self._held:
            return
        hashes = np.sort(np.concatenate(self._held))
        self._held, self._count = [], 0
        self._spilled.put(hashes, hashes)


class Steps:
    """Values in the order of the rows: how many are on the wrong side of the one before.

    Parameters
    ----------
    direction: 1 where they should increase, -1 where they should decrease.
    strictly: whether two equal ones in a row are wrong too.
    """

    def __init__(self, column: str, direction: int, *, strictly: bool) -> None:
        self.column, self._direction, self._strictly = column, direction, strictly
        self._last: pl.Series | None = None
        self.values = self.broken = 0
        self.examples = list[Any]()

    def add(self, rows: pl.DataFrame) -> None:
        """The next rows; nulls are passed over."""
        values = rows[self.column].drop_nulls()
        self.values += len(values)
        if self._last is not None:
            values = pl.concat([self._last, values])
        if not len(values):
            return
        before, after = values.head(len(values) - 1), values.tail(len(values) - 1)
        if self._direction > 0:
            wrong = after <= before if self._strictly else after < before
        else:
            wrong = after >= before if self._strictly else after > before
        self.broken += int(wrong.sum())
        if len(self.examples) < 20:
            self.examples += after.filter(wrong).head(20 - len(self.examples)).to_list()
        self._last = values.tail(1)


def _repeated(hashes: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], int]:
    """Those that are there more than once, and how many rows have one of them."""
    hashes = np.sort(hashes)
    same = hashes[1:] == hashes[:-1]
    starts = np.flatnonzero(np.concatenate([[True], ~same])) if len(hashes) else np.zeros(0, int)
    sizes = np.diff(starts, append=len(hashes))
    return hashes[starts][sizes > 1], int(sizes[sizes > 1].sum())
