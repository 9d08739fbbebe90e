"""A split that was found: where its blocks come from, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.errors import LakeError
from penstock.feed.blocks import MemoryOptions
from penstock.feed.cache import CacheOptions
from penstock.feed.fetch import FetchOptions
from penstock.feed.source import BlockSource
from penstock.shards import Manifest


@dataclass(frozen=True)
class Opened:
    """One split of a dataset, as found in a lake or behind a URI."""

    name: str
    uri: str
    """Of the lake, or of the table or files."""
    source: BlockSource
    split: str
    splits: Mapping[str, int]
    """Rows of each."""
    size_bytes: int
    cache: CacheOptions
    features: tuple[str, ...] = ()
    """Names inside the packed column."""
    statistics: Mapping[str, Any] = field(default_factory=dict[str, Any])
    published: Manifest | None = None
    fetch: FetchOptions = field(default_factory=FetchOptions)
    memory: MemoryOptions = field(default_factory=MemoryOptions)

    @property
    def fingerprint(self) -> str:
        """Names exactly what is in it."""
        return self.source.fingerprint

    @property
    def rows(self) -> int:
        """Rows of the split."""
        return int(self.source.rows.sum())

    @property
    def manifest(self) -> Manifest:
        """What was published.

        Raises
        ------
        LakeError: the data is read where it lies, and has no manifest.
        """
        if self.published is None:
            raise LakeError(
                f"{self.name} was opened where it lies; only a published dataset has a manifest"
            )
        return self.published
