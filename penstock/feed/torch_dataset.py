"""Datasets that torch's DataLoader takes for iterable ones; imported when torch is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from penstock.errors import MissingExtra
from penstock.feed.dataset import Dataset
from penstock.feed.mixing import Mixture
from penstock.feed.world import World, is_distributed, is_in_dataloader

try:
    _IterableDataset: Any = importlib.import_module("torch.utils.data").IterableDataset
except ImportError as error:
    raise MissingExtra("torch", "torch") from error


class _Epochs:
    """Takes an epoch's number from a trainer, as a DataLoader's sampler does."""

    def __init__(self, feed: TorchDataset | TorchMixture) -> None:
        self._feed = feed
        self.sampler = self

    @property
    def batch_size(self) -> int:
        """Samples a batch of this rank."""
        return self._feed.rank_batch

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next pass; a state that was loaded within it, or for a later one, stays.

        A trainer that begins at 0 after a state of epoch 3 was loaded counts from there on.
        """
        feed = self._feed
        before = feed.trainer_offset
        if feed.is_resumed and epoch + before <= feed.epoch:
            feed.trainer_offset = feed.epoch - epoch
        else:
            feed.set_epoch(epoch + before)


class _Trained:
    """What trainers and DataLoaders ask of a feed, whichever it is."""

    _worked_for: World | None = None
    trainer_offset = 0
    """How far a trainer's epochs lie behind the feed's."""

    @property
    def batch_sampler(self) -> _Epochs:
        """Lightning tells it the number of each epoch."""
        return _Epochs(self)  # pyright: ignore[reportArgumentType]

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker knows nothing of the process group of the rank that it works for.
        state: dict[str, Any] = super().__getstate__()  # pyright: ignore
        return {**state, "_worked_for": self.raw_world}

    @property
    def raw_world(self) -> World:
        """This process among all; in a DataLoader's worker, the rank that it works for."""
        known: World = super().raw_world  # pyright: ignore
        given: World | None = self.given_world  # pyright: ignore
        if given is None and self._worked_for and is_in_dataloader() and not is_distributed():
            return self._worked_for
        return known


class TorchDataset(_Trained, Dataset, _IterableDataset):
    """Batches as tensors.

    Nobody needs a DataLoader around it, but one works: `DataLoader(ds, batch_size=None,
    num_workers=n)`. Its workers make every n-th batch each, and the order is the same. As with
    torch's own samplers, call `set_epoch` before each pass then: workers get a copy.
    """


class TorchMixture(_Trained, Mixture, _IterableDataset):
    """A mixture's batches as tensors; a DataLoader around it works as around a TorchDataset."""
