"""Datasets that torch's DataLoader takes for iterable ones; imported when torch is asked for."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

from penstock.errors import MissingExtra
from penstock.feed.dataset import Dataset
from penstock.feed.mixing import Mixture

try:
    _IterableDataset: Any = importlib.import_module("torch.utils.data").IterableDataset
except ImportError as error:
    raise MissingExtra("torch", "torch") from error


class TorchDataset(Dataset, _IterableDataset):
    """Batches as tensors.

    Nobody needs a DataLoader around it, but one works: `DataLoader(ds, batch_size=None,
    num_workers=n)`. Its workers make every n-th batch each, and the order is the same. As with
    torch's own samplers, call `set_epoch` before each pass then: workers get a copy.
    """

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker knows nothing of the process group of the rank that it works for.
        state = super().__getstate__()
        return {**state, "_settings": replace(self._settings, world=self.raw_world)}


class TorchMixture(Mixture, _IterableDataset):
    """A mixture's batches as tensors; a DataLoader around it works as around a TorchDataset."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_given_world": self.raw_world}
