"""Names for a table's versions: `before_migration`, `prod`. A tagged version is never vacuumed."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

from penstock.errors import LakeError, TableNotFound, did_you_mean
from penstock.tables.table import Table

_TAG = re.compile(r"[a-z][a-z0-9_.-]*")


def tag(table: Table, name: str, version: int | None = None) -> int:
    """Have a tag name a version, by default the newest; the version.

    Raises
    ------
    LakeError: the name is of another form.
    TableNotFound: there is no such version.
    """
    if not _TAG.fullmatch(name):
        raise LakeError(f"{name!r} is not a tag: lower case letters, digits, _, . and -")
    found = table.snapshot(version).version
    said = {"version": found, "at": datetime.now(UTC).isoformat()}
    table.lake.objects.put(f"{_folder(table)}/{name}.json", json.dumps(said).encode())
    return found


def untag(table: Table, name: str) -> None:
    """Take a tag away; none of that name is no error."""
    table.lake.objects.delete([f"{_folder(table)}/{name}.json"])


def tags(table: Table) -> dict[str, int]:
    """The table's tags, and the version that each names."""
    found = dict[str, int]()
    for entry in table.lake.objects.list(_folder(table)):
        name = entry.key.rsplit("/", 1)[-1].removesuffix(".json")
        found[name] = int(json.loads(table.lake.objects.get(entry.key))["version"])
    return dict(sorted(found.items()))


def tagged_versions(table: Table) -> set[int]:
    """Versions that a tag names."""
    return set(tags(table).values())


def version_of(table: Table, name: str) -> int:
    """The version that a tag names.

    Raises
    ------
    TableNotFound: the table has no such tag; names the near ones.
    """
    known = tags(table)
    if name not in known:
        near = did_you_mean(name, list(known))
        raise TableNotFound(f"{table.name} has no tag {name}.{near}")
    return known[name]


def _folder(table: Table) -> str:
    return f"tags/{table.name}"
