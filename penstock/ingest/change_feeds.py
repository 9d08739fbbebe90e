"""A Delta table as a source: its rows, and then what its change feed says of each new version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from penstock.errors import LakeError, SourceError, UnreadableFile
from penstock.ingest.upstream import Upstream, UpstreamSource, first_line
from penstock.storage.listing import without_credentials
from penstock.storage.objects import ObjectStore, resolve_options
from penstock.tables.change_feed import CHANGE_FEED, CHANGES, ChangeFeed
from penstock.tables.log import read_entry


@dataclass(frozen=True, slots=True)
class DeltaSource(UpstreamSource):
    """Rows that were inserted into a Delta table, and by its change feed, changed and deleted.

    The first batch has all rows of the table's newest version. After that the table needs
    `delta.enableChangeDataFeed`. A row whose value was updated comes again; one that was deleted
    comes only where the contract names the column `_change_type` (`insert`, `update_postimage`,
    `delete`).
    """

    def folder(self) -> Any:
        """The table, in the place of a folder."""
        return _Feed(self)


class _Feed(Upstream):
    """A Delta table's change feed."""

    def __init__(self, source: DeltaSource) -> None:
        self._source = source
        self._uri = source.uri.rstrip("/")
        self.identity = without_credentials(self._uri)

    @property
    def name(self) -> str:
        return self._uri.rsplit("/", 1)[-1]

    @property
    def of(self) -> str:
        return f"Delta table {self._table().metadata().id}"

    def reached(self, after: Any) -> Any:
        table = self._table()
        mode = table.metadata().configuration.get("delta.columnMapping.mode", "none")
        if mode != "none":
            raise SourceError(
                f"{self.identity}: it uses column mapping ({mode}), which isn't read here; copy it "
                "into a table without it"
            )
        version = table.version()
        return version if after is None or version > after else None

    def read(self, after: Any, upto: Any) -> Iterator[pa.RecordBatch]:
        try:
            if after is None:
                yield from self._whole(upto)
            else:
                yield from self._changes(after + 1, upto)
        except UnreadableFile:
            raise
        except LakeError as error:
            message = f"{error}; or take all rows in anew: {self._source.table} under another name"
            raise UnreadableFile(message, is_transient=True) from error
        except Exception as error:
            message = f"{self.identity}: {first_line(error)}"
            raise UnreadableFile(message, is_transient=True) from error

    def _whole(self, version: int) -> Iterator[pa.RecordBatch]:
        table = self._table(version)
        told = next(iter(table.history(1)), {}).get("timestamp")  # not every writer says it
        at = pa.scalar(None if told is None else told * 1000, pa.timestamp("us", "UTC"))
        said = (pa.scalar("insert"), pa.scalar(version, pa.int64()), at)
        for batch in table.scan():
            batch = pa.record_batch(batch)
            for name, value in zip(CHANGES, said, strict=True):
                batch = batch.append_column(name, pa.repeat(value, batch.num_rows))
            yield from self._wanted(batch)

    def _changes(self, first: int, last: int) -> Iterator[pa.RecordBatch]:
        configuration = self._table(first).metadata().configuration
        is_on = configuration.get(CHANGE_FEED) == "true"
        if not is_on:
            self._check_appends(first, last)
        options = resolve_options(self._uri, self._source.options or None)
        objects = ObjectStore(self._uri, options)
        feed = ChangeFeed(self.identity, self._table(), objects, "", options)
        for batch in feed.rows(first, last, is_on=is_on):
            yield from self._wanted(batch)

    def _check_appends(self, first: int, last: int) -> None:
        """Without a feed, only a version that takes no file away tells which rows are new."""
        objects = ObjectStore(self._uri, resolve_options(self._uri, self._source.options or None))
        for version in range(first, last + 1):
            actions = read_entry(objects, "", version)
            changes = [
                kind
                for action in actions
                for kind in ("add", "remove")
                if action.get(kind, {}).get("dataChange")
            ]
            if "remove" in changes and not any("cdc" in action for action in actions):
                raise UnreadableFile(
                    f"{self.identity}: version {version} changed rows, without a change feed: set "
                    "delta.enableChangeDataFeed on the table; what the version changed comes "
                    f"in with a new bronze table ({self._source.table} under another name)"
                )

    def _wanted(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """The rows that are taken, without a feed's columns where the contract has none."""
        named = self._source.contract.raw_names
        kept = ["insert", "update_postimage"]
        kept += ["delete"] if CHANGES[0] in named else []
        rows = pl.DataFrame(pl.from_arrow(batch)).filter(pl.col(CHANGES[0]).is_in(kept))
        rows = rows.drop([name for name in CHANGES if name not in named])
        yield from rows.to_arrow().to_batches()

    def _table(self, version: int | None = None) -> Any:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        options = resolve_options(self._uri, self._source.options or None)
        try:
            return DeltaTable(self._uri, version=version, storage_options=dict(options))
        except (DeltaError, OSError) as error:
            raise SourceError(f"{self.identity}: no Delta table: {first_line(error)}") from error
