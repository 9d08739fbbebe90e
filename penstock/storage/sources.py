"""Raw files anywhere that fsspec reaches: S3, GCS, Azure, SFTP, HTTP, local."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

import fsspec

from penstock.errors import MissingExtra, SourceError


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One raw file as a listing shows it."""

    path: str
    """Path under the source's root; how the file is known from then on."""
    size_bytes: int
    tag: str
    """ETag where the store has one, else the time of change; differs when the content changed."""


class SourceFolder:
    """A folder of raw files, by URI.

    Raises
    ------
    SourceError: the scheme is unknown, or it needs credentials and there are none.
    """

    def __init__(self, uri: str, options: Mapping[str, Any] | None = None) -> None:
        self.uri = uri.rstrip("/")
        settings = dict(options or {})
        if urlsplit(uri).scheme in ("s3", "s3a"):
            settings = _s3_settings(uri, settings)
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.uri, **settings)
        except ImportError as error:
            raise MissingExtra("s3fs" if "s3fs" in str(error) else str(error), "s3") from error
        except ValueError as error:
            raise SourceError(f"{without_credentials(uri)}: {error}") from error

    def list(self, pattern: str) -> list[SourceFile]:
        """The files whose path under the root matches the glob, sorted by path.

        Raises
        ------
        SourceError: the folder is missing or can't be listed.
        """
        try:
            self._fs.invalidate_cache()
            if not self._fs.isdir(self._root):
                raise SourceError(
                    f"{self.identity}: no such folder; create it or mend the source's uri"
                )
            root = glob.escape(self._root)
            found: dict[str, dict[str, Any]] = self._fs.glob(f"{root}/{pattern}", detail=True)
        except (OSError, PermissionError) as error:
            raise SourceError(f"{self.identity}: can't be listed: {error}") from error
        files = [
            SourceFile(path[len(self._root) :].lstrip("/"), int(info["size"]), _tag(info))
            for path, info in found.items()
            if info["type"] == "file"
        ]
        return sorted(files, key=lambda file: file.path)

    @property
    def identity(self) -> str:
        """The folder's whole path, with no credentials; the same however the URI was written."""
        protocol = self._fs.protocol
        return f"{protocol if isinstance(protocol, str) else protocol[0]}://{self._root}"

    def stat(self, path: str) -> SourceFile:
        """The file as it is now."""
        self._fs.invalidate_cache()
        info: dict[str, Any] = self._fs.info(f"{self._root}/{path}")
        return SourceFile(path, int(info["size"]), _tag(info))

    def open(self, path: str) -> IO[bytes]:
        """The file's raw bytes, to read once from the start."""
        return self._fs.open(f"{self._root}/{path}", "rb")


def without_credentials(uri: str) -> str:
    """The URI without a user and password in it."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in uri else uri


def _tag(info: Mapping[str, Any]) -> str:
    for name in ("ETag", "etag", "md5Hash"):
        if info.get(name):
            return str(info[name]).strip('"')
    changed = info.get("mtime") or info.get("LastModified") or info.get("last_modified") or ""
    return str(changed)


def _s3_settings(uri: str, given: dict[str, Any]) -> dict[str, Any]:
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
