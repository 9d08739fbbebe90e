"""Which contract each version of a table was validated by, kept in the lake.

contracts/<domain>/<table>/<fingerprint>.json
"""

from __future__ import annotations

import json

from penstock.contracts import Contract
from penstock.contracts.exchange import from_json, to_json
from penstock.errors import ContractError
from penstock.lake import Lake, checked_name
from penstock.tables import Table


def keep(lake: Lake, contract: Contract) -> None:
    """Keep a contract, once."""
    data = to_json(contract).encode()
    lake.objects.put_if_absent(_key(contract.table, contract.fingerprint()), data)


def contract_of(lake: Lake, table: str, version: int | str | None = None) -> Contract:
    """The contract by which a version's newest batch was validated.

    Parameters
    ----------
    version: a number or a tag; by default the newest.

    Raises
    ------
    TableNotFound: there is no such table, or no such version.
    ContractError: nothing was validated by then, or by a Penstock that kept no contracts.
    """
    snapshot = Table(lake, table).snapshot(version)
    for commit in snapshot.history():
        if str(commit.get("penstock.application", "")).startswith("validate/"):
            fingerprint = json.loads(commit["penstock.note"])["contract"]
            data = lake.objects.get_or_none(_key(table, fingerprint))
            if data is None:
                break
            return from_json(data)
    raise ContractError(
        f"{table}: no contract is kept of version {snapshot.version}; validate a batch first"
    )


def _key(table: str, fingerprint: str) -> str:
    return f"contracts/{checked_name(table)}/{fingerprint}.json"
