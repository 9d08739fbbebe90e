"""Threads that don't keep a process from ending.

Those of `concurrent.futures` are joined before anything else at interpreter exit, so that a request
that hangs would hold the process up; these are daemons, they end when there was nothing to do for a
while, and whoever owns them closes them.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

_IDLE_SECONDS = 2.0


class Workers:
    """Runs calls on at most so many threads; a call raises nothing."""

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = set[threading.Thread]()
        self._lock = threading.Lock()
        self._idle = 0
        self._is_closed = False

    def submit(self, call: Callable[[], None]) -> None:
        """Have it run; after `close` it never is."""
        with self._lock:
            if self._is_closed:
                return
            self._calls.put(call)
            if self._idle < self._calls.qsize() and len(self._threads) < self._most:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._threads.add(thread)
                thread.start()

    def end(self) -> None:
        """Let the calls that run come to their end, and forget the others."""
        with self._lock:
            self._is_closed = True
            for _ in self._threads:
                self._calls.put(None)

    def close(self) -> None:
        """End, and wait for it; twice does no harm."""
        self.end()
        for thread in list(self._threads):
            thread.join()

    def _run(self) -> None:
        while True:
            call = self._next()
            if call is None:
                return
            if not self._is_closed:
                call()
            del call  # while this waits for the next one it must not keep its owner alive

    def _next(self) -> Callable[[], None] | None:
        """The next call; None where this thread is to end."""
        with self._lock:
            self._idle += 1
        while True:
            try:
                call = self._calls.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                call = None
            with self._lock:
                if call is None and not self._is_closed and not self._calls.empty():
                    continue  # it came in between
                self._idle -= 1
                if call is None and not self._is_closed:
                    self._threads.discard(threading.current_thread())
                return call
