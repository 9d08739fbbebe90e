"""Penstock reading the same data, as its documentation advises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch  # noqa: F401 - as in every peer, before the clock starts

import penstock
from benchmarks.feed import data as made
from benchmarks.feed.data import BATCH, FEATURES, SEQUENCE, SIDE, Data
from penstock import CacheOptions, Dataset, Lake, load_dataset
from penstock.errors import StorageError
from penstock.shards import Packing, move_tag, write_dataset

NAME = "Penstock"
WORKS = frozenset(
    {
        "rows",
        "rows-parquet",
        "tokens",
        "jpegs",
        "jpegs-bytes",
        "images",
        "images-cached",
        "cold-blobs",
        "cold-rows",
    }
)
_FINGERPRINT = "b" * 32


def version() -> str:
    """Penstock's own."""
    return penstock.__version__


def prepare(work: str, data: Data, folder: Path | str) -> None:
    """Publish the data as a dataset, or write it as Parquet where it is read unpublished."""
    if work == "rows-parquet":
        _write_parquet(data, Path(folder))
        return
    lake = Lake(str(folder))
    try:
        if "bench/feed" in lake.dataset_names():
            return
    except StorageError:
        pass  # nothing was written there yet
    tables, packing = _tables(work, data)
    first = next(tables)
    write_dataset(
        lake,
        "bench/feed",
        _FINGERPRINT,
        {"train": _chained(first, tables)},
        first.schema,
        packing,
        inputs={},
        details={},
    )
    move_tag(lake, "bench/feed", "latest", _FINGERPRINT)


def opened(work: str, folder: Path | str, cache: Path) -> Dataset:
    """The dataset of a work, shuffled, in its batches."""
    options = CacheOptions(cache)
    if work == "rows-parquet":
        ds = load_dataset(str(folder), cache=options)
    else:
        ds = load_dataset("bench/feed", lake=str(folder), cache=options)
    if work == "tokens":
        ds = ds.pack(SEQUENCE)
    if work.startswith("images"):
        ds = ds.decode_image(SIDE, fit="stretch", cached=work == "images-cached")
    mode: Any = "windowed" if work.startswith("cold") else "auto"
    batch = BATCH[work.removesuffix("-parquet").removesuffix("-cached").removesuffix("-bytes")]
    ds = ds.shuffle(seed=1, mode=mode).batch(batch)
    return ds if work in ("jpegs", "jpegs-bytes", "cold-blobs") else ds.to("torch")


def handed_out(work: str, batch: Any) -> Any:
    """A batch as its user takes it: of files, an object each, as the peers give."""
    if work == "jpegs":
        return batch["file"].buffers()
    if work == "jpegs-bytes":
        return batch["file"].tolist()
    return batch


def epochs(work: str, folder: Path | str, *, cache: Path, count: int) -> Iterator[Iterator[Any]]:
    """So many epochs of one run: what was opened for the first serves the others."""
    ds = opened(work, folder, cache)
    try:
        for _ in range(count):
            yield iter(ds)
    finally:
        ds.close()


def _tables(work: str, data: Data) -> tuple[Iterator[pa.Table], Packing]:
    if work in ("rows", "cold-rows"):
        names = tuple(f"f{place:02d}" for place in range(FEATURES))
        return _rows(work, data, names), Packing(names)
    if work == "tokens":
        offsets, values = made.tokens(data.token_lists)
        return _lists(offsets, values), Packing(())
    files = data.files(work.removesuffix("-cached").removesuffix("-bytes"))
    return _files(files), Packing(())


def _rows(work: str, data: Data, names: tuple[str, ...]) -> Iterator[pa.Table]:
    for block in data.row_blocks(work):
        features = made.matrix(block["features"])
        columns: dict[str, Any] = {n: features[:, place] for place, n in enumerate(names)}
        yield pa.table({**columns, "label": block["label"]})


def _lists(offsets: Any, values: Any) -> Iterator[pa.Table]:
    for start in range(0, len(offsets) - 1, 2000):
        some = offsets[start : start + 2001]
        array = pa.ListArray.from_arrays(
            pa.array((some - some[0]).astype(np.int32)), pa.array(values[some[0] : some[-1]])
        )
        yield pa.table({"tokens": array})


def _files(files: Iterator[bytes]) -> Iterator[pa.Table]:
    held = list[bytes]()
    for file in files:
        held.append(file)
        if len(held) == 256:
            yield pa.table({"file": pa.array(held, pa.binary())})
            held = []
    if held:
        yield pa.table({"file": pa.array(held, pa.binary())})


def _write_parquet(data: Data, folder: Path) -> None:
    path = folder / "rows.parquet"
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    blocks = data.row_blocks("rows")
    first = next(blocks)
    with pq.ParquetWriter(folder / "rows.part", first.schema) as writer:
        for block in _chained(pa.table(first), (pa.table(more) for more in blocks)):
            writer.write_table(block)
    (folder / "rows.part").replace(path)


def _chained(first: pa.Table, rest: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield first
    yield from rest
