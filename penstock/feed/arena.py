"""One stretch of address space for all files of a dataset, so that a row is gathered by address.

    │ shard 0 │ shard 1 │ ... │

The stretch is reserved at once and costs nothing until a file is put there; to touch the rest is a
fault, not a wrong row. It is given back when nothing refers to it any more.

A block that no file holds lies wherever it was received. So that one call gathers rows of both
kinds, the whole of the process's addresses is one array, in which every block has its place.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ShardError

PAGE = mmap.PAGESIZE
ORIGIN = PAGE
"""The address of the first byte of `everywhere()`."""
_ADDRESSES = 1 << 48
"""What Linux gives to a process, on x86-64 (47 bits) and on arm64."""
_PROT_NONE, _MAP_FIXED, _MAP_NORESERVE, _MADV_DONTNEED = 0, 0x10, 0x4000, 4
_FAILED = ctypes.c_void_p(-1).value


def page_up(size: int) -> int:
    """`size` in whole pages."""
    return -(-size // PAGE) * PAGE


@cache
def everywhere() -> NDArray[np.uint8]:
    """All addresses of the process from `ORIGIN` up, as one array; most of it is a fault to touch.

    It keeps nothing alive: who reads in it holds what lies there.
    """
    memory = (ctypes.c_uint8 * (_ADDRESSES - ORIGIN)).from_address(ORIGIN)
    return np.ctypeslib.as_array(memory)


class Arena:
    """A reserved stretch of `size` bytes; `bytes` is all of it as one array."""

    def __init__(self, size: int) -> None:
        self.size = page_up(max(size, PAGE))
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self.address = _map(None, self.size, _PROT_NONE, flags, -1)
        memory = (ctypes.c_uint8 * self.size).from_address(self.address)
        # What anything holds that refers to the stretch; its end is the stretch's end.
        self._owner: Any = _Owner()
        # Not at the interpreter's end: threads may still read, and the kernel unmaps all anyway.
        weakref.finalize(self._owner, _unmap, self.address, self.size).atexit = False
        memory._owner = self._owner  # pyright: ignore[reportAttributeAccessIssue]
        self.bytes: NDArray[np.uint8] = np.ctypeslib.as_array(memory)

    def map_file(self, offset: int, descriptor: int, length: int) -> None:
        """Put the first `length` bytes of a file at `offset`, to read; both in whole pages."""
        if length:
            flags = mmap.MAP_SHARED | _MAP_FIXED
            _map(self.address + offset, length, mmap.PROT_READ, flags, descriptor)

    def forget(self, offset: int, length: int) -> None:
        """Let go of the pages of a mapped file; they come back from the system's cache if touched.

        Only whole pages: those at the ends may be shared with what lies beside.
        """
        first, last = page_up(offset), (offset + length) // PAGE * PAGE
        if last > first:
            _libc().madvise(self.address + first, last - first, _MADV_DONTNEED)

    def buffer(self, offset: int, length: int) -> pa.Buffer:
        """Bytes of the stretch as an Arrow buffer, not copied."""
        return pa.foreign_buffer(self.address + offset, length, base=self._owner)


class _Owner:
    """Alive while the stretch is referred to."""


@cache
def _libc() -> Any:
    libc: Any = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


def _map(address: int | None, length: int, protection: int, flags: int, descriptor: int) -> int:
    got = _libc().mmap(address, length, protection, flags, descriptor, 0)
    if got == _FAILED:
        number = ctypes.get_errno()
        raise ShardError(
            f"can't map {length:,} bytes: {os.strerror(number)}. The address space that the "
            "process may use (ulimit -v) has to hold the dataset; memory need not"
        )
    return got


def _unmap(address: int, size: int) -> None:
    _libc().munmap(address, size)
