"""Raw files wherever they lie: this machine's disk and object storage at full speed, and all else
that fsspec reaches (SFTP, HTTP, ...).

A listing is a table and not a list of objects, so that a million files cost seconds.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Protocol, cast
from urllib.parse import urlsplit

import obstore
import polars as pl

from penstock.errors import MissingExtra, SourceError, StorageError
from penstock.storage.objects import local_root, open_store, resolve_options, translated

_OBJECT_SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
_IN_FLIGHT = 32
"""Objects asked for at once, of one fetch."""
_LAST = "/\U0010ffff"
"""Sorts behind all that is in a folder."""
_LISTED = 20_000
"""Files of a listing held as objects before they become a table."""
_HELD = 100_000
"""Files of a listing that are held before those that are known already are left out."""
_ODD_KEY = "object with invalid path"
"""What obstore says of a key that it can't name."""

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


_DiskRow = tuple[str, int, int, int, str | None]
"""Path, bytes, times of change of content and inode, problem."""


class _Entry:
    """One file, as `os.scandir` would give it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def is_symlink(self) -> bool:
        return Path(self.path).is_symlink()

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return Path(self.path).stat(follow_symlinks=follow_symlinks)


class _Files(Protocol):
    """A folder of one kind of storage. Paths are relative to it."""

    identity: str

    def list(self, after: str) -> Iterator[pl.DataFrame]: ...
    def state(self, path: str) -> FileState: ...
    def look(self, path: str) -> pl.DataFrame: ...
    def delete(self, paths: Sequence[str]) -> None: ...
    def fetch(self, paths: Sequence[str]) -> Iterator[Fetched | OSError]: ...
    def open(self, path: str) -> IO[bytes]: ...


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
        """Whether a `path` matches the glob."""
        return pl.lit(value=True) if pattern in ("**/*", "**") else _matches(pattern)

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine's disk."""
        return isinstance(self._files, _Disk)

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


class _Disk:
    """A folder on this machine.

    A state is told by the times of change, the inode's too, which nobody can set back.
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self.identity = f"file://{self._root}"

    def list(self, after: str) -> Iterator[pl.DataFrame]:
        if not Path(self._root).is_dir():
            if Path(self._root).exists():
                raise SourceError(
                    f"{self.identity}: it is a file; a source's uri is its folder, and the pattern "
                    "picks files"
                )
            raise SourceError(
                f"{self.identity}: no such folder; create it or mend the source's uri"
            )
        rows = list[_DiskRow]()
        folders = [""]
        while folders:
            prefix = folders.pop()
            with os.scandir(f"{self._root}/{prefix}") as entries:
                for entry in entries:
                    path = prefix + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        if path + _LAST > after:
                            folders.append(path + "/")
                    elif path > after:
                        rows += self._entry(entry, path)
            if len(rows) >= _LISTED:
                yield _disk_listing(rows)
                rows = []
        yield _disk_listing(rows)

    def look(self, path: str) -> pl.DataFrame:
        found = Path(self._root, path)
        try:
            rows = [*self._entry(_Entry(found), path)] if found.exists() else []
            if self._out_of_folder(str(found)) and not Path(found).is_symlink():
                rows = []  # by a folder that is a link out, which a listing doesn't follow either
        except (OSError, ValueError):  # no name that a file can have
            rows = []
        return _disk_listing(rows)

    def _entry(self, entry: os.DirEntry[str] | _Entry, path: str) -> Iterator[_DiskRow]:
        problem = None
        try:
            if entry.is_symlink() and (target := self._out_of_folder(entry.path)):
                problem = f"it is a link out of the folder, to {target}; links out are not followed"
            found = entry.stat(follow_symlinks=problem is None)
        except FileNotFoundError:  # gone since, or a link to nothing
            return
        if not _is_text(path):
            path = os.fsencode(path).decode(errors="backslashreplace")
            problem = "its name is no UTF-8; rename it"
        if problem or stat.S_ISREG(found.st_mode):
            yield path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, problem

    def _out_of_folder(self, path: str) -> str:
        """Where a link leads, if not to somewhere in the folder."""
        target = os.path.realpath(path)
        root = os.path.realpath(self._root)
        return "" if os.path.commonpath([root, target]) == root else target

    def state(self, path: str) -> FileState:
        return _disk_state(Path(self._root, path).stat())

    def delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            Path(self._root, path).unlink(missing_ok=True)

    def fetch(self, paths: Sequence[str]) -> Iterator[Fetched | OSError]:
        for path in paths:
            try:
                yield _read_whole(f"{self._root}/{path}")
            except OSError as error:
                yield error

    def open(self, path: str) -> IO[bytes]:
        return Path(self._root, path).open("rb")


class _Objects:
    """A prefix of a bucket, through obstore."""

    def __init__(self, uri: str) -> None:
        try:
            options = resolve_options(uri, None)
        except StorageError as error:
            raise SourceError(str(error)) from error
        self.identity, self._uri = without_credentials(uri), uri
        self._store = open_store(uri, None, options)

    def list(self, after: str) -> Iterator[pl.DataFrame]:
        try:
            for page in self._pages(after):
                yield page
                after = str(page["path"][-1]) if page.height else after
        except StorageError as error:
            if _ODD_KEY not in str(error):
                raise
            from penstock.storage.odd_keys import listed

            yield from listed(self._uri, after)

    def _pages(self, after: str) -> Iterator[pl.DataFrame]:
        with translated(self.identity, ""):
            for page in obstore.list(self._store, offset=after or None, chunk_size=5000):
                yield pl.DataFrame(
                    {
                        "path": [found["path"] for found in page],
                        "size_bytes": [found["size"] for found in page],
                        "tag": [_object_tag(found) for found in page],
                        "changed_at": [found["last_modified"] for found in page],
                        "problem": [None] * len(page),
                    },
                    schema=LISTING,
                )

    def state(self, path: str) -> FileState:
        with translated(self.identity, path):
            found = obstore.head(self._store, path)
        return FileState(found["size"], _object_tag(found))

    def look(self, path: str) -> pl.DataFrame:
        try:
            with translated(self.identity, path):
                found = obstore.head(self._store, path)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return pl.DataFrame(schema=LISTING)
            raise
        row = (path, found["size"], _object_tag(found), found["last_modified"], None)
        return pl.DataFrame([row], schema=LISTING, orient="row")

    def delete(self, paths: Sequence[str]) -> None:
        if paths:
            with translated(self.identity, ""):
                obstore.delete(self._store, list(paths))

    def fetch(self, paths: Sequence[str]) -> Iterator[Fetched | OSError]:
        import asyncio

        yield from asyncio.run(self._fetched(paths))

    async def _fetched(self, paths: Sequence[str]) -> list[Fetched | OSError]:
        import asyncio

        gate = asyncio.Semaphore(_IN_FLIGHT)

        async def one(path: str) -> Fetched | OSError:
            async with gate:
                try:
                    with translated(self.identity, path):
                        got = await obstore.get_async(self._store, path)
                        data = bytes(await got.bytes_async())
                except StorageError as error:
                    if isinstance(error.__cause__, FileNotFoundError):
                        return error.__cause__
                    return OSError(str(error))
                return Fetched(data, FileState(got.meta["size"], _object_tag(got.meta)))

        return await asyncio.gather(*(one(path) for path in paths))

    def open(self, path: str) -> IO[bytes]:
        with translated(self.identity, path):
            file = obstore.open_reader(self._store, path, buffer_size=8 << 20)
        return cast("IO[bytes]", _Reading(file))


class _Reading:
    """obstore's reader, with bytes where it gives buffers of its own."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return bytes(self._file.read(None if size < 0 else size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class _Anywhere:
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


def without_credentials(uri: str) -> str:
    """The URI without a user and password in it."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in uri else uri


def _opened(uri: str, options: dict[str, Any]) -> _Files:
    root = local_root(uri)
    if root is not None and not options:
        return _Disk(root)
    if urlsplit(uri).scheme in _OBJECT_SCHEMES and not options:
        return _Objects(uri)
    return _Anywhere(uri, options)


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
            inside = pattern[at + 1 : close].replace("\\", "\\\\")
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


def _disk_listing(rows: list[_DiskRow]) -> pl.DataFrame:
    schema = ["path", "size_bytes", "mtime", "ctime", "problem"]
    kinds = [pl.String, pl.Int64, pl.Int64, pl.Int64, pl.String]
    frame = pl.DataFrame(rows, schema=dict(zip(schema, kinds, strict=True)), orient="row")
    return frame.select(
        "path",
        "size_bytes",
        pl.format("{}-{}", "mtime", "ctime").alias("tag"),
        (pl.col("mtime") // 1000).cast(pl.Datetime("us", "UTC")).alias("changed_at"),
        "problem",
    )


def _read_whole(path: str) -> Fetched:
    """With as few calls as can be: there may be a million of them."""
    file = os.open(path, os.O_RDONLY)
    try:
        parts = [os.read(file, os.fstat(file).st_size + 1)]
        while parts[-1]:
            parts.append(os.read(file, 1 << 20))
        return Fetched(b"".join(parts), _disk_state(os.fstat(file)))
    finally:
        os.close(file)


def _disk_state(found: os.stat_result) -> FileState:
    return FileState(found.st_size, f"{found.st_mtime_ns}-{found.st_ctime_ns}")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _object_tag(found: Any) -> str:
    tag = found["e_tag"]
    return tag.strip('"') if tag else found["last_modified"].isoformat()


def _tag(info: Mapping[str, Any]) -> str:
    for name in ("ETag", "etag", "md5Hash"):
        if info.get(name):
            return str(info[name]).strip('"')
    changed = info.get("mtime") or info.get("LastModified") or info.get("last_modified") or ""
    return str(changed)


def _changed(info: Mapping[str, Any]) -> datetime | None:
    for name in ("LastModified", "last_modified", "mtime", "updated"):
        if isinstance(info.get(name), datetime):
            return info[name]
    return None


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
