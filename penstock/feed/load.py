"""Opening a dataset: a name in a lake to its manifest and the blocks of a split."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from penstock.errors import DatasetNotFound, OrderError, ShardError, did_you_mean
from penstock.feed.blocks import MemoryOptions
from penstock.feed.cache import CacheOptions
from penstock.feed.dataset import Dataset
from penstock.feed.fetch import FetchOptions
from penstock.feed.opened import Opened
from penstock.feed.source import ShardSource
from penstock.feed.where_it_lies import open_where_it_lies
from penstock.lake import Lake, dataset_key
from penstock.shards import open_manifest, read_tag
from penstock.shards.manifest import INDEX, blocks_of, read_index
from penstock.shards.tags import LATEST

_URI = re.compile(r"(?P<lake>.+)/datasets/(?P<name>[a-z0-9_]+/[a-z0-9_]+)/?")
_NAME = re.compile(r"[a-z0-9_]+/[a-z0-9_]+")
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


def load_dataset(
    name_or_uri: str | Path,
    *,
    split: str = "train",
    version: str | int = LATEST,
    lake: Lake | str | Path | None = None,
    columns: Sequence[str] | None = None,
    cache: CacheOptions | str | Path | None = None,
    fetch: FetchOptions | None = None,
    memory: MemoryOptions | None = None,
    storage_options: Mapping[str, str] | None = None,
) -> Dataset:
    """Open one split of a published dataset; nothing but its manifest and index is read.

    Or a Delta table, a folder or file of Parquet, or an Arrow file, by its URI or path: row groups
    are turned into blocks in the cache when first touched, and only their footers are read before.

    Parameters
    ----------
    name_or_uri: `domain/name`, or the URI of a dataset (`s3://bucket/lake/datasets/domain/name`),
        a table or files (`s3://bucket/table`, `./clicks.parquet`).
    split: `train`, `validation`, `test`, or what else was published; of other data, `train`.
    version: a tag (`latest`, `prod`) or a fingerprint; of a Delta table, the number of a version.
    lake: where a name is looked up; by default `PENSTOCK_LAKE`, then `data/lake`.
    columns: the columns of a batch; by default all.
    cache: options of the cache, or its folder. It serves lakes in object storage; one on this
        machine's disk is mapped where it lies.
    fetch: how storage is asked: requests in flight, retries, how long to wait for an answer.
    memory: how much of it blocks may take that no file on this machine holds.

    Raises
    ------
    DatasetNotFound: no such dataset, version or split; names the near ones.
    StorageError: the lake can't be reached, or there are no credentials.
    """
    name_or_uri, version = str(name_or_uri), str(version)
    if not isinstance(split, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OrderError(f"split is the name of one, such as train, not {split!r}")
    if cache is None or isinstance(cache, CacheOptions):
        options = cache or CacheOptions()
    elif isinstance(cache, str | Path):  # pyright: ignore[reportUnnecessaryIsInstance]
        options = CacheOptions(folder=Path(cache))
    else:
        raise OrderError(f"cache is a folder or CacheOptions, not {cache!r}")
    found = _URI.fullmatch(name_or_uri)
    if found is None and _lies_somewhere(name_or_uri):
        opened = open_where_it_lies(
            name_or_uri,
            split=split,
            version=None if version == LATEST else version,
            columns=columns,
            cache=options,
            storage_options=storage_options,
        )
        return Dataset(_with_options(opened, fetch, memory))
    if found is not None:
        lake, name = Lake(found["lake"], storage_options=storage_options), found["name"]
    else:
        name = name_or_uri
        lake = lake if isinstance(lake, Lake) else Lake(lake, storage_options=storage_options)
    opened = _published(lake, name, split, version, options)
    dataset = Dataset(_with_options(opened, fetch, memory))
    return dataset if columns is None else dataset.select_columns(columns)


def _with_options(
    opened: Opened, fetch: FetchOptions | None, memory: MemoryOptions | None
) -> Opened:
    return replace(opened, fetch=fetch or opened.fetch, memory=memory or opened.memory)


def _lies_somewhere(name_or_uri: str) -> bool:
    """Whether it is no name but says where data lies."""
    if "://" in name_or_uri or name_or_uri.startswith(("/", ".", "~")):
        return True
    return _NAME.fullmatch(name_or_uri) is None and Path(name_or_uri).exists()


def _published(lake: Lake, name: str, split: str, version: str, cache: CacheOptions) -> Opened:
    fingerprint = version if _FINGERPRINT.fullmatch(version) else read_tag(lake, name, version)
    index_key = f"{dataset_key(name)}/{fingerprint}/{INDEX}"
    with ThreadPoolExecutor(1) as pool:  # both at once, as each takes a round trip
        indexed = pool.submit(lake.objects.get_or_none, index_key)
        manifest = open_manifest(lake, name, fingerprint)
        data = indexed.result()
    if split not in manifest.splits:
        near = did_you_mean(split, manifest.splits)
        raise DatasetNotFound(f"{name} has no split {split}.{near}")
    if data is None:
        raise ShardError(f"{lake.uri}/{index_key} is gone: publish {name} again")
    index = read_index(manifest, data)
    everything = blocks_of(index)
    blocks = everything.of_split(manifest, split)
    return Opened(
        name=name,
        uri=lake.uri,
        source=ShardSource(lake, manifest, blocks, everything, index),
        split=split,
        splits=manifest.splits,
        size_bytes=manifest.size_bytes,
        cache=cache,
        features=tuple(manifest.feature_names),
        statistics=manifest.statistics,
        published=manifest,
    )
