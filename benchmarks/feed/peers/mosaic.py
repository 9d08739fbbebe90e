"""MosaicML Streaming: MDS shards, read by `StreamingDataset` row by row under a DataLoader."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import transformers.feature_extraction_utils  # noqa: F401  (else it takes the stand-in for real)
from torch.utils.data import DataLoader

from benchmarks.feed import data as made
from benchmarks.feed.data import BATCH, Data
from benchmarks.feed.peers import COLD, LOCAL, Batch, RowBatch, decode, packed, write_once


def _stand_in_for_torchvision() -> None:
    """`import streaming` wants torchvision for ready-made image datasets that nothing here uses."""
    datasets, functional = ModuleType("torchvision.datasets"), ModuleType("functional")
    datasets.VisionDataset = type("VisionDataset", (), {})  # pyright: ignore
    datasets.CIFAR10 = object  # pyright: ignore
    functional.to_tensor = None  # pyright: ignore
    sys.modules["torchvision"] = ModuleType("torchvision")
    sys.modules["torchvision.datasets"] = datasets
    sys.modules["torchvision.transforms"] = ModuleType("torchvision.transforms")
    sys.modules["torchvision.transforms.functional"] = functional


if importlib.util.find_spec("torchvision") is None:
    _stand_in_for_torchvision()

import streaming  # noqa: E402
from streaming.base.util import clean_stale_shared_memory  # noqa: E402

NAME = "MosaicML Streaming"
WORKS = LOCAL | COLD


def version() -> str:
    """The library's version."""
    return streaming.__version__


def prepare(work: str, data: Data, folder: Path | str) -> None:
    """Write MDS shards of 64 MB, its default; of 16 MB for the cold works, to have a few."""

    def write(to: Path) -> None:
        with streaming.MDSWriter(
            out=str(to), columns=_columns(work), size_limit=1 << (24 if work in COLD else 26)
        ) as writer:
            for sample in _samples(work, data):
                writer.write(sample)

    write_once(folder, f"{work} {data}", write)


def epoch(
    work: str, folder: Path | str, *, workers: int, epoch: int, cache: Path
) -> Iterator[Batch]:
    """One epoch in its default shuffle (`py1e`), its shared memory freed before and after."""
    remote = str(folder).startswith("s3://")
    if remote:
        os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
    clean_stale_shared_memory()
    size = 64 if work == "tokens" else BATCH[work]
    dataset = streaming.StreamingDataset(
        remote=str(folder) if remote else None,
        local=str(cache) if remote else str(folder),
        shuffle=True,
        shuffle_seed=epoch + 1,
        batch_size=size,
        num_canonical_nodes=1,
    )
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=size, num_workers=workers, collate_fn=_collate(work)
    )
    yield from packed(loader) if work == "tokens" else loader
    del loader, dataset
    clean_stale_shared_memory()


def _columns(work: str) -> dict[str, str]:
    if work in ("rows", "cold-rows"):
        return {
            "features": "ndarray:float32:32",
            "label": "int32" if work == "cold-rows" else "int64",
        }
    return {"tokens": "ndarray:int32"} if work == "tokens" else {"bytes": "bytes"}


def _samples(work: str, data: Data) -> Iterator[dict[str, Any]]:
    if work in ("rows", "cold-rows"):
        for block in data.row_blocks(work):
            for features, label in zip(
                made.matrix(block["features"]), block["label"].to_numpy(), strict=True
            ):
                yield {"features": features, "label": label}
    elif work == "tokens":
        offsets, values = made.tokens(data.token_lists)
        for start, stop in pairwise(offsets):
            yield {"tokens": values[start:stop]}
    else:
        for file in data.files(work):
            yield {"bytes": file}


def _collate(work: str) -> Callable[[list[dict[str, Any]]], Any]:
    """Joins a batch in one call a column, which the default collation doesn't."""
    if work in ("rows", "cold-rows"):
        return _rows
    if work == "tokens":
        return lambda samples: np.concatenate([sample["tokens"] for sample in samples])
    if work == "images":
        return lambda samples: decode.stacked([decode.image(s["bytes"]) for s in samples])
    return lambda samples: [sample["bytes"] for sample in samples]


def _rows(samples: list[dict[str, Any]]) -> RowBatch:
    return {
        "features": torch.from_numpy(np.stack([sample["features"] for sample in samples])),
        "label": torch.from_numpy(np.array([sample["label"] for sample in samples])),
    }
