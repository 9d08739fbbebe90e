"""Blocks of one split in one stretch of address space, brought there before they are needed.

    want ─▶ coming ─▶ here ─▶ released
            local disk: mapped where it lies, its checksum verified once
            cache: mapped from the cache's file, fetched into it by whoever claims it first
            otherwise: fetched into a slot of memory

A block that is wanted stays until it is released; a slot, the cache's pin and a block's checksum
are all bound to that. Nothing is read from storage but by the worker threads here.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ShardError
from penstock.feed.arena import PAGE, Arena, page_up
from penstock.feed.cache import CacheOptions, ShardCache
from penstock.feed.fetch import Fetcher, FetchOptions
from penstock.feed.metrics import Metrics
from penstock.feed.source import BlockSource

log = logging.getLogger(__name__)

_CLAIM_WAIT_SECONDS = 0.002
_LOCAL_THREADS = 4


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """How much memory a feed may hold."""

    slot_bytes: int = 512 << 20
    """Of blocks that no file on this machine holds: without a cache, or past its budget."""
    ahead_bytes: int = 256 << 20
    """Of blocks fetched before they are needed."""


class BlockStore:
    """Blocks of one split; owns address space, threads and a part of the cache.

    Parameters
    ----------
    cache: None for no cache. What lies on this machine's disk is mapped there and needs none.
    is_sticky: whether a block once here stays while there is room, as a full shuffle wants it.
    """

    def __init__(
        self,
        source: BlockSource,
        *,
        cache: CacheOptions | None,
        fetch: FetchOptions,
        memory: MemoryOptions,
        metrics: Metrics,
        is_sticky: bool,
    ) -> None:
        self.source, self.owner, self._metrics = source, os.getpid(), metrics
        self._is_sticky = is_sticky
        layout, count = source.layout, len(source.rows)
        self._fetch_options = fetch
        self._fetcher: Fetcher | None = None
        self.is_local = source.local_path(0) is not None if layout.files else True
        self._cache = None
        if cache is not None and not self.is_local:
            self._cache = _opened(cache, source)
        starts, end = list[int](), 0
        for _, size in layout.files:
            starts.append(end)
            end += page_up(size)
        room = layout.room[source.in_layout]
        self._slot_size = page_up(int(room.max(initial=PAGE)))
        typical = int(source.block_bytes.max(initial=PAGE))
        self._slot_count = max(8, min(count, memory.slot_bytes // max(1, typical)))
        self._slots_at = end
        # Twice as many as may be in use: groups of wanted blocks overlap by one.
        slots = 0 if self.is_local else 2 * self._slot_count + 64
        self.arena = Arena(end + slots * self._slot_size)
        self._free_slots = list(range(slots))
        self._file_starts = np.array(starts, np.int64)
        self._mapped = set[int]()
        self._lock = threading.Lock()
        self._refs = np.zeros(count, np.int32)
        self._is_here = np.zeros(count, np.bool_)
        self._place = np.full(count, -1, np.int64)
        self._coming: dict[int, Future[None]] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._batches: dict[int, pa.RecordBatch] = {}
        self._is_closed = False
        self.is_used = np.zeros(count, np.bool_)
        """Blocks that this epoch has had its use of, and needs again in the next one only."""
        self.next_use: Callable[[], NDArray[np.int64]] | None = None
        """When each block is needed next, as numbers to compare; the cache evicts by it."""
        threads = min(fetch.in_flight if source.is_remote else _LOCAL_THREADS, source.most_at_once)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="penstock-block")

    @property
    def most_coming(self) -> int:
        """Blocks that may be wanted at once when they are not here."""
        return len(self.source.rows) if self.is_local else self._slot_count

    def here(self, blocks: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the blocks need not be waited for."""
        return self._is_here[blocks]

    def want(self, blocks: NDArray[np.int64]) -> None:
        """Begin to bring blocks here, and keep them until they are released as often."""
        with self._lock:
            self._refs[blocks] += 1
            missing = [n for n in blocks[~self._is_here[blocks]].tolist() if n not in self._coming]
            for run in self.source.runs(missing):
                self._begin(run)

    def wait(self, blocks: NDArray[np.int64]) -> None:
        """Until the blocks, which are wanted, are here.

        Raises
        ------
        ShardError: a block's bytes are not what was published.
        StorageError: the lake can't be reached.
        """
        for block in blocks[~self._is_here[blocks]].tolist():
            while not self._is_here[block]:
                with self._lock:
                    future = self._coming.get(block)
                    if future is None and not self._is_here[block]:  # it failed for another
                        future = self._begin([block])
                if future is not None:
                    future.result()

    def release(self, blocks: NDArray[np.int64]) -> None:
        """Give up blocks that were wanted."""
        with self._lock:
            self._refs[blocks] -= 1
            self.is_used[blocks[self._refs[blocks] == 0]] = True
            idle = blocks[(self._refs[blocks] == 0) & self._is_here[blocks]].tolist()
            if self.is_local:
                if not self._is_sticky:
                    self._forget(idle)
                return
            if not self._is_sticky:
                self._drop(idle)
                return
            for block in idle:
                self._idle[block] = None
            in_slots = [n for n in self._idle if self._place[n] >= self._slots_at]
            if len(in_slots) > self._slot_count:
                self._drop(in_slots[: -self._slot_count])

    def batch(self, block: int) -> pa.RecordBatch:
        """A wanted block's rows over its own memory; valid until it is released."""
        with self._lock:
            known = self._batches.get(block)
        if known is None:
            at = self.source.in_layout[block]
            room = int(self.source.layout.room[at])
            message = pa.ipc.read_message(self.arena.buffer(int(self._place[block]), room))
            known = pa.ipc.read_record_batch(message, self.source.schema)
            with self._lock:
                self._batches[block] = known
        return known

    def places(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where blocks that are here lie in the arena."""
        return self._place[blocks]

    @property
    def evictions(self) -> int:
        """Of the cache, by this process."""
        return 0 if self._cache is None else self._cache.evictions

    def close(self) -> None:
        """Give threads, files and memory back; twice does no harm."""
        self._is_closed = True
        if self.owner != os.getpid():  # a fork has none of the threads
            return
        if self._fetcher is not None:
            self._fetcher.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._cache is not None:
            self._cache.close()
        self._batches.clear()

    # In worker threads.

    def _bring(self, run: list[int], done: Future[None]) -> None:
        """Bring the blocks of a run; all of them or the error."""
        try:
            if self.is_local:
                for block in run:
                    self._open_local(block)
            elif self._cache is None:
                self._fetch_into_slots(run)
            else:
                self._bring_cached(run, self._cache)
        except BaseException as error:  # noqa: BLE001 - raised again where the blocks are awaited
            self._end(run)
            done.set_exception(error)
            return
        self._end(run)
        done.set_result(None)

    def _end(self, run: list[int]) -> None:
        with self._lock:
            for block in run:
                self._coming.pop(block, None)
            abandoned = [n for n in run if self._is_here[n] and not self._refs[n]]
            if abandoned and not self.is_local:
                self._drop(abandoned)

    def _open_local(self, block: int) -> None:
        at = int(self.source.in_layout[block])
        file = int(self.source.layout.file[at])
        self._map(file, self.source.local_path(file))
        start = int(self._file_starts[file] + self.source.layout.offset[at])
        length = int(self.source.layout.room[at])
        self.source.verify(block, self.arena.bytes[start : start + length])
        self._put_here(block, start, length)

    def _bring_cached(self, run: list[int], cache: ShardCache) -> None:
        absent = list[int]()
        waiting = list(run)
        give_up = time.monotonic() + self._fetch_options.stall_seconds
        while waiting:
            if self._is_closed:
                raise CancelledError
            still = list[int]()
            for block in waiting:
                at = int(self.source.in_layout[block])
                if cache.pin(at):
                    self._open_cached(block, cache)
                elif cache.claim(at):
                    if cache.recall(at):
                        cache.settle(at)
                        self._open_cached(block, cache)
                    else:
                        absent.append(block)
                else:
                    still.append(block)
            # Fetch what is ours before waiting for what others fetch, or two would wait in a ring.
            self._fetch_into_cache(absent, cache)
            absent, waiting = [], still
            if waiting and time.monotonic() > give_up:
                self._fetch_into_slots(waiting)  # who claimed them may be stopped for good
                return
            if waiting:
                time.sleep(_CLAIM_WAIT_SECONDS * random.uniform(0.5, 1.5))

    def _fetch_into_cache(self, blocks: list[int], cache: ShardCache) -> None:
        unsettled = set(blocks)
        try:
            for run in self.source.runs(blocks):
                for block, (data, checksum) in zip(run, self._fetched(run), strict=True):
                    at = int(self.source.in_layout[block])
                    has_room = cache.take_room(at, data.nbytes, partial(self._victims, run))
                    if has_room and cache.write(at, data, checksum):
                        cache.settle(at)
                        unsettled.discard(block)
                        self._open_cached(block, cache)
                    else:
                        self._put_in_slot(block, data)
        finally:
            cache.unpin([int(self.source.in_layout[block]) for block in unsettled])

    def _fetch_into_slots(self, blocks: list[int]) -> None:
        for run in self.source.runs(blocks):
            for block, (data, _) in zip(run, self._fetched(run), strict=True):
                self._put_in_slot(block, data)

    def _fetched(self, run: list[int]) -> list[tuple[memoryview, int]]:
        with self._lock:
            if self._fetcher is None:
                self._fetcher = Fetcher(self.source.objects, self._fetch_options, self._metrics)
        data = self.source.fetch(run, self._fetcher)
        self._metrics.add(bytes_from_storage=sum(piece.nbytes for piece, _ in data), fetches=1)
        return data

    def _open_cached(self, block: int, cache: ShardCache) -> None:
        at = int(self.source.in_layout[block])
        file = int(self.source.layout.file[at])
        with self._lock:
            if file not in self._mapped:
                size = self.source.layout.files[file][1]
                start = int(self._file_starts[file])
                self.arena.map_file(start, cache.descriptor(file), size)
                self._mapped.add(file)
        start = int(self._file_starts[file] + self.source.layout.offset[at])
        self._put_here(block, start, int(self.source.layout.room[at]))

    def _put_in_slot(self, block: int, data: memoryview) -> None:
        with self._lock:
            if not self._free_slots:
                self._drop([n for n in self._idle if self._place[n] >= self._slots_at])
            if not self._free_slots:
                raise ShardError(
                    "no memory is left for blocks that are not cached; give the cache more room, "
                    "or shuffle with mode='windowed' and a smaller window"
                )
            slot = self._free_slots.pop()
        start = self._slots_at + slot * self._slot_size
        self.arena.map_memory(start, self._slot_size)
        self.arena.bytes[start : start + data.nbytes] = np.frombuffer(data, np.uint8)
        self._put_here(block, start, 0)

    def _put_here(self, block: int, start: int, from_disk_bytes: int) -> None:
        with self._lock:
            if self._place[block] != start:
                self._batches.pop(block, None)
                self._place[block] = start
            self._is_here[block] = True
        if from_disk_bytes:
            self._metrics.add(bytes_from_disk=from_disk_bytes)

    def _map(self, file: int, path: Any) -> None:
        with self._lock:
            if file in self._mapped:
                return
            name, size = self.source.layout.files[file]
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise ShardError(f"{path}: the shard is gone: {error}") from error
            try:
                if os.fstat(descriptor).st_size < size:
                    raise ShardError(
                        f"{path}: the shard was cut short: it has {os.fstat(descriptor).st_size:,} "
                        f"bytes of {size:,}. Publish the dataset again, or restore {name}"
                    )
                self.arena.map_file(int(self._file_starts[file]), descriptor, size)
            finally:
                os.close(descriptor)
            self._mapped.add(file)

    # Under the lock.

    def _begin(self, run: list[int]) -> Future[None]:
        """Have the blocks of a run brought."""
        future: Future[None] = Future()
        for block in run:
            self._coming[block] = future
        self._pool.submit(self._bring, run, future)
        return future

    def _drop(self, blocks: Sequence[int]) -> None:
        """Give up blocks that nobody wants."""
        pinned = list[int]()
        for block in blocks:
            self._idle.pop(block, None)
            self._is_here[block] = False
            start = int(self._place[block])
            if start >= self._slots_at:
                self._batches.pop(block, None)
                self._place[block] = -1
                self.arena.map_memory(start, self._slot_size)  # fresh, so that the old is freed
                self._free_slots.append((start - self._slots_at) // self._slot_size)
            else:
                pinned.append(int(self.source.in_layout[block]))
                self._forget([block])
        if pinned and self._cache is not None:
            self._cache.unpin(pinned)

    def _forget(self, blocks: Sequence[int]) -> None:
        """Take blocks of mapped files off what counts as this process's memory."""
        lengths = self.source.block_bytes
        for block in blocks:
            self.arena.forget(int(self._place[block]), int(lengths[block]))

    def _victims(self, coming: list[int]) -> Iterator[int]:
        """Blocks that are needed later than those that come, the latest first (Belady, 1966)."""
        if self.next_use is None or self._cache is None:
            return
        turns = self.next_use()
        # What comes is needed now; to keep it is for its use after that.
        used, self.is_used[coming] = self.is_used[coming].copy(), True
        needed_by = int(self.next_use()[coming].max())
        self.is_used[coming] = used
        for block in np.argsort(turns)[::-1].tolist():
            if turns[block] <= needed_by:
                return
            if not self._refs[block] and self._cache.has(int(self.source.in_layout[block])):
                yield int(self.source.in_layout[block])


def _opened(options: CacheOptions, source: BlockSource) -> ShardCache | None:
    """The dataset's part of the cache; None, and a warning, where the folder can't be used."""
    try:
        return ShardCache(options, source.fingerprint, source.layout)
    except OSError as error:
        log.warning("%s: can't cache, streaming instead: %s", options.folder, error)
        return None
