"""Tables of one large file, in their order, into Parquet files of a healthy size, as they come."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

import pyarrow as pa

from penstock.tables import StagedFile, Stager

WRITERS = max(2, min(8, (os.cpu_count() or 1) * 2 // 3))
"""Parquet files written at once, which takes twice as long as parsing what is in them."""


class Given(Exception):  # noqa: N818 - ends a writer
    """Nobody wants what was written any more."""


class SpreadWriter:
    """Writes a stream of tables, a new file after every so many bytes of Arrow.

    A context manager; leaving it by an error ends its writers. What they had staged by then is
    `staged()`, for the caller to delete.

    Parameters
    ----------
    stager: makes what writes a file, from the columns of its tables.
    file_bytes: as Arrow holds them.
    """

    def __init__(self, stager: Callable[[pa.Schema], Stager], file_bytes: int) -> None:
        self._stager, self._file_bytes = stager, file_bytes
        self._pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="penstock-write")
        self._written: list[Future[list[StagedFile]]] = []
        self._tables: queue.Queue[pa.Table | Given | None] | None = None
        self._schema: pa.Schema | None = None
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is not None:
            self._end(Given())
        self._pool.shutdown(wait=True)

    def write(self, table: pa.Table) -> None:
        """Have one more table written; waits while there is too much to write.

        Raises whatever an earlier one's writing came to.
        """
        if self._bytes >= self._file_bytes or table.schema != self._schema:
            self._end(None)
            self._begin(table.schema)
        assert self._tables is not None
        self._bytes += table.nbytes
        self._put(table)

    def finish(self) -> list[StagedFile]:
        """The files, in the order of the tables."""
        self._end(None)
        return [file for future in self._written for file in future.result()]

    def staged(self) -> list[StagedFile]:
        """What was written by writers that came to their end, after an error."""
        self._end(Given())
        wait(self._written)
        ended = [future for future in self._written if future.exception() is None]
        return [file for future in ended for file in future.result()]

    def _begin(self, schema: pa.Schema) -> None:
        left = [future for future in self._written if not future.done()]
        if len(left) >= WRITERS:
            wait(left, return_when=FIRST_COMPLETED)
        self._tables = queue.Queue()
        self._schema, self._bytes = schema, 0
        self._written.append(self._pool.submit(self._write_all, self._tables, schema))

    def _put(self, table: pa.Table | Given | None) -> None:
        assert self._tables is not None
        writer = self._written[-1]
        if writer.done():  # it failed: nobody takes anything any more
            writer.result()
            return
        self._tables.put(table)

    def _end(self, how: Given | None) -> None:
        if self._tables is not None:
            try:
                self._put(how)
            except BaseException:
                if how is None:
                    raise
            finally:
                self._tables = None

    def _write_all(
        self, tables: queue.Queue[pa.Table | Given | None], schema: pa.Schema
    ) -> list[StagedFile]:
        with self._stager(schema) as stager:
            while True:
                table = tables.get()
                if isinstance(table, Given):
                    raise table
                if table is None:
                    return stager.finish()
                stager.write(table)
                del table  # given up before the next one is waited for
