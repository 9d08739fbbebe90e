"""Which files are new: a listing of the source held against the ledger, both as tables.

A file is known by its path, and a state of it by size and tag. What a changed tag means shows when
it is read: the same content again is no change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.errors import SourceError
from penstock.ingest.source import Source
from penstock.ingest.upstream import UpstreamSource

NEW_FILES = pl.Schema(
    {
        "path": pl.String,
        "size_bytes": pl.Int64,
        "tag": pl.String,
        "changed_at": pl.Datetime("us", "UTC"),
        "problem": pl.String,
        "action": pl.String,
        "known": pl.String,
    }
)
"""action: `load`, `replace` (rows of an earlier state go out), `refuse` (it may not have changed),
`remove` (it is gone). known: checksum of the state whose rows are in."""


Wanted = Callable[[pl.DataFrame], pl.DataFrame]
"""Picks files of a listing."""

_DATES = (
    ("%Y-%m-%d", r"\d{4}-\d{2}-\d{2}"),
    ("%Y/%m/%d", r"\d{4}/\d{2}/\d{2}"),
    ("%Y%m%d", r"\d{8}"),
)
"""Dates in paths that sort as they do."""


def new_files(
    source: Source,
    listing: pl.DataFrame,
    ledger: pl.DataFrame | pl.LazyFrame,
    *,
    is_retry: bool = False,
    gone: Collection[str] | None = None,
) -> pl.DataFrame:
    """Of the files listed, those that the ledger hasn't in this state: a frame of `NEW_FILES`.

    A file that could not be read counts as known until it changes. One that its store did not
    give is new each time, until it was tried `source.tries` times.

    Parameters
    ----------
    listing: as `SourceFolder.list` gives it.
    ledger: as `read_ledger` or `scan_ledger` give it.
    is_retry: whether what could not be read or had is new all the same.
    gone: files that are known to be gone; by default all that the listing lacks.

    Raises
    ------
    SourceError: the folder is empty, and rows of files that are gone would all go out.
    """
    states = ledger.lazy()
    if isinstance(source, UpstreamSource):
        listing = source.still_new(states, listing)
    known = _known_states(source, states, is_retry=is_retry)
    is_new = source.is_read() & ~_state("path").is_in(known.implode())
    new = listing.filter(is_new)
    removes = source.on_delete == "remove"
    loaded = _with_rows(states, None if removes else new["path"])
    new = new.join(loaded, on="path", how="left")
    is_loaded = pl.col("known").is_not_null()
    if source.on_change == "ignore":
        new = new.filter(~is_loaded)
    if source.max_age is not None:
        oldest = datetime.now(UTC) - source.max_age
        new = new.filter(is_loaded | (pl.col("changed_at") >= oldest).fill_null(value=True))
    changed = {"replace": "replace", "error": "refuse"}.get(source.on_change, "load")
    action = pl.when(is_loaded).then(pl.lit(changed)).otherwise(pl.lit("load"))
    new = new.with_columns(action.alias("action")).select(NEW_FILES.names())
    new = new.sort(["changed_at", "path"] if source.order == "time" else ["path"])
    if removes:
        if gone is not None:
            gone_rows = _removals(loaded.filter(pl.col("path").is_in(list(gone))))
        else:
            gone_rows = _gone(source, listing, loaded)
        new = pl.concat([new, gone_rows])
    return new


def unknown(
    source: Source, ledger: pl.LazyFrame | Callable[[], pl.LazyFrame], *, is_retry: bool = False
) -> Wanted | None:
    """Picks the files of a listing that the ledger hasn't in their state; None where all are looked
    at, as those that are gone go out.

    Parameters
    ----------
    ledger: or what gives it, asked once a listing turns out to be long.
    """
    if source.on_delete == "remove":
        return None
    known: NDArray[np.uint64] | None = None

    def picked(listing: pl.DataFrame) -> pl.DataFrame:
        nonlocal known
        if known is None:
            states = ledger() if callable(ledger) else ledger
            known = np.sort(_known_states(source, states, is_retry=is_retry).to_numpy())
        if not len(known):
            return listing
        asked = listing.select(_state("path")).to_series().to_numpy()
        place = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        return listing.filter(pl.Series(known[place] != asked))

    return picked


def list_from(source: Source, ledger: pl.LazyFrame) -> str:
    """The path behind which a source with a `lookback` is listed; empty for all.

    All is listed unless every dated path has its date behind the same prefix: else a date says
    nothing of where the others sort.
    """
    if source.lookback is None:
        return ""
    known = ledger.filter(status="loaded").select("file").unique().collect()
    if known.is_empty():
        return ""
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    for form, pattern in _DATES:
        found = known.select(
            pl.col("file").str.extract(rf"(?s)^(.*?){pattern}").alias("prefix"),
            pl.col("file").str.extract(f"({pattern})").str.to_date(form, strict=False).alias("day"),
        ).filter(pl.col("day") <= tomorrow)
        if found.is_empty():
            continue
        newest = found["day"].max()
        if found["prefix"].n_unique() > 1 or not isinstance(newest, date):
            return ""
        try:
            return found["prefix"][0] + (newest - source.lookback).strftime(form)
        except OverflowError:
            return ""
    last = known["file"].max()
    return last if isinstance(last, str) else ""


def _state(path: str) -> pl.Expr:
    """A file's path, size and tag as one number, so that a million states take 8 MB.

    Two of different states are the same with a chance of 1 in 2^64 each.
    """
    return pl.col(path).hash(1) ^ pl.col("size_bytes").hash(2) ^ pl.col("tag").hash(3)


def _known_states(source: Source, states: pl.LazyFrame, *, is_retry: bool) -> pl.Series:
    """The newest state of each file that there is nothing left to do with."""
    if is_retry:
        done = states.filter(~pl.col("status").is_in(["unavailable", "failed"]))
    else:
        done = states.filter(pl.col("status") != "unavailable")
    columns = (pl.col("batch"), pl.col("file").hash(1).alias("path"), _state("file").alias("state"))
    newest = done.select(columns).collect(engine="streaming")
    if not is_retry:
        had = ["file", "size_bytes", "tag"]
        lost = states.filter(status="unavailable").select("batch", *had).collect()
        if lost.height:
            given_up = lost.filter(pl.len().over(had) >= source.tries)
            newest = pl.concat([newest, given_up.select(columns)])
    # Of one batch, a file has one row.
    newest = newest.sort("batch").unique("path", keep="last", maintain_order=False)
    return newest["state"]


def _with_rows(states: pl.LazyFrame, paths: pl.Series | None) -> pl.DataFrame:
    """Files whose rows are in, and the checksum of the state that they are of.

    paths: those asked for; by default all.
    """
    touched = states.filter(pl.col("status").is_in(["loaded", "removed"]))
    if paths is not None:
        touched = touched.filter(pl.col("file").is_in(paths.implode()))
    newest = touched.select("batch", "file", "checksum", "status").collect().sort("batch")
    newest = newest.unique("file", keep="last", maintain_order=False)
    return newest.filter(status="loaded").select(
        pl.col("file").alias("path"), pl.col("checksum").fill_null("").alias("known")
    )


def _gone(source: Source, listing: pl.DataFrame, loaded: pl.DataFrame) -> pl.DataFrame:
    if listing.is_empty() and not loaded.is_empty():
        raise SourceError(
            f"{source.table}: no file is left in {source.folder().identity}, and the rows of "
            f'{loaded.height:,} would go out (on_delete="remove"). If a disk is not mounted, mount '
            'it; if they are to go, take them out with Table.delete or set on_delete="keep"'
        )
    return _removals(loaded.join(listing, on="path", how="anti"))


def _removals(gone: pl.DataFrame) -> pl.DataFrame:
    return gone.sort("path").select(
        "path",
        pl.lit(0, pl.Int64).alias("size_bytes"),
        pl.lit("gone").alias("tag"),
        pl.lit(None, pl.Datetime("us", "UTC")).alias("changed_at"),
        pl.lit(None, pl.String).alias("problem"),
        pl.lit("remove").alias("action"),
        "known",
    )
