"""torch's DataLoader over a map-style dataset, item by item: its documented default."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.feed import data as made
from benchmarks.feed.data import BATCH, Data
from benchmarks.feed.peers import LOCAL, Batch, decode, packed, write_once

NAME = "torch DataLoader"
WORKS = LOCAL


def version() -> str:
    """torch's version."""
    return torch.__version__


def prepare(work: str, data: Data, folder: Path | str) -> None:
    """Write `.npy` arrays, or a folder of files."""

    def write(to: Path) -> None:
        if work == "rows":
            features, label = made.row_arrays(data.rows)
            np.save(to / "features.npy", features)
            np.save(to / "label.npy", label)
        elif work == "tokens":
            offsets, values = made.tokens(data.token_lists)
            np.save(to / "offsets.npy", offsets)
            np.save(to / "values.npy", values)
        else:
            for number, file in enumerate(data.files(work)):
                (to / f"{number:08d}.jpg").write_bytes(file)

    write_once(folder, f"{work} {data}", write)


def epoch(
    work: str, folder: Path | str, *, workers: int, epoch: int, cache: Path
) -> Iterator[Batch]:
    """One epoch in the order of a `RandomSampler`."""
    del cache
    dataset, collate = opened(work, Path(folder))
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=256 if work == "tokens" else BATCH[work],
        shuffle=True,
        num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(epoch),
    )
    if work == "tokens":
        yield from packed(tokens.numpy() for tokens in loader)
    elif work == "rows":
        for features, label in loader:
            yield {"features": features, "label": label}
    else:
        yield from loader


def opened(work: str, folder: Path) -> tuple[Dataset[Any], Any]:
    """The dataset of a work, and how to join its items."""
    if work == "rows":
        return row_tensors(folder), None
    if work == "tokens":
        return TokenLists(folder), torch.cat
    files = Files(folder, decoded=work == "images")
    return files, decode.stacked if work == "images" else list


def row_tensors(folder: Path) -> TensorDataset:
    """The rows' two arrays, mapped into memory."""
    arrays = (np.load(folder / f"{name}.npy", mmap_mode="c") for name in ("features", "label"))
    return TensorDataset(*map(torch.from_numpy, arrays))


class TokenLists(Dataset[torch.Tensor]):
    """Token lists out of one flat array, mapped into memory."""

    def __init__(self, folder: Path) -> None:
        self.offsets = np.load(folder / "offsets.npy")
        self.values = torch.from_numpy(np.load(folder / "values.npy", mmap_mode="c"))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> torch.Tensor:
        return self.values[self.offsets[number] : self.offsets[number + 1]]


class Files(Dataset[Any]):
    """The files of a folder, as bytes or decoded."""

    def __init__(self, folder: Path, *, decoded: bool) -> None:
        self.paths = sorted(str(path) for path in folder.glob("*.jpg"))
        self.decoded = decoded

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Any:
        content = Path(self.paths[number]).read_bytes()
        return decode.image(content) if self.decoded else content
