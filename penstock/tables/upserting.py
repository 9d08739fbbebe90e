"""Rows by key into a table: new values for those that are there, others come in.

Data files that hold a given key are copied without its row; in a table with deletion vectors the
file stays, and the commit says which of its rows are gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from threading import Semaphore

import numpy as np
import polars as pl
import pyarrow as pa

from penstock.errors import LakeError
from penstock.tables.changes import ChangeWriter
from penstock.tables.copying import Copy, Rewriting, Written, copied
from penstock.tables.deletions import ENABLED, FEATURE, deletion_of
from penstock.tables.staging import StagedFile, StoredFile
from penstock.tables.table import Snapshot, Table, as_stored
from penstock.tables.version import PLACE
from penstock.tables.writing import (
    Predicate,
    Rows,
    evaluating,
    expression_of,
    staged_rows,
    stream_of,
)

_SEARCHED_BYTES = 32 << 20
"""Of a file, as encoded, that are looked through at once; of which the keys are a part."""
_SEARCHES = 4
"""Files far away, for which one waits, that are looked through at once; of those of this machine
one, by all cores.
"""
_INSERTED_ROWS = 1 << 15
"""Of a row group of new rows, a copy of which is held while it is written."""
_GONE = 0.2
"""Of a file's rows, up to which they are marked: from then on readers skip much for nothing."""


def upsert(
    table: Table, rows: Rows, key: Sequence[str], *, delete_where: Predicate | None = None
) -> Written:
    """Rows by key: those that are there take the new values, others come in.

    Parameters
    ----------
    rows: held in memory; columns of the table that they lack stay as they were.
    key: columns that name a row, without nulls, each key once in `rows`.
    delete_where: of `rows`, those whose key goes out. A column that it names and the table lacks
        says just that, and does not come into the table; into one that is made here, it does.

    Raises
    ------
    LakeError: a key is null or there twice, or of another type than the table's; or `delete_where`
        is no condition on the rows. Nothing was changed.
    """
    given = _frame(rows)
    _check_key(table, given, list(key))
    is_gone = _matches(table, given, delete_where)
    given = given.drop(_flags(table, given, list(key), delete_where))
    snapshot = table.create(as_stored(given.clear().to_arrow().schema), of_rows=True)
    given = _as_keys_of(snapshot, given, list(key))
    kept = given.filter(~is_gone)
    merge = _Merge(given, list(key), kept, searches=1 if table.lake.is_local else _SEARCHES)
    rewriting = Rewriting(table, merge.copy, merge.changes)
    return rewriting.run("upsert", [], last=merge.inserted)


def enable_deletion_vectors(table: Table) -> Snapshot:
    """From now on an upsert leaves data files as they are and marks the rows in them as gone.

    Several times as fast as copying; readers then need Delta's version 3 with that feature, which
    polars, DuckDB, deltalake's `scan` and Spark have, and pyarrow's datasets have not. Rows that
    are marked are still in their files until `optimize` writes those anew and `vacuum` takes them.
    """
    snapshot = table.snapshot()
    if snapshot.has_deletion_vectors:
        return snapshot
    return snapshot.configure({ENABLED: "true"}, writer_version=7, feature=FEATURE)


class _Merge:
    """An upsert's rows, held against one data file after the other."""

    def __init__(
        self, given: pl.DataFrame, key: list[str], kept: pl.DataFrame, searches: int
    ) -> None:
        self._key, self._kept = key, kept
        self._keys = given.select(key).sort(key[0])
        self._given = set(given.columns)
        self._searching = Semaphore(searches)

    def copy(self, snapshot: Snapshot, file: StoredFile) -> Copy:
        """The file without the rows whose key is given."""
        keys, wanted = self._near(file), [*self._key, *self._missing(snapshot)]
        if not keys.height:
            return Copy()
        found = self._found(snapshot, file, keys, [*wanted, PLACE])
        if found.is_empty():
            return Copy()
        places, found = found[PLACE].to_numpy(), found.drop(PLACE)
        if snapshot.has_deletion_vectors:
            gone = np.union1d(snapshot.places_gone(file), places.astype(np.uint64))
            deletion = deletion_of(gone)
            if len(gone) <= _GONE * (file.rows + len(gone) - len(places)):
                return Copy(matched=len(places), deletion=deletion, old=found)
        if found.height == file.rows:
            return Copy([], found.height, old=found)

        def others(rows: pl.LazyFrame) -> pl.LazyFrame:
            return rows.join(keys.lazy(), on=self._key, how="anti", maintain_order="left")

        return Copy(copied(snapshot, file, others), found.height, old=found)

    def _found(
        self, snapshot: Snapshot, file: StoredFile, keys: pl.DataFrame, wanted: list[str]
    ) -> pl.DataFrame:
        """Some columns of the file's rows whose key is given."""
        with self._searching:
            return pl.concat(
                rows.select(wanted)
                .join(keys.lazy(), on=self._key, how="semi", maintain_order="left")
                .collect(engine="in-memory")
                for rows in snapshot.portions_of(file, _SEARCHED_BYTES, with_places=True)
            )

    def _near(self, file: StoredFile) -> pl.DataFrame:
        """The keys within the file's range of the key's first column."""
        first = self._key[0]
        low, high = file.lowest.get(first), file.highest.get(first)
        if low is None or high is None or self._keys[first].dtype.is_temporal():
            return self._keys
        begin = int(self._keys[first].search_sorted(low, side="left"))
        near = self._keys[begin : int(self._keys[first].search_sorted(high, side="right"))]
        if not self._keys[first].dtype.is_float():
            return near
        # NaN is outside of all bounds, and sorts last.
        return pl.concat([near, self._keys.filter(pl.col(first).is_nan())]).unique()

    def changes(self, snapshot: Snapshot, files: Sequence[StoredFile]) -> list[StagedFile]:
        """Files of what an upsert does to rows: old and new values, rows that go and come."""
        if not snapshot.has_change_feed or not files:
            return []
        key, keys, missing = self._key, self._keys.lazy(), self._missing(snapshot)
        kept = self._kept.lazy()
        with ChangeWriter(snapshot) as writer:
            found = list[pl.DataFrame]()
            for file in files:
                rows = snapshot.rows_of(file).join(keys, on=key, how="semi")
                writer.write(rows.join(kept, on=key, how="semi"), "update_preimage")
                writer.write(rows.join(kept, on=key, how="anti"), "delete")
                found.append(rows.select(*key, *missing).collect())
            old = pl.concat(found).lazy()
            new = (
                kept.join(old, on=key, how="inner")
                if missing
                else kept.join(old, on=key, how="semi")
            )
            writer.write(new, "update_postimage")
            writer.write(kept.join(old, on=key, how="anti"), "insert")
            return writer.finish()

    def _missing(self, snapshot: Snapshot) -> list[str]:
        """Columns that stay as they were; another writer may add some meanwhile."""
        return [name for name in snapshot.schema.names if name not in self._given]

    def inserted(
        self, snapshot: Snapshot, copies: Iterable[Copy]
    ) -> tuple[list[StagedFile], int, int]:
        """Files with the new values of rows that were there, and of others."""
        old = [copy.old for copy in copies if copy.old is not None]
        rows, updated = self._kept, 0
        if old:
            found = pl.concat(old, how="diagonal")
            updated = rows.select(self._key).join(found, on=self._key, how="semi").height
            if found.width > len(self._key):
                rows = rows.join(found, on=self._key, how="left", maintain_order="left")
        batches = (
            batch
            for part in rows.iter_slices(_INSERTED_ROWS)
            for batch in part.to_arrow().to_batches()
        )
        return staged_rows(snapshot, batches), rows.height - updated, updated


def _matches(table: Table, rows: pl.DataFrame, predicate: Predicate | None) -> pl.Series:
    """Of which rows a predicate is true; without one, of none."""
    if predicate is None:
        return pl.repeat(value=False, n=rows.height, eager=True)
    what = f"{table.name}: upsert(delete_where={predicate})"
    matches = expression_of(predicate, rows.schema, what)
    with evaluating(what):
        return rows.with_columns(matches.alias(PLACE))[PLACE]


def _flags(
    table: Table, rows: pl.DataFrame, key: list[str], predicate: Predicate | None
) -> list[str]:
    """Columns that only say which keys go out."""
    known = None if predicate is None else table.snapshot_or_none()
    if predicate is None or known is None:
        return []
    expression = pl.sql_expr(predicate) if isinstance(predicate, str) else predicate
    named = set(expression.meta.root_names())
    return [name for name in rows.columns if name in named - {*known.schema.names, *key}]


def _as_keys_of(snapshot: Snapshot, given: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """The rows with keys of the table's types."""
    kinds = pl.Schema(snapshot.schema)
    other = {name: kinds[name] for name in key if given.schema[name] != kinds[name]}
    try:
        return given.cast(other) if other else given  # pyright: ignore[reportArgumentType]
    except pl.exceptions.PolarsError as error:
        kind = ", ".join(f"{name} is {given.schema[name]}, not {of}" for name, of in other.items())
        raise LakeError(
            f"{snapshot.table.name}: upsert: a key can't be compared: {kind}"
        ) from error


def _check_key(table: Table, rows: pl.DataFrame, key: list[str]) -> None:
    if missing := [name for name in key if name not in rows.columns]:
        raise LakeError(f"{table.name}: upsert: the rows have no column {', '.join(missing)}")
    if rows.select(pl.any_horizontal(pl.col(key).is_null().any())).item():
        raise LakeError(f"{table.name}: upsert: a key ({', '.join(key)}) is null")
    ordered = rows.select(key).sort(key)  # which takes a tenth of the memory of a set of them
    is_again = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift()) for name in key)
    twice = ordered.filter(is_again).unique()
    if twice.height:
        raise LakeError(
            f"{table.name}: upsert: {twice.height:,} keys are there twice, such as "
            f"{twice.row(0, named=True)}; keep one row of each"
        )


def _frame(rows: Rows) -> pl.DataFrame:
    match rows:
        case pl.DataFrame():
            return rows
        case pl.LazyFrame():
            return rows.collect()
        case _:
            batches, schema = stream_of(rows)
            return pl.DataFrame(pl.from_arrow(pa.Table.from_batches([*batches], schema)))
