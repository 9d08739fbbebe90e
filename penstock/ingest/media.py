"""Files as rows: images, audio, documents, each with what its bytes tell of it."""

from __future__ import annotations

import io
import mimetypes
import struct
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from penstock.errors import MissingExtra
from penstock.ingest.formats import missing
from penstock.ingest.plan import PlannedFile
from penstock.ingest.source import Source

HEAD_BYTES = 1 << 18
"""Of a file, enough to tell its type and an image's size."""
_NO_IMAGE = (
    ArithmeticError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
"""What a parser of images' headers stumbles over where there is none."""
CONTENT_BYTES = 64 << 20
"""Of a larger file there is a row without its content."""


@dataclass(frozen=True, slots=True)
class Sighted:
    """One file and what was read of it."""

    file: PlannedFile
    checksum: str
    data: bytes
    """All of it, or its first bytes where it is too large or its content isn't wanted."""


def wants_content(source: Source) -> bool:
    """Whether the contract has a column for the bytes."""
    return "content" in source.contract.raw_names


def media_rows(source: Source, folder_uri: str, files: list[Sighted]) -> pa.Table:
    """A row a file, as `formats.shaped` gives rows, with `_source_file`."""
    wanted = set(source.contract.raw_names)
    sizes = [_size(each.data) if {"width", "height"} & wanted else None for each in files]
    values: dict[str, list[Any]] = {
        "path": [each.file.path for each in files],
        "uri": [f"{folder_uri}/{each.file.path}" for each in files],
        "size_bytes": [str(each.file.size_bytes) for each in files],
        "media_type": [_media_type(each) for each in files] if "media_type" in wanted else [],
        "width": [None if size is None else str(size[0]) for size in sizes],
        "height": [None if size is None else str(size[1]) for size in sizes],
        "checksum": [each.checksum for each in files],
        "changed_at": [_time(each.file) for each in files],
        "content": [
            each.data if len(each.data) == each.file.size_bytes else None for each in files
        ],
    }
    columns: dict[str, Any] = missing(source, len(files))
    for name in wanted & values.keys():
        columns[name] = pa.array(values[name], columns[name].type)
    empty = pa.nulls(len(files), pa.string())
    return pa.table(
        {
            **columns,
            "_rescued": empty,
            "_error": empty,
            "_source_row": pa.array([1] * len(files), pa.int64()),
            "_source_file": pa.array(values["path"], pa.string()),
        }
    )


def _size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels; None where it is no image."""
    try:
        import imagesize
    except ModuleNotFoundError as error:
        raise MissingExtra("imagesize", "media") from error
    try:
        width, height = imagesize.get(io.BytesIO(data))
    except _NO_IMAGE:
        return None
    return (width, height) if width > 0 and height > 0 else None


def _media_type(each: Sighted) -> str | None:
    """By the first bytes; where those tell nothing, by the name."""
    try:
        import filetype
    except ModuleNotFoundError as error:
        raise MissingExtra("filetype", "media") from error
    return filetype.guess_mime(each.data[:8192]) or mimetypes.guess_type(each.file.path)[0]


def _time(file: PlannedFile) -> str | None:
    return None if file.changed_at is None else file.changed_at.strftime("%Y-%m-%d %H:%M:%S.%f")
