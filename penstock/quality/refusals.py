"""The batch of a table that its contract refused: why, which rows, and what all else came to.

contracts/<domain>/<table>/refused/<source's table>.json, there until the batch commits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from penstock.lake import Lake, checked_name
from penstock.quality.results import Result

SHOWN = 20


@dataclass(frozen=True, slots=True)
class Refusal:
    """A batch of which nothing committed."""

    source: str
    """The bronze table that has its rows."""
    batch: int
    at: datetime
    why: str
    results: Sequence[Mapping[str, Any]]
    """What was found until then, in Great Expectations' result schema."""
    rows: Sequence[Mapping[str, Any]]
    """Some of the rows that would have been rejected: file, row, reasons."""


def refused_batches(lake: Lake, table: str) -> list[Refusal]:
    """Batches of a table that wait for their files, or the contract, to be mended."""
    folder = _folder(table)
    found = list[Refusal]()
    for state in sorted(lake.objects.list(folder), key=lambda state: state.key):
        data = lake.objects.get_or_none(state.key)
        if data is not None:
            value: dict[str, Any] = json.loads(data)
            value["at"] = datetime.fromisoformat(value["at"])
            found.append(Refusal(**value))
    return found


def keep_refusal(
    lake: Lake,
    table: str,
    source: str,
    batch: int,
    why: str,
    results: Sequence[Result],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Keep why a batch was refused, in the place of what was kept of it before."""
    found = [result.to_json() for result in results if result.is_known]
    told = Refusal(source, batch, datetime.now(UTC), why, found, rows)
    data = json.dumps({**asdict(told), "at": told.at.isoformat()}).encode()
    lake.objects.put(_key(table, source), data)


def forget_refusal(lake: Lake, table: str, source: str, committed: int) -> None:
    """Forget the source's, if its batch has committed by now."""
    key = _key(table, source)
    data = lake.objects.get_or_none(key)
    if data is not None and json.loads(data)["batch"] <= committed:
        lake.objects.delete([key])


def _folder(table: str) -> str:
    return f"contracts/{checked_name(table)}/refused/"


def _key(table: str, source: str) -> str:
    return f"{_folder(table)}{source.replace('/', '.')}.json"
