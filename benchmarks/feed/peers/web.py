"""WebDataset: tar shards read from front to back, shuffled by shard and within a buffer of samples.

A row is far smaller than a tar header, so a sample of the row works is a block of 1,024 rows,
taken apart again (`unbatched`) before the buffer shuffles. From S3, shards stream through curl.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import torch
import webdataset

from benchmarks.feed import data as made
from benchmarks.feed.data import BATCH, Data
from benchmarks.feed.peers import COLD, LOCAL, Batch, RowBatch, decode, packed, write_once

NAME = "WebDataset"
WORKS = LOCAL | COLD

_BLOCK_ROWS = 1024
_SHUFFLE = {"rows": 50_000, "cold-rows": 50_000, "tokens": 5_000}
"""Samples in the shuffle buffer, 1,000 for files."""


def version() -> str:
    """The library's version."""
    return webdataset.__version__


def prepare(work: str, data: Data, folder: Path | str) -> None:
    """Write tar shards of about 64 MB, and at least 8 of them to shuffle."""
    each = 64_000_000 if work in LOCAL else 16_000_000

    def write(to: Path) -> None:
        with webdataset.ShardWriter(
            f"file:{to}/%06d.tar", maxcount=data.items(work), maxsize=each, verbose=0
        ) as writer:
            for number, sample in enumerate(_samples(work, data)):
                writer.write({"__key__": f"{number:08d}", **sample})

    write_once(folder, f"{work} {data}", write)


def epoch(
    work: str, folder: Path | str, *, workers: int, epoch: int, cache: Path
) -> Iterator[Batch]:
    """One epoch; batches are made in the workers."""
    del cache
    shards = _shards(str(folder))
    pipeline = webdataset.WebDataset(
        shards, shardshuffle=len(shards), seed=epoch, empty_check=False
    )
    stages: list[Any] = [webdataset.shuffle(_SHUFFLE.get(work, 1000), seed=epoch)]
    if work in ("rows", "cold-rows"):
        stages = [webdataset.map(_row_block), webdataset.unbatched(), *stages]
    elif work == "tokens":
        stages.append(webdataset.map(_token_list))
    elif work == "images":
        stages.append(webdataset.map(_image))
    else:
        stages.append(webdataset.map(_content))
    size = 256 if work == "tokens" else BATCH[work]
    stages.append(webdataset.batched(size, collation_fn=_collate(work)))
    loader = webdataset.WebLoader(pipeline.compose(*stages), batch_size=None, num_workers=workers)
    yield from packed(loader) if work == "tokens" else loader


def _samples(work: str, data: Data) -> Iterator[dict[str, bytes]]:
    if work in ("rows", "cold-rows"):
        for block in data.row_blocks(work):
            for start in range(0, len(block), _BLOCK_ROWS):
                part = block.slice(start, _BLOCK_ROWS)
                yield {
                    "features.npy": _npy(made.matrix(part["features"])),
                    "label.npy": _npy(part["label"].to_numpy()),
                }
    elif work == "tokens":
        offsets, values = made.tokens(data.token_lists)
        for start, stop in pairwise(offsets):
            yield {"tokens.bin": values[start:stop].tobytes()}
    else:
        for file in data.files(work):
            yield {"jpg": file}


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _shards(folder: str) -> list[str]:
    """Paths of the shards, or for S3 commands that fetch them."""
    if not folder.startswith("s3://"):
        return sorted(str(path) for path in Path(folder).glob("*.tar"))
    bucket, prefix = folder.removeprefix("s3://").split("/", 1)
    client = boto3.client("s3")
    found = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]
    urls = (
        client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key})
        for key in sorted(entry["Key"] for entry in found)
        if key.endswith(".tar")
    )
    return [f"pipe:curl -f -s '{url}'" for url in urls]


def _row_block(sample: dict[str, bytes]) -> tuple[Any, Any]:
    return tuple(np.load(io.BytesIO(sample[name])) for name in ("features.npy", "label.npy"))  # pyright: ignore


def _token_list(sample: dict[str, bytes]) -> Any:
    return np.frombuffer(sample["tokens.bin"], np.int32)


def _image(sample: dict[str, bytes]) -> Any:
    return decode.image(sample["jpg"])


def _content(sample: dict[str, bytes]) -> bytes:
    return sample["jpg"]


def _collate(work: str) -> Callable[[list[Any]], Any]:
    if work in ("rows", "cold-rows"):
        return _rows
    return {"tokens": np.concatenate, "images": decode.stacked}.get(work, list)


def _rows(samples: list[tuple[Any, Any]]) -> RowBatch:
    features, label = zip(*samples, strict=True)
    return {
        "features": torch.from_numpy(np.stack(features)),
        "label": torch.from_numpy(np.array(label)),
    }
