"""Blocks of one split by address, brought here before they are needed.

    want ─▶ coming ─▶ here ─▶ released
            local disk: mapped where it lies, its checksum verified once
            cache: mapped from the cache's file
            otherwise: fetched by whoever claims it first, held in memory, written to the cache
            behind (behind.py), or at once where all of a dataset is to stay

A block that is wanted stays until it is released; its memory, the cache's pin and its checksum are
all bound to that. Nothing is read from storage but by the worker threads here.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ShardError
from penstock.feed.arena import ORIGIN, PAGE, Arena, everywhere, page_up
from penstock.feed.behind import WriteBehind
from penstock.feed.cache import CacheOptions, ShardCache
from penstock.feed.fetch import Fetcher, FetchOptions
from penstock.feed.metrics import Metrics
from penstock.feed.source import BlockSource
from penstock.feed.workers import Workers

log = logging.getLogger(__name__)

_CLAIM_WAIT_SECONDS = 0.002
_LOCAL_THREADS = 4
_LOOK_SECONDS = 0.1
_ALIGNED = 16
"""Bytes to which a block in memory is aligned, so that its columns are."""
_ALIVE: weakref.WeakSet[BlockStore] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """How much memory a feed may hold."""

    held_bytes: int = 512 << 20
    """Of blocks that no file on this machine holds: without a cache, past its budget, or not yet
    written to it."""
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
        typical = int(source.block_bytes.max(initial=PAGE))
        self._held_count = max(8, min(count, memory.held_bytes // max(1, typical)))
        self.memory, self.origin = everywhere(), ORIGIN
        """Where blocks lie, and the address of its first byte."""
        self._arena = Arena(end)
        self._held: dict[int, pa.Buffer] = {}
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
        self.is_awaited: Callable[[], bool] = lambda: False
        """Whether the training loop waits for what is made of blocks."""
        self.next_use: Callable[[], NDArray[np.int64]] | None = None
        """When each block is needed next, as numbers to compare; the cache evicts by it."""
        threads = min(fetch.in_flight if source.is_remote else _LOCAL_THREADS, source.most_at_once)
        self._workers = Workers(threads, "penstock-block")
        self._behind = None
        if self._cache is not None and not is_sticky:
            self._behind = _written_behind(self, self._cache, memory.held_bytes // 2)
        _ALIVE.add(self)
        weakref.finalize(self, self._workers.end).atexit = False  # who forgets to close it

    @property
    def most_coming(self) -> int:
        """Blocks that may be wanted at once when they are not here."""
        return len(self.source.rows) if self.is_local else self._held_count

    def here(self, blocks: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the blocks need not be waited for."""
        return self._is_here[blocks]

    def want(self, blocks: NDArray[np.int64]) -> None:
        """Begin to bring blocks here, and keep them until they are released as often."""
        with self._lock:
            self._refs[blocks] += 1
            if self._idle:
                for block in blocks.tolist():
                    self._idle.pop(block, None)
            missing = [n for n in blocks[~self._is_here[blocks]].tolist() if n not in self._coming]
            for run in self.source.runs(missing):
                self._begin(run)

    def wait(self, blocks: NDArray[np.int64], is_gone: Callable[[], bool] = lambda: False) -> None:
        """Until the blocks, which are wanted, are here.

        Parameters
        ----------
        is_gone: asked now and then; nobody waits any more when it is true.

        Raises
        ------
        CancelledError: nobody waits any more.
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
                    self._wait_for(future, is_gone)

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
            held = [block for block in self._idle if block in self._held]
            if len(held) > self._held_count:
                self._drop(held[: -self._held_count])

    def batch(self, block: int) -> pa.RecordBatch:
        """A wanted block's rows over its own memory; valid until it is released."""
        with self._lock:
            known = self._batches.get(block)
        if known is None:
            message = pa.ipc.read_message(self.buffer(block))
            known = pa.ipc.read_record_batch(message, self.source.schema)
            with self._lock:
                self._batches[block] = known
        return known

    def buffer(self, block: int) -> pa.Buffer:
        """A wanted block's bytes, not copied; they stay as long as the buffer or the want does."""
        held = self._held.get(block)
        if held is not None:
            return held
        room = int(self.source.layout.room[self.source.in_layout[block]])
        return self._arena.buffer(int(self._place[block]) + ORIGIN - self._arena.address, room)

    def places(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where blocks that are here lie in `memory`."""
        return self._place[blocks]

    def flush(self) -> None:
        """Until what was fetched is in the cache, or found no room there."""
        if self._behind is not None:
            self._behind.flush()

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
        self._workers.close()
        if self._behind is not None:
            self._behind.close()
        if self._cache is not None:
            self._cache.close()
        self._batches.clear()
        self._held.clear()

    def _wait_for(self, future: Future[None], is_gone: Callable[[], bool]) -> None:
        while True:
            try:
                return future.result(_LOOK_SECONDS)
            except TimeoutError:
                if future.done():  # it is what the call raised
                    raise
                if self._is_closed or is_gone():
                    raise CancelledError from None

    # In worker threads.

    def _bring(self, run: list[int], done: Future[None]) -> None:
        """Bring the blocks of a run; all of them or the error."""
        try:
            if self.is_local:
                for block in run:
                    self._open_local(block)
            elif self._cache is None:
                self._fetch_into_memory(run)
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
        self.source.verify(block, self._arena.bytes[start : start + length])
        self._put_here(block, self._arena.address + start, is_from_disk=True)

    def _bring_cached(self, run: list[int], cache: ShardCache) -> None:
        absent = list[int]()
        waiting = [block for block in run if not self._is_still_held(block)]
        if waiting and self._behind is not None:
            self._behind.wait_for_room()
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
                self._fetch_into_memory(waiting)  # who claimed them may be stopped for good
                return
            if waiting:
                cache.await_others()
                time.sleep(_CLAIM_WAIT_SECONDS * random.uniform(0.5, 1.5))

    def _fetch_into_cache(self, blocks: list[int], cache: ShardCache) -> None:
        unsettled = set(blocks)
        try:
            for run in self.source.runs(blocks):
                for block, (data, checksum) in zip(run, self._fetched(run), strict=True):
                    if self._behind is not None:
                        held = self._hold(block, data)
                        self._behind.put(block, held, checksum)
                        unsettled.discard(block)
                    elif self.write(cache, block, data, checksum):
                        cache.settle(int(self.source.in_layout[block]))
                        unsettled.discard(block)
                        self._open_cached(block, cache)
                    else:
                        self._hold(block, data)
        finally:
            cache.unpin([int(self.source.in_layout[block]) for block in unsettled])

    def write(self, cache: ShardCache, block: int, data: memoryview, checksum: int) -> bool:
        """Keep a claimed block in the cache; whether it did."""
        at = int(self.source.in_layout[block])
        has_room = cache.take_room(at, data.nbytes, partial(self._victims, [block]))
        return has_room and cache.write(at, data, checksum)

    def _is_still_held(self, block: int) -> bool:
        """Whether the block was to be written still, and so is here again."""
        data = None if self._behind is None else self._behind.held(block)
        if data is not None:
            self._hold(block, data)
        return data is not None

    def _fetch_into_memory(self, blocks: list[int]) -> None:
        for run in self.source.runs(blocks):
            for block, (data, _) in zip(run, self._fetched(run), strict=True):
                self._hold(block, data)

    def _fetched(self, run: list[int]) -> list[tuple[memoryview, int]]:
        with self._lock:
            if self._fetcher is None:
                self._fetcher = Fetcher(self.source.objects, self._fetch_options, self._metrics)
                weakref.finalize(self, self._fetcher.end).atexit = False
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
                self._arena.map_file(start, cache.descriptor(file), size)
                self._mapped.add(file)
        start = int(self._file_starts[file] + self.source.layout.offset[at])
        self._put_here(block, self._arena.address + start, is_from_disk=True)

    def _hold(self, block: int, data: memoryview) -> memoryview:
        """Put a block here where it was received; where its bytes lie."""
        buffer = pa.py_buffer(data)
        if buffer.address % _ALIGNED:
            copied = np.empty(data.nbytes, np.uint8)
            copied[:] = np.frombuffer(data, np.uint8)
            buffer = pa.py_buffer(copied)
        with self._lock:
            # Twice as many as may be in use: groups of wanted blocks overlap by one.
            if len(self._held) >= 2 * self._held_count + 64:
                self._drop([idle for idle in self._idle if idle in self._held])
            if len(self._held) >= 2 * self._held_count + 64:
                raise ShardError(
                    "no memory is left for blocks that are not cached; give the cache more room, "
                    "or shuffle with mode='windowed' and a smaller window"
                )
            self._held[block] = buffer
        self._put_here(block, buffer.address, is_from_disk=False)
        return memoryview(buffer)

    def _put_here(self, block: int, address: int, *, is_from_disk: bool) -> None:
        with self._lock:
            if self._place[block] != address - ORIGIN:
                self._batches.pop(block, None)
                self._place[block] = address - ORIGIN
            self._is_here[block] = True
        if is_from_disk:
            self._metrics.add(bytes_from_disk=int(self.source.block_bytes[block]))

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
                self._arena.map_file(int(self._file_starts[file]), descriptor, size)
            finally:
                os.close(descriptor)
            self._mapped.add(file)

    # Under the lock.

    def _begin(self, run: list[int]) -> Future[None]:
        """Have the blocks of a run brought."""
        future: Future[None] = Future()
        for block in run:
            self._coming[block] = future
        self._workers.submit(partial(self._bring, run, future))
        return future

    @property
    def is_busy(self) -> bool:
        """Whether blocks are on their way, or the training loop waits for what is made of them."""
        return bool(self._coming) or self.is_awaited()

    def _drop(self, blocks: Sequence[int]) -> None:
        """Give up blocks that nobody wants."""
        pinned = list[int]()
        for block in blocks:
            self._idle.pop(block, None)
            self._is_here[block] = False
            if self._held.pop(block, None) is not None:
                self._batches.pop(block, None)
                self._place[block] = -1
            else:
                pinned.append(int(self.source.in_layout[block]))
                self._forget([block])
        if pinned and self._cache is not None:
            self._cache.unpin(pinned)

    def _forget(self, blocks: Sequence[int]) -> None:
        """Take blocks of mapped files off what counts as this process's memory."""
        lengths = self.source.block_bytes
        for block in blocks:
            start = int(self._place[block]) + ORIGIN - self._arena.address
            self._arena.forget(start, int(lengths[block]))

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


def _written_behind(store: BlockStore, cache: ShardCache, most_bytes: int) -> WriteBehind:
    """What writes a store's blocks to its cache; it keeps neither from being closed."""
    return WriteBehind(
        partial(store.write, cache),
        lambda block: cache.unpin([int(store.source.in_layout[block])]),
        most_bytes,
        lambda: store.is_busy,
        lambda: cache.is_awaited,
    )


@atexit.register
def _close_all() -> None:
    """What was fetched and not yet written to the cache would have to be fetched again."""
    for store in list(_ALIVE):
        store.close()


def _opened(options: CacheOptions, source: BlockSource) -> ShardCache | None:
    """The dataset's part of the cache; None, and a warning, where the folder can't be used."""
    try:
        return ShardCache(options, source.fingerprint, source.layout)
    except OSError as error:
        log.warning("%s: can't cache, streaming instead: %s", options.folder, error)
        return None
