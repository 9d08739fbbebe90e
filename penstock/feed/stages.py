"""What the caller's own functions do to batches, on threads, in the order of the steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import OrderError
from penstock.feed.ragged import Ragged
from penstock.feed.randomness import RowRandom

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Stage:
    """A function over batches, or over samples."""

    function: Callable[..., Any]
    is_batched: bool
    workers: int
    seed: int | None
    """Given, the function's second argument is a source of random numbers."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise OrderError(f"map needs at least 1 worker, got {self.workers}")

    def apply(self, columns: dict[str, Any], rows: NDArray[np.int64], epoch: int) -> dict[str, Any]:
        """The function's result as gathered columns.

        Raises
        ------
        OrderError: it returned something else than columns of as many rows each.
        """
        given = {
            name: Ragged(values) if isinstance(values, pa.Array) else values
            for name, values in columns.items()
        }
        random = None if self.seed is None else RowRandom(self.seed, epoch, rows)
        if self.is_batched:
            got = self.function(given) if random is None else self.function(given, random)
        else:
            got = self._one_by_one(given, len(rows), random)
        return _checked(got, self.function, len(rows))

    def _one_by_one(self, given: dict[str, Any], count: int, random: RowRandom | None) -> Any:
        results = list[Any]()
        for place in range(count):
            sample = {name: values[place] for name, values in given.items()}
            more = () if random is None else (random.generator(place),)
            results.append(self.function(sample, *more))
        if not results:
            return given
        return {name: _stacked([result[name] for result in results]) for name in results[0]}


def in_order(items: Iterable[S], work: Callable[[S], R], workers: int, name: str) -> Iterator[R]:
    """Results in the order of the items, made by so many threads at once."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    waiting = deque[Future[R]]()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            while len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _checked(got: Any, function: Callable[..., Any], count: int) -> dict[str, Any]:
    name = getattr(function, "__name__", repr(function))
    if not isinstance(got, dict):
        raise OrderError(f"{name} returned a {type(got).__name__}; return a dict of columns")
    columns: dict[str, Any] = {
        column: values.array if isinstance(values, Ragged) else values
        for column, values in got.items()
    }
    lengths = {
        column: len(values) for column, values in columns.items() if hasattr(values, "__len__")
    }
    if len(set(lengths.values())) > 1:
        raise OrderError(f"{name} returned columns of differing length: {lengths}")
    if lengths and set(lengths.values()) != {count}:
        raise OrderError(
            f"{name} returned {next(iter(lengths.values())):,} rows for {count:,}; a map keeps the "
            "rows of a batch, so that all ranks have equal batches. Use filter to leave rows out"
        )
    return columns


def _stacked(values: list[Any]) -> Any:
    if any(value is None or isinstance(value, str | bytes | list) for value in values):
        return pa.array(values)
    arrays = [np.asarray(value) for value in values]
    if len({array.shape for array in arrays}) == 1:
        return np.stack(arrays)
    return pa.array(arrays)
