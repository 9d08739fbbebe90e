"""Where the blocks of a dataset come from: its shards in a lake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from penstock.errors import ShardError
from penstock.feed.cache import Layout
from penstock.feed.fetch import Fetcher
from penstock.lake import Lake, dataset_key
from penstock.shards import Blocks, Manifest
from penstock.shards.manifest import numbers_of
from penstock.shards.ranges import Ranges, ranges_of
from penstock.storage.objects import ObjectStore


class BlockSource(Protocol):
    """Blocks of one split by number, each an Arrow IPC record batch message."""

    @property
    def fingerprint(self) -> str:
        """Names the dataset in the cache and in the order."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Of every block."""
        ...

    @property
    def rows(self) -> NDArray[np.int64]:
        """(blocks,) rows of each block."""
        ...

    @property
    def layout(self) -> Layout:
        """Where blocks lie in the cache's files; of all splits, so that they share them."""
        ...

    @property
    def in_layout(self) -> NDArray[np.int64]:
        """(blocks,) each block's number in the layout."""
        ...

    @property
    def columns(self) -> pa.Schema:
        """As batches show them."""
        ...

    @property
    def packed(self) -> dict[str, tuple[str, int]]:
        """Columns that lie inside of a block's column: its name, and the place there."""
        ...

    @property
    def file_of(self) -> NDArray[np.int64]:
        """(blocks,) the file that each is read from, as users know them, by number."""
        ...

    @property
    def block_bytes(self) -> NDArray[np.int64]:
        """(blocks,) bytes of each, at least about."""
        ...

    @property
    def most_at_once(self) -> int:
        """Blocks that may be made at the same time."""
        ...

    @property
    def objects(self) -> ObjectStore:
        """Where a fetcher reads."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether blocks come over a network, many at once being quicker."""
        ...

    @property
    def ranges(self) -> dict[str, Ranges]:
        """Of columns that have them, an entry a block."""
        ...

    def elements(self, column: str) -> NDArray[np.int64] | None:
        """(blocks,) list elements of a column; None where only the blocks tell."""
        ...

    def local_path(self, file: int) -> Path | None:
        """A file of the layout that lies on this machine's disk already."""
        ...

    def runs(self, blocks: Sequence[int]) -> list[list[int]]:
        """The blocks in groups to be fetched with one request each."""
        ...

    def fetch(self, blocks: Sequence[int], fetcher: Fetcher) -> list[tuple[memoryview, int]]:
        """The bytes of a group's blocks, verified, each with its checksum.

        Raises
        ------
        ShardError: they are not what was published.
        StorageError: they can't be had.
        """
        ...

    def verify(self, block: int, data: Any) -> int:
        """The checksum of a block's bytes.

        Raises
        ------
        ShardError: it is not the published one.
        """
        ...


_RUN_BYTES = 8 << 20


@dataclass(frozen=True)
class ShardSource:
    """The blocks of one split of a published dataset."""

    lake: Lake
    manifest: Manifest
    blocks: Blocks
    everything: Blocks
    """Of all splits."""
    index: pa.Table

    @property
    def fingerprint(self) -> str:
        """The dataset's."""
        return self.manifest.fingerprint

    @property
    def schema(self) -> pa.Schema:
        """The dataset's."""
        return self.manifest.schema

    @property
    def rows(self) -> NDArray[np.int64]:
        """(blocks,) rows of each block."""
        return self.blocks.rows

    @property
    def layout(self) -> Layout:
        """The shards' own."""
        return self._layout

    @cached_property
    def _layout(self) -> Layout:
        shards = self.manifest.shards
        return Layout(
            files=tuple((shard.file, shard.size_bytes) for shard in shards),
            file=self.everything.shard,
            offset=self.everything.offset,
            room=self.everything.length,
        )

    @property
    def in_layout(self) -> NDArray[np.int64]:
        """(blocks,) each block's number over all splits."""
        return self.blocks.number

    @property
    def columns(self) -> pa.Schema:
        """The blocks' own."""
        return self.manifest.schema

    @property
    def packed(self) -> dict[str, tuple[str, int]]:
        """None: `features` is shown as the matrix that it is."""
        return {}

    @property
    def file_of(self) -> NDArray[np.int64]:
        """(blocks,) the shard of each."""
        return self.layout.file[self.in_layout].astype(np.int64)

    @property
    def block_bytes(self) -> NDArray[np.int64]:
        """(blocks,) bytes of each."""
        return self.blocks.length

    @property
    def most_at_once(self) -> int:
        """As many as are fetched."""
        return 64

    @property
    def objects(self) -> ObjectStore:
        """The lake's."""
        return self.lake.objects

    @property
    def is_remote(self) -> bool:
        """Whether the lake is in object storage."""
        return not self.lake.is_local

    @property
    def ranges(self) -> dict[str, Ranges]:
        """As published; a packed feature has its own name."""
        return self._ranges

    @cached_property
    def _ranges(self) -> dict[str, Ranges]:
        return ranges_of(self.index, self.blocks.number.tolist())

    def elements(self, column: str) -> NDArray[np.int64] | None:
        """As published."""
        name = f"elements:{column}"
        if name not in self.index.column_names:
            return None
        return numbers_of(self.index[name])[self.blocks.number]

    def local_path(self, file: int) -> Path | None:
        """A shard of a lake on this machine's disk."""
        return self.lake.objects.local_path(self._key(file))

    def runs(self, blocks: Sequence[int]) -> list[list[int]]:
        """Blocks that lie one after another in a shard, up to 8 MiB."""
        runs = list[list[int]]()
        shard, offset, length = self.blocks.shard, self.blocks.offset, self.blocks.length
        size = 0
        for block in blocks:
            before = runs[-1][-1] if runs else None
            adjoins = (
                before is not None
                and shard[before] == shard[block]
                and offset[before] + length[before] == offset[block]
                and size + length[block] <= _RUN_BYTES
            )
            size = size + int(length[block]) if adjoins else int(length[block])
            if adjoins:
                runs[-1].append(block)
            else:
                runs.append([block])
        return runs

    def fetch(self, blocks: Sequence[int], fetcher: Fetcher) -> list[tuple[memoryview, int]]:
        """One ranged read, cut into blocks."""
        offset, length = self.blocks.offset, self.blocks.length
        start, stop = int(offset[blocks[0]]), int(offset[blocks[-1]] + length[blocks[-1]])
        key = self._key(int(self.blocks.shard[blocks[0]]))
        whole = memoryview(fetcher.get(key, start, stop - start).result())
        pieces = [
            whole[int(offset[block]) - start : int(offset[block] + length[block]) - start]
            for block in blocks
        ]
        sums = [self.verify(block, piece) for block, piece in zip(blocks, pieces, strict=True)]
        return list(zip(pieces, sums, strict=True))

    def verify(self, block: int, data: Any) -> int:
        """Against the manifest's index."""
        checksum = xxhash.xxh3_64_intdigest(data)
        if checksum != int(self.blocks.checksum[block]):
            key = self._key(int(self.blocks.shard[block]))
            raise ShardError(
                f"{self.lake.uri}/{key}: bytes at {self.blocks.offset[block]} are not what was "
                "published (checksum). Publish the dataset again from its table, or restore the "
                "file"
            )
        return checksum

    def _key(self, file: int) -> str:
        shard = self.manifest.shards[file].file
        return f"{dataset_key(self.manifest.name)}/{self.manifest.fingerprint}/{shard}"
