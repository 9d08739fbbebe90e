"""Raw files on this machine."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import polars as pl

from penstock.errors import SourceError
from penstock.storage.listing import Fetched, FileState

_LAST = "/\U0010ffff"
"""Sorts behind all that is in a folder."""
_LISTED = 20_000
"""Files of a listing held as objects before they become a table."""
_DiskRow = tuple[str, int, int, int, str | None]
"""Path, bytes, times of change of content and inode, problem."""


class Disk:
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


class _Entry:
    """One file, as `os.scandir` would give it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def is_symlink(self) -> bool:
        return Path(self.path).is_symlink()

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return Path(self.path).stat(follow_symlinks=follow_symlinks)


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
        data = os.read(file, os.fstat(file).st_size + 1)
        while more := os.read(file, 1 << 20):
            data += more
        return Fetched(data, _disk_state(os.fstat(file)))
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
