"""CSV: many small files parsed as one, and one large file as many pieces.

Before each piece goes a mark, a row that no file holds, and one goes after the last. Marks that
come out of the parser whole and in order show which row came from where, and that no quote opened
in one piece and closed in another; where one is missing, pieces are parsed one by one.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from penstock.errors import UnreadableFile
from penstock.ingest.pieces import SHOWN, Piece, Stream, check_text, count_of, pieces_of
from penstock.ingest.source import Source

PIECE_BYTES = 8 << 20
"""Of a large file parsed at once; the longest row must fit in."""
_MARK_BYTES = 12
_DELIMITERS = ",;\t|"
_SNIFFED_BYTES = 16 << 10
_FEWEST_SNIFFED = 3
"""Lines that must show a sign for it to be the file's."""
_RUN_ROWS = 512
"""A piece, on average, from which on its rows are not copied but cut out."""
_THREADS = max(1, (os.cpu_count() or 1) // 2)
"""That parse one file; as many write what was parsed, and more."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file's first line says."""

    names: tuple[str, ...]
    delimiter: str
    quote: str
    escape: str
    length_bytes: int
    """Of the line, its end and blank lines before it included; 0 without one."""
    lines: int
    """As many."""
    is_sniffed: bool
    """Whether quote or escape are not the usual ones, and nobody but the first lines said so."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of some pieces: those taken apart, and those that can't be."""

    table: pa.Table
    """A text column a name."""
    piece: NDArray[np.int64]
    number: NDArray[np.int64]
    """(rows,): which piece each row is of, and its number there, 1 the first."""
    malformed: Sequence[pacsv.InvalidRow]
    malformed_piece: NDArray[np.int64]
    malformed_number: NDArray[np.int64]
    counts: NDArray[np.int64]
    """(pieces,): rows of each, the malformed ones too."""


class Unmarked(Exception):  # noqa: N818 - caught by who asked
    """A mark is missing: a quote is open at a piece's end."""


def header_of(source: Source, head: bytes, path: str) -> Header:
    """The columns of a file, from its first bytes, without a byte order mark.

    Raises
    ------
    UnreadableFile: a column of the contract is there twice, or one that must have values is not.
    """
    if not source.header:
        dialect = _dialect(source, _first_line(head)[0], head)
        sniffed = _is_sniffed(source, *dialect)
        return Header(tuple(source.contract.raw_names), *dialect, 0, 0, sniffed)
    line, length, lines = _header_line(head, path)
    delimiter, quote, escape = _dialect(source, line, head[length:])
    own = quote
    if source.quote is None and quote == "'" and not line.startswith(b"'"):
        own = '"'  # names may stand bare above values that do not
    names = _named(source.contract.renamed(_fields(line, delimiter, own)), source, path)
    check_columns(source, names, path, delimiter)
    sniffed = _is_sniffed(source, delimiter, quote, escape)
    return Header(tuple(names), delimiter, quote, escape, length, lines, sniffed)


def _is_sniffed(source: Source, _: str, quote: str, escape: str) -> bool:
    return (source.quote is None and quote != '"') or (source.escape is None and escape != "")


def check_columns(
    source: Source, names: Sequence[str], path: str, delimiter: str | None = None
) -> None:
    """Raise `UnreadableFile` if a column that must have values is missing."""
    required = [column for column in source.contract.columns if not column.nullable]
    there = {*source.contract.renamed(names)}
    missing = [
        column.raw_name
        for column in required
        if column.raw_name not in there
        and not any(f"{name}=" in path for name in (column.raw_name, *column.former_names))
    ]
    if not missing:
        return
    shown = ", ".join(names[:20])
    hint = f"it has {shown[:1000]}"
    if delimiter and len(names) == 1:
        other = next((d for d in _DELIMITERS if d in names[0]), None)
        if other:
            hint = f"its header is one column; is its delimiter {other!r}, not {delimiter!r}?"
    raise UnreadableFile(f"{path}: columns missing: {', '.join(missing)}; {hint}")


def parse(header: Header, pieces: Sequence[bytes | memoryview]) -> Rows:
    """The rows of pieces that each begin and end with a row.

    Raises
    ------
    Unmarked: a quote is open at the end of a piece.
    UnreadableFile: a value does not keep to the quotes that the first lines have.
    """
    if header.is_sniffed:
        _check_dialect(header, pieces)
    mark, line = _mark(header)
    parts: list[bytes | memoryview] = []
    for piece in pieces:
        parts += [line, piece] if piece[-1:] in (b"\n", b"\r", b"") else [line, piece, b"\n"]
    return _taken_apart(header, b"".join([*parts, line]), mark, len(pieces))


def _mark(header: Header) -> tuple[str, bytes]:
    """A value that no row has, and a line that begins with it."""
    mark = secrets.token_hex(_MARK_BYTES)
    return mark, (mark + header.delimiter * (len(header.names) - 1) + "\n").encode()


def _taken_apart(header: Header, body: bytes | memoryview, mark: str, count: int) -> Rows:
    """The rows of `count` pieces, each between lines that begin with a mark."""
    malformed: list[pacsv.InvalidRow] = []

    def set_aside(row: pacsv.InvalidRow) -> str:
        malformed.append(row)
        return "skip"

    table = pacsv.read_csv(
        pa.BufferReader(body),
        # One thread, so that a malformed row comes with its number.
        pacsv.ReadOptions(use_threads=False, block_size=len(body) + 1, column_names=header.names),
        pacsv.ParseOptions(
            delimiter=header.delimiter,
            quote_char=header.quote or False,
            escape_char=header.escape or False,
            # Says only how blocks are cut, which takes longer than the parsing; this is one block.
            newlines_in_values=False,
            invalid_row_handler=set_aside,
        ),
        pacsv.ConvertOptions(
            check_utf8=False,  # it was
            column_types=dict.fromkeys(header.names, pa.string()),
            strings_can_be_null=True,
            null_values=[""],
        ),
    )
    bad = np.array([row.number - 1 for row in malformed], np.int64)
    every = np.arange(table.num_rows + len(bad))
    at = np.delete(every, bad)  # where in the body each row lies
    chunks = [chunk for chunk in table[0].chunks if len(chunk)]
    if not chunks:
        raise Unmarked
    is_mark = np.concatenate([which_equal(chunk, mark.encode()) for chunk in chunks])
    marks = at[is_mark]
    if len(marks) != count + 1 or marks[-1] != len(every) - 1:
        raise Unmarked
    at = at[~is_mark]
    piece, bad_piece = (np.searchsorted(marks, rows) - 1 for rows in (at, bad))
    if len(at) >= _RUN_ROWS * count:  # no need to copy what is between the marks
        ends = np.flatnonzero(is_mark).tolist()
        rows = pa.concat_tables(table[a + 1 : b] for a, b in itertools.pairwise(ends))
    else:
        rows = table.filter(pa.array(~is_mark))
    return Rows(
        rows,
        piece,
        at - marks[piece],
        malformed,
        bad_piece,
        bad - marks[bad_piece],
        np.diff(marks) - 1,
    )


def which_equal(texts: pa.StringArray, value: bytes) -> NDArray[np.bool_]:
    """Which texts are a value, of which few have the length.

    pyarrow's own comparison needs a module that takes 0.04 s to come, as its casts do.
    """
    _, ends, data = texts.buffers()
    offsets = np.frombuffer(ends, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    found = np.diff(offsets) == len(value)
    rows = np.flatnonzero(found)
    if len(rows):
        windows = np.lib.stride_tricks.sliding_window_view(
            np.frombuffer(data, np.uint8), len(value)
        )
        found[rows] = (windows[offsets[rows]] == np.frombuffer(value, np.uint8)).all(axis=1)
    return found


def _check_dialect(header: Header, pieces: Sequence[bytes | memoryview]) -> None:
    for piece in pieces:
        if _fits(bytes(piece), header.delimiter, header.quote, header.escape):
            continue
        how = "stand between apostrophes" if header.quote == "'" else "escape quotes by a backslash"
        raise UnreadableFile(
            f"its first lines {how}, and a later one doesn't; set the source's quote and escape"
        )


def stream(source: Source, header: Header, text: Stream, path: str) -> Iterator[Rows]:
    """The rows of a large file behind its header, in order, numbered through.

    Pieces are cut where a line ends outside of quotes, by their count; marks show whether that was
    right, which it isn't where quotes stand within values (`5" nail`): those files are parsed in
    one go from there.

    Raises
    ------
    UnreadableFile: it holds a row longer than a piece, or what is no text.
    """
    rows, line = 0, 1 + header.lines
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="penstock-csv") as pool:
        waiting: deque[tuple[Future[_Parsed], Piece]] = deque()
        room = len(_mark(header)[1])
        pieces = pieces_of(text, PIECE_BYTES, room, header.quote.encode(), path)
        is_over = False
        while not is_over or waiting:
            while not is_over and len(waiting) < _THREADS + 1:
                piece = next(pieces, None)
                if piece is None:
                    is_over = True
                    break
                waiting.append((pool.submit(_parse_text, header, piece), piece))
            if not waiting:
                break
            parsing, piece = waiting.popleft()
            try:
                parsed = parsing.result()
            except UnreadableFile as error:
                raise UnreadableFile(f"{path}: {error}") from error
            except _NoText:
                check_text(piece.text, path, line)
                raise
            except Unmarked:
                wait([other for other, _ in waiting])  # so that nobody writes marks any more
                rest = [bytes(each.text) for each in (piece, *(later for _, later in waiting))]
                yield from _in_one_go(header, rest, pieces, path, rows, line)
                return
            piece.give_up()
            yield _numbered_from(parsed.rows, rows)
            rows, line = rows + int(parsed.rows.counts[0]), line + parsed.lines


class _NoText(Exception):  # noqa: N818 - caught by who knows where in the file it is
    """Bytes that are no text."""


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A piece's rows, and how many of its lines end."""

    rows: Rows
    lines: int


def _parse_text(header: Header, piece: Piece) -> _Parsed:
    try:
        check_text(piece.text, "")
    except UnreadableFile as error:
        raise _NoText from error
    if header.is_sniffed:
        _check_dialect(header, [piece.text])
    lines, (mark, line) = count_of(piece.text, b"\n"), _mark(header)
    return _Parsed(_taken_apart(header, piece.between(line), mark, 1), lines)


def _in_one_go(
    header: Header,
    had: Sequence[bytes],
    pieces: Iterator[Piece],
    path: str,
    rows: int,
    line: int,
) -> Iterator[Rows]:
    """The rest of a file, a piece and then some, as long as its end is in a quoted value."""
    held, limit = b"", 4 * PIECE_BYTES
    for piece in itertools.chain(had, (bytes(each.text) for each in pieces)):
        check_text(piece, path, line + held.count(b"\n"))
        held += piece
        try:
            found = parse(header, [held])
        except Unmarked:
            if len(held) > limit:
                raise unclosed(header, path, held, line) from None
            continue
        yield _numbered_from(found, rows)
        rows, line = rows + int(found.counts[0]), line + held.count(b"\n")
        held = b""
    if held:
        raise unclosed(header, path, held, line)


def unclosed(header: Header, path: str, text: bytes, first_line: int) -> UnreadableFile:
    """That a quote opens and does not close, and about where."""
    lines, quote = text.split(b"\n", 100_000), header.quote.encode()
    is_open = np.cumsum([line.count(quote) for line in lines]) % 2 == 1
    closed = np.flatnonzero(~is_open)
    at = int(closed[-1]) + 1 if len(closed) else 0
    at = at if at < len(lines) else int(np.argmax(is_open))
    where, shown = first_line + at, lines[at][:SHOWN].decode(errors="replace")
    return UnreadableFile(
        f"{path}: a quote opens and does not close, about line {where}: {shown!r}. Close it, or "
        'set the source\'s quote to "" if its values are not quoted'
    )


def _numbered_from(rows: Rows, before: int) -> Rows:
    return Rows(
        rows.table,
        rows.piece,
        rows.number + before,
        rows.malformed,
        rows.malformed_piece,
        rows.malformed_number + before,
        rows.counts,
    )


def _first_line(head: bytes) -> tuple[bytes, int]:
    """The first line without its end, and its length with it."""
    ends = [at for at in (head.find(b"\n"), head.find(b"\r")) if at >= 0]
    if not ends:
        return head, len(head)
    end = min(ends)
    return head[:end], end + (2 if head[end : end + 2] == b"\r\n" else 1)


def _header_line(head: bytes, path: str) -> tuple[bytes, int, int]:
    """The first line that is not blank, without its end; the length up to its end; the lines."""
    line, length = _first_line(head)
    lines = 1
    while not line.strip():
        if length >= len(head):
            raise UnreadableFile(f"{path}: its first {lines:,} lines are blank; take them out")
        line, more = _first_line(head[length:])
        length, lines = length + more, lines + 1
    return line, length, lines


def _dialect(source: Source, line: bytes, text: bytes) -> tuple[str, str, str]:
    """Delimiter, quote and escape: as the source says, else as the first lines show.

    Parameters
    ----------
    line: the first line.
    text: where the rows begin.
    """
    first = "'" if source.quote is None and line.startswith(b"'") else source.quote
    delimiter = source.delimiter or _best_delimiter(source, line, '"' if first is None else first)
    sample = text[:_SNIFFED_BYTES]
    if len(text) > len(sample):  # the last line is cut short
        sample = sample[: sample.rfind(b"\n") + 1]
    quote, escape = source.quote, source.escape
    if quote is None:
        quote = "'" if _is_in_apostrophes(sample, line, delimiter) else '"'
    if escape is None:
        is_escaped = quote == '"' and b'\\"' in sample and _fits(sample, delimiter, quote, "\\")
        escape = "\\" if is_escaped else ""
    return delimiter, quote, escape


def _is_in_apostrophes(sample: bytes, line: bytes, delimiter: str) -> bool:
    """Whether the header, or each of some lines, has values between apostrophes, and all of them
    can be read so.
    """
    if b"'" not in sample or not _fits(sample, delimiter, "'", ""):
        return False
    sign = re.escape(delimiter.encode())
    if line.startswith(b"'"):
        return True
    lines = [each for each in sample.splitlines() if each]
    value = re.compile(rb"(?:^|%b)'" % sign)
    return len(lines) >= _FEWEST_SNIFFED and all(value.search(each) for each in lines)


def _fits(text: bytes, delimiter: str, quote: str, escape: str) -> bool:
    """Whether each value either is quoted, and what is in it escaped, or has none of these signs.

    What was found in the first lines is held to that in all others: one value that opens a quote
    and does not mean to would take the next rows into it.
    """
    if quote == "'":
        quoted = rb"'(?:[^']|'')*+'"
        bare = rb"[^'\"%b\r\n]*+" % re.escape(delimiter.encode())
    else:
        quoted = rb'"(?:[^"\\]|\\["\\])*+"'
        bare = rb'[^"\\%b\r\n]*+' % re.escape(delimiter.encode())
    value = rb"(?>%b|%b)" % (quoted, bare)
    line = rb"%b(?:%b%b)*+" % (value, re.escape(delimiter.encode()), value)
    whole = re.compile(rb"%b(?:\r?\n%b)*+\Z" % (line, line))
    return whole.match(text) is not None


@lru_cache(maxsize=8)  # most files of a source have the same first line
def _fields(line: bytes, delimiter: str, quote: str) -> tuple[str, ...]:
    text = io.StringIO(line.decode(errors="replace"))
    quoting = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    csv.field_size_limit(1 << 30)
    found = csv.reader(text, delimiter=delimiter, quotechar=quote or None, quoting=quoting)
    return tuple(next(found, ()))


def _best_delimiter(source: Source, line: bytes, quote: str) -> str:
    """That which finds most of the contract's columns, or makes as many; a comma if none does."""
    known = {name for c in source.contract.columns for name in (c.raw_name, *c.former_names)}

    def score(delimiter: str) -> tuple[int, int]:
        fields = _fields(line, delimiter, quote)
        found = len(known & set(fields)) if source.header else len(fields)
        return found, len(fields) if found else 0

    return max(_DELIMITERS, key=score)


def _named(names: list[str], source: Source, path: str) -> list[str]:
    """Names without doubles: those that the contract doesn't know may be empty or repeated."""
    known = set(source.contract.raw_names)
    if twice := sorted({name for name in names if name in known and names.count(name) > 1}):
        raise UnreadableFile(f"{path}: columns there twice: {', '.join(twice)}")
    seen, unique = set(known), list[str]()
    for place, name in enumerate(names):
        if name not in known:
            new = base = name or f"column_{place + 1}"
            count = 1
            while new in seen:
                count += 1
                new = f"{base}_{count}"
            name = new
        seen.add(name)
        unique.append(name)
    return unique
