"""Rows parted by entity into files on this machine's disk, so that a join holds one part at a time.

A part has all rows of its entities. What was worked out for it is written in pieces, one for each
stretch of the spine, so that the spine's order is put back together a stretch at a time.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import polars as pl
import pyarrow as pa

STRETCH = 1 << 17
"""Rows of the spine."""
BATCH = 1 << 19
"""Rows that are parted at once."""
_AT_ONCE = 2


def part_of(keys: Sequence[str], parts: int) -> pl.Expr:
    """The part of each row, by its keys."""
    columns = [pl.col(key) for key in keys]
    whole = columns[0] if len(columns) == 1 else pl.struct(columns)
    return whole.hash(seed=17).mod(parts).cast(pl.UInt32)


class Parted:
    """Writes rows into a file a part; a context manager."""

    def __init__(self, folder: Path, name: str, keys: Sequence[str], parts: int) -> None:
        self._paths = [folder / f"{name}-{part}.arrow" for part in range(parts)]
        self._keys, self._open = keys, ExitStack()
        self._writers: list[pa.RecordBatchFileWriter] = []
        self._locks = [threading.Lock() for _ in range(parts)]
        self._turn = itertools.cycle(range(0, parts, max(1, parts // 2)))

    def __enter__(self) -> Parted:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def write(self, batches: Iterable[pl.DataFrame]) -> None:
        """Add rows, each to its part's file; some batches at once, so in no promised order."""
        waiting = deque[Future[None]]()
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="penstock-part") as pool:
            for batch in batches:
                if not self._writers:
                    self._begin(batch)
                waiting.append(pool.submit(self._put, batch))
                if len(waiting) > _AT_ONCE:
                    waiting.popleft().result()
            for each in waiting:
                each.result()

    def _begin(self, rows: pl.DataFrame) -> None:
        schema = rows.clear().to_arrow().schema
        files = [self._open.enter_context(pa.OSFile(str(path), "wb")) for path in self._paths]
        self._writers = [self._open.enter_context(pa.ipc.new_file(f, schema)) for f in files]

    def _put(self, rows: pl.DataFrame) -> None:
        parts = rows.select(part_of(self._keys, len(self._paths))).to_series()
        ends = np.cumsum(np.bincount(parts.to_numpy(), minlength=len(self._paths))).tolist()
        table = rows[parts.arg_sort()].to_arrow()
        # Most of the time goes into new pages of files; from two threads it takes half as long.
        first = next(self._turn)
        for number in range(len(ends)):
            part = (first + number) % len(ends)
            low = ends[part - 1] if part else 0
            if ends[part] > low:
                with self._locks[part]:
                    self._writers[part].write_table(table.slice(low, ends[part] - low))

    def take(self, part: int) -> pl.DataFrame | None:
        """A part's rows; its file goes. None where nothing was written at all."""
        path = self._paths[part]
        if not path.exists():
            return None
        with pa.OSFile(str(path)) as file:
            rows = pl.DataFrame(pl.from_arrow(pa.ipc.open_file(file).read_all()))
        path.unlink()
        return rows


class InOrder:
    """Rows of parts, numbered by their place in the spine, put back into its order.

    Parameters
    ----------
    rows: the spine's.
    """

    def __init__(self, folder: Path, name: str, rows: int) -> None:
        self._folder, self._name, self._rows = folder, name, rows
        self._paths: list[Path] = []

    def write(self, rows: pl.DataFrame, numbers: np.ndarray) -> None:
        """One part's rows; `numbers` ascend."""
        path = self._folder / f"{self._name}-out-{len(self._paths)}.arrow"
        table = rows.with_columns(pl.Series("_row", numbers)).to_arrow().combine_chunks()
        stretches = -(-self._rows // STRETCH)
        cuts = np.searchsorted(numbers, np.arange(stretches + 1) * STRETCH)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            for low, high in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
                if high > low:
                    (batch,) = table.slice(low, high - low).to_batches()
                else:
                    batch = pa.RecordBatch.from_pylist([], schema=table.schema)
                writer.write_batch(batch)
        self._paths.append(path)

    def stretches(self) -> Iterator[pl.DataFrame]:
        """The rows in the spine's order, `STRETCH` at a time."""
        with ExitStack() as stack:
            readers = [
                pa.ipc.open_file(stack.enter_context(pa.OSFile(str(path)))) for path in self._paths
            ]
            for number in range(-(-self._rows // STRETCH)):
                batches = [reader.get_batch(number) for reader in readers]
                rows = pl.DataFrame(pl.from_arrow(pa.Table.from_batches(batches)))
                order = rows["_row"].arg_sort()
                yield rows.drop("_row")[order]
        for path in self._paths:
            path.unlink(missing_ok=True)
