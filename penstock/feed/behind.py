"""Blocks handed to training out of memory, and written to the cache behind its back.

To write a block takes longer than to fetch it where the disk, or the first touch of a page, is
slow; so training gets it as soon as it is verified. Writing begins when training waits for nothing,
when another process waits for a block, or when much has gathered.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

_LOOK_SECONDS = 0.02


class WriteBehind:
    """Writes blocks in the order in which they came; owns a thread.

    Parameters
    ----------
    write: keeps a block's bytes, given its checksum; raises nothing.
    settled: called under the lock under which the block stops being held here.
    most_bytes: whoever brings more than this waits; from half of it on, writing doesn't.
    is_busy: whether training waits for something, so that writing would be in its way.
    is_awaited: whether another process waits for what is held here.
    """

    def __init__(
        self,
        write: Callable[[int, memoryview, int], object],
        settled: Callable[[int], None],
        most_bytes: int,
        is_busy: Callable[[], bool],
        is_awaited: Callable[[], bool],
    ) -> None:
        self._write, self._settled, self._most_bytes = write, settled, most_bytes
        self._is_busy, self._is_awaited = is_busy, is_awaited
        self._held: OrderedDict[int, tuple[memoryview, int]] = OrderedDict()
        self._bytes = 0
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def put(self, block: int, data: memoryview, checksum: int) -> None:
        """Have a block written; waits for nothing."""
        with self._changed:
            self._held[block] = (data, checksum)
            self._bytes += data.nbytes
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="penstock-write", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def held(self, block: int) -> memoryview | None:
        """The bytes of a block that is still to be written."""
        with self._changed:
            found = self._held.get(block)
            return None if found is None else found[0]

    def wait_for_room(self) -> None:
        """Until less is held than may be."""
        with self._changed:
            self._changed.wait_for(lambda: self._bytes < self._most_bytes or self._is_closing)

    def flush(self) -> None:
        """Until nothing is held that is still to be written."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held)

    def close(self) -> None:
        """Write what is held, and end the thread; twice does no harm."""
        with self._changed:
            self._is_closing, thread = True, self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._held and not self._may_write():
                    self._changed.wait(_LOOK_SECONDS)
                if not self._held:  # the next block has a thread of its own
                    self._thread = None
                    return
                block, (data, checksum) = next(iter(self._held.items()))
            self._write(block, data, checksum)
            with self._changed:
                del self._held[block]
                self._bytes -= data.nbytes
                self._settled(block)
                self._changed.notify_all()

    def _may_write(self) -> bool:
        is_much = self._bytes * 2 >= self._most_bytes
        return self._is_closing or is_much or not self._is_busy() or self._is_awaited()
