"""Files that kill whoever reads them: found by who was reading what when a run died, and set aside.

A run that comes upon a plan made before it writes down which files it reads, and deletes that when
it ends in any way but death. Whoever comes next reads what a dead run was reading first and in
smaller groups, until one file is left; of that, as many runs may die as a source has `tries`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from penstock.errors import StorageError
from penstock.ingest.ledger import FileResult
from penstock.ingest.plan import Plan, PlannedFile
from penstock.ingest.source import Source
from penstock.lake import Lake

_GROUPS = 16
"""That suspects are read in."""
_ALIVE_SECONDS = 90
"""Since a run on another machine was heard of."""
_BEAT_SECONDS = 15


class Watch:
    """What a run reads of a batch that another may have died on; a context manager.

    Of a batch that was planned just now nothing is written down.
    """

    def __init__(self, lake: Lake, source: Source, plan: Plan) -> None:
        self._objects, self._is_on, self._tries = lake.objects, plan.is_resumed, source.tries
        self._folder = f"sources/{source.table}/runs/{plan.batch:08d}"
        self._key = f"{self._folder}/{uuid.uuid4().hex}.json"
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._reading: dict[int, list[str]] = {}
        self._suspects, self._deaths = list[str](), dict[str, int]()
        self._files = {file.path: file for file in plan.files}

    def __enter__(self) -> Watch:
        if self._is_on:
            self._look()
            self._put()
            threading.Thread(target=self._beat, name="penstock-watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_on:
            self._ended.set()
            with self._lock, contextlib.suppress(StorageError):
                self._objects.delete([self._key])

    @property
    def poisoned(self) -> list[FileResult]:
        """Files that are not read any more."""
        return [
            FileResult(
                self._files[path],
                "failed",
                error=f"{path}: {deaths} runs died while they read it, perhaps for want of memory; "
                "it is set aside. Split it, or read it again (--retry) where there is more",
            )
            for path, deaths in self._deaths.items()
            if deaths >= self._tries and path in self._files
        ]

    @property
    def suspects(self) -> list[list[PlannedFile]]:
        """Files to read first and alone, a group after the other."""
        paths = [path for path in self._suspects if path in self._files]
        paths = [path for path in paths if self._deaths.get(path, 0) < self._tries]
        size = max(1, len(paths) // _GROUPS)
        groups = [paths[start : start + size] for start in range(0, len(paths), size)]
        return [[self._files[path] for path in group] for group in groups]

    @contextmanager
    def reading(self, files: Sequence[PlannedFile]) -> Generator[None]:
        """That these are being read by this thread."""
        if not self._is_on:
            yield
            return
        me = threading.get_ident()
        self._reading[me] = [file.path for file in files]
        self._put()
        try:
            yield
        finally:
            del self._reading[me]

    def forget(self) -> None:
        """The batch is in: nothing of this matters any more."""
        if self._is_on:
            with contextlib.suppress(StorageError):
                self._objects.delete([info.key for info in self._objects.list(self._folder)])

    def _look(self) -> None:
        """Learn from runs that died, and pass it on."""
        known = self._objects.get_or_none(f"{self._folder}/suspects.json")
        said: dict[str, Any] = json.loads(known) if known else {"suspects": [], "deaths": {}}
        self._suspects, self._deaths = said["suspects"], said["deaths"]
        found, gone = list[str](), list[str]()
        for info in self._objects.list(self._folder):
            record = None if info.key.endswith("suspects.json") else self._get(info.key)
            if record is None or _is_alive(record):
                continue
            gone.append(info.key)
            found += record["reading"]
            if len(record["reading"]) == 1:
                path = record["reading"][0]
                self._deaths[path] = self._deaths.get(path, 0) + 1
        if gone:
            self._suspects = list(dict.fromkeys(found)) or self._suspects
            text = json.dumps({"suspects": self._suspects, "deaths": self._deaths})
            self._objects.put(f"{self._folder}/suspects.json", text.encode())
            self._objects.delete(gone)

    def _get(self, key: str) -> dict[str, Any] | None:
        data = self._objects.get_or_none(key)
        return json.loads(data) if data else None

    def _put(self) -> None:
        reading = [path for paths in list(self._reading.values()) for path in paths]
        record = {**_SELF, "at": time.time(), "reading": reading}
        with self._lock:
            if not self._ended.is_set():
                self._objects.put(self._key, json.dumps(record).encode())

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT_SECONDS):
            with contextlib.suppress(StorageError):
                self._put()


def _started(pid: int) -> str:
    """When a process of this machine began, so that its number is not taken for another's."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


_SELF = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def _is_alive(record: dict[str, Any]) -> bool:
    if record["host"] != socket.gethostname():
        return time.time() - record["at"] < _ALIVE_SECONDS
    try:
        os.kill(record["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _started(record["pid"]) == record["started"]
