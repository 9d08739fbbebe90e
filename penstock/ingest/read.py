"""One raw file's rows as text, in batches; the same columns whatever the format.

A row that can't be taken apart keeps its text in `_rescued` and says why in `_error`; a file that
can't be read raises `UnreadableFile`.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from penstock.errors import UnreadableFile
from penstock.ingest.plan import Source
from penstock.storage.sources import SourceFolder
from penstock.tables import sql

BLOCK_BYTES = 8 << 20
"""Bytes of a CSV file parsed at once; the longest row must fit in."""
_HEAD_BYTES = 1 << 16


def raw_schema(source: Source) -> pa.Schema:
    """Columns of the bronze table: the contract's, as text, then where each row came from."""
    provenance = [
        pa.field("_rescued", pa.string(), metadata={"comment": "what did not fit, as JSON"}),
        pa.field("_error", pa.string(), metadata={"comment": "why the row can't be taken apart"}),
        pa.field("_source_file", pa.string()),
        pa.field("_source_row", pa.int64(), metadata={"comment": "1 is the first after a header"}),
        pa.field("_ingested_at", pa.timestamp("us", "UTC")),
        pa.field("_batch", pa.int64()),
    ]
    columns = [
        pa.field(c.raw_name, pa.string(), metadata={"personal": "true"} if c.personal else None)
        for c in source.contract.columns
    ]
    return pa.schema([*columns, *provenance])


def read_file(source: Source, folder: SourceFolder, path: str) -> Iterator[pa.Table]:
    """The file's rows: the contract's raw columns, `_rescued`, `_error` and `_source_row`.

    Raises
    ------
    UnreadableFile: the file is gone, empty, damaged, or lacks a column that must have values.
    """
    readers = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet, "arrow": _arrow}
    reader = readers[source.format_of(path) or "csv"]
    try:
        with folder.open(path) as stream:
            yield from reader(source, _Plain(stream, path), path)
    except FileNotFoundError as error:
        message = f"{path}: it vanished after it was listed"
        raise UnreadableFile(message, is_transient=True) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UnreadableFile(f"{path}: damaged gzip, perhaps cut short: {error}") from error
    except (pa.ArrowException, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        raise UnreadableFile(f"{path}: {str(error).splitlines()[0]}") from error
    except OSError as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UnreadableFile(f"{path}: {reason}", is_transient=True) from error


class _Plain:
    """A readable file for pyarrow over a possibly gzipped one, its first bytes looked at."""

    closed = False

    def __init__(self, stream: IO[bytes], path: str) -> None:
        # Python's gzip, and not Arrow's, because it notices a file that was cut short.
        self._stream: Any = gzip.GzipFile(fileobj=stream) if path.endswith(".gz") else stream
        self.head: bytes = self._stream.read(_HEAD_BYTES)
        self._unread = memoryview(self.head)
        if not self.head:
            raise UnreadableFile(f"{path}: the file is empty (0 bytes)")

    def read(self, size: int = -1) -> bytes:
        if not self._unread or size == 0:
            return self._stream.read(size)
        taken = len(self._unread) if size < 0 else min(size, len(self._unread))
        first, self._unread = bytes(self._unread[:taken]), self._unread[taken:]
        return first + self._stream.read(-1) if size < 0 else first

    def seekable_file(self) -> Any:
        """The plain bytes as a file to seek in: the source's own where it is one."""
        if isinstance(self._stream, gzip.GzipFile):
            return pa.BufferReader(self.read())
        self._stream.seek(0)
        return pa.PythonFile(self._stream, mode="r")

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        pass


def _csv(source: Source, stream: _Plain, path: str) -> Iterator[pa.Table]:
    names = _header(source, stream.head, path)
    _check_columns(source, names, path)
    malformed: list[pacsv.InvalidRow] = []

    def set_aside(row: pacsv.InvalidRow) -> str:
        malformed.append(row)
        return "skip"

    reader = pacsv.open_csv(
        pa.PythonFile(stream, mode="r"),
        # One thread, so that a malformed row comes with its number.
        pacsv.ReadOptions(
            use_threads=False,
            block_size=BLOCK_BYTES,
            encoding=source.encoding,
            column_names=names,
            skip_rows=1,
        ),
        pacsv.ParseOptions(
            delimiter=source.delimiter, newlines_in_values=True, invalid_row_handler=set_aside
        ),
        pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=True,
            null_values=[""],
        ),
    )
    row = 1
    for batch in reader:
        # The reader may be a block ahead: take the malformed rows up to this batch's last row.
        bad = np.array([bad.number - 1 for bad in malformed], dtype=np.int64)
        here = int(np.searchsorted(bad - np.arange(len(bad)), row + batch.num_rows, side="right"))
        taken, malformed[:here] = malformed[:here], []
        every = np.arange(row, row + batch.num_rows + here)
        row += len(every)
        good = np.setdiff1d(every, bad[:here], assume_unique=True)
        yield _shaped(source, pa.Table.from_batches([batch]), path, pa.array(good))
        yield _malformed(source, taken)
    yield _malformed(source, malformed)


def _header(source: Source, head: bytes, path: str) -> list[str]:
    first_line = head.decode(source.encoding, errors="replace").splitlines()[0]
    names = next(csv.reader([first_line.removeprefix("\ufeff")], delimiter=source.delimiter), [])
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UnreadableFile(f"{path}: columns there twice: {', '.join(twice)}")
    return names


def _jsonl(source: Source, stream: _Plain, path: str) -> Iterator[pa.Table]:
    """Lines taken apart by DuckDB, which tells a bad one from the rest."""
    picked = ", ".join(
        f"doc ->> {_path(name)} AS {_quoted(name)}" for name in source.contract.raw_names
    )
    known = json.dumps(dict.fromkeys(source.contract.raw_names)).replace("'", "''")
    query = f"""
        SELECT {picked}, CASE WHEN doc IS NULL THEN line
                    WHEN rest <> '{{}}' THEN rest END AS _rescued,
               CASE WHEN doc IS NULL THEN 'not a JSON object' END AS _error, _source_row
        FROM (SELECT line, _source_row, doc, json_merge_patch(doc, '{known}')::VARCHAR AS rest
              FROM (SELECT line, _source_row,
                           CASE WHEN json_valid(line) AND json_type(line) = 'OBJECT'
                                THEN line::JSON END AS doc
                    FROM lines))
        ORDER BY _source_row"""
    with sql.connect() as connection:
        for lines in _lines(stream):
            connection.register("lines", lines)
            rows = connection.sql(query).to_arrow_table()
            if source.contract.unknown_columns == "fail":
                unknown = rows.filter(rows["_error"].is_null())["_rescued"].drop_null()
                if len(unknown):
                    raise UnreadableFile(f"{path}: keys not in the contract: {unknown[0]}")
            yield rows


def _lines(stream: _Plain) -> Iterator[pa.Table]:
    """Non-empty lines with their 1-based numbers, a block of bytes at a time."""
    rest, seen = b"", 0
    while True:
        block = stream.read(BLOCK_BYTES)
        *whole, rest = (rest + block).split(b"\n") if block else [rest, b""]
        text = pl.DataFrame({"line": pa.array(whole, pa.binary()).cast(pa.string())})
        lines = text.select(
            pl.col("line").str.strip_chars(),
            pl.int_range(seen + 1, pl.len() + seen + 1).alias("_source_row"),
        )
        seen += len(whole)
        yield lines.filter(pl.col("line") != "").to_arrow()
        if not block:
            return


def _parquet(source: Source, stream: _Plain, path: str) -> Iterator[pa.Table]:
    file = pq.ParquetFile(stream.seekable_file())
    _check_columns(source, file.schema_arrow.names, path)
    yield from _typed(source, file.iter_batches(1 << 16), path)


def _arrow(source: Source, stream: _Plain, path: str) -> Iterator[pa.Table]:
    if stream.head.startswith(b"ARROW1"):
        file = pa.ipc.open_file(stream.seekable_file())
        batches = (file.get_batch(i) for i in range(file.num_record_batches))
        _check_columns(source, file.schema.names, path)
    else:
        stream_reader = pa.ipc.open_stream(stream.seekable_file())
        _check_columns(source, stream_reader.schema.names, path)
        batches = iter(stream_reader)
    yield from _typed(source, batches, path)


def _typed(source: Source, batches: Iterator[pa.RecordBatch], path: str) -> Iterator[pa.Table]:
    """Batches of a format with types, as the text that a CSV of them would hold."""
    seen = 0
    for batch in batches:
        frame = pl.DataFrame(pl.from_arrow(batch))
        text = frame.select(pl.all().cast(pl.String)).to_arrow()
        rows = pa.array(np.arange(seen + 1, seen + batch.num_rows + 1))
        seen += batch.num_rows
        yield _shaped(source, text, path, rows)


def _shaped(source: Source, table: pa.Table, path: str, rows: pa.Array) -> pa.Table:
    """The contract's columns by their raw names, the rest as JSON in `_rescued`."""
    known = source.contract.raw_names
    empty = pa.nulls(len(table), pa.string())
    columns = {
        name: table[name].cast(pa.string()) if name in table.column_names else empty
        for name in known
    }
    extra = [name for name in table.column_names if name not in known]
    rescued = empty
    if extra:
        if source.contract.unknown_columns == "fail":
            raise UnreadableFile(f"{path}: columns not in the contract: {', '.join(extra)}")
        frame = pl.DataFrame(pl.from_arrow(table.select(extra)))
        text = frame.select(pl.struct(pl.all()).struct.json_encode()).to_series()
        rescued = text.to_arrow().cast(pa.string())
    return pa.table({**columns, "_rescued": rescued, "_error": empty, "_source_row": rows})


def _malformed(source: Source, rows: list[pacsv.InvalidRow]) -> pa.Table:
    empty = pa.nulls(len(rows), pa.string())
    wrong = [f"{r.actual_columns} fields where {r.expected_columns} are expected" for r in rows]
    return pa.table(
        {
            **dict.fromkeys(source.contract.raw_names, empty),
            "_rescued": pa.array([row.text for row in rows], pa.string()),
            "_error": pa.array(wrong, pa.string()),
            "_source_row": pa.array([row.number - 1 for row in rows], pa.int64()),
        }
    )


def _check_columns(source: Source, names: list[str], path: str) -> None:
    required = [column.raw_name for column in source.contract.columns if not column.nullable]
    missing = [name for name in required if name not in names]
    if not missing:
        return
    hint = f"it has {', '.join(names[:20])}"
    if len(names) == 1 and (other := next((d for d in ";\t|," if d in names[0]), None)):
        hint = f"its header is one column; is its delimiter {other!r}, not {source.delimiter!r}?"
    raise UnreadableFile(f"{path}: columns missing: {', '.join(missing)}; {hint}")


def _path(name: str) -> str:
    return "'$.\"" + name.replace("'", "''").replace('"', '\\"') + "\"'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
