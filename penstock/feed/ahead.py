"""Blocks brought before they are needed: those of the coming windows, and of the next epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from penstock.feed.blocks import BlockStore


class Ahead:
    """Keeps the store supplied with blocks in the order in which they will be needed.

    Parameters
    ----------
    this: block numbers in that order, of the epoch from its beginning.
    following: those of the next epoch; asked for as this one ends.
    most: blocks brought before their turn.
    """

    def __init__(
        self,
        store: BlockStore,
        this: NDArray[np.int64],
        following: Callable[[], NDArray[np.int64]],
        most: int,
    ) -> None:
        self._store, self._most, self._following = store, most, following
        self.sequence, self._has_next = this, False
        self._turn = np.full(len(store.source.rows), -1, np.int64)
        self._turn[this] = np.arange(len(this))
        self._next = 0
        self._held = deque[int]()
        """Turns, in rising order."""

    def reached(self, blocks: NDArray[np.int64]) -> None:
        """A plan wants these itself now; bring those after them, as far as there is room."""
        now = int(self._turn[blocks].max(initial=-1))
        gone = list[int]()
        while self._held and self._held[0] <= now:
            gone.append(int(self.sequence[self._held.popleft()]))
        self._next = max(self._next, now + 1)
        if self._next + self._most > len(self.sequence) and not self._has_next:
            self.sequence = np.concatenate([self.sequence, self._following()])
            self._has_next = True
        stop = min(len(self.sequence), self._next + self._most - len(self._held))
        if stop > self._next:
            for block in self.sequence[self._next : stop]:
                self._store.want(np.array([block]))
            self._held.extend(range(self._next, stop))
            self._next = stop
        if gone:
            self._store.release(np.array(gone))

    def close(self) -> None:
        """Give up what was brought."""
        held, self._held = list(self._held), deque[int]()
        for turn in held:  # a block may be held twice, for this epoch and for the next
            self._store.release(self.sequence[turn : turn + 1])
