"""Rows into shards: a stream of batches in, an immutable dataset out.

Shards first, then the index, then the manifest; a reader sees the dataset once the manifest is
there. A run that was killed leaves shards without a manifest, which the next one overwrites with
the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import xxhash

from penstock.errors import ShardError
from penstock.lake import Lake, dataset_key
from penstock.shards.manifest import INDEX, MANIFEST, Manifest, Shard, open_manifest, write_index
from penstock.shards.packing import Packing, matrix_of
from penstock.shards.ranges import RangeWriter
from penstock.shards.statistics import FeatureStatistics
from penstock.storage.objects import ObjectWriter


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Sizes of what is written; they are part of the order of samples, not of their values."""

    block_bytes: int = 4 << 20
    """Of a record batch, the unit of fetch and shuffle."""
    shard_bytes: int = 256 << 20


def write_dataset(
    lake: Lake,
    name: str,
    fingerprint: str,
    splits: Mapping[str, Iterable[pa.Table]],
    schema: pa.Schema,
    packing: Packing,
    *,
    inputs: Mapping[str, Any],
    details: Mapping[str, Any],
    options: WriteOptions | None = None,
) -> Manifest:
    """Write a dataset's shards, index and manifest.

    Parameters
    ----------
    splits: for each split, its rows in order; a split without rows is left out.
    schema: of the rows, before packing.
    """
    writer = _DatasetWriter(lake, name, fingerprint, schema, packing, options or WriteOptions())
    for split, tables in splits.items():
        writer.write_split(split, tables)
    folder = f"{dataset_key(name)}/{fingerprint}"
    index = write_index(writer.index, writer.ranges.columns())
    lake.objects.put(f"{folder}/{INDEX}", index)
    manifest = Manifest(
        name=name,
        fingerprint=fingerprint,
        schema=writer.schema,
        shards=tuple(writer.shards),
        splits=writer.rows,
        statistics=writer.statistics.to_json(),
        inputs=inputs,
        details=details,
        index_checksum=xxhash.xxh3_64_hexdigest(index),
    )
    lake.objects.put_if_absent(f"{folder}/{MANIFEST}", manifest.to_json())
    return open_manifest(lake, name, fingerprint)


class _DatasetWriter:
    def __init__(
        self,
        lake: Lake,
        name: str,
        fingerprint: str,
        schema: pa.Schema,
        packing: Packing,
        options: WriteOptions,
    ) -> None:
        self._lake, self._folder = lake, f"{dataset_key(name)}/{fingerprint}"
        self._packing, self._options = packing, options
        self.schema = packing.schema(schema)
        self.statistics = FeatureStatistics(packing.names)
        self.ranges = RangeWriter(schema)
        self.shards: list[Shard] = []
        self.rows: dict[str, int] = {}
        columns = ("shard", "offset", "length", "rows", "checksum")
        self.index: dict[str, list[int]] = {name: [] for name in columns}
        self._open: _OpenShard | None = None

    def write_split(self, split: str, tables: Iterable[pa.Table]) -> None:
        held = list[pa.Table]()
        for table in tables:
            held.append(table)
            if sum(piece.nbytes for piece in held) >= self._options.block_bytes:
                held = self._write_full_blocks(split, pa.concat_tables(held))
        if held:
            self._write_block(split, pa.concat_tables(held))
        self._close()

    def _write_full_blocks(self, split: str, table: pa.Table) -> list[pa.Table]:
        """Write all whole blocks of a table; what is left of it."""
        bytes_a_row = max(1, table.nbytes // max(1, table.num_rows))
        rows = max(1, self._options.block_bytes // bytes_a_row)
        whole = table.num_rows // rows * rows
        for start in range(0, whole, rows):
            self._write_block(split, table.slice(start, rows))
        return [table.slice(whole)] if whole < table.num_rows else []

    def _write_block(self, split: str, table: pa.Table) -> None:
        if table.num_rows == 0:
            return
        batch = self._packing.pack(table, self.schema)
        if split == "train" and self._packing.names:
            self.statistics.add(matrix_of(batch))
        if self._open is not None and self._open.written_bytes >= self._options.shard_bytes:
            self._close()
        if self._open is None:
            file = f"shard-{len(self.shards):05d}.arrow"
            sink = self._lake.objects.open_writer(f"{self._folder}/{file}")
            self._open = _OpenShard(file, split, sink, self.schema)
        offset, length, checksum = self._open.write(batch)
        self.ranges.add(table)
        row = (len(self.shards), offset, length, batch.num_rows, checksum)
        for column, value in zip(self.index.values(), row, strict=True):
            column.append(value)
        self.rows[split] = self.rows.get(split, 0) + batch.num_rows

    def _close(self) -> None:
        if self._open is not None:
            self.shards.append(self._open.close())
            self._open = None


class _OpenShard:
    """A shard being written, with checksums of it and of its newest block."""

    def __init__(self, file: str, split: str, sink: ObjectWriter, schema: pa.Schema) -> None:
        self._file, self._split, self._rows = file, split, 0
        # What the writer puts before the first block, at the moment that it writes that block: the
        # magic number, padded, and the schema.
        self._preamble_bytes = 8 + schema.serialize().size
        self._sink = _Checked(sink, self._preamble_bytes)
        self._writer = pa.ipc.new_file(pa.PythonFile(self._sink, mode="w"), schema)

    @property
    def written_bytes(self) -> int:
        return self._sink.written_bytes

    def write(self, batch: pa.RecordBatch) -> tuple[int, int, int]:
        """Offset, length and checksum of the block's IPC message."""
        start = max(self._sink.written_bytes, self._preamble_bytes)
        self._sink.block.reset()
        self._writer.write_batch(batch)
        self._rows += batch.num_rows
        length = self._sink.written_bytes - start
        if length != pa.ipc.get_record_batch_size(batch):
            raise ShardError(
                f"{self._file}: a block took {length} bytes, and its message has "
                f"{pa.ipc.get_record_batch_size(batch)}; this pyarrow lays files out otherwise"
            )
        return start, length, self._sink.block.intdigest()

    def close(self) -> Shard:
        self._writer.close()
        self._sink.close()
        digest = self._sink.whole.hexdigest()
        return Shard(self._file, self._split, self._rows, self._sink.written_bytes, digest)


class _Checked(io.RawIOBase):
    """Passes bytes on, and hashes them on the way; those of the preamble belong to no block."""

    def __init__(self, sink: ObjectWriter, preamble_bytes: int) -> None:
        super().__init__()
        self._preamble_bytes = preamble_bytes
        self._sink = sink
        self.whole, self.block = xxhash.xxh3_64(), xxhash.xxh3_64()
        self.written_bytes = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.written_bytes

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        self.whole.update(view)
        self.block.update(view[max(0, self._preamble_bytes - self.written_bytes) :])
        written = self._sink.write(data)
        self.written_bytes += written
        return written

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._sink.close()
