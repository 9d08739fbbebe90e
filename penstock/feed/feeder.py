"""The thread that makes what comes next while the caller trains on what it has."""

from __future__ import annotations

import atexit
import os
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from penstock.errors import OrderError

T = TypeVar("T")

_HEARS_SECONDS = 0.5
_ALIVE: weakref.WeakSet[Feeder[object]] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is fed: the training loop."""

    is_gone: Callable[[], bool]
    """Whether it has left."""
    is_waiting: Callable[[], bool]
    """Whether it has nothing to do until the next item is there."""


class Feeder(Generic[T]):
    """Runs an iterator in a thread, at most `ahead` items before they are asked for.

    An iterator; closing it (or leaving the loop over it by any way) ends the thread, and so does
    the end of the interpreter.

    Parameters
    ----------
    make: the items, given what says whether anybody waits for them.
    """

    def __init__(self, make: Callable[[Caller], Iterator[T]], ahead: int) -> None:
        self._ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._is_waiting = False
        self._items = make(Caller(self._stop.is_set, lambda: self._is_waiting))
        self._owner = os.getpid()
        self._thread = threading.Thread(target=self._run, name="penstock-feed", daemon=True)
        _ALIVE.add(self)  # pyright: ignore[reportArgumentType]
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        try:
            while True:
                item = self._next()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item[0]
        finally:
            self.close()

    def close(self) -> None:
        """End the thread; twice does no harm."""
        if self._owner != os.getpid():
            return
        self._stop.set()
        while self._thread.is_alive():
            try:  # a full queue is what the thread may be waiting on
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _next(self) -> tuple[T] | BaseException | None:
        if self._owner != os.getpid():
            raise OrderError(
                "this iteration was begun before the process was forked, and the child has none of "
                "its threads; begin one in the child"
            )
        try:
            return self._ready.get_nowait()
        except queue.Empty:
            self._is_waiting = True
        while True:
            try:
                # Not without end: a signal may reach another thread, and Ctrl-C is heard when this
                # one next wakes.
                item = self._ready.get(timeout=_HEARS_SECONDS)
            except queue.Empty:
                continue
            self._is_waiting = False
            return item

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._offer((item,)):
                    return
            self._offer(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the item is awaited
            self._offer(error)
        finally:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()

    def _offer(self, item: tuple[T] | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.05)
            except queue.Full:
                continue
            return True
        return False


@atexit.register
def _close_all() -> None:
    """A thread that is inside of a library when the interpreter goes down can take it along."""
    for feeder in list(_ALIVE):
        feeder.close()
