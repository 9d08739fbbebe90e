"""What is told of raw files, whatever lists them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Protocol
from urllib.parse import urlsplit

import polars as pl

LISTING = pl.Schema(
    {
        "path": pl.String,
        "size_bytes": pl.Int64,
        "tag": pl.String,
        "changed_at": pl.Datetime("us", "UTC"),
        "problem": pl.String,
    }
)
"""A row a file: its path under the folder; a tag that differs when the content does; why it can't
be read, where the listing shows that already."""


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells one state of a file from another."""

    size_bytes: int
    tag: str
    """ETag where the store has one, else the times of change."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole file, and which state of it that is."""

    data: bytes
    state: FileState


class Files(Protocol):
    """A folder of one kind of storage. Paths are relative to it."""

    identity: str

    def list(self, after: str) -> Iterator[pl.DataFrame]: ...
    def state(self, path: str) -> FileState: ...
    def look(self, path: str) -> pl.DataFrame: ...
    def delete(self, paths: Sequence[str]) -> None: ...
    def fetch(self, paths: Sequence[str]) -> Iterator[Fetched | OSError]: ...
    def open(self, path: str) -> IO[bytes]: ...


def without_credentials(uri: str) -> str:
    """The URI without a user and password in it."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in uri else uri
