"""A work's data as Arrow batches, and Arrow tables as the batches that every loader yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.feed import data as made
from benchmarks.feed.data import Data
from benchmarks.feed.peers import decode

_LISTS = 1000
"""Token lists or files in a record batch."""


def record_batches(work: str, data: Data) -> Iterator[pa.RecordBatch]:
    """`features` and `label`; or `tokens`; or `file`."""
    if work in ("rows", "cold-rows"):
        yield from data.row_blocks(work)
    elif work == "tokens":
        offsets, values = made.tokens(data.token_lists)
        for start in range(0, data.token_lists, _LISTS):
            part = offsets[start : start + _LISTS + 1]
            lists = pa.ListArray.from_arrays(
                pa.array(part - part[0], pa.int32()), pa.array(values[part[0] : part[-1]])
            )
            yield pa.record_batch({"tokens": lists})
    else:
        yield from (pa.record_batch({"file": pa.array(part)}) for part in _runs(data.files(work)))


def batch_of(work: str, table: pa.Table, apply: Callable[[Any, list[bytes]], Any] = map) -> Any:
    """A batch of rows, files or images; of tokens, the lists joined as a (n,) array.

    `apply` is `map` or a thread pool's, for images.
    """
    if work in ("rows", "cold-rows"):
        features = table["features"].combine_chunks()
        return {
            "features": torch.from_numpy(made.matrix(features).copy()),
            "label": torch.from_numpy(table["label"].to_numpy().copy()),
        }
    if work == "tokens":
        joined = table["tokens"].combine_chunks().flatten()
        return np.array(joined)  # torch wants memory that it may write to
    files: list[bytes] = table["file"].to_pylist()
    return decode.stacked(list(apply(decode.image, files))) if work == "images" else files


def _runs(files: Iterator[bytes]) -> Iterator[list[bytes]]:
    run: list[bytes] = []
    for file in files:
        run.append(file)
        if len(run) == _LISTS:
            yield run
            run = []
    if run:
        yield run
