"""Ranges of objects, many in flight, retried, hedged and given up on in good time.

One thread runs an event loop; each request is a task on it, so that a stuck one is cancelled at
once when the feed closes. A request slower than nearly all before it is sent a second time and the
first answer counts (Dean and Barroso, "The Tail at Scale", CACM 2013).
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from penstock.errors import StorageError
from penstock.feed.metrics import Metrics
from penstock.storage.objects import ObjectStore

_FEWEST_KNOWN = 32
"""Requests to have seen before one is called slow."""
_MOST_HEDGES = 0.05
"""Of all requests, so that a store which is slow as a whole isn't asked for twice the bytes."""


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """How storage is asked."""

    in_flight: int = 16
    """Requests at once."""
    bytes_in_flight: int = 256 << 20
    stall_seconds: float = 20.0
    """A request without an answer for so long is given up and tried again."""
    attempts: int = 4
    backoff_seconds: float = 0.2
    """Before the second attempt, at most; doubled before each further one."""
    is_hedging: bool = True


class Fetcher:
    """Fetches ranges under one root; owns a thread."""

    def __init__(self, objects: ObjectStore, options: FetchOptions, metrics: Metrics) -> None:
        self._objects, self._options, self._metrics = objects, options, metrics
        self._seconds = deque[float](maxlen=512)
        self._asked = self._hedged = 0
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(options.in_flight)
        self._bytes, self._has_room = 0, asyncio.Condition()
        self._thread = threading.Thread(target=self._run, name="penstock-fetch", daemon=True)
        self._thread.start()

    def get(self, key: str, start: int, length: int) -> Future[Any]:
        """Bytes [start, start + length) of an object, to come.

        The future raises StorageError when the object can't be had; says which and how long it was
        waited for.
        """
        return asyncio.run_coroutine_threadsafe(self._get(key, start, length), self._loop)

    def end(self) -> None:
        """Give up what is under way."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)

    def close(self) -> None:
        """End, and wait for it; twice does no harm."""
        self.end()
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.close()

    async def _get(self, key: str, start: int, length: int) -> Any:
        async with self._slots:
            async with self._has_room:
                most = self._options.bytes_in_flight
                await self._has_room.wait_for(
                    lambda: not self._bytes or self._bytes + length <= most
                )
                self._bytes += length
            try:
                return await self._tried(
                    key, lambda: self._objects.get_range_async(key, start, length)
                )
            finally:
                async with self._has_room:
                    self._bytes -= length
                    self._has_room.notify_all()

    async def _tried(self, key: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        options, began = self._options, time.monotonic()
        failure, why = Exception(), "not asked"
        for attempt in range(options.attempts):
            try:
                return await self._asked_twice_if_slow(ask)
            except TimeoutError as error:
                failure = error
                why = f"no answer for {options.stall_seconds:g} s"
            except StorageError as error:
                if not error.is_transient:
                    raise
                failure, why = error, str(error)
            if attempt + 1 < options.attempts:
                self._metrics.add(retries=1)
                # Full jitter, so that the ranks of a job don't come back all at once.
                await asyncio.sleep(random.uniform(0, options.backoff_seconds * 2**attempt))
        raise StorageError(
            f"{self._objects.uri}/{key}: {why}; gave up after {options.attempts} attempts in "
            f"{time.monotonic() - began:.1f} s. Is the storage up, and reached from here?"
        ) from failure

    async def _asked_twice_if_slow(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        began = time.monotonic()
        self._asked += 1
        tasks = {asyncio.ensure_future(ask())}
        try:
            done, _ = await asyncio.wait(tasks, timeout=self._slow_seconds())
            if not done and self._may_hedge():
                self._hedged += 1
                self._metrics.add(hedges=1)
                tasks.add(asyncio.ensure_future(ask()))
            left = self._options.stall_seconds - (time.monotonic() - began)
            while not done and left > 0:
                done, _ = await asyncio.wait(
                    tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
            if not done:
                raise TimeoutError
            self._seconds.append(time.monotonic() - began)
            return next(iter(done)).result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _slow_seconds(self) -> float:
        """The 99th percentile of the last requests."""
        known = sorted(self._seconds)
        if len(known) < _FEWEST_KNOWN:
            return self._options.stall_seconds
        return min(self._options.stall_seconds, known[int(len(known) * 0.99)])

    def _may_hedge(self) -> bool:
        if not self._options.is_hedging or len(self._seconds) < _FEWEST_KNOWN:
            return False
        return self._hedged + 1 <= max(1, _MOST_HEDGES * self._asked)
