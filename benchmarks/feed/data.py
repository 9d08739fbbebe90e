"""The data that every loader reads: made from a seed, the same at every call, a block at a time.

A row's label is its number, so that whoever reads an epoch can check that each row came once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

FEATURES = 32
SEQUENCE = 2048
"""Tokens in a packed sequence."""
SIDE = 224
"""Pixels of a decoded image's side."""
BATCH = {
    "rows": 8192,
    "tokens": 8,
    "jpegs": 256,
    "images": 64,
    "cold-blobs": 64,
    "cold-rows": 8192,
}
"""What one batch holds: rows, packed sequences, or files."""
BLOCK_ROWS = 65_536
"""Rows made at once."""


@dataclass(frozen=True, slots=True)
class Data:
    """How much of each kind; what a work doesn't use costs nothing."""

    rows: int = 2_000_000
    token_lists: int = 200_000
    jpegs: int = 20_000
    cold_blobs: int = 3_000
    cold_blob_bytes: int = 40_000
    cold_rows: int = 1_000_000
    flowers: Path | None = None
    """A folder of JPEGs to repeat; made ones where it is None or has none."""

    def items(self, work: str) -> int:
        """Rows, token lists or files in an epoch of a work."""
        return {
            "rows": self.rows,
            "tokens": self.token_lists,
            "jpegs": self.jpegs,
            "images": self.jpegs,
            "cold-blobs": self.cold_blobs,
            "cold-rows": self.cold_rows,
        }[work]

    def row_blocks(self, work: str) -> Iterator[pa.RecordBatch]:
        """The rows of `rows` (int64 labels) or `cold-rows` (int32 labels)."""
        return rows(self.items(work), pa.int32() if work == "cold-rows" else pa.int64())

    def files(self, work: str) -> Iterator[bytes]:
        """The files of `jpegs`, `images` or `cold-blobs`, in order."""
        if work == "cold-blobs":
            return blobs(self.cold_blobs, self.cold_blob_bytes)
        return iter(jpegs(self.jpegs, self.flowers))


def rows(count: int, label: pa.DataType | None = None) -> Iterator[pa.RecordBatch]:
    """`features` (32 float32) and `label` (int64, the row's number), in blocks of 65,536 rows."""
    for start in range(0, count, BLOCK_ROWS):
        yield row_block(start, count, label)


def row_block(start: int, count: int, label: pa.DataType | None = None) -> pa.RecordBatch:
    """The block of `rows(count)` that begins at row `start`."""
    stop = min(start + BLOCK_ROWS, count)
    values = np.random.default_rng([1, start]).standard_normal(
        (stop - start) * FEATURES, np.float32
    )
    return pa.record_batch(
        {
            "features": pa.FixedSizeListArray.from_arrays(pa.array(values), FEATURES),
            "label": pa.array(np.arange(start, stop), label or pa.int64()),
        }
    )


def row_arrays(count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The same rows as two arrays in RAM: (count, 32) and (count,)."""
    features = np.empty((count, FEATURES), np.float32)
    for number, block in enumerate(rows(count)):
        start = number * BLOCK_ROWS
        features[start : start + len(block)] = matrix(block["features"])
    return features, np.arange(count)


def matrix(features: pa.FixedSizeListArray) -> NDArray[np.float32]:
    """A fixed-size list array as a (rows, 32) view."""
    return features.flatten().to_numpy().reshape(len(features), -1)


def tokens(count: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Token lists of 256 to 768 tokens end to end: (count + 1,) offsets, and the values."""
    rng = np.random.default_rng(2)
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(rng.integers(256, 769, count), out=offsets[1:])
    return offsets, rng.integers(0, 50_000, offsets[-1], np.int32)


def jpegs(count: int, flowers: Path | None = None) -> list[bytes]:
    """`count` JPEG files, a pool of about 400 distinct ones over and over."""
    found = sorted(flowers.rglob("*.jpg")) if flowers else []
    pool = [file.read_bytes() for file in found] or _photographs(400)
    return [pool[number % len(pool)] for number in range(count)]


def blobs(count: int, size: int) -> Iterator[bytes]:
    """`count` blobs of `size` random bytes; the first 8 are the blob's number."""
    for number in range(count):
        yield number.to_bytes(8, "little") + np.random.default_rng([3, number]).bytes(size - 8)


@lru_cache(maxsize=1)
def _photographs(count: int) -> list[bytes]:
    """JPEGs of 320x240 to 500x375 with a photograph's mix of smooth areas, edges and grain."""
    rng = np.random.default_rng(4)
    made: list[bytes] = []
    for _ in range(count):
        width = int(rng.integers(320, 501))
        size = (width, width * 3 // 4)
        picture = np.zeros((size[1], size[0], 3), np.float32)
        for cells, weight in ((6, 0.55), (24, 0.25), (96, 0.2)):
            coarse = rng.integers(0, 256, (cells, cells, 3), np.uint8)
            smooth = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
            picture += weight * np.asarray(smooth, np.float32)
        picture += rng.normal(0, 3, picture.shape)
        file = BytesIO()
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "jpeg", quality=88)
        made.append(file.getvalue())
    return made
