"""One commit into a Delta log: the next version's file, put if absent.

deltalake, too, commits by put-if-absent, but goes on to a later version on its own where another
writer was first, and can't tell a refusal from its own write whose answer was lost. Here each entry
that came in between is looked at: is it this very commit; does it forbid it?

The format is that of the Delta transaction log protocol:
https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from penstock._version import __version__
from penstock.errors import CommitConflict
from penstock.storage.objects import ObjectStore
from penstock.tables.deletions import Deletion
from penstock.tables.staging import StagedFile, StoredFile

_SAFE = "/=:@!$&'()*+,;~-._"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a commit puts into the log.

    changes_data: false where the same rows come and go, in other files.
    """

    id: str
    """Tells this commit from all others."""
    adds: Sequence[StagedFile] = ()
    removes: Sequence[StoredFile] = ()
    changes: Sequence[StagedFile] = ()
    """Files of its changes of rows."""
    transaction: tuple[str, int] | None = None
    said: Mapping[str, str] = field(default_factory=dict[str, str])
    """Kept in the commit, for `history`."""
    configuration: Mapping[str, str] = field(default_factory=dict[str, str])
    """The table's properties that it was made by."""
    protocol: Mapping[str, Any] | None = None
    """What the table asks of readers and writers, where that changes."""
    changes_data: bool = True
    metadata: Mapping[str, Any] | None = None
    """The table's own, schema and all, where it changes."""

    def to_json(self) -> bytes:
        """The log file's lines."""
        now_ms = int(time.time() * 1000)
        # Not escaped: deltalake reads some characters wrongly then.
        lines = (json.dumps(action, ensure_ascii=False) for action in self._actions(now_ms))
        return "\n".join(lines).encode()

    def _actions(self, now_ms: int) -> Iterator[dict[str, Any]]:
        yield {
            "commitInfo": {
                "timestamp": now_ms,
                "operation": "WRITE" if self.changes_data else "OPTIMIZE",
                "operationParameters": {"mode": "Append"},
                "engineInfo": f"penstock:{__version__}",
                "clientVersion": f"penstock.{__version__}",
                "penstock.commit": self.id,
                **self.said,
            }
        }
        if self.transaction:
            application, number = self.transaction
            yield {"txn": {"appId": application, "version": number, "lastUpdated": now_ms}}
        if self.protocol:
            yield {"protocol": dict(self.protocol)}
        if self.metadata:
            yield {"metaData": dict(self.metadata)}
        for gone in self.removes:
            yield {
                "remove": {
                    "path": quote(gone.path, safe=_SAFE),
                    "deletionTimestamp": now_ms,
                    "dataChange": self.changes_data,
                    "extendedFileMetadata": True,
                    "partitionValues": dict(gone.partition),
                    "size": gone.size_bytes,
                    **_vector(gone.deletion),
                }
            }
        for file in self.changes:
            yield {
                "cdc": {
                    "path": quote(file.path, safe=_SAFE),
                    "partitionValues": dict(file.partition),
                    "size": file.size_bytes,
                    "dataChange": False,
                }
            }
        for file in self.adds:
            yield {
                "add": {
                    "path": quote(file.path, safe=_SAFE),
                    "partitionValues": dict(file.partition),
                    "size": file.size_bytes,
                    "modificationTime": file.modified_ms,
                    "dataChange": self.changes_data,
                    "stats": file.statistics,
                    **_vector(file.deletion),
                }
            }


def _vector(deletion: Deletion | None) -> dict[str, Any]:
    return {"deletionVector": deletion.to_json()} if deletion else {}


def put_entry(
    objects: ObjectStore, key: str, base: int, entry: Entry, *, is_alone: bool, what: str
) -> int:
    """Put an entry behind version `base`, or behind those that came in between; its version.

    Parameters
    ----------
    key: of the table.
    is_alone: whether any change of the table in between forbids it.
    what: for errors.

    Raises
    ------
    CommitConflict: an entry in between forbids it: it is of the same transaction, or took out a
        file that this one takes out too. Nothing was committed.
    StorageError: the store can't be reached; whether it was committed is for a later look.
    """
    data, version = entry.to_json(), base + 1
    while not objects.put_if_absent(path_of(key, version), data):
        other = read_entry(objects, key, version)
        if any(_id(action) == entry.id for action in other):
            return version  # ours: it was written, and the answer to that was lost
        _check(entry, other, version, is_alone=is_alone, what=what)
        version += 1
    return version


def read_entry(objects: ObjectStore, key: str, version: int) -> list[dict[str, Any]]:
    """The actions of a version."""
    return [json.loads(line) for line in objects.get(path_of(key, version)).splitlines() if line]


def commit_info(text: bytes) -> dict[str, Any]:
    """What a log file's commit says of itself."""
    for line in text.splitlines():
        if b'"commitInfo"' in line:
            found = json.loads(line)
            if "commitInfo" in found:
                return found["commitInfo"]
    return {}


def path_of(key: str, version: int) -> str:
    """The key of a version's log file."""
    return f"{key}/_delta_log/{version:020d}.json"


def _id(action: dict[str, Any]) -> str | None:
    return action.get("commitInfo", {}).get("penstock.commit")


def _check(
    entry: Entry, other: list[dict[str, Any]], version: int, *, is_alone: bool, what: str
) -> None:
    ours = {quote(file.path, safe=_SAFE) for file in entry.removes}
    for action in other:
        if "protocol" in action:
            raise CommitConflict(f"{what}: version {version} changed the table's protocol")
        told = action.get("metaData")
        if told is not None and told.get("configuration", {}) != dict(entry.configuration):
            raise CommitConflict(f"{what}: version {version} changed the table's properties")
        if entry.metadata and told is not None:
            raise CommitConflict(f"{what}: version {version} changed the table's columns")
        if entry.transaction and action.get("txn", {}).get("appId") == entry.transaction[0]:
            raise CommitConflict(f"{what}: version {version} is another batch of it")
        removed = action.get("remove", {}).get("path")
        if removed is not None and (removed in ours or quote(removed, safe=_SAFE) in ours):
            raise CommitConflict(f"{what}: version {version} removed {removed} too")
        if is_alone and ("add" in action or "remove" in action):
            raise CommitConflict(f"{what}: version {version} changed the table")
