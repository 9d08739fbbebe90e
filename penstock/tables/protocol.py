"""What a table asks of its readers and writers, by Delta's protocol, and what is done here of it.

https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, Schema

from penstock.errors import LakeError
from penstock.tables.deletions import FEATURE

_NTZ = "timestampNtz"
"""Times without a zone."""
_WRITER_FEATURES = {
    "appendOnly",
    "invariants",
    _NTZ,
    "changeDataFeed",
    "checkConstraints",
    FEATURE,
}
"""That are kept to here, or ask nothing of who adds and removes whole files."""
_READER_FEATURES = {_NTZ, FEATURE}
_WRITER_VERSION = 4
"""Up to which an older protocol asks for no more than those, and generated columns."""
_FEATURES_VERSIONS = (3, 7)
"""Of the protocol for readers and writers, from which it names what it asks for."""
_ASKED_FOR_SINCE = {"appendOnly": 2, "invariants": 2, "checkConstraints": 3, "changeDataFeed": 4}
"""Of writers, by versions from before."""


def protocol_with(delta: DeltaTable, writer_version: int, feature: str) -> dict[str, Any]:
    """What the table asks of readers and writers, and a feature."""
    now = delta.protocol()
    readers, writers = set(now.reader_features or []), set(now.writer_features or [])
    reader, writer = now.min_reader_version, max(writer_version, now.min_writer_version)
    if writer_version == _FEATURES_VERSIONS[1]:
        if not writers:
            since = _ASKED_FOR_SINCE.items()
            writers = {name for name, first in since if first <= now.min_writer_version}
        reader, readers = _FEATURES_VERSIONS[0], readers | {feature}
    asked: dict[str, Any] = {"minReaderVersion": reader, "minWriterVersion": writer}
    if readers:
        asked["readerFeatures"] = sorted(readers)
    if writers or writer == _FEATURES_VERSIONS[1]:
        asked["writerFeatures"] = sorted({*writers, feature})
    return asked


def protocol_for(delta: DeltaTable, schema: pa.Schema) -> dict[str, Any] | None:
    """What the table has to ask for besides to have these columns; None for nothing more.

    Readers refuse a table that has times without a zone and doesn't say so.
    """
    kinds = (field.type for field in schema)
    is_ntz = any(pa.types.is_timestamp(kind) and kind.tz is None for kind in kinds)
    if not is_ntz or _NTZ in (delta.protocol().reader_features or []):
        return None
    return protocol_with(delta, _FEATURES_VERSIONS[1], _NTZ)


def metadata_with(delta: DeltaTable, schema: pa.Schema) -> dict[str, Any]:
    """The table's metadata as the log has it, with another schema."""
    now = delta.metadata()
    return {
        "id": str(now.id),
        "name": now.name,
        "description": now.description,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": Schema.from_arrow(schema).to_json(),
        "partitionColumns": list(now.partition_columns),
        "createdTime": now.created_time,
        "configuration": dict(now.configuration),
    }


def check_readable(delta: DeltaTable, name: str) -> None:
    """Raise `LakeError` where data files alone don't say which rows and columns there are."""
    protocol, settings = delta.protocol(), delta.metadata().configuration
    unknown = set(protocol.reader_features or []) - _READER_FEATURES
    if settings.get("delta.columnMapping.mode", "none") != "none":
        unknown.add("columnMapping")
    if unknown:
        raise LakeError(
            f"{name}: it was made by another engine and asks of its readers "
            f"{', '.join(sorted(unknown))}, which isn't done here; copy it into a table without"
        )


def check_writable(delta: DeltaTable, name: str) -> None:
    """Raise `LakeError` where the table asks of writers what isn't done here."""
    protocol = delta.protocol()
    unknown = set(protocol.writer_features or []) - _WRITER_FEATURES
    version = 0 if protocol.writer_features else protocol.min_writer_version
    if version == _WRITER_VERSION and "delta.generationExpression" in delta.schema().to_json():
        unknown.add("generatedColumns")
    if unknown or version > _WRITER_VERSION:
        asked = ", ".join(sorted(unknown)) or f"writer version {version}"
        raise LakeError(
            f"{name}: it was made by another engine and asks of its writers "
            f"{asked}, which Penstock doesn't do; write to it with that engine"
        )
