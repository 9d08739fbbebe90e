"""LitData: optimised chunks read by `StreamingDataset` under its own `StreamingDataLoader`.

Tokens go the documented way for language models: `TokensLoader` cuts sequences from each chunk in
the order of writing, and the epoch shuffles sequences rather than the lists that they came from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")  # it asks PyPI at every start
import litdata
import torch
from litdata.streaming import downloader
from litdata.streaming.item_loader import TokensLoader

from benchmarks.feed import data as made
from benchmarks.feed.data import BATCH, BLOCK_ROWS, SEQUENCE, Data
from benchmarks.feed.peers import COLD, LOCAL, Batch, RowBatch, decode, write_once

# Its quick way to S3 refuses plain http, and has no option for it; set here, workers get it too.
downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True

NAME = "LitData"
WORKS = LOCAL | COLD

_PART = 1000
"""Token lists or files that one call of `optimize`'s function writes."""


def version() -> str:
    """The library's version."""
    return litdata.__version__


def prepare(work: str, data: Data, folder: Path | str) -> None:
    """Optimise into chunks of 64 MB, its default; of 16 MB for the cold works, to have a few."""
    per_call = BLOCK_ROWS if work in ("rows", "cold-rows") else _PART

    def write(to: Path) -> None:
        litdata.optimize(
            fn=partial(_samples, work, data),
            inputs=list(range(0, data.items(work), per_call)),
            output_dir=str(to / "chunks"),
            chunk_bytes="16MB" if work in COLD else "64MB",
            num_workers=2,
            item_loader=TokensLoader() if work == "tokens" else None,
            verbose=False,
        )

    write_once(folder, f"{work} {data}", write)


def epoch(
    work: str, folder: Path | str, *, workers: int, epoch: int, cache: Path
) -> Iterator[Batch]:
    """One epoch in its default shuffle: of chunks, and of rows within a chunk."""
    remote: dict[str, Any] = {}
    if str(folder).startswith("s3://"):
        remote["cache_dir"] = str(cache)
        remote["storage_options"] = {
            "endpoint_url": os.environ["AWS_ENDPOINT_URL"],
            "aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
        }
    dataset = litdata.StreamingDataset(
        f"{folder}/chunks",
        shuffle=True,
        seed=42 + epoch,
        item_loader=TokensLoader(SEQUENCE) if work == "tokens" else None,
        # Its default decodes windows of 256 rows over and over; whole chunks are far quicker.
        batch_decode="all" if work in ("rows", "cold-rows") else "auto",
        **remote,
    )
    yield from litdata.StreamingDataLoader(
        dataset,
        batch_size=BATCH[work],
        num_workers=workers,
        collate_fn=_collate(work),
        drop_last=work == "tokens",
    )


def _samples(work: str, data: Data, start: int) -> Iterator[Any]:
    """The samples from `start` on, as many as one call writes."""
    if work in ("rows", "cold-rows"):
        block = made.row_block(start, data.items(work))
        features = torch.from_numpy(made.matrix(block["features"]).copy())
        for row, label in zip(features, block["label"].to_pylist(), strict=True):
            yield {"features": row, "label": label}
    elif work == "tokens":
        offsets, values = made.tokens(data.token_lists)
        for number in range(start, min(start + _PART, data.token_lists)):
            yield torch.from_numpy(values[offsets[number] : offsets[number + 1]])
    else:
        for number, file in enumerate(data.files(work)):
            if start <= number < start + _PART:
                yield file


def _collate(work: str) -> Callable[[list[Any]], Any]:
    """Joins a batch in one call a column, which the default collation doesn't."""
    if work in ("rows", "cold-rows"):
        return partial(_rows, torch.int32 if work == "cold-rows" else torch.int64)
    return {"tokens": torch.stack, "images": _images}.get(work, _contents)


def _rows(label: torch.dtype, samples: list[dict[str, Any]]) -> RowBatch:
    return {
        "features": torch.stack([sample["features"] for sample in samples]),
        "label": torch.tensor([sample["label"] for sample in samples], dtype=label),
    }


def _contents(files: list[memoryview]) -> list[bytes]:
    return [bytes(file) for file in files]


def _images(files: list[bytes]) -> torch.Tensor:
    return decode.stacked([decode.image(file) for file in files])
