"""torch's DataLoader with a `BatchSampler` as sampler: the dataset gets a batch's numbers at once.

The documentation's way to switch off automatic batching for datasets that read many rows in one go.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from benchmarks.feed.data import BATCH
from benchmarks.feed.peers import Batch, torch_loader

NAME = "torch DataLoader, BatchSampler"
WORKS = frozenset({"rows"})
version = torch_loader.version
prepare = torch_loader.prepare


def epoch(
    work: str, folder: Path | str, *, workers: int, epoch: int, cache: Path
) -> Iterator[Batch]:
    """One epoch; each batch is one index into the rows' tensors."""
    del cache
    dataset = torch_loader.row_tensors(Path(folder))
    order = RandomSampler(dataset, generator=torch.Generator().manual_seed(epoch))
    loader: DataLoader[Any] = DataLoader(
        dataset,
        sampler=BatchSampler(order, BATCH[work], drop_last=False),
        batch_size=None,
        num_workers=workers,
    )
    for features, label in loader:
        yield {"features": features, "label": label}
