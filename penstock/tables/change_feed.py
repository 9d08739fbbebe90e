"""The rows that versions of a table inserted, updated and deleted, by what their log entries name.

deltalake has such a reader as well, which finds no file whose path the log quotes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import unquote

import numpy as np
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable
from numpy.typing import NDArray

from penstock.errors import LakeError
from penstock.storage.objects import ObjectStore, local_root
from penstock.tables.deletions import deletion_from, places_of
from penstock.tables.log import path_of
from penstock.tables.protocol import check_readable
from penstock.tables.staging import partition_text, partition_value

CHANGE_FEED = "delta.enableChangeDataFeed"
KIND, VERSION, TIME = CHANGES = ("_change_type", "_commit_version", "_commit_timestamp")
"""Columns of a change feed besides the table's."""
_PLACE = "__penstock_place"
_TOGETHER = 64
"""Files of a version that are read as one, so that small ones take little time each."""
_ASKED = 16
"""Files at once, of which it is asked whether they are there."""
_TIME = pl.Datetime("us", "UTC")


@dataclass(frozen=True, slots=True)
class ChangeFeed:
    """A table's log, and what its rows are read as."""

    name: str
    """For errors."""
    delta: DeltaTable
    """Its newest version, of which the columns are."""
    objects: ObjectStore
    key: str
    """Of the table's folder among the objects."""
    options: Mapping[str, str]
    """Of the storage."""

    def rows(self, first: int, last: int, *, is_on: bool = True) -> Iterator[pa.RecordBatch]:
        """What versions `first` to `last` did to rows, the oldest first.

        A version that names no files of changes did to rows what it did to files.

        Parameters
        ----------
        is_on: whether the feed was at `first`, and so has to stay.

        Raises
        ------
        LakeError: one of them turned the change feed off, or its log entry or a file is gone.
        """
        check_readable(self.delta, self.name)
        schema = pa.schema(self.delta.schema())
        kinds = pl.Schema(schema) | {KIND: pl.String(), VERSION: pl.Int64(), TIME: _TIME}
        more = [(KIND, pa.string()), (VERSION, pa.int64()), (TIME, pa.timestamp("us", "UTC"))]
        told = pa.schema([*schema, *(pa.field(name, kind) for name, kind in more)])
        for version in range(first, last + 1):
            actions = self._entry(version)
            if is_on and _turns_off(actions):
                raise LakeError(
                    f"{self.name}: version {version} turned its change feed off; read the "
                    "versions before it, or those after it was turned on again"
                )
            at = _committed_at(actions)

            def whole(rows: pl.LazyFrame, number: int = version, at: pl.Expr = at) -> pl.LazyFrame:
                known = set(rows.collect_schema())
                here = rows.with_columns(pl.lit(number).alias(VERSION), at.alias(TIME))
                lacking = [pl.lit(None).alias(name) for name in schema.names if name not in known]
                return here.with_columns(lacking).select(
                    pl.col(name).cast(kind) for name, kind in kinds.items()
                )

            each = map(whole, self._changes(actions, version))
            while some := [*islice(each, _TOGETHER)]:
                for frame in pl.concat(some).collect_batches(maintain_order=True):
                    stored = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
                    yield from stored.cast(told).to_batches()

    def _entry(self, version: int) -> list[dict[str, Any]]:
        text = self.objects.get_or_none(path_of(self.key, version))
        if text is None:
            raise LakeError(
                f"{self.name}: what version {version} changed is not to be found: its log entry "
                "is gone; begin with a later version"
            )
        return [json.loads(line) for line in text.splitlines() if line]

    def _changes(self, actions: list[dict[str, Any]], version: int) -> Iterator[pl.LazyFrame]:
        """Rows with what was done to them, in the columns of their files and partitions."""
        told = [action["cdc"] for action in actions if "cdc" in action]
        come, go = _with_changes(actions, "add"), _with_changes(actions, "remove")
        self._check_there(told or [*come.values(), *go.values()], version)
        for file in told:
            yield self._stored(file)
        if told:
            return
        for path, file in go.items():
            yield self._without(file, come.get(path)).with_columns(pl.lit("delete").alias(KIND))
        for path, file in come.items():
            yield self._without(file, go.get(path)).with_columns(pl.lit("insert").alias(KIND))

    def _check_there(self, files: list[dict[str, Any]], version: int) -> None:
        keys = [f"{self.key}/{unquote(file['path'])}" for file in files]
        with ThreadPoolExecutor(_ASKED, thread_name_prefix="penstock-feed") as pool:
            there = [*pool.map(self.objects.exists, keys)]
        gone = [key for key, is_there in zip(keys, there, strict=True) if not is_there]
        if gone:
            raise LakeError(
                f"{self.name}: what version {version} changed is not to be found: {len(gone):,} of "
                f"its {len(keys):,} files were vacuumed; begin with a later version, and vacuum "
                "later than the feed is read (keep)"
            )

    def _without(self, file: Mapping[str, Any], other: Mapping[str, Any] | None) -> pl.LazyFrame:
        """A data file's rows; of one that comes and goes, those that it has on this side only."""
        rows, gone = self._stored(file, row_index_name=_PLACE), self._gone(file)
        if len(gone):
            rows = rows.filter(~pl.col(_PLACE).is_in(_places(gone)))
        if other is not None:
            rows = rows.filter(pl.col(_PLACE).is_in(_places(self._gone(other))))
        return rows.drop(_PLACE)

    def _gone(self, file: Mapping[str, Any]) -> NDArray[np.uint64]:
        said = file.get("deletionVector")
        if not said:
            return np.empty(0, np.uint64)
        return places_of(deletion_from(said), self.objects, self.key)

    def _stored(self, file: Mapping[str, Any], **options: Any) -> pl.LazyFrame:
        root = local_root(self.objects.uri)
        folder = str(root) if root is not None else self.objects.uri
        key = f"{self.key}/" if self.key else ""
        stored: Any = dict(self.options) or None
        rows = pl.scan_parquet(
            f"{folder}/{key}{unquote(file['path'])}",
            storage_options=stored,
            glob=False,
            hive_partitioning=False,
            **options,
        )
        schema = pa.schema(self.delta.schema())
        values = file.get("partitionValues") or {}
        return rows.with_columns(
            pl.lit(pl.Series(name, partition_value(partition_text(value), kind))).first()
            for name, value in values.items()
            for kind in [schema.field(name).type]
        )


def _with_changes(actions: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """Files that a version adds or removes with their rows, by path."""
    named = (action[kind] for action in actions if kind in action)
    return {unquote(file["path"]): file for file in named if file["dataChange"]}


def _turns_off(actions: list[dict[str, Any]]) -> bool:
    told = (action["metaData"] for action in actions if "metaData" in action)
    return any((each.get("configuration") or {}).get(CHANGE_FEED) != "true" for each in told)


def _committed_at(actions: list[dict[str, Any]]) -> pl.Expr:
    """When, as far as the writer says it."""
    told = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    milliseconds = told.get("inCommitTimestamp", told.get("timestamp"))
    return pl.lit(milliseconds, pl.Int64).cast(pl.Datetime("ms", "UTC"))


def _places(gone: NDArray[np.uint64]) -> pl.Expr:
    return pl.lit(pl.Series(gone, dtype=pl.UInt32)).implode()
