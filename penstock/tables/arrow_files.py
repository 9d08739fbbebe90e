"""Data files in object storage for pyarrow's datasets, which read them on threads of their own.

Those threads outlive who asked: a query with a limit has its answer while they still read ahead.
One that needs Python while the interpreter ends is killed by it, and so is the process, after all
went well (`terminate called without an active exception`). Therefore the process waits at its end
until no file is open any more, which then end soon; and Arrow frees what it read without Python.
"""

from __future__ import annotations

import atexit
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow import fs as pafs

if TYPE_CHECKING:
    from penstock.lake import Lake
    from penstock.storage.objects import ObjectStore

_END_SECONDS = 10.0
"""What answers that are under way may take when the process ends."""
_LOOKS = 5
"""Looks, 1 ms apart, that find no file open, before all is held to have ended: there is no trace of
what Arrow has queued and is about to open."""
_open = set[int]()
_ending = threading.Event()
_made: dict[tuple[str, frozenset[tuple[str, str]]], pafs.PyFileSystem] = {}
"""Kept to the end: Arrow lets go of a file system on a thread of its own, which needs Python."""
_lock = threading.Lock()


def files_of(lake: Lake) -> pafs.PyFileSystem:
    """The lake's files, each called as `called` says; to read only."""
    key = lake.uri, frozenset(lake.storage_options.items())
    with _lock:
        if key not in _made:
            if not _made:
                atexit.register(_end)
            _made[key] = pafs.PyFileSystem(_Handler(lake.objects))
        return _made[key]


def called(key: str, size_bytes: int) -> str:
    """What an object is called there: its size too, for which storage is then not asked."""
    return f"{key}?{size_bytes}"


def _end() -> None:
    """Have every file end, and wait until none is open."""
    _ending.set()
    until, looks = time.monotonic() + _END_SECONDS, 0
    while looks < _LOOKS and time.monotonic() < until:
        looks = 0 if _open else looks + 1
        time.sleep(0.001)


class _File:
    """An object as pyarrow's `PythonFile` reads it."""

    closed = False

    def __init__(self, objects: ObjectStore, key: str, size_bytes: int) -> None:
        self._objects, self._key, self._size, self._at = objects, key, size_bytes, 0
        _open.add(id(self))

    def __del__(self) -> None:
        _open.discard(id(self))

    def readable(self) -> bool:
        return True

    seekable = readable

    def close(self) -> None:
        self.closed = True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def read(self, size_bytes: int = -1) -> bytes:
        return self.read_buffer(size_bytes).to_pybytes()

    def read_buffer(self, size_bytes: int = -1) -> pa.Buffer:
        """In memory of Arrow's own; an error would be Python's, so a file at its end is short."""
        left = max(self._size - self._at, 0)
        asked = left if size_bytes < 0 else min(size_bytes, left)
        if asked == 0 or _ending.is_set():
            return pa.allocate_buffer(0)
        got = np.frombuffer(self._objects.get_range(self._key, self._at, asked), np.uint8)
        buffer = pa.allocate_buffer(len(got))
        np.frombuffer(buffer, np.uint8)[:] = got
        self._at += len(got)
        return buffer


class _Handler(pafs.FileSystemHandler):  # pyright: ignore[reportUntypedBaseClass]
    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def get_type_name(self) -> str:
        return "penstock"

    def normalize_path(self, path: str) -> str:
        return path

    def open_input_file(self, path: str) -> pa.PythonFile:
        key, _, size_bytes = path.rpartition("?")
        return pa.PythonFile(_File(self._objects, key, int(size_bytes)), mode="r")

    open_input_stream = open_input_file

    def _refused(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("a lake's data files are only read here")

    get_file_info = get_file_info_selector = open_output_stream = open_append_stream = _refused
    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refused
    delete_file = move = copy_file = _refused
