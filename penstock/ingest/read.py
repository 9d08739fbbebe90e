"""Raw files' rows as text, in tables; the same columns whatever the format, all of a file or none.

Small files come many at a time; of CSV, those with the same header are parsed together. A large
one comes in pieces. A row that can't be taken apart keeps its text in `_rescued` and says why in
`_error`; a file that can't be read is a result with its error, and stops no other.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from penstock.errors import MissingExtra, StorageError, UnreadableFile
from penstock.ingest import delimited
from penstock.ingest.delimited import Header, Rows, Unmarked, check_columns, check_text
from penstock.ingest.ledger import FileResult
from penstock.ingest.plan import PlannedFile
from penstock.ingest.source import Source
from penstock.storage.sources import Fetched, FileState, SourceFolder
from penstock.tables import sql

SMALL_BYTES = 8 << 20
"""Up to which a file is read whole, with others."""
_PLAIN_BYTES = 64 << 20
"""Up to which a compressed small file may unfold in memory; past that it is read as a large one."""
_LINES_BYTES = 8 << 20
_MOST_ADDED = 500
"""Columns that one file adds to a table; more are kept as JSON."""
_ADDABLE = re.compile(r"[^ ,;{}()\n\t=\0]+")
"""Names that a Delta table takes."""
_HEAD_BYTES = 1 << 16
_MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_UTF8 = ("utf8", "utf-8", "u8", "utf_8", "utf-8-sig", "ascii")


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


@dataclass(frozen=True, slots=True)
class TooLarge:
    """A compressed file that unfolds to more than is read at once."""

    file: PlannedFile


def read_small(
    source: Source, folder: SourceFolder, files: Sequence[PlannedFile]
) -> Iterator[pa.Table | FileResult | TooLarge]:
    """Whole files: tables of rows of one or several, all rows of a file in one table, and a result
    for each file.
    """
    groups: dict[Header, list[tuple[PlannedFile, bytes, str]]] = {}
    paths = [file.path for file in files]
    for file, got in zip(files, folder.fetch(paths), strict=True):
        try:
            found = _new_content(file, got)
            if isinstance(found, FileResult):
                yield found
                continue
            assert isinstance(got, Fetched)
            if source.format_of(file.path) != "csv":
                yield from _whole(source, file, got.data, found)
                continue
            with _explained(file.path, is_here=True):
                text = _whole_text(source, file, got.data)
                if isinstance(text, TooLarge):
                    yield text
                    continue
                check_text(text, file.path)
                header = delimited.header_of(source, text[:_HEAD_BYTES], file.path)
            groups.setdefault(header, []).append((file, text[header.length_bytes :], found))
        except UnreadableFile as error:
            yield failed(file, error)
    for header, members in groups.items():
        yield from _together(source, header, members)


def read_large(
    source: Source, folder: SourceFolder, file: PlannedFile
) -> Iterator[pa.Table | FileResult]:
    """One file in pieces, in order, and its result last; there is no result if it is unreadable.

    Raises
    ------
    UnreadableFile: it can't be read; what came before is not to be kept.
    """
    with _explained(file.path):
        if file.known is not None:
            hashing = _Hashing(folder.open(file.path))
            while hashing.read(1 << 20):
                pass
            _check_state(folder, file)
            if same := _seen_before(file, hashing.digest()):
                yield same
                return
        with folder.open(file.path) as raw:
            hashing, rows = _Hashing(raw), 0
            for table in _streamed(source, hashing, file):
                rows += table.num_rows
                yield table
            hashing.read_rest()
        _check_state(folder, file)
        yield FileResult(file, "loaded", rows, checksum=hashing.digest())


def failed(file: PlannedFile, error: UnreadableFile) -> FileResult:
    """What the ledger has of a file that could not be read."""
    return FileResult(file, "unavailable" if error.is_transient else "failed", error=str(error))


def with_file(table: pa.Table, path: str) -> pa.Table:
    """A table of one file's rows with its `_source_file`."""
    zeros = pa.array(np.zeros(len(table), np.int32))
    named = pa.DictionaryArray.from_arrays(zeros, pa.array([path], pa.string()))
    return table.append_column("_source_file", named)


def _new_content(file: PlannedFile, got: Fetched | OSError) -> str | FileResult:
    """The checksum of a file that is to be loaded, or what there is to say of it."""
    if isinstance(got, OSError):
        raise _unavailable(file.path, got)
    _check(file, got.state)
    if not got.data:
        raise UnreadableFile(f"{file.path}: the file is empty (0 bytes)")
    checksum = xxhash.xxh3_128_hexdigest(got.data)
    return _seen_before(file, checksum) or checksum


def _seen_before(file: PlannedFile, checksum: str) -> FileResult | None:
    if file.known == checksum:
        return FileResult(file, "unchanged", checksum=checksum)
    if file.action == "refuse":
        raise UnreadableFile(
            f"{file.path}: its content changed since it was ingested, and the source takes no "
            'changes (on_change="error"); put its new state under another name'
        )
    return None


def _check(file: PlannedFile, state: FileState) -> None:
    """That what was read is the state that was planned, which the ledger will name."""
    if (state.size_bytes, state.tag) != (file.size_bytes, file.tag):
        message = f"{file.path}: it changed after it was listed"
        raise UnreadableFile(message, is_transient=True)


def _check_state(folder: SourceFolder, file: PlannedFile) -> None:
    try:
        now = folder.state(file.path)
    except OSError as error:
        message = f"{file.path}: it vanished while it was read"
        raise UnreadableFile(message, is_transient=True) from error
    _check(file, now)


def _unavailable(path: str, error: OSError) -> UnreadableFile:
    if isinstance(error, FileNotFoundError):
        return UnreadableFile(f"{path}: it vanished after it was listed", is_transient=True)
    reason = (str(error) or repr(error)).splitlines()[0]
    return UnreadableFile(f"{path}: {reason}", is_transient=True)


@contextmanager
def _explained(path: str, *, is_here: bool = False) -> Generator[None]:
    """Turn what readers raise into `UnreadableFile`.

    is_here: whether all bytes are in memory, so that nothing can be wrong but they.
    """
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UnreadableFile(f"{path}: damaged archive, perhaps cut short: {error}") from error
    except (pa.ArrowException, UnicodeError, pl.exceptions.PolarsError) as error:
        raise UnreadableFile(f"{path}: {str(error).splitlines()[0]}") from error
    except OSError as error:
        if is_here:
            raise UnreadableFile(f"{path}: {str(error).splitlines()[0]}") from error
        raise _unavailable(path, error) from error
    except StorageError as error:
        raise UnreadableFile(f"{path}: {error}", is_transient=True) from error


def _whole(
    source: Source, file: PlannedFile, data: bytes, checksum: str
) -> Iterator[pa.Table | FileResult | TooLarge]:
    with _explained(file.path, is_here=True):
        plain = _whole_text(source, file, data)
        if isinstance(plain, TooLarge):
            yield plain
            return
        tables = [*_READERS[source.format_of(file.path) or "csv"](source, io.BytesIO(plain), file)]
    if tables:
        yield pa.concat_tables(tables, promote_options="default")
    rows = sum(table.num_rows for table in tables)
    yield FileResult(file, "loaded", rows, checksum=checksum)


def _together(
    source: Source, header: Header, members: list[tuple[PlannedFile, bytes, str]]
) -> Iterator[pa.Table | FileResult]:
    """CSV files of one header, parsed as one; where that fails, each by itself."""
    try:
        found = delimited.parse(source, header, [text for _, text, _ in members])
    except (Unmarked, pa.ArrowInvalid) as error:
        if len(members) > 1:
            for member in members:
                yield from _together(source, header, [member])
            return
        file, text, _ = members[0]
        if isinstance(error, Unmarked):
            problem = delimited.unclosed(file.path, 0, text, 2 if source.header else 1)
        else:
            problem = UnreadableFile(f"{file.path}: {str(error).splitlines()[0]}")
        yield failed(file, problem)
        return
    try:
        yield from _tables(source, found, [file.path for file, _, _ in members])
    except UnreadableFile as error:
        for file, _, _ in members:
            yield failed(file, UnreadableFile(f"{file.path}: {error}"))
        return
    for (file, _, checksum), rows in zip(members, found.counts.tolist(), strict=True):
        yield FileResult(file, "loaded", rows, checksum=checksum)


def _tables(source: Source, found: Rows, paths: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of files, and those of them that can't be taken apart."""
    names = pa.array(paths, pa.string())
    table = _shaped(source, found.table, pa.array(found.number))
    path = pa.DictionaryArray.from_arrays(pa.array(found.piece.astype(np.int32)), names)
    table = table.append_column("_source_file", path)
    if found.malformed:
        bad = _malformed(source, found)
        pieces = pa.array(found.malformed_piece.astype(np.int32))
        path = pa.DictionaryArray.from_arrays(pieces, names)
        bad = bad.append_column("_source_file", path)
        table = pa.concat_tables([table, bad], promote_options="default")
        if len(paths) > 1:  # a file's rows lie one after the other
            places = pa.array(np.concatenate([found.piece, found.malformed_piece]))
            order = np.argsort(places.to_numpy(), kind="stable")
            table = table.take(pa.array(order))
    yield table


def _streamed(source: Source, raw: _Hashing, file: PlannedFile) -> Iterator[pa.Table]:
    kind = source.format_of(file.path) or "csv"
    if kind != "csv":
        yield from _READERS[kind](source, _unpacked(raw, file.path), file)
        return
    text = _Text(source, _unpacked(raw, file.path))
    if not text.head:
        raise UnreadableFile(f"{file.path}: the file is empty (0 bytes)")
    header = delimited.header_of(source, text.head, file.path)
    text.skip(header.length_bytes)
    for rows in delimited.stream(source, header, text, file.path):
        try:
            yield from _tables(source, rows, [file.path])
        except UnreadableFile as error:
            raise UnreadableFile(f"{file.path}: {error}") from error


class _Hashing(io.RawIOBase):
    """Raw bytes on their way, and their checksum; seekable where the file is, without one then."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self._hash = raw, xxhash.xxh3_128()
        self._sought = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._raw.read(size)
        if not self._sought:
            self._hash.update(data)
        return data

    def seekable(self) -> bool:
        return True

    def seek(self, at: int, whence: int = 0, /) -> int:
        self._sought = True
        return self._raw.seek(at, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def read_rest(self) -> None:
        """What nobody asked for counts in the checksum too."""
        if self._sought:
            self._raw.seek(0)
            self._hash.reset()
            self._sought = False
        while self.read(1 << 20):
            pass

    def digest(self) -> str:
        return self._hash.hexdigest()


def _unpacked(raw: Any, path: str) -> Any:
    # Python's gzip, and not Arrow's, because it notices a file that was cut short.
    if path.lower().endswith(".gz"):
        return gzip.GzipFile(fileobj=raw)
    if path.lower().endswith(".zst"):
        return _Zstandard(raw)
    return raw


class _Zstandard:
    """Plain bytes of a Zstandard file; one that is cut short is an `EOFError`, as with gzip."""

    def __init__(self, raw: Any) -> None:
        self._plain = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")

    def read(self, size: int = -1) -> bytes:
        try:
            return self._plain.read(None if size < 0 else size)
        except OSError as error:
            raise EOFError(str(error)) from error


def _whole_text(source: Source, file: PlannedFile, data: bytes) -> bytes | TooLarge:
    """The file without compression and, where it is text, as UTF-8 without a mark."""
    if file.path.lower().endswith((".gz", ".zst")):
        data = _unpacked(io.BytesIO(data), file.path).read(_PLAIN_BYTES + 1)
        if len(data) > _PLAIN_BYTES:
            return TooLarge(file)
    if not data:
        raise UnreadableFile(f"{file.path}: the file is empty (0 bytes)")
    if source.format_of(file.path) not in ("csv", "jsonl", "json"):
        return data
    encoding, mark = _encoding(source, data)
    data = data[mark:]
    return data if encoding in _UTF8 else data.decode(encoding).encode()


def _encoding(source: Source, head: bytes) -> tuple[str, int]:
    """How text is encoded, and the length of its byte order mark."""
    if head.startswith(codecs.BOM_UTF8):
        return "utf8", 3
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding, 2
    return source.encoding.lower(), 0


class _Text:
    """A stream of text as UTF-8 without a mark, its first bytes looked at."""

    def __init__(self, source: Source, plain: Any) -> None:
        self._plain = plain
        head = plain.read(_HEAD_BYTES)
        encoding, mark = _encoding(source, head)
        self._decoder = None if encoding in _UTF8 else codecs.getincrementaldecoder(encoding)()
        self.head = self._as_utf8(head[mark:], is_last=False)
        self._unread = self.head

    def skip(self, size: int) -> None:
        self._unread = self._unread[size:]

    def read(self, size: int = -1) -> bytes:
        if self._unread:
            first, self._unread = self._unread, b""
            return first
        data = self._plain.read(size)
        return self._as_utf8(data, is_last=not data)

    def _as_utf8(self, data: bytes, *, is_last: bool) -> bytes:
        if self._decoder is None:
            return data
        return self._decoder.decode(data, is_last).encode()


def _jsonl(source: Source, stream: IO[bytes], file: PlannedFile) -> Iterator[pa.Table]:
    """Lines taken apart by DuckDB, which tells a bad one from the rest."""
    with sql.connect() as connection:
        for lines in _lines(stream, file.path):
            yield _objects(connection, source, lines, file.path)


def _json(source: Source, stream: IO[bytes], file: PlannedFile) -> Iterator[pa.Table]:
    """One document: an array of objects, or an object."""
    text = stream.read().decode().strip()
    try:
        json.loads(text)
    except ValueError as error:
        raise UnreadableFile(f"{file.path}: no JSON document: {error}") from error
    with sql.connect() as connection:
        document = pa.table({"text": [text]})
        connection.register("document", document)
        rows = connection.sql(
            "SELECT line, row_number() OVER () AS _source_row FROM (SELECT unnest(CASE "
            "WHEN json_type(doc) = 'ARRAY' THEN from_json(doc, '[\"JSON\"]') ELSE [doc] END)"
            "::VARCHAR AS line FROM (SELECT text::JSON AS doc FROM document))"
        ).to_arrow_table()
        yield _objects(connection, source, rows, file.path)


def _objects(connection: Any, source: Source, lines: pa.Table, path: str) -> pa.Table:
    """Rows of JSON objects, a text each: the contract's keys, and what else there is."""
    connection.register("lines", lines)
    names = [*source.contract.raw_names, *_addable(source, _keys(connection, source))]
    picked = ", ".join(f"doc ->> {_path(name)} AS {_quoted(name)}" for name in names)
    known = json.dumps(dict.fromkeys(names)).replace("'", "''")
    rows = connection.sql(f"""
        SELECT {picked}, CASE WHEN doc IS NULL THEN line
                    WHEN rest <> '{{}}' THEN rest END AS _rescued,
               CASE WHEN doc IS NULL THEN 'not a JSON object' END AS _error, _source_row
        FROM (SELECT line, _source_row, doc, json_merge_patch(doc, '{known}')::VARCHAR AS rest
              FROM (SELECT line, _source_row,
                           CASE WHEN json_valid(line) AND json_type(line) = 'OBJECT'
                                THEN line::JSON END AS doc
                    FROM lines))
        ORDER BY _source_row""").to_arrow_table()
    if source.contract.unknown_columns == "fail":
        unknown = rows.filter(rows["_error"].is_null())["_rescued"].drop_null()
        if len(unknown):
            raise UnreadableFile(f"{path}: keys not in the contract: {unknown[0]}")
    return with_file(rows, path)


def _keys(connection: Any, source: Source) -> list[str]:
    """The keys of the objects in `lines`, where new ones become columns."""
    if source.contract.unknown_columns != "add":
        return []
    found = connection.sql(
        "SELECT DISTINCT unnest(json_keys(line)) AS key FROM lines "
        "WHERE json_valid(line) AND json_type(line) = 'OBJECT' ORDER BY key"
    ).fetchall()
    return [key for (key,) in found if key not in source.contract.raw_names]


def _lines(stream: IO[bytes], path: str) -> Iterator[pa.Table]:
    """Non-empty lines with their 1-based numbers, a block of bytes at a time."""
    rest, seen = b"", 0
    while True:
        block = stream.read(_LINES_BYTES)
        *whole, rest = (rest + block).split(b"\n") if block else [rest, b""]
        if len(rest) > 2 * _LINES_BYTES:
            raise UnreadableFile(
                f"{path}: line {seen + len(whole) + 1} is longer than {2 * _LINES_BYTES >> 20} MiB"
            )
        check_text(b"\n".join(whole), path, seen + 1)
        text = pl.DataFrame({"line": pa.array(whole, pa.binary()).cast(pa.string())})
        lines = text.select(
            pl.col("line").str.strip_chars(),
            pl.int_range(seen + 1, pl.len() + seen + 1).alias("_source_row"),
        )
        seen += len(whole)
        yield lines.filter(pl.col("line") != "").to_arrow()
        if not block:
            return


def _parquet(source: Source, stream: Any, file: PlannedFile) -> Iterator[pa.Table]:
    parquet = pq.ParquetFile(_seekable(stream))
    check_columns(source, parquet.schema_arrow.names, file.path)
    yield from _typed(source, parquet.iter_batches(1 << 16), file)


def _arrow(source: Source, stream: Any, file: PlannedFile) -> Iterator[pa.Table]:
    whole = _seekable(stream)
    is_file = whole.read(6) == b"ARROW1"
    whole.seek(0)
    if is_file:
        opened: Any = pa.ipc.open_file(whole)
        batches = (opened.get_batch(i) for i in range(opened.num_record_batches))
    else:
        opened = pa.ipc.open_stream(whole)
        batches = iter(opened)
    check_columns(source, opened.schema.names, file.path)
    yield from _typed(source, batches, file)


def _orc(source: Source, stream: Any, file: PlannedFile) -> Iterator[pa.Table]:
    from pyarrow import orc

    opened = orc.ORCFile(_seekable(stream))
    check_columns(source, opened.schema.names, file.path)
    stripes = (opened.read_stripe(number) for number in range(opened.nstripes))
    yield from _typed(source, stripes, file)


def _avro(source: Source, stream: Any, file: PlannedFile) -> Iterator[pa.Table]:
    yield from _of_frame(source, pl.read_avro(io.BytesIO(stream.read())), file)


def _excel(source: Source, stream: Any, file: PlannedFile) -> Iterator[pa.Table]:
    """The first sheet, its first row the columns."""
    try:
        frame = pl.read_excel(io.BytesIO(stream.read()), infer_schema_length=0)
    except ModuleNotFoundError as error:
        raise UnreadableFile(f"{file.path}: {MissingExtra('fastexcel', 'excel')}") from error
    except Exception as error:  # the reader's own, whatever it raises
        reason = str(error).splitlines()[0]
        raise UnreadableFile(f"{file.path}: no workbook that can be read: {reason}") from error
    yield from _of_frame(source, frame, file)


def _of_frame(source: Source, frame: pl.DataFrame, file: PlannedFile) -> Iterator[pa.Table]:
    check_columns(source, frame.columns, file.path)
    yield from _typed(source, iter(frame.to_arrow().to_batches(1 << 16)), file)


def _seekable(stream: Any) -> Any:
    """The plain bytes as a file to seek in: the source's own where it is one."""
    if isinstance(stream, io.BytesIO):
        return pa.BufferReader(stream.getbuffer())
    if isinstance(stream, _Hashing):
        return pa.PythonFile(stream, mode="r")
    return pa.BufferReader(stream.read())


def _typed(
    source: Source, batches: Iterator[pa.RecordBatch], file: PlannedFile
) -> Iterator[pa.Table]:
    """Batches of a format with types, as the text that a CSV of them would hold."""
    seen = 0
    for batch in batches:
        frame = pl.DataFrame(pl.from_arrow(batch))
        text = frame.select(pl.all().cast(pl.String)).to_arrow()
        rows = pa.array(np.arange(seen + 1, seen + batch.num_rows + 1))
        seen += batch.num_rows
        try:
            yield with_file(_shaped(source, text, rows), file.path)
        except UnreadableFile as error:
            raise UnreadableFile(f"{file.path}: {error}") from error


def _shaped(source: Source, table: pa.Table, rows: pa.Array) -> pa.Table:
    """The contract's columns by their raw names, the rest as JSON in `_rescued`."""
    known = source.contract.raw_names
    empty = pa.nulls(len(table), pa.string())
    columns: dict[str, Any] = {
        name: table[name].cast(pa.string()) if name in table.column_names else empty
        for name in known
    }
    extra = [name for name in table.column_names if name not in set(known)]
    if extra and source.contract.unknown_columns == "fail":
        raise UnreadableFile(f"columns not in the contract: {', '.join(extra)[:1000]}")
    added = _addable(source, extra)
    columns |= {name: table[name].cast(pa.string()) for name in added}
    rescued: Any = empty
    if left := [name for name in extra if name not in set(added)]:
        frame = pl.DataFrame(pl.from_arrow(table.select(left)))
        text = frame.select(pl.struct(pl.all()).struct.json_encode()).to_series()
        rescued = text.to_arrow().cast(pa.string())
    return pa.table({**columns, "_rescued": rescued, "_error": empty, "_source_row": rows})


def _addable(source: Source, names: Sequence[str]) -> list[str]:
    """Of columns that the contract doesn't know, those that become columns of the table."""
    if source.contract.unknown_columns != "add":
        return []
    taken = {name.lower() for name in raw_schema(source).names}
    added = list[str]()
    for name in names:
        if _ADDABLE.fullmatch(name) and name.lower() not in taken and not name.startswith("_"):
            taken.add(name.lower())
            added.append(name)
    return added[:_MOST_ADDED]


def _malformed(source: Source, found: Rows) -> pa.Table:
    rows = found.malformed
    empty = pa.nulls(len(rows), pa.string())
    wrong = [f"{r.actual_columns} fields where {r.expected_columns} are expected" for r in rows]
    columns: Mapping[str, Any] = {
        **dict.fromkeys(source.contract.raw_names, empty),
        "_rescued": pa.array([row.text for row in rows], pa.string()),
        "_error": pa.array(wrong, pa.string()),
        "_source_row": pa.array(found.malformed_number),
    }
    return pa.table(columns)


def _path(name: str) -> str:
    return "'$.\"" + name.replace("'", "''").replace('"', '\\"') + "\"'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


_READERS: dict[str, Callable[[Source, Any, PlannedFile], Iterator[pa.Table]]] = {
    "jsonl": _jsonl,
    "json": _json,
    "orc": _orc,
    "avro": _avro,
    "excel": _excel,
    "parquet": _parquet,
    "arrow": _arrow,
}
