"""What a batch reads: decided once, written down, and the same for whoever runs it.

The next batch number is the bronze table's application transaction plus one. If that number has
a plan already, a run crashed or is at work on it: the plan is used as it is. Otherwise the source
is listed, what the ledger knows is left out, and the plan is put if absent.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import polars as pl

from penstock.contracts import Contract
from penstock.errors import SourceError
from penstock.lake import Lake, checked_name
from penstock.storage.sources import SourceFile, SourceFolder

Format = Literal["csv", "jsonl", "parquet", "arrow"]
OnChange = Literal["replace", "append", "ignore", "error"]

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A place where raw files land, and how to read them."""

    table: str
    """The bronze table that the rows land in."""
    uri: str
    """Any folder that fsspec reaches."""
    contract: Contract
    """Names the columns to look for; its types are applied later, by validation."""
    pattern: str = "**/*"
    """A glob under the folder; files of other formats that match are left alone."""
    format: Format | None = None
    """By default each file's suffix says (`.csv`, `.csv.gz`, `.jsonl`, `.parquet`, `.arrow`)."""
    delimiter: str = ","
    encoding: str = "utf8"
    on_change: OnChange = "replace"
    """What a file that changed in place does: its old rows out and its new ones in, in one commit;
    its new rows in beside the old; nothing; or an error."""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    """For fsspec. Credentials belong in the environment instead."""

    def __post_init__(self) -> None:
        checked_name(self.table)
        if len(self.delimiter) != 1:
            raise SourceError(f"{self.table}: delimiter must be one character: {self.delimiter!r}")

    @property
    def application(self) -> str:
        """The name of its transactions in the bronze table's log."""
        return f"ingest/{self.table}"

    def folder(self) -> SourceFolder:
        """The folder, opened."""
        return SourceFolder(self.uri, self.options)

    def format_of(self, path: str) -> Format | None:
        """The file's format; None when it isn't one that is read."""
        if self.format is not None:
            return self.format
        suffixes = Path(path.removesuffix(".gz")).suffixes
        return _SUFFIXES.get(suffixes[-1].lower()) if suffixes else None


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file that a batch reads."""

    path: str
    size_bytes: int
    tag: str
    replaces: bool
    """Whether rows of an earlier state of the file go out as its new ones come in."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The files of one batch."""

    batch: int
    source: str
    """The folder that the files are in."""
    planned_at: datetime
    files: tuple[PlannedFile, ...]

    def to_json(self) -> bytes:
        """As kept in the lake."""
        return json.dumps(asdict(self), default=lambda time: time.isoformat(), indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Plan:
        """What `to_json` wrote."""
        read = json.loads(data)
        files = tuple(PlannedFile(**file) for file in read["files"])
        when = datetime.fromisoformat(read["planned_at"])
        return cls(read["batch"], read["source"], when, files)


def plan_batch(
    lake: Lake,
    source: Source,
    batch: int,
    ledger: pl.DataFrame,
    *,
    max_files: int | None = None,
    tried: Collection[str] = (),
) -> Plan | None:
    """The plan of a batch, made now unless someone made it before; None when nothing is new.

    Parameters
    ----------
    tried: files that this run has read in vain, to leave for the next.

    Raises
    ------
    SourceError: the source can't be listed, or a file changed where the policy forbids it.
    """
    key = f"sources/{source.table}/plans/{batch:08d}.json"
    folder = source.folder()
    found = lake.objects.get_or_none(key)
    if found is None:
        new = new_files(source, folder.list(source.pattern), ledger)
        new = [file for file in new if file.path not in tried][:max_files]
        if not new:
            return None
        plan = Plan(batch, folder.identity, datetime.now(UTC), tuple(new))
        if lake.objects.put_if_absent(key, plan.to_json()):
            return plan
        found = lake.objects.get(key)
    plan = Plan.from_json(found)
    if plan.source != folder.identity:
        raise SourceError(
            f"{source.table}: batch {batch} was planned over {plan.source} and not finished; run "
            f"that first, or delete {lake.uri}/{key} to drop it"
        )
    return plan


def new_files(
    source: Source, listed: Iterable[SourceFile], ledger: pl.DataFrame
) -> list[PlannedFile]:
    """Of the files listed, those that the ledger hasn't in this state.

    A file that could not be read counts as known until it changes, and one whose store failed, or
    that came and went, is new each time.
    """
    newest = ledger.sort("batch").group_by("file").last().filter(pl.col("status") != "unavailable")
    states = dict(zip(newest["file"], newest.select("size_bytes", "tag").rows(), strict=True))
    loaded = set(ledger.filter(status="loaded")["file"])
    new: list[PlannedFile] = []
    for file in listed:
        if source.format_of(file.path) is None:
            continue
        if states.get(file.path) == (file.size_bytes, file.tag):
            continue
        is_change = file.path in loaded
        if is_change and source.on_change == "ignore":
            continue
        if is_change and source.on_change == "error":
            raise SourceError(
                f"{file.path} changed since it was ingested, and {source.table} takes "
                'no changes (on_change="error"); put its new state under another name'
            )
        replaces = is_change and source.on_change == "replace"
        new.append(PlannedFile(file.path, file.size_bytes, file.tag, replaces))
    return new
