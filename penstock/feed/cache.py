"""A node's folder of verified blocks, shared by its processes and held to a budget.

    <folder>/penstock/<fingerprint>/shard-00000.arrow   sparse: blocks at their own offsets
    <folder>/penstock/<fingerprint>/verified            a byte a block: what is known of it
    <folder>/penstock/<fingerprint>/sums                a length and a checksum a block; after them,
                                                        when one last waited for another's block
    <folder>/penstock/<fingerprint>/boot                the boot during which all this was
    <folder>/penstock/lock, taking, used                one taker of room at a time; bytes taken

Every block has a lock, a byte of `verified`: held shared by who reads it, so that it is not
evicted, and alone by who fetches or evicts it, so that it is fetched once. The kernel drops a lock
when its holder dies (Linux's open file description locks), so nothing is left to clean by hand.

Room on the disk is taken, and the budget with it, before a block is written, and its bytes are
written before its mark. A process killed in between leaves bytes without a mark, which are written
again in the same place; only a machine that went down can lose bytes that were marked, so what an
earlier boot marked is checked once more before it is served.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import mmap
import os
import shutil
import struct
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from penstock.feed.arena import PAGE, page_up

log = logging.getLogger(__name__)

ABSENT, VERIFIED, DOUBTED = 0, 1, 2
"""What `verified` says of a block; DOUBTED was verified before the machine last started."""
_SUM = np.dtype([("length", "<u8"), ("checksum", "<u8")])
_AWAITED_SECONDS = 1.0


def _default_folder() -> Path:
    given = os.environ.get("PENSTOCK_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "penstock"


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Where the cache lies and how much of the disk it may take."""

    folder: Path = field(default_factory=_default_folder)
    """By default `PENSTOCK_CACHE`, else `~/.cache/penstock`. One folder serves a whole node."""
    budget_bytes: int = 50 << 30
    """Of disk, over all datasets, at every instant. Past it, datasets that no process has open go,
    the one used longest ago first; then blocks of this one, the one needed latest first."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each block of a dataset lies in its files."""

    files: tuple[tuple[str, int], ...]
    """Names and sizes in bytes."""
    file: NDArray[np.int32]
    offset: NDArray[np.int64]
    room: NDArray[np.int64]
    """Bytes set aside for the block; it takes no more."""


class ShardCache:
    """One dataset's part of the cache, opened by one process.

    Raises
    ------
    OSError: the folder can't be used.
    """

    def __init__(self, options: CacheOptions, fingerprint: str, layout: Layout) -> None:
        self._options, self._layout, self._owner = options, layout, os.getpid()
        # In a folder of our own: what else lies beside it is nobody's to count or evict.
        self._root = Path(options.folder) / "penstock"
        self.folder = self._root / fingerprint
        self._files: dict[int, int] = {}
        self._is_broken = self._has_warned = False
        self._warning, self._opening = threading.Lock(), threading.Lock()
        self.evictions = 0
        self._root.mkdir(parents=True, exist_ok=True)
        blocks = len(layout.offset)
        with self._locked():  # or another process may evict the folder as it is made
            self.folder.mkdir(exist_ok=True)
            # Held shared while open, so that nobody evicts a dataset in use.
            self._in_use = os.open(self.folder / "in-use", os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._in_use, fcntl.LOCK_SH)
            os.utime(self.folder)
            self._marks_file = _sized(self.folder / "verified", blocks, is_sparse=False)
            self._evicting = os.open(self.folder / "verified", os.O_RDWR)
            sums = _sized(self.folder / "sums", (blocks + 1) * _SUM.itemsize, is_sparse=False)
            self._marks = _shared(self._marks_file, blocks, np.dtype(np.uint8))
            self._sums = _shared(sums, blocks + 1, _SUM)
            self._awaited = self._sums[blocks:].view("<f8")
            os.close(sums)
            self._doubt_marks_of_another_boot()
            self._doubt_files_that_were_harmed()
        descriptors = [self._in_use, self._marks_file, self._evicting]
        self._release = weakref.finalize(self, _close_all, descriptors, self._files)
        self._release.atexit = False

    def descriptor(self, file: int) -> int:
        """An open file of the dataset, made at its full size when absent; it takes no room yet."""
        with self._opening:  # or two threads open it, and one of the two is never closed
            if file not in self._files:
                name, size = self._layout.files[file]
                self._files[file] = _sized(self.folder / name, size)
            return self._files[file]

    def has(self, block: int) -> bool:
        """Whether the block was verified; true until it is evicted, unless it is pinned."""
        return bool(self._marks[block] == VERIFIED)

    @property
    def verified_bytes(self) -> int:
        """Of this dataset, how many bytes lie verified in the cache."""
        here = np.asarray(self._marks) == VERIFIED
        return int(np.asarray(self._sums["length"])[:-1][here].sum())

    def pin(self, block: int) -> bool:
        """Keep a verified block from being evicted; whether it is here."""
        if self._marks[block] == ABSENT or not _lock(self._marks_file, fcntl.F_RDLCK, block):
            return False
        if self._marks[block] == VERIFIED and self._is_whole(block):
            return True
        self.unpin([block])
        return False

    def unpin(self, blocks: Sequence[int]) -> None:
        """Give blocks up for eviction."""
        for first, count in _runs(blocks):
            _lock(self._marks_file, fcntl.F_UNLCK, first, count)

    def claim(self, block: int) -> bool:
        """Be the one who fetches the block; False while another process does."""
        return _lock(self._marks_file, fcntl.F_WRLCK, block)

    def await_others(self) -> None:
        """Say that somebody waits for what another process has claimed, so that it makes haste."""
        self._awaited[0] = time.monotonic()

    @property
    def is_awaited(self) -> bool:
        """Whether somebody, in whatever process, has waited for another's block just now."""
        return abs(time.monotonic() - float(self._awaited[0])) < _AWAITED_SECONDS

    def settle(self, block: int) -> None:
        """Turn the claim of a block that is here into a pin."""
        _lock(self._marks_file, fcntl.F_RDLCK, block)

    def recall(self, block: int) -> bool:
        """Of a claimed block: whether it is here after all, its checksum verified anew if need be.

        Raises
        ------
        OSError: the disk can't be read.
        """
        if self._marks[block] == VERIFIED and self._is_whole(block):
            return True
        if self._marks[block] == DOUBTED:
            length, checksum = (int(value) for value in self._sums[block])
            at = int(self._layout.offset[block])
            data = os.pread(self.descriptor(int(self._layout.file[block])), length, at)
            if len(data) == length and xxhash.xxh3_64_intdigest(data) == checksum:
                self._marks[block] = VERIFIED
                return True
        self._marks[block] = ABSENT
        return False

    def take_room(
        self, block: int, length: int, victims: Callable[[], Iterator[int]] | None = None
    ) -> bool:
        """Take the disk that a claimed block needs; whether there was enough.

        Parameters
        ----------
        victims: blocks of this dataset that may go, in the order in which they should; asked for
            when nothing else is left.
        """
        return self.take_rooms([block], length, victims)

    def take_rooms(
        self,
        blocks: Sequence[int],
        length: int,
        victims: Callable[[], Iterator[int]] | None = None,
    ) -> bool:
        """`take_room` for several blocks of one length: for all of them or none."""
        wanted = (page_up(length) + PAGE) * len(blocks)
        if self._is_broken:
            return False
        try:
            with self._locked():
                if not self._make_room(wanted, victims):
                    self._warn(
                        f"the cache's budget of {self._options.budget_bytes} bytes is used up by "
                        "what is in use; what does not fit is streamed"
                    )
                    return False
                self._add_used(wanted)
                taking = self._flocked("taking", fcntl.LOCK_SH)
            # Counted already, and so not under the lock, which others wait for; whoever counts the
            # disk anew waits until this is done.
            try:
                for block in blocks:
                    descriptor = self.descriptor(int(self._layout.file[block]))
                    os.posix_fallocate(descriptor, int(self._layout.offset[block]), length)
            finally:
                os.close(taking)
        except OSError as error:  # a full or broken disk costs speed, not the training run
            self._is_broken = True
            self._warn(f"can't cache, streaming instead: {error}")
            return False
        return True

    def write(self, block: int, data: memoryview, checksum: int) -> bool:
        """Keep a block's bytes, verified by the caller, in room that was taken; whether it did."""
        layout = self._layout
        try:
            _write_at(self.descriptor(int(layout.file[block])), int(layout.offset[block]), data)
        except OSError as error:  # a broken disk costs speed, not the training run
            self._is_broken = True
            self._warn(f"can't cache, streaming instead: {error}")
            return False
        self._sums[block] = (data.nbytes, checksum)
        self._marks[block] = VERIFIED
        return True

    def close(self) -> None:
        """Give the folder up for eviction; twice does no harm."""
        if self._release.alive and self._owner == os.getpid():  # a fork's locks are its parent's
            # By hand, as a lock lives as long as any copy of its file, and the map holds one.
            _lock(self._marks_file, fcntl.F_UNLCK, 0, 0)
        self._release()

    # Room.

    def _warn(self, why: str) -> None:
        """Say it once, whichever thread finds it out."""
        with self._warning:
            if not self._has_warned:
                log.warning("%s: %s", self._options.folder, why)
            self._has_warned = True

    def _make_room(self, wanted: int, victims: Callable[[], Iterator[int]] | None) -> bool:
        budget = self._options.budget_bytes
        if self._used() + wanted <= budget:
            return True
        # What is counted may be more than what is there: a job killed as it took room.
        os.close(self._flocked("taking", fcntl.LOCK_EX))
        used = _disk_bytes(self._root)
        others = [
            entry for entry in self._root.iterdir() if entry.is_dir() and entry != self.folder
        ]
        for folder in sorted(others, key=lambda entry: entry.stat().st_mtime):
            if used + wanted <= budget:
                break
            if _evict(folder):
                self.evictions += 1
                used = _disk_bytes(self._root)
        for block in victims() if victims is not None and used + wanted > budget else ():
            used -= self._evict_block(block)
            if used + wanted <= budget:
                break
        self._set_used(used)
        return used + wanted <= budget

    def _evict_block(self, block: int) -> int:
        """Give back a block's disk unless it is in use; the bytes that came free."""
        if self._marks[block] == ABSENT or not _lock(self._evicting, fcntl.F_WRLCK, block):
            return 0
        try:
            self._marks[block] = ABSENT
            file = self.descriptor(int(self._layout.file[block]))
            before = os.fstat(file).st_blocks
            offset, length = int(self._layout.offset[block]), int(self._sums[block]["length"])
            # Whole pages alone: those at the ends are shared with the blocks beside it.
            first, last = page_up(offset), (offset + length) // PAGE * PAGE
            if last > first:
                _punch(file, first, last - first)
            self.evictions += 1
            return (before - os.fstat(file).st_blocks) * 512
        finally:
            _lock(self._evicting, fcntl.F_UNLCK, block)

    def _used(self) -> int:
        with suppress(OSError, struct.error):
            (used,) = struct.unpack("<q", (self._root / "used").read_bytes()[:8])
            return used
        used = _disk_bytes(self._root)
        self._set_used(used)
        return used

    def _add_used(self, more: int) -> None:
        self._set_used(self._used() + more)

    def _set_used(self, used: int) -> None:
        (self._root / "used").write_bytes(struct.pack("<q", used))

    @contextmanager
    def _locked(self) -> Generator[None]:
        lock = self._flocked("lock", fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(lock)

    def _flocked(self, name: str, how: int) -> int:
        """An open file of the root, locked until it is closed."""
        descriptor = os.open(self._root / name, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, how)
        return descriptor

    # Doubt.

    def _is_whole(self, block: int) -> bool:
        """Whether the block's file still is as long as it was; someone may have cut it."""
        file = int(self._layout.file[block])
        name, size = self._layout.files[file]
        if os.fstat(self.descriptor(file)).st_size >= size:
            return True
        os.truncate(self.folder / name, size)
        self._marks[self._layout.file == file] = DOUBTED
        return False

    def _doubt_marks_of_another_boot(self) -> None:
        boot = Path("/proc/sys/kernel/random/boot_id")
        current = boot.read_text() if boot.exists() else "unknown"
        known = self.folder / "boot"
        if known.exists() and known.read_text() == current:
            return
        self._marks[self._marks == VERIFIED] = DOUBTED
        known.write_text(current)

    def _doubt_files_that_were_harmed(self) -> None:
        """Files that someone deleted or cut short since they were written."""
        for number, (name, size) in enumerate(self._layout.files):
            path = self.folder / name
            if not path.exists() or path.stat().st_size != size:
                marks = self._marks[self._layout.file == number]
                if marks.any():
                    self._marks[(self._layout.file == number) & (self._marks != ABSENT)] = DOUBTED


def cached_bytes(options: CacheOptions, fingerprint: str, blocks: int) -> int:
    """Bytes of a dataset that lie verified in the cache; opens nothing for writing."""
    folder = Path(options.folder) / "penstock" / fingerprint
    try:
        marks = np.frombuffer((folder / "verified").read_bytes(), np.uint8)
        sums = np.frombuffer((folder / "sums").read_bytes(), _SUM)
    except OSError:
        return 0
    if len(marks) != blocks or len(sums) != blocks + 1:
        return 0
    return int(sums["length"][:-1][marks == VERIFIED].sum())


def _sized(path: Path, size: int, *, is_sparse: bool = True) -> int:
    """An open file of at least `size` bytes, its disk taken at once unless it is sparse."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if os.fstat(descriptor).st_size < size:
        if is_sparse:
            os.ftruncate(descriptor, size)
        else:
            os.posix_fallocate(descriptor, 0, size)
    return descriptor


def _shared(descriptor: int, count: int, kind: np.dtype[Any]) -> NDArray[Any]:
    """A file as an array that all processes share."""
    if not count:
        return np.zeros(0, kind)
    return np.frombuffer(mmap.mmap(descriptor, count * kind.itemsize), kind)


def _lock(descriptor: int, kind: int, first: int, count: int = 1) -> bool:
    """Set an open file description's lock on bytes; False when another holds one in its way."""
    request = struct.pack("hhqqi4x", kind, os.SEEK_SET, first, count, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _runs(blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Sorted numbers as (first, count) of what is consecutive."""
    numbers = np.unique(np.asarray(blocks, np.int64))
    for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
        if len(run):
            yield int(run[0]), len(run)


def _write_at(descriptor: int, offset: int, data: memoryview) -> None:
    view = data.cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _punch(descriptor: int, offset: int, length: int) -> None:
    """Give the disk behind a range back; it reads as zeros (fallocate(2), FALLOC_FL_PUNCH_HOLE)."""
    libc: Any = ctypes.CDLL(None, use_errno=True)
    keep_size, punch_hole = 0x01, 0x02
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    if libc.fallocate(descriptor, keep_size | punch_hole, offset, length):
        number = ctypes.get_errno()
        raise OSError(number, f"fallocate: {os.strerror(number)}")


def _close_all(descriptors: list[int], files: dict[int, int]) -> None:
    for descriptor in [*descriptors, *files.values()]:
        with suppress(OSError):
            os.close(descriptor)
    files.clear()


def _disk_bytes(folder: Path) -> int:
    """What a folder takes on disk; a sparse file counts what is written of it."""
    total = 2 * PAGE  # the folder itself, and what counts it
    with suppress(FileNotFoundError):
        for entry in folder.rglob("*"):
            with suppress(FileNotFoundError):
                total += entry.stat().st_blocks * 512
    return total


def _evict(folder: Path) -> bool:
    """Delete a dataset's part, unless a process has it open; whether it went."""
    try:
        held = os.open(folder / "in-use", os.O_RDWR)
    except FileNotFoundError:
        shutil.rmtree(folder, ignore_errors=True)
        return True
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
        log.info("%s: evicted", folder)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(held)
