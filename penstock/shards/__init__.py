"""The Arrow shard format: ordinary Arrow IPC files that pyarrow, polars and DuckDB open unaided.

    rows ─▶ packing.py: features in one tensor column ─▶ write.py: blocks into shards, checksums
    manifest.json + index.arrow ─▶ manifest.py: every shard, every block's offset and checksum
    tags/<tag>/00000003.json ─▶ tags.py: where `latest`, `prod`, ... point

A dataset is immutable and named by its fingerprint; its manifest is put last, so that without one
nothing was published.
"""

from penstock.shards.manifest import Blocks, Manifest, Shard, open_manifest
from penstock.shards.packing import FEATURES, Packing
from penstock.shards.tags import move_tag, read_tag, tags
from penstock.shards.write import WriteOptions, write_dataset

__all__ = [
    "FEATURES",
    "Blocks",
    "Manifest",
    "Packing",
    "Shard",
    "WriteOptions",
    "move_tag",
    "open_manifest",
    "read_tag",
    "tags",
    "write_dataset",
]
