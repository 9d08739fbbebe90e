"""What a published dataset holds: the manifest (JSON, a line a shard) and its index of blocks."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from penstock.errors import DatasetNotFound, ShardError, did_you_mean
from penstock.lake import Lake, dataset_key
from penstock.shards.packing import FEATURES, names_of

FORMAT = 1
MANIFEST = "manifest.json"
INDEX = "index.arrow"


@dataclass(frozen=True, slots=True)
class Shard:
    """One Arrow IPC file of a dataset; it holds rows of one split."""

    file: str
    split: str
    rows: int
    size_bytes: int
    checksum: str
    """xxh3-64 of the whole file, 16 hex digits."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A published dataset."""

    name: str
    fingerprint: str
    schema: pa.Schema
    shards: tuple[Shard, ...]
    splits: Mapping[str, int]
    """Rows of each split."""
    statistics: Mapping[str, Any]
    """Of the features, over the train split alone."""
    inputs: Mapping[str, Any]
    """Each input table's id and version."""
    details: Mapping[str, Any]
    """What else the publisher wrote down."""
    index_checksum: str
    """xxh3-64 of the index, 16 hex digits."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.size_bytes for shard in self.shards)

    @property
    def feature_names(self) -> list[str]:
        """Names of the features in the packed column, in order; none where there is no such."""
        at = self.schema.get_field_index(FEATURES)
        return names_of(self.schema.field(at)) if at >= 0 else []

    def to_json(self) -> bytes:
        """As kept in the lake."""
        schema = base64.b64encode(self.schema.serialize()).decode()
        columns = {field.name: str(field.type) for field in self.schema}
        value = {
            "format": FORMAT,
            "name": self.name,
            "fingerprint": self.fingerprint,
            "splits": dict(self.splits),
            "columns": columns,
            "features": self.feature_names,
            "statistics": dict(self.statistics),
            "inputs": dict(self.inputs),
            "details": dict(self.details),
            "index_checksum": self.index_checksum,
            "shards": [asdict(shard) for shard in self.shards],
            "arrow_schema": schema,
        }
        return json.dumps(value, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Manifest:
        """What `to_json` wrote.

        Raises
        ------
        ShardError: it is of another format, or damaged.
        """
        try:
            value = json.loads(data)
            if value["format"] != FORMAT:
                raise ShardError(
                    f"{where}: format {value['format']}; this version of Penstock reads {FORMAT}. "
                    "Install the version that published it, or publish it again"
                )
            schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(value["arrow_schema"])))
            return cls(
                name=value["name"],
                fingerprint=value["fingerprint"],
                schema=schema,
                shards=tuple(Shard(**shard) for shard in value["shards"]),
                splits=value["splits"],
                statistics=value["statistics"],
                inputs=value["inputs"],
                details=value["details"],
                index_checksum=value["index_checksum"],
            )
        except (KeyError, ValueError, TypeError, pa.ArrowException) as error:
            raise ShardError(f"{where}: damaged manifest: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of one split, in stored order; every array has one entry a block."""

    shard: NDArray[np.int32]
    """Number of the shard in the manifest."""
    offset: NDArray[np.int64]
    """First byte of the block's IPC message in the shard."""
    length: NDArray[np.int64]
    """Bytes of the message."""
    rows: NDArray[np.int64]
    checksum: NDArray[np.uint64]
    """xxh3-64 of the message."""
    number: NDArray[np.int64]
    """The block's number over all splits."""
    first_row: NDArray[np.int64]
    """Row number within the split of the block's first row."""

    def __len__(self) -> int:
        return len(self.rows)

    def of_split(self, manifest: Manifest, split: str) -> Blocks:
        """Those of one split."""
        of_split = [n for n, shard in enumerate(manifest.shards) if shard.split == split]
        kept = np.isin(self.shard, of_split)
        rows = self.rows[kept]
        return Blocks(
            shard=self.shard[kept],
            offset=self.offset[kept],
            length=self.length[kept],
            rows=rows,
            checksum=self.checksum[kept],
            number=self.number[kept],
            first_row=np.cumsum(rows) - rows,
        )


_INDEX_COLUMNS = ("shard", "offset", "length", "rows", "checksum")


def write_index(columns: Mapping[str, list[int]], ranges: Mapping[str, pa.Array]) -> bytes:
    """The index of all blocks as an Arrow IPC file; `ranges` are further columns of it."""
    kinds = {"shard": pa.int32(), "checksum": pa.uint64()}
    arrays = {name: pa.array(v, kinds.get(name, pa.int64())) for name, v in columns.items()}
    table = pa.table({**arrays, **ranges})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def read_index(manifest: Manifest, data: bytes) -> pa.Table:
    """The index of all blocks, from its bytes.

    Raises
    ------
    ShardError: they are not the bytes that were published.
    """
    where = f"{manifest.name}@{manifest.fingerprint}"
    if xxhash.xxh3_64_hexdigest(data) != manifest.index_checksum:
        raise ShardError(f"{where}: {INDEX} is not what was published (checksum)")
    try:
        return pa.ipc.open_file(pa.py_buffer(data)).read_all()
    except pa.ArrowException as error:
        raise ShardError(f"{where}: damaged index") from error


def numbers_of(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column's numbers. pyarrow's `to_numpy` imports pandas first, where that is installed, which
    takes ten times as long as a first batch.
    """
    return pl.Series(pl.from_arrow(column)).to_numpy()


def blocks_of(index: pa.Table) -> Blocks:
    """The blocks of all splits, from the index."""
    columns = {name: numbers_of(index[name]) for name in _INDEX_COLUMNS}
    first_row = np.cumsum(columns["rows"]) - columns["rows"]
    return Blocks(**columns, number=np.arange(index.num_rows), first_row=first_row)


def open_manifest(lake: Lake, name: str, fingerprint: str) -> Manifest:
    """The manifest of a published dataset.

    Raises
    ------
    DatasetNotFound: there is none of that fingerprint.
    """
    key = f"{dataset_key(name)}/{fingerprint}/{MANIFEST}"
    found = lake.objects.get_or_none(key)
    if found is None:
        known = [entry for entry in lake.objects.folders(dataset_key(name)) if entry != "tags"]
        near = did_you_mean(fingerprint, known)
        raise DatasetNotFound(f"{name} has no version {fingerprint}.{near}")
    return Manifest.from_json(found, f"{lake.uri}/{key}")
