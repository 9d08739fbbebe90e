"""Zip archives: the members that are read, and the archives that are refused before one is."""

from __future__ import annotations

import io
import lzma
import struct
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from penstock.errors import UnreadableFile
from penstock.ingest.source import Source

DAMAGED = (
    EOFError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    zipfile.BadZipFile,
)
"""What a damaged archive, or one of a kind that isn't known, makes its reader raise."""
_PACKED = (".gz", ".zst", ".zip")
BOMB_BYTES = 1 << 30
"""Up to which an archive may unfold, however small it is."""
BOMB_RATIO = 250
"""Times its size that a larger one may unfold to; text seldom reaches 50."""


def is_archive(source: Source, path: str) -> bool:
    """Whether the file is read member by member."""
    return source.format != "binary" and path.lower().endswith(".zip")


def unfolded_bytes(data: bytes) -> int:
    """What an archive's directory says that its members unfold to; 0 where it has none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = archive.infolist()
    except DAMAGED:
        return 0
    if any(member.filename.lower().endswith(_PACKED) for member in found):
        return 1 << 62  # what is packed once more tells nothing
    return sum(member.file_size for member in found)


def members(source: Source, file: Any, path: str, size_bytes: int) -> Iterator[tuple[str, Any]]:
    """The members that have a format which is read, in the archive's order: name, stream.

    Nothing is unpacked to disk, and a member gives no more bytes than its header says.

    Raises
    ------
    UnreadableFile: the archive is damaged, encrypted, unfolds to far more than its size, names a
        member outside of it, or holds none that is read.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            wanted = _wanted(source, archive, path, size_bytes)
            for member in wanted:
                with archive.open(member) as stream:
                    yield member.filename, stream
    except DAMAGED as error:
        raise UnreadableFile(f"{path}: no archive that can be read: {error}") from error


def _wanted(
    source: Source, archive: zipfile.ZipFile, path: str, size_bytes: int
) -> list[zipfile.ZipInfo]:
    found = [member for member in archive.infolist() if not member.is_dir()]
    for member in found:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        is_odd = not name.parts or ".." in name.parts or "\0" in member.filename
        if is_odd or name.is_absolute() or ":" in name.parts[0]:
            raise UnreadableFile(
                f"{path}: its member {member.filename!r} points out of the archive; make it anew "
                "with relative names"
            )
    unfolded = sum(member.file_size for member in found)
    if unfolded > max(BOMB_BYTES, BOMB_RATIO * size_bytes):
        raise UnreadableFile(
            f"{path}: {size_bytes:,} bytes that unfold to {unfolded:,}, as a zip bomb does; if it "
            "is to be read, unpack it"
        )
    wanted = [
        member
        for member in found
        if source.format_of(member.filename) and not _is_hidden(member.filename)
    ]
    if not wanted:
        names = ", ".join(member.filename for member in found[:5]) or "none"
        raise UnreadableFile(f"{path}: no member is of a format that is read; there are: {names}")
    return wanted


def _is_hidden(name: str) -> bool:
    """What systems add to archives beside what they are made of."""
    return name.startswith("__MACOSX/") or PurePosixPath(name).name.startswith(".")
