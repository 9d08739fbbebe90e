"""Rows of a data file that are gone, as Delta's deletion vectors say it.

A vector is a compressed bitmap of places in the file, which stays as it is. Those made here stand
in the log itself: a vacuum that takes every file the log doesn't name has none of theirs to take.

The format is that of the Delta transaction log protocol:
https://github.com/delta-io/delta/blob/master/PROTOCOL.md#deletion-vectors
"""

from __future__ import annotations

import base64
import json
import uuid
from array import array
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.errors import LakeError
from penstock.lake import Lake
from penstock.storage.objects import ObjectStore

FEATURE = "deletionVectors"
ENABLED = "delta.enableDeletionVectors"
_MAGIC = (1681511377).to_bytes(4, "little")
_INLINE, _IN_FILE = "i", "u"
_UUID_TEXT = 20
"""Characters of a file's id, the last ones of its text."""
# The log's base 85 is that of ZeroMQ (https://rfc.zeromq.org/spec/32/), Python's another.
_THEIRS = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_PYTHONS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_TO_THEIRS, _TO_PYTHONS = bytes.maketrans(_PYTHONS, _THEIRS), bytes.maketrans(_THEIRS, _PYTHONS)
_READ_AT_ONCE = 8
"""Log entries."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """A deletion vector as the log names it."""

    storage: str
    """`i` where `text` is the vector, `u` where it names a file of the table's folder."""
    text: str
    size_bytes: int
    rows: int
    """That are gone."""
    offset: int | None = None

    @property
    def within(self) -> bool:
        """Whether it stands in the log itself."""
        return self.storage == _INLINE

    @property
    def id(self) -> str:
        """Tells it from every other vector of its data file."""
        return f"{self.storage}{self.text}@{self.offset}"

    def to_json(self) -> dict[str, Any]:
        """As the log has it."""
        said: dict[str, Any] = {"storageType": self.storage, "pathOrInlineDv": self.text}
        if self.offset is not None:
            said["offset"] = self.offset
        return {**said, "sizeInBytes": self.size_bytes, "cardinality": self.rows}


def deletion_of(places: NDArray[np.uint64]) -> Deletion:
    """The vector of some places, from 0 on, in a data file."""
    from pyroaring import BitMap64  # only who writes one needs it

    data = _MAGIC + BitMap64(array("Q", places.tobytes())).serialize()
    padded = data + bytes(-len(data) % 4)
    text = base64.b85encode(padded).translate(_TO_THEIRS).decode()
    return Deletion(_INLINE, text, len(data), len(places))


def places_of(deletion: Deletion, objects: ObjectStore, key: str) -> NDArray[np.uint64]:
    """The places that a vector of the table at `key` takes out, ascending."""
    from pyroaring import BitMap64

    match deletion.storage:
        case "i":
            data = _from_text(deletion.text)[: deletion.size_bytes]
        case "u":
            folder, name = deletion.text[:-_UUID_TEXT], deletion.text[-_UUID_TEXT:]
            path = f"deletion_vector_{uuid.UUID(bytes=_from_text(name))}.bin"
            path = f"{key}/{folder}/{path}" if folder else f"{key}/{path}"
            # Behind its size, four bytes, which the log says as well.
            start = (deletion.offset or 0) + 4
            data = bytes(objects.get_range(path, start, deletion.size_bytes))
        case _:
            raise LakeError(f"{key}: a deletion vector stands outside of the table's folder")
    if data[:4] != _MAGIC:
        raise LakeError(f"{key}: a deletion vector is of no known format")
    found: Any = BitMap64.deserialize(data[4:])
    return np.frombuffer(found.to_array(), np.uint64)


def _from_text(text: str) -> bytes:
    return base64.b85decode(text.encode().translate(_TO_PYTHONS))


def deletions_at(lake: Lake, key: str, version: int) -> dict[str, Deletion]:
    """The deletion vectors of a version of the table at `key`, by their data files' paths."""
    begun, found = _checkpointed(lake, key, version)
    objects, following = lake.objects, range(begun + 1, version + 1)
    with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="penstock-log") as pool:
        names = (f"{key}/_delta_log/{number:020d}.json" for number in following)
        for text in pool.map(objects.get, names):
            actions = [json.loads(line) for line in text.splitlines() if line]
            # A version may take a file out and bring it in again, in any order.
            for action in actions:
                if "remove" in action:
                    found.pop(unquote(action["remove"]["path"]), None)
            for action in actions:
                said = action.get("add", {}).get("deletionVector")
                if said:
                    found[unquote(action["add"]["path"])] = deletion_from(said)
    return found


def deletion_from(said: Mapping[str, Any]) -> Deletion:
    """A vector, from how the log names it."""
    return Deletion(
        said["storageType"],
        said["pathOrInlineDv"],
        said["sizeInBytes"],
        said["cardinality"],
        said.get("offset"),
    )


def _checkpointed(lake: Lake, key: str, version: int) -> tuple[int, dict[str, Deletion]]:
    """The newest checkpoint up to a version, and the vectors that it names; -1 before the first."""
    newest, names = _checkpoint(lake.objects, key, version)
    if not names:
        return -1, {}
    options: Any = lake.storage_options or None
    paths = [f"{lake.uri}/{name}" for name in names]
    adds = pl.scan_parquet(paths, storage_options=options, glob=False).select("add")
    kind = adds.collect_schema()["add"]
    if not isinstance(kind, pl.Struct) or "deletionVector" not in kind.to_schema():
        return newest, {}
    add = pl.col("add").struct
    vector = add.field("deletionVector")
    named = adds.select(add.field("path"), vector)
    named = named.filter(pl.col("deletionVector").struct.field("storageType").is_not_null())
    rows = named.collect(engine="streaming").iter_rows()
    return newest, {unquote(path): deletion_from(said) for path, said in rows}


def _checkpoint(objects: ObjectStore, key: str, version: int) -> tuple[int, list[str]]:
    """Its version and the keys of its files."""
    hint = json.loads(objects.get_or_none(f"{key}/_delta_log/_last_checkpoint") or "{}")
    if (
        "parts" not in hint
        and "v2Checkpoint" not in hint
        and -1 < hint.get("version", -1) <= version
    ):
        name = f"{key}/_delta_log/{hint['version']:020d}.checkpoint.parquet"
        if objects.exists(name):
            return hint["version"], [name]
    found = dict[tuple[int, int], list[str]]()
    for number, name in _listed(objects, key):
        if number <= version:
            found.setdefault((number, _parts(name)), []).append(name)
    whole = {number: names for (number, parts), names in found.items() if len(names) == parts}
    newest = max(whole, default=-1)
    return newest, whole.get(newest, [])


def _listed(objects: ObjectStore, key: str) -> Iterator[tuple[int, str]]:
    for found in objects.list(f"{key}/_delta_log"):
        name = found.key.rsplit("/", 1)[-1]
        if ".checkpoint." not in name:
            continue
        if _parts(name) == 0:
            raise LakeError(
                f"{key}: {name} is a checkpoint of a kind that is not read here; "
                "have its engine write classic ones (delta.checkpointPolicy)"
            )
        yield int(name.split(".", 1)[0]), found.key


def _parts(name: str) -> int:
    """How many files a checkpoint is made of; 0 for kinds that are not known here."""
    match name.rsplit("/", 1)[-1].split("."):
        case [_, "checkpoint", "parquet"]:
            return 1
        case [_, "checkpoint", number, parts, "parquet"] if number.isdigit() and parts.isdigit():
            return int(parts)
        case _:
            return 0
