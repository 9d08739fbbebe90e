"""Threads that don't keep a process from ending.

Those of `concurrent.futures` are joined before anything else at interpreter exit, so that a request
that hangs would hold the process up; these are daemons, and whoever owns them closes them.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Workers:
    """Runs calls on at most so many threads; a call raises nothing."""

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = list[threading.Thread]()
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
                self._threads.append(thread)
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
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while True:
            self._idle += 1
            call = self._calls.get()
            self._idle -= 1
            if call is None:
                return
            if not self._is_closed:
                call()
