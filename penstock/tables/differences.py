"""Which data files came and went between two versions of a table."""

from __future__ import annotations

import json
from urllib.parse import unquote

from penstock.errors import TableNotFound
from penstock.tables.log import path_of
from penstock.tables.staging import StoredFile
from penstock.tables.table import Snapshot, Table


def changed_files(
    now: Snapshot, since_version: int | None
) -> tuple[list[StoredFile], list[StoredFile]]:
    """The data files that came and went between a version and `now`, with other rows.

    Files that were only written anew (`optimize`) are neither, as far as the log tells; a file that
    came and was written anew since counts as come, and may be gone. With no earlier version, or one
    whose log is gone, every file counts as come.
    """
    if since_version is None:
        return now.files, []
    try:
        then = now.table.snapshot(since_version)
    except TableNotFound:
        return now.files, []
    came, went = _difference(now.files, then.files), _difference(then.files, now.files)
    if not came or not went:  # nothing was written anew
        return came, went
    moved = _moved(now.table, since_version, now.version)
    return (
        [file for file in came if file.path not in moved],
        [file for file in went if file.path not in moved],
    )


def _moved(table: Table, since_version: int, version: int) -> set[str]:
    """Files that came or went only by commits that changed no rows; none if one came so and then
    changed, or the log of a version is gone.
    """
    moved, changed = set[str](), set[str]()
    for number in range(since_version + 1, version + 1):
        text = table.lake.objects.get_or_none(path_of(table.key, number))
        if text is None:
            return set()
        for line in text.splitlines():
            action = json.loads(line)
            named = action.get("add") or action.get("remove")
            if named:
                (changed if named["dataChange"] else moved).add(unquote(named["path"]))
    # What was added with new rows and then moved is to be found nowhere else: keep all of it.
    return moved - changed if not moved & changed else set()


def _difference(files: list[StoredFile], others: list[StoredFile]) -> list[StoredFile]:
    known = {file.id for file in others}
    return [file for file in files if file.id not in known]
