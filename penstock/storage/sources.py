"""Raw files wherever they lie: this machine's disk and object storage at full speed, and all else
that fsspec reaches (SFTP, HTTP, ...).

A listing is a table and not a list of objects, so that a million files cost seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any
from urllib.parse import urlsplit

import polars as pl

from penstock.errors import SourceError, StorageError
from penstock.storage.anywhere import Anywhere
from penstock.storage.buckets import Objects
from penstock.storage.disk import Disk
from penstock.storage.listing import LISTING, Fetched, Files, FileState
from penstock.storage.objects import local_root

_OBJECT_SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
_IN_FLIGHT = 32
"""Files looked at at once."""
_HIDDEN = r"(?:[._][^/]*$|\.(?:[^/.]|\.[^/])[^/]*/|_[^/=]*/)"
"""A name that begins with a dot or an underscore, as those of files that are still being written,
and of what is kept beside data, do; a folder `_day=1` is a partition."""
_NAMES_HIDDEN = re.compile(r"(?:^|/)(?:\{(?:[^/}]*,)?)?(?:[._]|\[[^/\]!]*[._])")
_HELD = 100_000
"""Files of a listing that are held before those that are known already are left out."""


class SourceFolder:
    """A folder of raw files, by URI.

    Parameters
    ----------
    options: for fsspec, through which the folder is then read whatever its scheme.

    Raises
    ------
    SourceError: the scheme is unknown, or it needs credentials and there are none.
    """

    def __init__(self, uri: str, options: Mapping[str, Any] | None = None) -> None:
        self.uri = uri.rstrip("/") or uri
        self._files = _opened(self.uri, dict(options or {}))

    def list(
        self,
        pattern: str = "**/*",
        *,
        after: str = "",
        wanted: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    ) -> pl.DataFrame:
        """The files whose path under the folder matches the glob: a frame of `LISTING`, sorted.

        Parameters
        ----------
        after: files up to this path are left out, in object storage without being listed.
        wanted: picks files of a listing that is too long to be held whole; of a short one, all are
            given.

        Raises
        ------
        SourceError: the folder is missing or can't be listed.
        """
        try:
            found, held, count = list[pl.DataFrame](), list[pl.DataFrame](), 0
            for frame in self.frames(after=after):
                held.append(frame.filter(self.matches(pattern)))
                count += held[-1].height
                if wanted is not None and count >= _HELD:
                    found.append(wanted(pl.concat(held)))
                    held, count = [], 0
        except (OSError, StorageError) as error:
            reason = str(error).splitlines()[0]
            raise SourceError(f"{self.identity}: can't be listed: {reason}") from error
        return pl.concat([pl.DataFrame(schema=LISTING), *found, *held]).sort("path")

    def frames(self, *, after: str = "") -> Iterator[pl.DataFrame]:
        """All files, some at a time, as storage lists them."""
        return self._files.list(after)

    @staticmethod
    def matches(pattern: str) -> pl.Expr:
        """Whether a `path` matches the glob, and is not hidden unless the glob names what is."""
        is_any = pattern in ("**/*", "**")
        matched = pl.lit(value=True) if is_any else _matches(pattern)
        if _NAMES_HIDDEN.search(pattern):
            return matched
        path = pl.col("path").str  # two questions are answered in half the time of one
        return matched & ~path.contains(f"^{_HIDDEN}") & ~path.contains(f"/{_HIDDEN}")

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine's disk."""
        return isinstance(self._files, Disk)

    def path_of(self, bucket: str, key: str) -> str | None:
        """The path under the folder of an object; None if it isn't in it.

        On disk a bucket is a folder as well, the first part of the path.
        """
        root = self.identity.partition("://")[2].strip("/")
        whole = f"{bucket}/{key}"
        whole = whole.strip("/") if self.is_local else whole.rstrip("/")
        is_odd = "\0" in whole or {"", ".", ".."} & set(whole.split("/"))
        return whole[len(root) + 1 :] if whole.startswith(f"{root}/") and not is_odd else None

    def look(self, paths: Sequence[str]) -> pl.DataFrame:
        """Those of the files that are there, as `list` gives them.

        Raises
        ------
        SourceError: the store can't be reached.
        """
        try:
            with ThreadPoolExecutor(_IN_FLIGHT) as pool:
                found = [*pool.map(self._files.look, paths)]
        except (OSError, StorageError) as error:
            reason = str(error).splitlines()[0]
            raise SourceError(f"{self.identity}: can't be looked at: {reason}") from error
        return pl.concat([pl.DataFrame(schema=LISTING), *found]).sort("path")

    def delete(self, paths: Sequence[str]) -> None:
        """Take files away; those that are gone already are no error."""
        self._files.delete(paths)

    @property
    def identity(self) -> str:
        """The folder's whole path, with no credentials; the same however the URI was written."""
        return self._files.identity

    def state(self, path: str) -> FileState:
        """The file's state now."""
        return self._files.state(path)

    def fetch(self, paths: Sequence[str]) -> Iterator[Fetched | OSError]:
        """Whole files in the order of `paths`, many at a time; an error in a file's own place."""
        return self._files.fetch(paths)

    def open(self, path: str) -> IO[bytes]:
        """The file's raw bytes, to read once from the start."""
        return self._files.open(path)


def _opened(uri: str, options: dict[str, Any]) -> Files:
    root = local_root(uri)
    if root is not None and not options:
        return Disk(root)
    if urlsplit(uri).scheme in _OBJECT_SCHEMES and not options:
        return Objects(uri)
    return Anywhere(uri, options)


def _matches(pattern: str) -> pl.Expr:
    """Whether a path matches a glob of `**` (folders), `*` and `?` (in a name), `[ab]`, `{a,b}`."""
    said, depth, at = "", 0, 0
    while at < len(pattern):
        sign = pattern[at]
        if pattern.startswith("**/", at):
            said, at = said + "(?:.*/)?", at + 3
            continue
        if pattern.startswith("**", at):
            said, at = said + ".*", at + 2
            continue
        close = pattern.find("]", at + 2) if sign == "[" else -1
        if close > 0:
            inside = re.sub(r"([\\\[])", r"\\\1", pattern[at + 1 : close])
            said += "[" + ("^" + inside[1:] if inside.startswith("!") else inside) + "]"
            at = close + 1
            continue
        if sign == "{" and "}" in pattern[at:]:
            said, depth = said + "(?:", depth + 1
        elif sign == "}" and depth:
            said, depth = said + ")", depth - 1
        elif sign == "," and depth:
            said += "|"
        else:
            said += {"*": "[^/]*", "?": "[^/]"}.get(sign) or re.escape(sign)
        at += 1
    return pl.col("path").str.contains(f"(?s)^(?:{said})$")
