"""Rows parted by entity in a file on this machine's disk, so that a join holds one part at a time.

A part has all rows of its entities. What was worked out for it is kept in pieces, one for each
stretch of the spine, so that the spine's order is put back together a stretch at a time.
"""

from __future__ import annotations

import mmap
import operator
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from penstock.engines import Threads
from penstock.errors import FeatureError

STRETCH = 1 << 18
"""Rows of the spine."""
BATCH = 1 << 19
"""Rows that are parted at once."""
MOST_PARTS = 1 << 16


@dataclass(frozen=True, slots=True)
class Piece:
    """Where rows lie in a spill."""

    start: int
    length: int


class Spill:
    """Rows in a file without a name: however this process ends, nothing of it stays.

    To write again from its start on is several times as fast as a new file, as the pages are there.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="penstock-spill-")  # noqa: SIM115 - closed below
        self._lock = threading.Lock()
        self._end = 0

    def __enter__(self) -> Spill:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def __getstate__(self) -> str:
        """For another process of this machine, which reads alone."""
        path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        if not Path(path).exists():
            raise FeatureError(
                "this system has no /proc, by which processes read what is parted on disk; join on "
                "threads (PENSTOCK_ENGINE=threads)"
            )
        return path

    def __setstate__(self, path: str) -> None:
        self._file = Path(path).open("rb")  # noqa: SIM115 - closed with the last reference
        self._lock = threading.Lock()
        self._end = 0

    def again(self) -> None:
        """Forget all rows. None that were read may be in use."""
        self._end = 0

    def put(self, rows: pa.Table) -> Piece:
        """Keep rows; from any thread.

        Raises
        ------
        FeatureError: the disk is full.
        """
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        left = memoryview(sink.getvalue())
        with self._lock:
            piece = Piece(self._end, len(left))
            self._end += -(-len(left) // 64) * 64
        at = piece.start
        try:
            while left:
                written = os.pwrite(self._file.fileno(), left, at)
                left, at = left[written:], at + written
        except OSError as error:
            raise FeatureError(
                f"rows of a join that are parted on disk could not be written to "
                f"{tempfile.gettempdir()} ({error.strerror}): give it room, point TMPDIR "
                "elsewhere, or give the join more memory_bytes"
            ) from error
        return piece

    def take(self, pieces: Sequence[Piece]) -> pl.DataFrame | None:
        """The rows of some pieces, one after the other; None of no pieces."""
        if not pieces:
            return None
        # Unmapped with the last of the rows that still lie there.
        whole = pa.py_buffer(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))
        tables = [
            pa.ipc.open_stream(whole.slice(each.start, each.length)).read_all() for each in pieces
        ]
        return pl.DataFrame(pl.from_arrow(pa.concat_tables(tables), rechunk=True))


def part_of(keys: Sequence[str], parts: int) -> pl.Expr:
    """The part of each row, by its keys."""
    columns = [pl.col(key) for key in keys]
    whole = columns[0] if len(columns) == 1 else pl.struct(columns)
    return whole.hash(seed=17).mod(parts).cast(pl.UInt16)


class Parted:
    """Rows in a spill, by part."""

    def __init__(self, spill: Spill, keys: Sequence[str], parts: int) -> None:
        self._spill, self._keys, self.parts = spill, keys, parts
        self._pieces: list[list[tuple[int, Piece]]] = [[] for _ in range(parts)]

    def write(self, batches: Iterable[pl.DataFrame]) -> None:
        """Add rows, some batches at once."""
        for _ in Threads().run(self._put, enumerate(batches)):
            pass

    def _put(self, numbered: tuple[int, pl.DataFrame]) -> None:
        self.put(*numbered)

    def put(self, number: int, rows: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Add a batch.

        Parameters
        ----------
        number: batches are taken in its order.

        Returns
        -------
        The order in which the rows were kept, part after part, and how many each part has.
        """
        if not rows.height:
            return np.zeros(0, np.int64), np.zeros(self.parts, np.int64)
        part = rows.select(part_of(self._keys, self.parts)).to_series().to_numpy()
        order = np.argsort(part, kind="stable")  # by radix, of 16 bits
        counts = np.bincount(part, minlength=self.parts)
        table = rows.rechunk()[order].to_arrow()
        low = 0
        for each, count in enumerate(counts.tolist()):
            if count:
                piece = self._spill.put(table.slice(low, count))
                self._pieces[each].append((number, piece))
                low += count
        return order, counts

    def take(self, part: int) -> pl.DataFrame | None:
        """A part's rows, in the order of batches; None where it has none."""
        return self._spill.take(_ordered(self._pieces[part]))


class PartedSpine:
    """A spine's rows a stretch at a time, and the keys and times of each part of it.

    Parameters
    ----------
    groups: columns of keys by which it is parted, each for itself.
    """

    def __init__(self, spill: Spill, groups: Sequence[Sequence[str]], parts: int) -> None:
        self._spill, self.parts = spill, parts
        self._stretches: list[Piece] = []
        self._groups = [Parted(spill, keys, parts) for keys in groups]
        self._orders: list[list[Piece]] = [[] for _ in groups]
        self._counts: list[list[NDArray[np.int64]]] = [[] for _ in groups]

    def put(self, rows: pl.DataFrame, wanted: Sequence[pl.DataFrame]) -> None:
        """Add a stretch.

        Parameters
        ----------
        wanted: of each group, the columns that its join needs.
        """
        number = len(self._stretches)
        self._stretches.append(self._spill.put(rows.to_arrow()))
        for group, columns in enumerate(wanted):
            order, counts = self._groups[group].put(number, columns)
            back = np.empty(len(order), np.int32)
            back[order] = np.arange(len(order), dtype=np.int32)
            self._orders[group].append(self._spill.put(pa.table({"back": back})))
            self._counts[group].append(counts)

    def group(self, group: int) -> Parted:
        """What a group's join needs of each part, in the spine's order."""
        return self._groups[group]

    def pieces(self, group: int, part: int) -> list[tuple[int, int, int]]:
        """Stretches that have rows of a part, and from where to where among the part's."""
        counts = [of_stretch[part] for of_stretch in self._counts[group]]
        ends = np.cumsum(counts).tolist()
        return [
            (stretch, end - count, end)
            for stretch, (count, end) in enumerate(zip(counts, ends, strict=True))
            if count
        ]

    def stretches(self) -> Iterator[pl.DataFrame]:
        """The spine's rows."""
        for piece in self._stretches:
            rows = self._spill.take([piece])
            assert rows is not None
            yield rows

    def back(self, group: int, stretch: int) -> pl.Series:
        """Where each row of a stretch lies among those of its parts, one after the other."""
        rows = self._spill.take([self._orders[group][stretch]])
        assert rows is not None
        return rows["back"]


class InOrder:
    """Columns that were worked out part by part, put back into the spine's order."""

    def __init__(self, spill: Spill, spine: PartedSpine, group: int) -> None:
        self._spill, self._spine, self._group = spill, spine, group
        self._views: list[dict[int, list[tuple[int, Piece]]]] = []

    def begin(self) -> None:
        """A next view's parts follow."""
        self._views.append({})

    def put(self, part: int, columns: pl.DataFrame) -> None:
        """A part's columns, in the order of its rows."""
        if not columns.width:
            return
        table = columns.to_arrow()
        for stretch, low, high in self._spine.pieces(self._group, part):
            piece = self._spill.put(table.slice(low, high - low))
            self._views[-1].setdefault(stretch, []).append((part, piece))

    def stretch(self, number: int) -> list[pl.Series]:
        """All columns of a stretch, in the spine's order."""
        back = self._spine.back(self._group, number)
        columns = list[pl.Series]()
        for view in self._views:
            rows = self._spill.take(_ordered(view.get(number, [])))
            columns += [] if rows is None else rows[back].get_columns()
        return columns


def _ordered(pieces: Sequence[tuple[int, Piece]]) -> list[Piece]:
    return [piece for _, piece in sorted(pieces, key=operator.itemgetter(0))]
