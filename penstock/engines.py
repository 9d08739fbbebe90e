"""Where bulk tasks run: on threads of this process, or in processes of this machine.

A task is a function of one argument that may be done any number of times. Results come in the order
of the arguments, and no more tasks are at work, or done and waiting, than there are workers.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from penstock.errors import PenstockError

T = TypeVar("T")
R = TypeVar("R")
_MOST = 8


def _cores() -> int:
    return max(2, min(_MOST, os.cpu_count() or 2))


class Engine(Protocol):
    """Runs tasks, some at once."""

    @property
    def workers(self) -> int:
        """How many tasks are at work at once, and so how many share the memory given."""
        ...

    def run(self, task: Callable[[T], R], arguments: Iterable[T]) -> Iterator[R]:
        """The task's results, in the order of the arguments; the first failure stops the rest."""
        ...


@dataclass(frozen=True, slots=True)
class Threads:
    """This process. What tasks do is in Arrow, polars and numpy, which let other threads run."""

    workers: int = _cores()

    def run(self, task: Callable[[T], R], arguments: Iterable[T]) -> Iterator[R]:
        """See `Engine`."""
        with ThreadPoolExecutor(self.workers, thread_name_prefix="penstock-task") as pool:
            yield from _in_order(pool, self.workers, task, arguments)


@dataclass(frozen=True, slots=True)
class Processes:
    """Processes of this machine, begun anew for each run; for many cores. Tasks are pickled."""

    workers: int = _cores()

    def run(self, task: Callable[[T], R], arguments: Iterable[T]) -> Iterator[R]:
        """See `Engine`."""
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        with ProcessPoolExecutor(self.workers, mp_context=get_context("spawn")) as pool:
            yield from _in_order(pool, self.workers, task, arguments)


def _in_order(
    pool: Executor, workers: int, task: Callable[[T], R], arguments: Iterable[T]
) -> Iterator[R]:
    waiting = deque[Future[R]]()
    try:
        for argument in arguments:
            if len(waiting) < workers:
                waiting.append(pool.submit(task, argument))
                continue
            done = waiting.popleft().result()
            waiting.append(pool.submit(task, argument))
            yield done
        while waiting:
            yield waiting.popleft().result()
    finally:
        for each in waiting:
            each.cancel()


def engine_of(text: str | None = None) -> Engine:
    """The engine that a text names: `threads`, `processes`, either with `:4` for four workers; by
    default `PENSTOCK_ENGINE`, else threads, one a core and at most eight.

    Raises
    ------
    PenstockError: it names none.
    """
    asked = text or os.environ.get("PENSTOCK_ENGINE") or "threads"
    found = re.fullmatch(r"(threads|processes)(?::([1-9]\d{0,3}))?", asked)
    if found is None:
        raise PenstockError(
            f"{asked!r} is no engine; PENSTOCK_ENGINE is threads or processes, such as threads:4"
        )
    workers = int(found[2]) if found[2] else _cores()
    return Threads(workers) if found[1] == "threads" else Processes(workers)
