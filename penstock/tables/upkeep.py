"""A table's upkeep: small files into large ones, rows in a better order, old files away.

None of it changes a row. `vacuum` keeps what pinned versions and recent readers need, and takes
with it what killed writers staged and never committed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa
from deltalake.exceptions import DeltaError
from numpy.typing import NDArray

from penstock.errors import LakeError
from penstock.tables import sql
from penstock.tables.copying import widened
from penstock.tables.deletions import deletion_of
from penstock.tables.staging import FILE_BYTES, StagedFile, Stager, StoredFile, discard
from penstock.tables.table import Snapshot, Table
from penstock.tables.tags import tagged_versions
from penstock.tables.upserting import enable_deletion_vectors

SMALL = 0.5
"""Of the wanted size, below which a file counts as small."""
_GONE = 0.05
"""Of a file's rows, from which on it is written anew without them."""
_BITS = 10
"""Of each column in a Z-order."""
_SAMPLED = 1_000_000
"""Rows that say where the shares of a Z-order's columns part, so that memory has a bound."""


@dataclass(frozen=True, slots=True)
class Optimized:
    """What one `optimize` did."""

    files_before: int = 0
    files_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    version: int = 0


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """What one `vacuum` did, or would do."""

    files_deleted: int
    bytes_deleted: int
    versions_kept: tuple[int, ...]
    """Older ones that are pinned."""


def optimize(
    table: Table,
    *,
    file_bytes: int = FILE_BYTES,
    sort_by: Sequence[str] = (),
    z_order_by: Sequence[str] = (),
    purge: bool = False,
) -> Optimized:
    """Small files of a partition into files of about `file_bytes`; all files, to order them.

    Rows keep their order unless `sort_by` or `z_order_by` say another, which is made out of core.
    A file of which deletion vectors take out a twentieth of the rows is written without them.

    Parameters
    ----------
    purge: whether every file with a deletion vector is, so that `vacuum` can take the last of what
        they deleted.

    Raises
    ------
    LakeError: a column isn't there, or both orders are said.
    CommitConflict: another writer took out a row of these files meanwhile; nothing was changed.
    """
    snapshot = table.snapshot()
    order = [*sort_by, *z_order_by]
    if sort_by and z_order_by:
        raise LakeError(f"{table.name}: optimize: sort_by or z_order_by, not both")
    if missing := [name for name in order if name not in snapshot.schema.names]:
        raise LakeError(f"{table.name}: optimize: no column {', '.join(missing)}")
    # In a file, a partition's column has one value.
    partitions = set(snapshot.partition_columns)
    sort_by = [name for name in sort_by if name not in partitions]
    z_order_by = [name for name in z_order_by if name not in partitions]
    removes, adds = list[StoredFile](), list[StagedFile]()
    try:
        gone = 0.0 if purge else _GONE
        for files in _groups(snapshot, file_bytes, is_every=bool(order), gone=gone):
            partition = files[0].partition
            with Stager(
                table.lake,
                table.name,
                snapshot.schema,
                partition=partition,
                file_bytes=file_bytes,
                counts_stored=True,
            ) as stager:
                for batch in _read(snapshot, files, sort_by, z_order_by, file_bytes):
                    stager.write(batch)
                adds += stager.finish()
            removes += files
        if not removes:
            return Optimized(len(snapshot.files), len(snapshot.files), version=snapshot.version)
        if sum(file.rows for file in adds) != sum(file.rows for file in removes):
            raise LakeError(f"{table.name}: optimize: rows would be lost; nothing was changed")
    except BaseException:
        discard(table.lake, table.key, adds)
        raise
    done = snapshot.commit(adds, removes, application="optimize", changes_data=False)
    return Optimized(
        files_before=len(removes),
        files_after=len(adds),
        bytes_before=sum(file.size_bytes for file in removes),
        bytes_after=sum(file.size_bytes for file in adds),
        version=done.version,
    )


def small_files(snapshot: Snapshot, file_bytes: int = FILE_BYTES) -> int:
    """How many files `optimize` would make fewer of."""
    groups = _groups(snapshot, file_bytes, is_every=False)
    return sum(len(files) for files in groups)


def vacuum(
    table: Table,
    *,
    keep: timedelta = timedelta(days=7),
    pinned: Sequence[int] = (),
    is_dry: bool = False,
) -> Vacuumed:
    """Delete files that no version needs any more, and what was staged and never committed.

    Parameters
    ----------
    keep: files that left the table, or were staged, more recently stay: readers of older versions
        and writers at work may need them.
    pinned: versions to keep whole however old, besides those with a tag.
    """
    if keep < timedelta(0):
        raise LakeError(f"{table.name}: vacuum: keep can't be negative")
    snapshot = table.snapshot()
    wanted = {*pinned, *tagged_versions(table)}
    kept = sorted(version for version in wanted if version < snapshot.version)
    for each in (snapshot, *(table.snapshot(version) for version in kept)):
        elsewhere = [f.path for f in each.files if f.deletion and not f.deletion.within]
        if elsewhere:
            raise LakeError(
                f"{table.name}: vacuum: {len(elsewhere)} files of version {each.version} "
                f"({elsewhere[0]}, ...) have deletion vectors of another engine in files of their "
                "own, which would be taken for files that nobody needs; vacuum with that engine, "
                "or optimize(purge=True) and untag that version first"
            )
    hours = math.ceil(keep.total_seconds() / 3600)  # never less than was asked for
    delta = snapshot.delta
    options: dict[str, Any] = {
        "retention_hours": hours,
        "enforce_retention_duration": False,
        "full": True,
        "keep_versions": kept,
    }
    try:
        doomed = delta.vacuum(dry_run=True, **options)
        sizes = _sizes(table, doomed)
        if sizes and not is_dry:
            delta.vacuum(dry_run=False, **options)
    except (DeltaError, OSError) as error:
        table.refuse(error)
    return Vacuumed(len(sizes), sum(sizes), tuple(kept))


def checkpoint(table: Table) -> int:
    """Write the log's state in one file, from which readers start; the version it is of."""
    snapshot = table.snapshot()
    try:
        snapshot.delta.create_checkpoint()
    except (DeltaError, OSError) as error:
        table.refuse(error)
    return snapshot.version


def restore(table: Table, version: int | datetime | str) -> Snapshot:
    """The rows as of a version, time or tag again, as a new version in the table's columns of now.

    Where a column's type was widened since, its files are written anew.

    Raises
    ------
    TableNotFound: there is no such version.
    LakeError: files of it were vacuumed, or a value has no counterpart in a wider type.
    """
    then, now = table.snapshot(version), table.snapshot()
    gone = [file.path for file in then.files if not _is_there(table, file)]
    if gone:
        raise LakeError(
            f"{table.name}: version {then.version} can't be restored: {len(gone)} of its files "
            f"were vacuumed, such as {gone[0]}"
        )
    kinds = {field.name: field.type for field in now.schema}
    is_narrow = any(kinds.get(field.name, field.type) != field.type for field in then.schema)
    present = {file.id for file in now.files}
    wanted = {file.id for file in then.files}
    ids = {file.path: file.id for file in then.files}
    if is_narrow:
        adds, removes = _widened(then, now.schema), now.files
    else:
        adds = [file for file in then.staged() if ids[file.path] not in present]
        removes = [file for file in now.files if file.id not in wanted]
    if not adds and not removes:
        return now
    note = {"restored": then.version}
    return now.commit(
        adds, removes, application="restore", note=note, discards=is_narrow, is_alone=True
    )


def _widened(then: Snapshot, schema: pa.Schema) -> list[StagedFile]:
    """A version's files written anew, in wider types."""
    staged = list[StagedFile]()
    try:
        for file in then.files:
            staged += widened(then, file, schema)
    except BaseException:
        discard(then.table.lake, then.table.key, staged)
        raise
    return staged


def clone(table: Table, name: str, version: int | None = None) -> Snapshot:
    """A version's files copied into a new table, byte by byte.

    Raises
    ------
    LakeError: there is a table of that name.
    """
    lake, source = table.lake, table.snapshot(version)
    target = Table(lake, name)
    if target.snapshot_or_none() is not None:
        raise LakeError(f"{lake.uri} has a table {name}")
    files = source.staged()
    # A vector that stands in a file of its own would not be found beside the copy.
    vectors = {f.path: deletion_of(source.places_gone(f)) for f in source.files if f.deletion}
    files = [replace(file, deletion=vectors.get(file.path)) for file in files]
    lake.objects.copy((f"{table.key}/{f.path}", f"{target.key}/{f.path}") for f in files)
    made = target.create(
        source.schema,
        partition_by=source.partition_columns,
        description=f"A copy of {table.name}, version {source.version}",
    )
    if vectors:
        made = enable_deletion_vectors(target)
    note = {"source": table.name, "source_id": source.id, "version": source.version}
    return made.commit(files, application="clone", note=note)


def _groups(
    snapshot: Snapshot, file_bytes: int, *, is_every: bool, gone: float = _GONE
) -> Iterator[list[StoredFile]]:
    """Files to be written anew together, by partition, in the table's order.

    Parameters
    ----------
    gone: the share of a file's rows that are gone, from which on it is one of them.
    """
    parts: dict[tuple[tuple[str, str | None], ...], list[StoredFile]] = {}
    for file in sorted(snapshot.files, key=lambda file: file.path):
        parts.setdefault(tuple(sorted(file.partition.items())), []).append(file)
    for files in parts.values():
        if is_every:
            yield files
            continue
        small = [file for file in files if file.size_bytes < SMALL * file_bytes]
        marked = [file for file in files if file.deletion and file.share_gone >= gone]
        if len(small) > 1 or marked:
            yield [*small, *(file for file in marked if file not in small)]


def _read(
    snapshot: Snapshot,
    files: list[StoredFile],
    sort_by: Sequence[str],
    z_order_by: Sequence[str],
    file_bytes: int,
) -> Iterator[pa.Table]:
    partitions = set(snapshot.partition_columns)
    names = [name for name in snapshot.schema.names if name not in partitions]
    if sort_by or z_order_by:
        stored = sum(file.size_bytes for file in files) / max(1, sum(file.rows for file in files))
        step = int(min(1 << 17, max(1000, file_bytes / stored / 4)))
        for table in _sorted(snapshot, files, names, sort_by, z_order_by):
            for start in range(0, table.num_rows, step):
                yield table[start : start + step]
        return
    # One after the other: their rows stay together.
    for frame in snapshot.stream(files, lambda rows: rows.select(names)):
        yield frame.to_arrow()


def _sorted(
    snapshot: Snapshot,
    files: list[StoredFile],
    names: list[str],
    sort_by: Sequence[str],
    z_order_by: Sequence[str],
) -> Iterator[pa.Table]:
    """In an order that DuckDB makes, which spills to disk."""
    rows = snapshot.read(files, names)
    every = max(1, sum(file.rows for file in files) // _SAMPLED)
    edges = _edges(rows.gather_every(every), z_order_by)

    def batches() -> Iterator[pa.RecordBatch]:
        for frame in rows.collect_batches(maintain_order=True):
            placed = frame.with_columns(pl.Series("_z", _z_values(frame, edges)))
            yield from placed.to_arrow(compat_level=pl.CompatLevel.oldest()).to_batches()

    empty = rows.head(0).collect().with_columns(pl.lit(0, pl.UInt64).alias("_z"))
    schema = empty.to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    order = ", ".join(f'"{name}"' for name in sort_by) or "_z"
    with sql.connect() as connection:
        connection.register("rows", pa.RecordBatchReader.from_batches(schema, batches()))
        query = f"SELECT * EXCLUDE (_z) FROM rows ORDER BY {order}"
        for batch in connection.sql(query).to_arrow_reader(1 << 17):
            yield pa.table(batch)


def _edges(rows: pl.LazyFrame, columns: Sequence[str]) -> dict[str, pl.Series]:
    """Values that part a column into as many equal shares as a Z-order tells apart."""
    if not columns:
        return {}
    found = rows.select(columns).collect()
    shares = np.linspace(0, 1, 1 << _BITS)[1:-1]
    edges = dict[str, pl.Series]()
    for name in columns:
        values = found[name].drop_nulls().sort()
        places = (shares * max(0, len(values) - 1)).astype(np.int64)
        edges[name] = values.gather(places) if len(values) else values
    return edges


def _z_values(frame: pl.DataFrame, edges: dict[str, pl.Series]) -> NDArray[np.uint64]:
    """Each row's place on a Z-order curve: the bits of its columns' shares, interleaved.

    G. M. Morton, A Computer Oriented Geodetic Data Base, 1966.
    """
    z = np.zeros(frame.height, np.uint64)
    for place, (name, values) in enumerate(edges.items()):
        found = values.search_sorted(frame[name], side="right") if len(values) else None
        share = np.zeros(frame.height, np.uint64) if found is None else _numbers(found)
        for bit in range(_BITS):
            lifted = (share >> np.uint64(bit)) & np.uint64(1)
            z |= lifted << np.uint64(bit * len(edges) + place)
    return z


def _numbers(found: Any) -> NDArray[np.uint64]:
    return cast("pl.Series", found).fill_null(0).to_numpy().astype(np.uint64)


def _sizes(table: Table, paths: Sequence[str]) -> list[int]:
    """Bytes of each of these files that is there; some were deleted before."""
    doomed = {path.rsplit(f"{table.key}/", 1)[-1] for path in paths}
    prefix = f"{table.key}/"
    listed = table.lake.objects.list(table.key)
    return [found.size_bytes for found in listed if found.key.removeprefix(prefix) in doomed]


def _is_there(table: Table, file: StoredFile) -> bool:
    return table.lake.objects.exists(f"{table.key}/{file.path}")
