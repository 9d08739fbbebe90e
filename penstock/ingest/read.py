"""Raw files' rows as text, in tables; the same columns whatever the format, all of a file or none.

Small files come many at a time; of CSV, those with the same header are parsed together. A large
one comes in pieces. A row that can't be taken apart keeps its text in `_rescued` and says why in
`_error`; a file that can't be read is a result with its error, and stops no other.
"""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from penstock.errors import StorageError, UnreadableFile
from penstock.ingest import delimited
from penstock.ingest.archives import is_archive, members, unfolded_bytes
from penstock.ingest.delimited import Header, Rows, Unmarked, check_columns, check_text
from penstock.ingest.formats import READERS, missing, shaped, typed_rows
from penstock.ingest.ledger import FileResult
from penstock.ingest.media import CONTENT_BYTES, HEAD_BYTES, Sighted, media_rows, wants_content
from penstock.ingest.plan import PlannedFile
from penstock.ingest.source import FILE_COLUMNS, Source
from penstock.ingest.streams import Hashing, Text, as_utf8, head_of, unpacked
from penstock.ingest.upstream import Upstream, stretch_of
from penstock.storage.listing import Fetched, FileState
from penstock.storage.sources import SourceFolder
from penstock.tables.rewrite import WITHIN

SMALL_BYTES = 8 << 20
"""Up to which a file is read whole, with others."""
_PLAIN_BYTES = 64 << 20
"""Up to which a compressed small file may unfold in memory; past that it is read as a large one."""
_ODD_CONTENT = (
    ArithmeticError,
    LookupError,
    RecursionError,
    UnicodeError,
    ValueError,
    pa.ArrowException,
    pl.exceptions.PanicException,
    pl.exceptions.PolarsError,
    struct.error,
)
"""What readers raise at content that is not as it should be."""
_MEDIA_BYTES = 32 << 20
"""Of binary files, that become rows at once."""
_PARSED_BYTES = 4 << 20
"""Of CSV files, that are parsed at once: the next ones use the same memory, which is in caches."""
_TEXTS = ("csv", "jsonl", "json", "text")


_Member = tuple[PlannedFile, memoryview, str]
"""A file, its rows as text, and its checksum."""


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
    groups: dict[Header, list[_Member]] = {}
    sizes = Counter[Header]()
    paths = [file.path for file in files]
    media_files, held = list[Sighted](), 0
    for file, got in zip(files, folder.fetch(paths), strict=True):
        try:
            found = _new_content(file, got)
            if isinstance(found, FileResult):
                yield found
                continue
            assert isinstance(got, Fetched)
            if source.format == "binary":
                check_columns(source, FILE_COLUMNS, file.path)
                media_files.append(Sighted(file, found, _kept(source, got.data)))
                held += len(media_files[-1].data)
                if held >= _MEDIA_BYTES:
                    yield from _sighted(source, folder, media_files)
                    media_files, held = [], 0
                continue
            if source.format_of(file.path) != "csv" or is_archive(source, file.path):
                yield from _whole(source, file, got.data, found)
                continue
            with _explained(file.path, is_here=True):
                text = _whole_text(source, file, got.data)
                if isinstance(text, TooLarge):
                    yield text
                    continue
                check_text(text, file.path)
                header = delimited.header_of(source, head_of(text), file.path)
        except UnreadableFile as error:
            yield failed(file, error)
            continue
        rows = memoryview(text)[header.length_bytes :]
        groups.setdefault(header, []).append((file, rows, found))
        sizes[header] += len(rows)
        if sizes[header] >= _PARSED_BYTES:
            del sizes[header]
            yield from _together(source, header, groups.pop(header))
    if media_files:
        yield from _sighted(source, folder, media_files)
    for header, texts in groups.items():
        yield from _together(source, header, texts)


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
            with folder.open(file.path) as raw:
                hashing = Hashing(raw)
                hashing.read_rest()
            _check_state(folder, file)
            if same := _seen_before(file, hashing.digest()):
                yield same
                return
        with folder.open(file.path) as raw:
            hashing, rows = Hashing(raw), 0
            if source.format == "binary":
                check_columns(source, FILE_COLUMNS, file.path)
                data = _head(source, hashing, file)
            else:
                for table in _streamed(source, hashing, file):
                    rows += table.num_rows
                    yield table
                data = b""
            hashing.read_rest()
        _check_state(folder, file)
        if source.format == "binary":
            yield from _sighted(source, folder, [Sighted(file, hashing.digest(), data)])
            return
        yield FileResult(file, "loaded", rows, checksum=hashing.digest())


def read_stretch(
    source: Source, upstream: Upstream, file: PlannedFile
) -> Iterator[pa.Table | FileResult]:
    """Rows of a table, as `read_large` gives those of a file.

    Raises
    ------
    UnreadableFile: they can't be had; what came before is not to be kept.
    """
    rows = 0
    with _explained(file.path):
        batches = upstream.read(*stretch_of(file.tag))
        for table in typed_rows(source, batches, file.path):
            rows += table.num_rows
            yield with_file(table, file.path)
    yield FileResult(file, "loaded", rows)


def failed(file: PlannedFile, error: UnreadableFile) -> FileResult:
    """What the ledger has of a file that could not be read."""
    return FileResult(file, "unavailable" if error.is_transient else "failed", error=str(error))


def with_file(table: pa.Table, path: str) -> pa.Table:
    """A table of one file's rows with its `_source_file`."""
    zeros = _array(np.zeros(len(table), np.int32))
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
    except (zipfile.BadZipFile, lzma.LZMAError) as error:
        raise UnreadableFile(f"{path}: no archive that can be read: {error}") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UnreadableFile(f"{path}: damaged archive, perhaps cut short: {error}") from error
    except (*_ODD_CONTENT, *_of_duckdb()) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UnreadableFile(f"{path}: {reason[:400]}") from error
    except OSError as error:
        if is_here:
            raise UnreadableFile(f"{path}: {str(error).splitlines()[0]}") from error
        raise _unavailable(path, error) from error
    except StorageError as error:
        raise UnreadableFile(f"{path}: {error}", is_transient=True) from error


def _of_duckdb() -> tuple[type[BaseException], ...]:
    """What DuckDB raises, where it has been used: its import takes as long as many files."""
    duckdb = sys.modules.get("duckdb")
    return () if duckdb is None else (duckdb.Error,)


def _whole(
    source: Source, file: PlannedFile, data: bytes, checksum: str
) -> Iterator[pa.Table | FileResult | TooLarge]:
    with _explained(file.path, is_here=True):
        if is_archive(source, file.path):
            if unfolded_bytes(data) > _PLAIN_BYTES:
                yield TooLarge(file)
                return
            tables = [*_of_members(source, io.BytesIO(data), file)]
        else:
            plain = _whole_text(source, file, data)
            if isinstance(plain, TooLarge):
                yield plain
                return
            read = READERS[source.format_of(file.path) or "csv"]
            tables = [
                with_file(table, file.path) for table in read(source, io.BytesIO(plain), file.path)
            ]
    if tables:
        yield pa.concat_tables(tables, promote_options="default")
    rows = sum(table.num_rows for table in tables)
    yield FileResult(file, "loaded", rows, checksum=checksum)


def _sighted(
    source: Source, folder: SourceFolder, files: list[Sighted]
) -> Iterator[pa.Table | FileResult]:
    """Binary files, a row each."""
    yield media_rows(source, folder.identity, files)
    for each in files:
        yield FileResult(each.file, "loaded", 1, checksum=each.checksum)


def _kept(source: Source, data: bytes) -> bytes:
    return data if wants_content(source) else data[:HEAD_BYTES]


def _head(source: Source, raw: Hashing, file: PlannedFile) -> bytes:
    """What is kept of a large binary file: all, or its first bytes."""
    whole = wants_content(source) and file.size_bytes <= CONTENT_BYTES
    return raw.read(file.size_bytes if whole else HEAD_BYTES)


def _together(
    source: Source, header: Header, members: list[_Member]
) -> Iterator[pa.Table | FileResult]:
    """CSV files of one header, parsed as one; where that fails, each by itself."""
    try:
        found = delimited.parse(header, [text for _, text, _ in members])
    except (Unmarked, UnreadableFile, pa.ArrowInvalid) as error:
        if len(members) > 1:
            for member in members:
                yield from _together(source, header, [member])
            return
        file, text, _ = members[0]
        if isinstance(error, Unmarked):
            problem = delimited.unclosed(header, file.path, bytes(text), 1 + header.lines)
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
    table = shaped(source, found.table, _array(found.number))
    path = pa.DictionaryArray.from_arrays(_array(found.piece.astype(np.int32)), names)
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


def _array(numbers: NDArray[np.int32 | np.int64]) -> pa.Array:
    """The same memory; `pa.array` would look for masks, by a module that takes 0.015 s to come."""
    numbers = np.ascontiguousarray(numbers)
    kind = pa.int32() if numbers.dtype == np.int32 else pa.int64()
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])


def _streamed(source: Source, raw: Hashing, file: PlannedFile) -> Iterator[pa.Table]:
    if is_archive(source, file.path):
        yield from _of_members(source, raw, file)
    else:
        yield from _rows_of(source, raw, file.path, file.path)


def _of_members(source: Source, raw: Any, file: PlannedFile) -> Iterator[pa.Table]:
    for name, stream in members(source, raw, file.path, file.size_bytes):
        yield from _rows_of(source, stream, name, f"{file.path}{WITHIN}{name}")


def _rows_of(source: Source, raw: Any, name: str, label: str) -> Iterator[pa.Table]:
    """A file's or a member's rows; its format is told by `name`."""
    kind = source.format_of(name) or "csv"
    plain = unpacked(raw, name)
    text = Text(source, plain) if kind in _TEXTS else None
    if text is not None and not text.head:
        raise UnreadableFile(f"{label}: the file is empty (0 bytes)")
    if kind != "csv" or text is None:
        for table in READERS[kind](source, text or plain, label):
            yield with_file(table, label)
        return
    header = delimited.header_of(source, text.head, label)
    text.skip(header.length_bytes)
    for rows in delimited.stream(source, header, text, label):
        try:
            yield from _tables(source, rows, [label])
        except UnreadableFile as error:
            raise UnreadableFile(f"{label}: {error}") from error


def _whole_text(source: Source, file: PlannedFile, data: bytes) -> bytes | TooLarge:
    """The file without compression and, where it is text, as UTF-8 without a mark."""
    if file.path.lower().endswith((".gz", ".zst")):
        data = unpacked(io.BytesIO(data), file.path).read(_PLAIN_BYTES + 1)
        if len(data) > _PLAIN_BYTES:
            return TooLarge(file)
    if not data:
        raise UnreadableFile(f"{file.path}: the file is empty (0 bytes)")
    if source.format_of(file.path) not in _TEXTS:
        return data
    return as_utf8(source, data)


def _malformed(source: Source, found: Rows) -> pa.Table:
    rows = found.malformed
    wrong = [f"{r.actual_columns} fields where {r.expected_columns} are expected" for r in rows]
    columns: Mapping[str, Any] = {
        **missing(source, len(rows)),
        "_rescued": pa.array([row.text for row in rows], pa.string()),
        "_error": pa.array(wrong, pa.string()),
        "_source_row": pa.array(found.malformed_number),
    }
    return pa.table(columns)
