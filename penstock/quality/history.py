"""The validated batches of a table, and which contract each was validated by, kept in the lake.

contracts/<domain>/<table>/<fingerprint>.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from penstock.contracts import Contract
from penstock.contracts.exchange import from_json, to_json
from penstock.errors import ContractError
from penstock.lake import Lake, checked_name
from penstock.tables import Snapshot, Table

VALIDATE = "validate/"
"""How applications that validate are called, before their source's table."""


@dataclass(frozen=True, slots=True)
class Validated:
    """A commit that brought a validated batch in."""

    version: int
    at: datetime
    note: Mapping[str, Any]
    """What it says of itself: rows accepted and rejected, reasons, contract, results."""


def validations(snapshot: Snapshot) -> Iterator[Validated]:
    """The validated batches of a table, newest first; the log is read as far as they are wanted."""
    for commit in snapshot.commits():
        if str(commit.get("penstock.application", "")).startswith(VALIDATE):
            moment = datetime.fromtimestamp(commit["timestamp"] / 1000, UTC)
            yield Validated(int(commit["version"]), moment, json.loads(commit["penstock.note"]))


def keep(lake: Lake, contract: Contract) -> None:
    """Keep a contract, once."""
    data = to_json(contract).encode()
    lake.objects.put_if_absent(_key(contract.table, contract.fingerprint()), data)


def contract_of(lake: Lake, table: str, version: int | str | None = None) -> Contract:
    """The contract by which a version's newest batch was validated.

    Parameters
    ----------
    version: a number, a tag or a time; by default the newest.

    Raises
    ------
    TableNotFound: there is no such table, or no such version.
    ContractError: nothing was validated by then, or by a Penstock that kept no contracts.
    """
    snapshot = Table(lake, table).snapshot(version)
    for batch in validations(snapshot):
        data = lake.objects.get_or_none(_key(table, batch.note["contract"]))
        if data is None:
            break
        return from_json(data)
    raise ContractError(
        f"{table}: no contract is kept of version {snapshot.version}; validate a batch first"
    )


def _key(table: str, fingerprint: str) -> str:
    return f"contracts/{checked_name(table)}/{fingerprint}.json"
