"""Raw files that only fsspec reaches (SFTP, HTTP, ...), or that options are given for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import IO, Any

import polars as pl

from penstock.errors import MissingExtra, SourceError
from penstock.storage.listing import LISTING, Fetched, FileState, without_credentials

_ETAGS = ("ETag", "etag", "md5Hash")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified")
_CHECKSUMS = ("checksum", "sha", "CRC")
"""What stores call that which tells one state of a file from another; if none is there, when it was
made does."""


class Anywhere:
    """A folder that fsspec reaches."""

    def __init__(self, uri: str, options: dict[str, Any]) -> None:
        import fsspec  # 0.05 s that a folder on disk doesn't need

        settings = s3_settings(uri, options) if uri.startswith(("s3:", "s3a:")) else options
        try:
            self._fs, self._root = fsspec.core.url_to_fs(uri, **settings)
        except ImportError as error:
            raise MissingExtra("s3fs" if "s3fs" in str(error) else str(error), "s3") from error
        except ValueError as error:
            raise SourceError(f"{without_credentials(uri)}: {error}") from error
        protocol = self._fs.protocol
        kind = protocol if isinstance(protocol, str) else protocol[0]
        self.identity = f"{kind}://{self._root}"

    def list(self, after: str) -> Iterator[pl.DataFrame]:
        self._fs.invalidate_cache()
        if not self._fs.isdir(self._root):
            raise SourceError(
                f"{self.identity}: no such folder; create it or mend the source's uri"
            )
        found: dict[str, dict[str, Any]] = self._fs.find(self._root, detail=True)
        rows = [
            (path[len(self._root) :].lstrip("/"), int(info["size"]), _tag(info), _changed(info))
            for path, info in found.items()
        ]
        rows = [(*row, None) for row in rows if row[0] > after]
        yield pl.DataFrame(rows, schema=LISTING, orient="row")

    def state(self, path: str) -> FileState:
        self._fs.invalidate_cache()
        info: dict[str, Any] = self._fs.info(f"{self._root}/{path}")
        return FileState(int(info["size"]), _tag(info))

    def look(self, path: str) -> pl.DataFrame:
        self._fs.invalidate_cache()
        try:
            info: dict[str, Any] = self._fs.info(f"{self._root}/{path}")
        except FileNotFoundError:
            return pl.DataFrame(schema=LISTING)
        row = (path, int(info["size"] or 0), _tag(info), _changed(info), None)
        rows = [row] if info.get("type", "file") == "file" else []
        return pl.DataFrame(rows, schema=LISTING, orient="row")

    def delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(f"{self._root}/{path}")

    def fetch(self, paths: Sequence[str]) -> Iterator[Fetched | OSError]:
        with ThreadPoolExecutor(8) as pool:
            yield from pool.map(self._fetched, paths)

    def _fetched(self, path: str) -> Fetched | OSError:
        try:
            with self.open(path) as file:
                data = file.read()
            return Fetched(data, self.state(path))
        except OSError as error:
            return error

    def open(self, path: str) -> IO[bytes]:
        return self._fs.open(f"{self._root}/{path}", "rb")


def _tag(info: Mapping[str, Any]) -> str:
    found = next((info[name] for name in (*_ETAGS, *_TIMES, *_CHECKSUMS) if info.get(name)), None)
    made = info.get("created", "")
    if isinstance(made, datetime):
        made = made.timestamp()  # as some stores list it
    return str(found or made).strip('"')


def _changed(info: Mapping[str, Any]) -> datetime | None:
    return next((info[name] for name in _TIMES if isinstance(info.get(name), datetime)), None)


def s3_settings(uri: str, given: dict[str, Any]) -> dict[str, Any]:
    """Settings of s3fs from the same AWS_* variables that the lake reads."""
    environment = os.environ
    has_key = bool(environment.get("AWS_ACCESS_KEY_ID") or given.get("key"))
    has_key = has_key or bool(environment.get("AWS_PROFILE") or given.get("anon"))
    if not has_key and environment.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise SourceError(
            f"{uri}: no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or give key and secret in the source's options"
        )
    if environment.get("AWS_ENDPOINT_URL"):
        given.setdefault("endpoint_url", environment["AWS_ENDPOINT_URL"])
    given.setdefault("skip_instance_cache", True)
    return given
