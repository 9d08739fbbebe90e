"""Listings of a bucket in which keys lie that obstore has no name for: `a//b`, `a/../b`.

They can be listed by s3fs, and read by neither: each is listed with its problem, so that it stops
no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import polars as pl

from penstock.errors import MissingExtra, SourceError
from penstock.storage.anywhere import s3_settings
from penstock.storage.listing import LISTING

_PROBLEM = (
    "its key has an empty part, or `.` or `..`, which object storage takes and no path has; give "
    "it another key"
)


def listed(uri: str, after: str) -> Iterator[pl.DataFrame]:
    """All objects of a folder behind `after`.

    Raises
    ------
    SourceError: it is no bucket of S3.
    MissingExtra: s3fs is not installed.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("s3", "s3a"):
        raise SourceError(
            f"{uri}: an object's key has an empty part, or `.` or `..`; give it another"
        )
    try:
        import s3fs  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise MissingExtra("s3fs", "s3") from error
    store: Any = s3fs.S3FileSystem(**s3_settings(uri, {}))
    prefix = f"{parts.path.strip('/')}/" if parts.path.strip("/") else ""
    asked: dict[str, Any] = {"Bucket": parts.netloc, "Prefix": prefix}
    if after:
        asked["StartAfter"] = prefix + after
    while True:
        page: dict[str, Any] = store.call_s3("list_objects_v2", **asked)
        rows = [_row(found, len(prefix)) for found in page.get("Contents", [])]
        yield pl.DataFrame([row for row in rows if row], schema=LISTING, orient="row")
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]


def _row(found: dict[str, Any], start: int) -> tuple[Any, ...] | None:
    path = found["Key"][start:]
    if not path or path.endswith("/"):
        return None  # stands for a folder
    is_odd = {"", ".", ".."} & set(path.split("/"))
    tag = found["ETag"].strip('"')
    return path, found["Size"], tag, found["LastModified"], _PROBLEM if is_odd else None
