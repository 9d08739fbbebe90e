"""A large text in pieces that end where a line does, in buffers that are used again.

New memory costs a multiple of what is written into memory that is there.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.errors import UnreadableFile

_STRETCH = 1 << 18
"""Bytes looked at in one go: they stay in cache, and so does what is made of them."""
_LINES_BACK = 100
"""Looked at for one that ends outside of quotes, before all are."""
SHOWN = 200


class Stream(Protocol):
    """Text to be read as UTF-8."""

    def readinto(self, into: memoryview, /) -> int:
        """Fill with what comes, at least a byte; 0 at the end."""
        ...


class Piece:
    """Lines of a text, in a buffer with room before and behind them."""

    __slots__ = ("_buffer", "_end", "_free", "_room")

    def __init__(self, buffer: bytearray, end: int, room: int, free: list[bytearray]) -> None:
        self._buffer, self._end, self._room, self._free = buffer, end, room, free

    @property
    def text(self) -> memoryview:
        """The lines; not to be kept once the piece is given up."""
        return memoryview(self._buffer)[self._room : self._end]

    def between(self, mark: bytes) -> memoryview:
        """The lines, with a line before and behind them that is as long as the room at most."""
        is_whole = self._buffer.endswith((b"\n", b"\r"), self._room, self._end)
        behind = mark if is_whole else b"\n" + mark
        start, end = self._room - len(mark), self._end + len(behind)
        self._buffer[start : self._room] = mark
        self._buffer[self._end : end] = behind
        return memoryview(self._buffer)[start:end]

    def give_up(self) -> None:
        """Have the buffer used again."""
        self._free.append(self._buffer)


def pieces_of(
    text: Stream, size_bytes: int, room_bytes: int, quote: bytes, path: str
) -> Iterator[Piece]:
    """Pieces of about `size_bytes`, cut where a line ends outside of quotes, by their count.

    Raises
    ------
    UnreadableFile: a line is twice as long.
    """
    free = list[bytearray]()
    held = b""
    is_over = False
    while not is_over:
        buffer = free.pop() if free else bytearray(2 * room_bytes + 3 * size_bytes)
        end, cut = room_bytes + len(held), 0
        _reserve(buffer, end)
        buffer[room_bytes:end] = held
        while not is_over and not cut:
            _reserve(buffer, end + size_bytes + room_bytes + 1)
            filled = _fill(text, buffer, end, size_bytes)
            is_over = filled < size_bytes
            end += filled
            cut = end if is_over else _cut(buffer, room_bytes, end, quote)
            if not cut and end - room_bytes > 2 * size_bytes:
                # Quotes within values, perhaps: any line's end will do, as whoever parses sees.
                cut = buffer.rfind(b"\n", room_bytes, end) + 1
                if not cut:
                    shown = bytes(buffer[room_bytes : room_bytes + SHOWN])
                    raise UnreadableFile(
                        f"{path}: a row is longer than {2 * size_bytes >> 20} MiB: {shown!r}"
                    )
        held = bytes(memoryview(buffer)[cut:end])
        if cut > room_bytes:
            yield Piece(buffer, cut, room_bytes, free)


def count_of(text: memoryview | bytes, byte: bytes) -> int:
    """How often a byte is in a text; bytes.count stops at each one that it finds."""
    values, wanted = np.frombuffer(text, np.uint8), ord(byte)
    return sum(int(np.count_nonzero(part == wanted)) for part in _stretches(values))


def check_text(data: bytes | memoryview, path: str, first_line: int = 1) -> None:
    """Raise `UnreadableFile` where there is a NUL, or what is no UTF-8, and say in which line."""
    if not len(data):
        return
    values = np.frombuffer(data, np.uint8)
    if all(part.min() > 0 for part in _stretches(values)) and _is_utf8(values):
        return
    whole = bytes(data)
    at = whole.find(b"\0")
    if at >= 0:
        line = first_line + whole.count(b"\n", 0, at)
        raise UnreadableFile(
            f"{path}: line {line} holds a NUL byte: the file is damaged, or of another encoding; "
            "then set the source's encoding, such as utf-16"
        )
    try:
        whole.decode()
    except UnicodeDecodeError as error:
        line = first_line + whole.count(b"\n", 0, error.start)
        raise UnreadableFile(
            f"{path}: line {line} holds byte 0x{whole[error.start]:02x}, which is no UTF-8; set "
            "the source's encoding, such as latin-1 or cp1252"
        ) from error


def _is_utf8(values: NDArray[np.uint8]) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_pending = False
    try:
        for part in _stretches(values):
            if is_pending or part.max() > 127:
                decoder.decode(part.tobytes())
                is_pending = bool(decoder.getstate()[0])
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        return False
    return True


def _stretches(values: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(values), _STRETCH):
        yield values[start : start + _STRETCH]


def _reserve(buffer: bytearray, size_bytes: int) -> None:
    if len(buffer) < size_bytes:
        buffer += bytes(size_bytes - len(buffer))


def _fill(text: Stream, buffer: bytearray, start: int, size_bytes: int) -> int:
    """Read that many bytes, or what is left."""
    filled = 0
    with memoryview(buffer) as view:
        while filled < size_bytes:
            got = text.readinto(view[start + filled : start + size_bytes])
            if not got:
                break
            filled += got
    return filled


def _cut(buffer: bytearray, start: int, stop: int, quote: bytes) -> int:
    """Behind the last line's end with an even count of quotes before it; 0 where there is none."""
    end = buffer.rfind(b"\n", start, stop)
    if end < 0 or not quote:
        return end + 1
    odd = count_of(memoryview(buffer)[start:end], quote) % 2
    for _ in range(_LINES_BACK):
        if not odd or end < start:
            break
        before = buffer.rfind(b"\n", start, end)
        odd ^= buffer.count(quote, max(before, start), end) % 2
        end = before
    if not odd:
        return end + 1 if end >= start else 0
    values = np.frombuffer(buffer, np.uint8, stop - start, start)
    quotes, ends = (np.flatnonzero(values == ord(each)) for each in (quote, b"\n"))
    even = ends[np.searchsorted(quotes, ends) % 2 == 0]
    return start + int(even[-1]) + 1 if len(even) else 0
