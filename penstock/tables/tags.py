"""Names for a table's versions: `before_migration`, `prod`. A tagged version is never vacuumed."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

from penstock.errors import LakeError, TableNotFound, did_you_mean
from penstock.tables.table import Table

_TAG = re.compile(r"[a-z][a-z0-9_.-]*")
_VERSION = re.compile(r"v?([0-9]+)")


def tag(table: Table, name: str, version: int | None = None) -> int:
    """Have a tag name a version, by default the newest; the version.

    Raises
    ------
    LakeError: the name is of another form, or that of a version (`v12`).
    TableNotFound: there is no such version.
    """
    if _VERSION.fullmatch(name):
        raise LakeError(f"{name!r} is not a tag: it means a version; put a word before the number")
    if not _TAG.fullmatch(name):
        raise LakeError(f"{name!r} is not a tag: lower case letters, digits, _, . and -")
    found = table.snapshot(version).version
    said = {"version": found, "at": datetime.now(UTC).isoformat()}
    table.lake.objects.put(_key(table, name), json.dumps(said).encode())
    return found


def untag(table: Table, name: str) -> None:
    """Take a tag away; none of that name is no error."""
    table.lake.objects.delete([_key(table, name)])


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


def meant_by(table: Table, text: str) -> int | datetime:
    """The version that a tag names, or a text such as `v12`; or a time in ISO form, of UTC unless
    it says another zone.

    Raises
    ------
    TableNotFound: it is no time, and the table has no such tag; names the near ones.
    """
    if _TAG.fullmatch(text) and (said := table.lake.objects.get_or_none(_key(table, text))):
        return int(json.loads(said)["version"])
    if number := _VERSION.fullmatch(text):
        return int(number[1])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        near = did_you_mean(text, list(tags(table)))
        raise TableNotFound(f"{table.name} has no tag {text}.{near}") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _key(table: Table, name: str) -> str:
    return f"{_folder(table)}/{name}.json"


def _folder(table: Table) -> str:
    return f"tags/{table.name}"
