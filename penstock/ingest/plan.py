"""What a batch reads: decided once, written down, and the same for whoever runs it.

The next batch number is the bronze table's application transaction plus one. If that number has
a plan already, a run crashed or is at work on it: the plan is used as it is. Otherwise what is new
is written down, put if absent.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

import polars as pl

from penstock.errors import SourceError
from penstock.ingest.discovery import NEW_FILES, new_files
from penstock.ingest.source import Source
from penstock.lake import Lake

Action = Literal["load", "replace", "refuse", "remove"]


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file that a batch reads, or whose rows it takes out."""

    path: str
    size_bytes: int
    tag: str
    changed_at: datetime | None
    problem: str | None
    """Why it can't be read, where its listing shows that."""
    action: Action
    known: str | None
    """Checksum of the state whose rows are in."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The files of one batch."""

    batch: int
    source: str
    """The folder that the files are in."""
    planned_at: datetime
    files: tuple[PlannedFile, ...]
    is_resumed: bool = False
    """Whether it was there already: another run is at work on it, or died."""
    is_last: bool = False
    """Whether nothing that is new in the listing is left to other batches."""

    def to_parquet(self) -> bytes:
        """As kept in the lake."""
        rows = [
            (f.path, f.size_bytes, f.tag, f.changed_at, f.problem, f.action, f.known)
            for f in self.files
        ]
        said = {
            "batch": str(self.batch),
            "source": self.source,
            "planned_at": self.planned_at.isoformat(),
        }
        file = io.BytesIO()
        frame = pl.DataFrame(rows, schema=NEW_FILES, orient="row")
        frame.write_parquet(file, metadata=said, compression_level=1)
        return file.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes) -> Plan:
        """What `to_parquet` wrote."""
        said = pl.read_parquet_metadata(io.BytesIO(data))
        rows = pl.read_parquet(io.BytesIO(data)).select(NEW_FILES.names()).rows()
        files = tuple(PlannedFile(*row) for row in rows)
        planned_at = datetime.fromisoformat(said["planned_at"])
        return cls(int(said["batch"]), said["source"], planned_at, files)


def plan_batch(
    lake: Lake,
    source: Source,
    batch: int,
    ledger: pl.DataFrame | pl.LazyFrame,
    listing: pl.DataFrame,
    *,
    max_files: int | None = None,
    tried: Collection[str] = (),
    is_retry: bool = False,
    gone: Collection[str] | None = None,
) -> Plan | None:
    """The plan of a batch, made now unless someone made it before; None when nothing is new.

    Parameters
    ----------
    listing: of the source.
    tried: files that this run has read in vain, to leave for the next.
    is_retry: whether files that could not be read before are read again.
    gone: files that are known to be gone; by default all that the listing lacks.

    Raises
    ------
    SourceError: the source can't be listed.
    """
    key = f"sources/{source.table}/plans/{batch:08d}.parquet"
    folder = source.folder()
    found = lake.objects.get_or_none(key)
    if found is None:
        new = new_files(source, listing, ledger, is_retry=is_retry, gone=gone)
        if tried:
            new = new.filter(~pl.col("path").is_in(list(tried)))
        some = _of_one_batch(source, new, min(max_files or source.max_files, source.max_files))
        if some.is_empty():
            return None
        files = tuple(PlannedFile(*row) for row in some.rows())
        is_last = some.height == new.height
        plan = Plan(batch, folder.identity, datetime.now(UTC), files, is_last=is_last)
        if lake.objects.put_if_absent(key, plan.to_parquet()):
            return plan
        found = lake.objects.get(key)
    plan = replace(Plan.from_parquet(found), is_resumed=True)
    if plan.source != folder.identity:
        raise SourceError(
            f"{source.table}: batch {batch} was planned over {plan.source} and not finished; run "
            f"that first, or delete {lake.uri}/{key} to drop it"
        )
    return plan


def _of_one_batch(source: Source, new: pl.DataFrame, max_files: int) -> pl.DataFrame:
    """The first files of `new` that keep to the limits of a batch; one at least."""
    first = new.head(max_files)
    before = first["size_bytes"].cum_sum() - first["size_bytes"]
    fits = (before + first["size_bytes"] <= source.max_bytes) | (before == 0)
    return first.head(int(fits.cum_prod().sum()))
