"""Bytes of files on their way to be read: what they sum up to, unpacked, and as UTF-8."""

from __future__ import annotations

import codecs
import gzip
import io
from typing import Any

import pyarrow as pa
import xxhash

from penstock.ingest import delimited
from penstock.ingest.source import Source

_HEAD_BYTES = 1 << 16
"""Of a text, that are looked at first."""
_MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_UTF8 = ("utf8", "utf-8", "u8", "utf_8", "utf-8-sig", "ascii")


class Hashing(io.RawIOBase):
    """Raw bytes on their way, and their checksum; seekable where the file is, without one then."""

    def __init__(self, raw: Any) -> None:
        self._raw, self._hash = raw, xxhash.xxh3_128()
        self._sought = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._raw.read(size)
        if not self._sought:
            self._hash.update(data)
        return data

    def readinto(self, into: Any, /) -> int:
        size = _read_into(self._raw, into)
        if not self._sought:
            self._hash.update(into[:size])
        return size

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


def unpacked(raw: Any, path: str) -> Any:
    """The plain bytes of a file, by its suffix."""
    # Python's gzip, and not Arrow's, because it notices a file that was cut short.
    if path.lower().endswith(".gz"):
        return gzip.GzipFile(fileobj=raw)
    if path.lower().endswith(".zst"):
        return _Zstandard(raw)
    return raw


class Text:
    """A stream of text as UTF-8 without a mark, its first bytes looked at."""

    def __init__(self, source: Source, plain: Any) -> None:
        self._plain = plain
        head = plain.read(_HEAD_BYTES)
        encoding, mark = _encoding(source, head)
        self._decoder = None if encoding in _UTF8 else codecs.getincrementaldecoder(encoding)()
        self.head = self._as_utf8(head[mark:], is_last=False)
        while b"\n" not in self.head and len(self.head) < delimited.PIECE_BYTES:
            more = plain.read(_HEAD_BYTES)  # a header may be longer
            if not more:
                break
            self.head += self._as_utf8(more, is_last=False)
        self._unread = self.head

    def skip(self, size: int) -> None:
        self._unread = self._unread[size:]

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        if self._unread:
            first, self._unread = self._unread, b""
            return first
        data = self._plain.read(size)
        return self._as_utf8(data, is_last=not data)

    def readinto(self, into: memoryview, /) -> int:
        if not self._unread and self._decoder is None:
            return _read_into(self._plain, into)
        while not self._unread:  # of part of a character comes nothing yet
            data = self._plain.read(len(into))
            self._unread = self._as_utf8(data, is_last=not data)
            if not data:
                break
        some = self._unread[: len(into)]
        into[: len(some)] = some
        self._unread = self._unread[len(some) :]
        return len(some)

    def _as_utf8(self, data: bytes, *, is_last: bool) -> bytes:
        if self._decoder is None:
            return data
        return self._decoder.decode(data, is_last).encode()


def as_utf8(source: Source, data: bytes) -> bytes:
    """A whole text, however it is encoded, as UTF-8 without a mark."""
    encoding, mark = _encoding(source, data)
    data = data[mark:]
    return data if encoding in _UTF8 else data.decode(encoding).encode()


def head_of(text: bytes) -> bytes:
    """The first bytes of a text, with a whole line at least."""
    return text[: max(_HEAD_BYTES, text.find(b"\n") + 1)]


class _Zstandard:
    """Plain bytes of a Zstandard file; one that is cut short is an `EOFError`, as with gzip."""

    def __init__(self, raw: Any) -> None:
        self._plain = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")

    def read(self, size: int = -1) -> bytes:
        try:
            return self._plain.read(None if size < 0 else size)
        except OSError as error:
            raise EOFError(str(error)) from error


def _encoding(source: Source, head: bytes) -> tuple[str, int]:
    """How text is encoded, and the length of its byte order mark."""
    if head.startswith(codecs.BOM_UTF8):
        return "utf8", 3
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding, 2
    return source.encoding.lower(), 0


def _read_into(stream: Any, into: memoryview) -> int:
    """Fill with what a stream has, whether or not it knows how to; 0 at its end."""
    readinto: Any = getattr(stream, "readinto", None)
    if readinto is not None:
        return readinto(into) or 0
    data = stream.read(len(into))
    into[: len(data)] = data
    return len(data)
