"""Reading from a process that was forked: a helper process asks storage in its place.

obstore's threads do not live on in a fork, and a call there would wait for them for ever. So a
forked worker (torch's DataLoader on Linux makes such) starts a fresh Python beside it, which ends
with it, and hands its reads over through pipes.
"""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO

from penstock.errors import StorageError

_THREADS = 16
_BYTES, _PICKLED = b"b", b"p"
"""What a result is sent as."""


class StorageProcess:
    """A helper process that calls methods of an ObjectStore; owns it and a thread."""

    def __init__(self, uri: str, options: dict[str, str]) -> None:
        self.owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        self._lock, self._asked = threading.Lock(), 0
        self._waiting: dict[int, Future[Any]] = {}
        _send(self._pipe, pickle.dumps((uri, options)))  # by pipe: options may hold a secret
        threading.Thread(target=self._receive, name="penstock-storage", daemon=True).start()

    def call(self, method: str, *arguments: Any) -> Future[Any]:
        """Call a method; the future has its result, or raises its StorageError."""
        future: Future[Any] = Future()
        with self._lock:
            self._asked += 1
            self._waiting[self._asked] = future
            _send(self._pipe, pickle.dumps((self._asked, method, arguments)))
        return future

    @property
    def _pipe(self) -> BinaryIO:
        pipe = self._process.stdin
        if pipe is None or self._process.poll() is not None:
            raise StorageError("the helper process that reads for this forked one has ended")
        return pipe  # pyright: ignore[reportReturnType]

    def _receive(self) -> None:
        pipe: Any = self._process.stdout
        while (message := _receive(pipe)) is not None:
            number, is_well = struct.unpack_from("<q?", message)
            future = self._waiting.pop(number)
            payload = memoryview(message)[9:]
            if not is_well:
                text, is_transient, is_absent = pickle.loads(payload)
                error = StorageError(text, is_transient=is_transient)
                error.__cause__ = FileNotFoundError() if is_absent else None
                future.set_exception(error)
            elif message[9:10] == _BYTES:
                future.set_result(payload[1:])
            else:
                future.set_result(pickle.loads(payload[1:]))
        for future in self._waiting.values():
            future.set_exception(StorageError("the helper process that reads for this one ended"))


def serve() -> None:
    """Answer calls on standard input until it ends."""
    from penstock.storage.objects import ObjectStore

    calls, answers = sys.stdin.buffer, sys.stdout.buffer
    first = _receive(calls)
    if first is None:
        return
    uri, options = pickle.loads(first)
    store, lock = ObjectStore(uri, options), threading.Lock()
    with ThreadPoolExecutor(_THREADS) as pool:
        while (message := _receive(calls)) is not None:
            number, method, arguments = pickle.loads(message)
            pool.submit(_answer, answers, lock, number, getattr(store, method), arguments)


def _answer(
    answers: BinaryIO,
    lock: threading.Lock,
    number: int,
    method: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    is_well = True
    try:
        result = method(*arguments)
        is_bytes = method.__name__ in ("get", "get_range")
        payload = _BYTES + bytes(result) if is_bytes else _PICKLED + pickle.dumps(result)
    except StorageError as error:
        is_absent = isinstance(error.__cause__, FileNotFoundError)
        is_well, payload = False, pickle.dumps((str(error), error.is_transient, is_absent))
    with lock:
        _send(answers, struct.pack("<q?", number, is_well) + payload)


def _send(pipe: BinaryIO, message: bytes) -> None:
    pipe.write(struct.pack("<q", len(message)))
    pipe.write(message)
    pipe.flush()


def _receive(pipe: BinaryIO) -> bytes | None:
    """The next message; None at the end."""
    head = pipe.read(8)
    if len(head) < 8:
        return None
    (length,) = struct.unpack("<q", head)
    message = pipe.read(length)
    return message if len(message) == length else None
