"""Where a dataset's tags point: a numbered file a move, put if absent, the highest one counts.

This is compare-and-swap on any store that has put-if-absent, local disks too, and keeps the
tag's history. Beside the file lies an empty one with the fingerprint in its name, so that who
lists them need not read.

    <dataset>/tags/latest/00000002.json            put if absent: who does has moved the tag
    <dataset>/tags/latest/00000002.<fingerprint>   put after it; where it is not, the file is read
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

from penstock.errors import DatasetNotFound, LakeError, did_you_mean
from penstock.lake import Lake, dataset_key

LATEST = "latest"


def move_tag(lake: Lake, name: str, tag: str, fingerprint: str) -> bool:
    """Point the tag at a version; whether it moved (it may be there already).

    Raises
    ------
    LakeError: the tag is no word, or would be taken for a fingerprint.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_.-]{0,30}", tag):
        raise LakeError(f"{tag!r} is no tag: write a word in lower case, such as prod or v1.2")
    while True:
        number, current = _newest(lake, name, tag)
        if current == fingerprint:
            return False
        value = {"fingerprint": fingerprint, "at": datetime.now(UTC).isoformat()}
        key = f"{_folder(name, tag)}/{number + 1:08d}.json"
        if lake.objects.put_if_absent(key, json.dumps(value).encode()):
            lake.objects.put(f"{key.removesuffix('json')}{fingerprint}", b"")
            return True


def read_tag(lake: Lake, name: str, tag: str) -> str:
    """The fingerprint that the tag points at.

    Raises
    ------
    DatasetNotFound: no such dataset or tag; names the near ones.
    """
    _, current = _newest(lake, name, tag)
    if current is not None:
        return current
    names = lake.dataset_names()
    if name not in names:
        raise DatasetNotFound(f"{lake.uri} has no dataset {name}.{did_you_mean(name, names)}")
    near = did_you_mean(tag, tags(lake, name))
    raise DatasetNotFound(f"{name} has no tag {tag}.{near}")


def tags(lake: Lake, name: str) -> list[str]:
    """The dataset's tags."""
    return lake.objects.folders(f"{dataset_key(name)}/tags")


def _newest(lake: Lake, name: str, tag: str) -> tuple[int, str | None]:
    keys = [info.key for info in lake.objects.list(_folder(name, tag))]
    if not keys:
        return 0, None
    # By the files alone: a name beside one counts only once the file is there.
    newest = max(key for key in keys if key.endswith(".json"))
    number = int(newest.rsplit("/", 1)[-1].removesuffix(".json"))
    start = newest.removesuffix("json")
    beside = [key.removeprefix(start) for key in keys if key.startswith(start) and key != newest]
    if beside:
        return number, beside[0]
    return number, json.loads(lake.objects.get(newest))["fingerprint"]


def _folder(name: str, tag: str) -> str:
    return f"{dataset_key(name)}/tags/{tag}"
