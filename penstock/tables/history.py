"""What a table's columns were when."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from penstock.tables.table import Table


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """One version that changed a table's columns."""

    version: int
    at: datetime
    added: tuple[str, ...]
    """Columns with their types, as `name type`."""
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    """As `name old to new`."""


def schema_history(table: Table) -> list[SchemaChange]:
    """Every version that changed the columns, oldest first, as far back as the log goes.

    Raises
    ------
    TableNotFound: there is no such table.
    """
    table.snapshot()
    before: dict[str, str] = {}
    changes: list[SchemaChange] = []
    listed = table.lake.objects.list(f"{table.key}/_delta_log")
    for key in sorted(entry.key for entry in listed if entry.key.endswith(".json")):
        text = table.lake.objects.get(key)
        if b'"metaData"' not in text:
            continue
        actions = [json.loads(line) for line in text.splitlines() if line]
        told = [action["metaData"] for action in actions if "metaData" in action]
        if not told:
            continue
        now = _columns(told[0])
        if now != before:
            version = int(key.rsplit("/", 1)[-1].removesuffix(".json"))
            changes.append(_change(version, _time(actions, told[0]), before, now))
        before = now
    return changes


def _change(
    version: int, at: datetime, before: dict[str, str], now: dict[str, str]
) -> SchemaChange:
    return SchemaChange(
        version,
        at,
        tuple(f"{name} {kind}" for name, kind in now.items() if name not in before),
        tuple(name for name in before if name not in now),
        tuple(
            f"{name} {before[name]} to {kind}"
            for name, kind in now.items()
            if before.get(name, kind) != kind
        ),
    )


def _columns(metadata: dict[str, Any]) -> dict[str, str]:
    fields = json.loads(metadata["schemaString"])["fields"]
    return {field["name"]: _kind(field["type"]) for field in fields}


def _kind(kind: Any) -> str:
    return kind if isinstance(kind, str) else str(kind.get("type"))


def _time(actions: list[dict[str, Any]], metadata: dict[str, Any]) -> datetime:
    told = [action["commitInfo"].get("timestamp") for action in actions if "commitInfo" in action]
    return datetime.fromtimestamp((told or [metadata.get("createdTime") or 0])[0] / 1000, UTC)
