"""A source: where raw files land, how they are read, and what those that change or go do."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import polars as pl

from penstock.contracts import Contract
from penstock.errors import SourceError
from penstock.lake import checked_name
from penstock.storage.sources import SourceFolder

Format = Literal[
    "csv", "jsonl", "json", "parquet", "arrow", "orc", "avro", "excel", "text", "binary"
]
OnChange = Literal["replace", "append", "ignore", "error"]
OnDelete = Literal["keep", "remove"]
Order = Literal["name", "time"]

_SUFFIXES: dict[str, Format] = {
    "csv": "csv",
    "tsv": "csv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "json",
    "parquet": "parquet",
    "arrow": "arrow",
    "feather": "arrow",
    "orc": "orc",
    "avro": "avro",
    "xlsx": "excel",
}
_COMPRESSED = ("gz", "zst")
_READ = re.compile(rf"(?i)\.({'|'.join(_SUFFIXES)})(\.({'|'.join(_COMPRESSED)}))?$")
_ARCHIVE = r"(?i)\.zip$"
TEXT_COLUMN = "line"
"""Of plain text, which has a row a line."""
FILE_COLUMNS = (
    "path",
    "uri",
    "size_bytes",
    "media_type",
    "width",
    "height",
    "checksum",
    "changed_at",
    "content",
)
"""Of binary files, which have a row a file; a contract names those that it wants, and others that
paths name (`label=cat/`)."""


def format_of(path: str) -> Format | None:
    """The format that a file's suffix says; None when it isn't one that is read."""
    found = _READ.search(path)
    return _SUFFIXES[found[1].lower()] if found else None


@dataclass(frozen=True, slots=True)
class Source:
    """A place where raw files land, and how to read them.

    Raises
    ------
    SourceError: a setting can't be.
    """

    table: str
    """The bronze table that the rows land in."""
    uri: str
    """A folder on this machine or in object storage, or any that fsspec reaches."""
    contract: Contract
    """Names the columns to look for; its types are applied later, by validation."""
    pattern: str = "**/*"
    """A glob under the folder; files of other formats that match are left alone, and those of which
    a part of the path begins with `.` or `_` are unless the glob names such a part."""
    format: Format | None = None
    """By default each file's suffix says (`.csv`, `.csv.gz`, `.jsonl`, `.parquet`, ...). Only said
    here: `text` has a row a line, in the column `line`; `binary` a row a file, `FILE_COLUMNS`."""
    delimiter: str | None = None
    """By default that which finds the most of the contract's columns in a file's first line."""
    quote: str | None = None
    """Around values that hold a delimiter or a line's end; doubled within. Empty: there is none.
    By default `"`, but where a file's first lines have values between apostrophes."""
    escape: str | None = None
    """Before a quote within a value, where it is not doubled. By default a backslash, where a
    file's first lines have one before a quote within a value; else there is none."""
    header: bool = True
    """Whether the first line names the columns; else they are the contract's, in its order."""
    encoding: str = "utf8"
    """Of text. A byte order mark says more than this."""
    on_change: OnChange = "replace"
    """What a file whose content changed does: its old rows out and its new ones in, in one commit;
    its new rows in beside the old; nothing; or an error, which the ledger keeps."""
    on_delete: OnDelete = "keep"
    """Whether the rows of a file that is gone stay or go."""
    order: Order = "name"
    """Which files come into an earlier batch: by path, or by time of change."""
    max_files: int = 100_000
    """Files a batch."""
    max_bytes: int = 64 << 30
    """Bytes of files a batch; a larger file makes a batch of its own."""
    max_age: timedelta | None = None
    """Files that changed longer ago and were never ingested are left alone."""
    tries: int = 5
    """Batches in which a file can't be had from its store, or runs that die while they read it
    alone, before it is set aside."""
    lookback: timedelta | None = None
    """Where paths sort by time (`2026/11/21/...`, `day=2026-11-21/...`): list only from so long
    before the newest known path's date on. Without a date in it, only what sorts behind it."""
    notifications: str = ""
    """Where messages of what came are to be had, in the place of a listing: a folder of JSON files,
    or an SQS queue's URL. See `notifications.receive`."""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    """For fsspec. Credentials belong in the environment instead."""

    def __post_init__(self) -> None:
        checked_name(self.table)
        for name in ("delimiter", "quote", "escape"):
            sign = getattr(self, name)
            if sign and (len(sign) != 1 or not sign.isascii()):
                raise SourceError(f"{self.table}: {name} must be one character: {sign!r}")
        if self.delimiter == "":
            raise SourceError(f"{self.table}: delimiter must be one character, or None to find it")
        for name in ("max_files", "max_bytes", "tries"):
            if getattr(self, name) < 1:
                raise SourceError(f"{self.table}: {name} must be at least 1")
        if self.lookback is not None and (self.on_delete == "remove" or self.notifications):
            raise SourceError(
                f'{self.table}: lookback is for listings, and with on_delete="remove" those have '
                "to be whole"
            )
        if self.lookback is not None and self.lookback < timedelta(0):
            raise SourceError(f"{self.table}: lookback can't be negative")
        self._check_columns()
        try:
            "".encode(self.encoding)
        except LookupError as error:
            raise SourceError(f"{self.table}: no encoding {self.encoding!r}") from error

    def _check_columns(self) -> None:
        named = self.contract.raw_names
        if self.format == "text" and TEXT_COLUMN not in named:
            raise SourceError(f"{self.table}: plain text has the column {TEXT_COLUMN}; name it")
        for column in self.contract.columns if self.format == "binary" else ():
            if (column.raw_name == "content") != (column.kind == "binary"):
                raise SourceError(
                    f"{self.table}: of a file's columns content is binary, and only it; see "
                    "file_columns()"
                )
        if self.format == "binary" and not set(named) & set(FILE_COLUMNS):
            raise SourceError(
                f"{self.table}: a binary file has no {', '.join(sorted(named))} by itself; name "
                f"some of {', '.join(FILE_COLUMNS)}"
            )

    @property
    def application(self) -> str:
        """The name of its transactions in the bronze table's log."""
        return f"ingest/{self.table}"

    def folder(self) -> SourceFolder:
        """The folder, opened."""
        return SourceFolder(self.uri, self.options)

    def format_of(self, path: str) -> Format | None:
        """The file's format; None when it isn't one that is read."""
        return self.format or format_of(path)

    def is_read(self) -> pl.Expr:
        """Whether the file of `path` has a format that is read."""
        if self.format is not None:
            return pl.lit(value=True)
        path = pl.col("path")
        return path.str.contains(_READ.pattern) | path.str.contains(_ARCHIVE)
