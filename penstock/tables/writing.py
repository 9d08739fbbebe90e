"""Rows into a table and out of it, each in one commit: append, overwrite, replace, delete.

What changes rows that are there copies the data files that hold them (copy on write).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import polars as pl
import pyarrow as pa

from penstock.contracts.conditions import looks_past_a_row
from penstock.errors import CommitConflict, ConstraintBroken, LakeError
from penstock.tables.changes import staged_changes
from penstock.tables.copying import Copy, Rewriting, Written, copied, widened, with_kinds, written
from penstock.tables.staging import StagedFile, Stager, StoredFile, discard, partition_text
from penstock.tables.table import Snapshot, Table, as_stored

Rows = pl.DataFrame | pl.LazyFrame | pa.Table | pa.RecordBatch | Iterable[pa.RecordBatch]
"""What is written: a frame, an Arrow table, or a stream of Arrow batches."""
Predicate = str | pl.Expr
"""Which rows: SQL such as `quantity < 0`, or a polars expression. Null is false."""


def append(table: Table, rows: Rows, *, partition_by: Sequence[str] = ()) -> Written:
    """Add rows; the table is made of their schema where there is none.

    Raises
    ------
    LakeError: a column has another type than the table's, or is not in it.
    """
    batches, schema = _batches(rows)
    snapshot = table.create(schema, partition_by=partition_by, of_rows=True)
    staged = staged_rows(snapshot, batches)
    try:
        done = snapshot.commit(staged, application="append", discards=False)
    except (CommitConflict, ConstraintBroken):
        discard(table.lake, table.key, staged)
        raise
    return written(done, staged, [], inserted=sum(file.rows for file in staged))


def overwrite(table: Table, rows: Rows) -> Written:
    """All rows out and these in."""
    return replace_where(table, pl.lit(value=True), rows, is_checked=False)


def replace_where(
    table: Table, predicate: Predicate, rows: Rows, *, is_checked: bool = True
) -> Written:
    """The rows for which a predicate is true out and these in.

    Parameters
    ----------
    is_checked: whether the predicate must be true of the new rows too.

    Raises
    ------
    LakeError: it is not, and which row shows it; what it says of a row depends on others; or it
        is no condition, or not one on the new rows' columns. Nothing was changed.
    """
    what = f"{table.name}: replace_where({predicate})"
    batches, schema = _batches(rows)
    if is_checked:
        matches = _of_a_row(predicate, pl.Schema(schema), what)
        snapshot = table.create(schema, of_rows=True)
        batches = _checked(batches, matches, what)
    else:
        snapshot = table.create(schema, of_rows=True)
        matches = _of_a_row(predicate, pl.Schema(snapshot.schema), what)
    staged = staged_rows(snapshot, batches)
    inserted = sum(file.rows for file in staged)
    rewriting = Rewriting(
        table,
        lambda at, file: _without(at, file, matches, what),
        lambda at, files: staged_changes(at, files, matches, staged),
    )
    return rewriting.run("replace_where", staged, inserted=inserted)


def delete(table: Table, predicate: Predicate) -> Written:
    """The rows for which a predicate is true out. Files that hold none are not touched.

    Raises
    ------
    LakeError: what the predicate says of a row depends on others, or it is no condition on the
        table's columns. Nothing was changed.
    """
    what = f"{table.name}: delete({predicate})"
    matches = _of_a_row(predicate, pl.Schema(table.snapshot().schema), what)
    rewriting = Rewriting(
        table,
        lambda at, file: _without(at, file, matches, what),
        lambda at, files: staged_changes(at, files, matches, []),
    )
    return rewriting.run("delete", [])


def widen(table: Table, kinds: Mapping[str, pa.DataType]) -> Snapshot:
    """Columns with wider types: every file written anew, in one commit with the new schema.

    Raises
    ------
    LakeError: a value has no exact counterpart; nothing was changed.
    """

    def copy(snapshot: Snapshot, file: StoredFile) -> Copy:
        return Copy(widened(snapshot, file, with_kinds(snapshot.schema, kinds)), file.rows)

    return Rewriting(table, copy, lambda _, __: []).run("widen", [], kinds=kinds).snapshot


def _without(snapshot: Snapshot, file: StoredFile, matches: pl.Expr, what: str) -> Copy:
    with evaluating(what):
        matched = sum(
            int(rows.filter(matches).select(pl.len()).collect(engine="in-memory").item())
            for rows in snapshot.portions_of(file)
        )
    if matched in (0, file.rows):
        return Copy(matched=matched)
    return Copy(copied(snapshot, file, lambda rows: rows.filter(~matches)), matched)


def staged_rows(snapshot: Snapshot, batches: Iterator[pa.RecordBatch]) -> list[StagedFile]:
    """Rows in files beside the table, those of a partition together."""
    table, columns = snapshot.table, snapshot.partition_columns
    stagers: dict[tuple[str | None, ...], Stager] = {}
    try:
        for batch in batches:
            _check_columns(snapshot, batch.schema)
            for values, rows in _by_partition(batch, columns):
                if values not in stagers:
                    partition = dict(zip(columns, values, strict=True))
                    stagers[values] = Stager(
                        table.lake, table.name, snapshot.schema, partition=partition
                    )
                stagers[values].write(rows)
        return [file for stager in stagers.values() for file in stager.finish()]
    except BaseException:
        for stager in stagers.values():
            stager.abandon()
        raise


def _by_partition(
    batch: pa.RecordBatch, columns: list[str]
) -> Iterator[tuple[tuple[str | None, ...], pa.Table]]:
    if not columns:
        yield (), pa.Table.from_batches([batch])
        return
    frame = pl.DataFrame(pl.from_arrow(batch))
    for values, rows in frame.partition_by(columns, as_dict=True, maintain_order=True).items():
        yield tuple(partition_text(value) for value in values), rows.to_arrow()


def _check_columns(snapshot: Snapshot, schema: pa.Schema) -> None:
    unknown = [name for name in schema.names if name not in snapshot.schema.names]
    if unknown:
        raise LakeError(
            f"{snapshot.table.name}: no column {', '.join(unknown)}; it has "
            f"{', '.join(snapshot.schema.names)}"
        )


def _checked(
    batches: Iterator[pa.RecordBatch], matches: pl.Expr, what: str
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        with evaluating(what):
            wrong = pl.DataFrame(pl.from_arrow(batch)).filter(~matches)
        if wrong.height:
            raise LakeError(
                f"{what}: {wrong.height:,} of the new rows are outside of what is replaced, such "
                f"as {wrong.row(0, named=True)}"
            )
        yield batch


def _of_a_row(predicate: Predicate, schema: pl.Schema, what: str) -> pl.Expr:
    """A predicate that means the same for parts of the table."""
    with evaluating(what):
        matches = pl.sql_expr(predicate) if isinstance(predicate, str) else predicate
    if looks_past_a_row(matches):
        raise LakeError(
            f"{what}: what this says of a row depends on others, and "
            "files are gone through one by one; find the rows' keys first, and name those"
        )
    return expression_of(matches, schema, what)


def expression_of(predicate: Predicate, schema: pl.Schema, what: str) -> pl.Expr:
    """A predicate over rows of these columns, false where it is null.

    Parameters
    ----------
    what: for errors.

    Raises
    ------
    LakeError: it is no condition on such rows.
    """
    with evaluating(what):
        expression = pl.sql_expr(predicate) if isinstance(predicate, str) else predicate
        expression = expression.fill_null(value=False)
        # A Python function may take no rows amiss.
        with suppress(IndexError, KeyError, TypeError, ValueError):
            pl.DataFrame(schema=schema).filter(expression)
    return expression


@contextmanager
def evaluating(what: str) -> Generator[None]:
    """A predicate that can't be evaluated is a `LakeError`."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().splitlines()[0]
        raise LakeError(f"{what}: {reason}; give a condition such as quantity < 0") from error


def _batches(rows: Rows) -> tuple[Iterator[pa.RecordBatch], pa.Schema]:
    """Rows as a stream, and their schema as Delta has it."""
    batches, schema = stream_of(rows)
    return batches, as_stored(schema)


def stream_of(rows: Rows) -> tuple[Iterator[pa.RecordBatch], pa.Schema]:
    match rows:
        case pl.LazyFrame():
            empty = rows.head(0).collect().to_arrow().schema
            return _of_frames(rows.collect_batches(maintain_order=True)), empty
        case pl.DataFrame():
            table = rows.to_arrow()
            return iter(table.to_batches(1 << 17)), table.schema
        case pa.Table():
            return iter(rows.to_batches(1 << 17)), rows.schema
        case pa.RecordBatch():
            return iter([rows]), rows.schema
        case _:
            if not isinstance(rows, Iterable):
                raise _no_rows(rows)
            stream: Any = iter(rows)
            first = next(stream, None)
            if first is None:
                raise LakeError("there is no batch to write, and so no schema")
            if not isinstance(first, pa.RecordBatch):
                raise _no_rows(rows)
            return _chained(first, stream), first.schema


def _no_rows(given: object) -> LakeError:
    return LakeError(
        f"a {type(given).__name__} is not rows to write; give a polars frame "
        "(pl.DataFrame(...) makes one), an Arrow table or a stream of Arrow record batches"
    )


def _of_frames(frames: Iterable[pl.DataFrame]) -> Iterator[pa.RecordBatch]:
    for frame in frames:
        yield from frame.to_arrow().to_batches(1 << 17)


def _chained(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def facts(written: Written) -> Mapping[str, int]:
    """A write's counts by name."""
    names = ("rows_inserted", "rows_updated", "rows_deleted", "files_added", "files_removed")
    return {name: getattr(written, name) for name in (*names, "bytes_added", "version")}
