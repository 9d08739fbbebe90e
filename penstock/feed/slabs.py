"""Memory for batches, used again once a batch is dropped.

A fresh megabyte costs more to be given by the kernel, page by page, than to be filled; so buffers
are kept, and lie on huge pages where the system has them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import weakref
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.feed.arena import PAGE

_SMALLEST = 64 << 10
"""Below it, malloc keeps memory itself."""
_MOST_KEPT_BYTES = 64 << 20


class Slabs:
    """Buffers by size; safe to use from threads."""

    def __init__(self) -> None:
        self._free: dict[int, list[mmap.mmap]] = defaultdict(list)
        self._kept_bytes = 0
        # A buffer may come back while this very thread is inside of `take`, through the garbage
        # collector: hence a lock that it may take twice.
        self._lock = threading.RLock()

    def take(self, size: int) -> NDArray[np.uint8]:
        """`size` bytes of whatever was there before; theirs again when nothing refers to them."""
        if size < _SMALLEST:
            return np.empty(size, np.uint8)
        room = 1 << (size - 1).bit_length() if size < 1 << 20 else -(-size // (1 << 20)) << 20
        with self._lock:
            free = self._free[room]
            memory = free.pop() if free else None
            self._kept_bytes -= room if memory is not None else 0
        if memory is None:
            # Private: a forked process must not write into the batches of others.
            memory = mmap.mmap(-1, max(room, PAGE), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                memory.madvise(mmap.MADV_HUGEPAGE)
        lent: Any = (ctypes.c_uint8 * size).from_buffer(memory)
        weakref.finalize(lent, self._back, room, memory).atexit = False
        return np.frombuffer(lent, np.uint8)

    def _back(self, room: int, memory: mmap.mmap) -> None:
        with self._lock:
            self._free[room].append(memory)
            self._kept_bytes += room
            while self._kept_bytes > _MOST_KEPT_BYTES:  # what is not in use now goes first
                others = [size for size, free in self._free.items() if free and size != room]
                size = others[0] if others else room
                self._free[size].pop()
                self._kept_bytes -= size

    def renew(self) -> None:
        """Begin anew in a forked process, whose copy of the lock may be held for ever."""
        self.__init__()


SLABS = Slabs()
os.register_at_fork(after_in_child=SLABS.renew)
