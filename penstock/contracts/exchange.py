"""Contracts in others' formats: a Great Expectations suite, an Open Data Contract (the standard's
version 3), an Arrow schema; and in JSON of their own, which has everything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date, datetime
from typing import Any, cast, get_args

import pyarrow as pa

from penstock.contracts.contract import Column, Contract, Evolution, Kind
from penstock.contracts.expectation import Expectation
from penstock.contracts.fitting import refuse_unfit, with_times
from penstock.errors import ContractError

_ODCS = "v3.1.0"
_LOGICAL: dict[Kind, str] = {
    "string": "string",
    "int32": "integer",
    "int64": "integer",
    "float64": "number",
    "bool": "boolean",
    "date": "date",
    "timestamp": "timestamp",
    "binary": "string",
}
_OF_LOGICAL: dict[str, Kind] = {
    "string": "string",
    "integer": "int64",
    "number": "float64",
    "boolean": "bool",
    "date": "date",
    "timestamp": "timestamp",
    "time": "string",
}
_OF_PHYSICAL: dict[str, Kind] = {
    "char": "string",
    "text": "string",
    "uuid": "string",
    "timestamp": "timestamp",
    "datetime": "timestamp",
    "date": "date",
    "bigint": "int64",
    "smallint": "int32",
    "int": "int64",
    "numeric": "float64",
    "decimal": "float64",
    "number": "float64",
    "double": "float64",
    "float": "float64",
    "real": "float64",
    "bool": "bool",
    "string": "string",
    "binary": "binary",
    "blob": "binary",
}
"""By a part of the name that databases have for a type, the first that fits."""


def to_json(contract: Contract) -> str:
    """The whole contract; `from_json` gives an equal one."""
    return json.dumps(asdict(contract), default=_tagged, indent=1, sort_keys=True)


def from_json(text: str | bytes) -> Contract:
    """A contract that `to_json` wrote.

    Raises
    ------
    ContractError: it is none.
    """
    try:
        value: dict[str, Any] = json.loads(text, object_hook=_untagged)
        columns = tuple(_from_json(column) for column in value.pop("columns"))
        expectations = tuple(map(_expectation, value.pop("expectations")))
        value["key"] = tuple(value["key"])
        return Contract(columns=columns, expectations=expectations, **value)
    except (ValueError, TypeError, KeyError) as error:
        raise ContractError(f"not a contract in JSON: {error}") from error


def _from_json(column: dict[str, Any]) -> Column:
    column["former_names"] = tuple(column.get("former_names", ()))
    return Column(**column)


def from_gx_suite(
    suite: Mapping[str, Any], contract: Contract
) -> tuple[Contract, dict[str, list[str]]]:
    """A contract with a Great Expectations suite's expectations added, and what was left out.

    Returns
    -------
    The contract, and for each reason the types of the entries that it kept out.
    """
    found, left = list(contract.all_expectations), dict[str, list[str]]()
    implied = len(found) - len(contract.expectations)
    for entry in entries_of(suite):
        _take(entry, contract.columns, found, left)
    return replace(contract, expectations=tuple(found[implied:])), left


def _take(
    entry: Any, columns: Sequence[Column], found: list[Expectation], left: dict[str, list[str]]
) -> None:
    """Add a suite's entry to what is expected already, or to what is left out, by the reason."""
    kind = entry.get("type") or entry.get("expectation_type") if isinstance(entry, Mapping) else ""  # pyright: ignore
    try:
        expectation = _typed(Expectation.from_gx(entry), columns)
        names = {column.name for column in columns}
        if missing := [name for name in expectation.columns if name not in names]:
            raise ContractError(f"no column {', '.join(missing)}")
        refuse_unfit([expectation], columns)
        if replace(expectation, label="") in {replace(each, label="") for each in found}:
            raise ContractError(f"{expectation.name} is expected already")
    except ContractError as error:
        left.setdefault(str(error), []).append(str(kind or "entry"))
        return
    found.append(_told_apart(expectation, {each.name for each in found}))


def entries_of(suite: Mapping[str, Any]) -> list[Any]:
    """A suite's expectations, and those that `Contract.gx_suite` keeps beside them.

    Raises
    ------
    ContractError: it is no suite.
    """
    entries = suite.get("expectations") if isinstance(suite, Mapping) else None  # pyright: ignore
    if not isinstance(entries, Sequence):
        raise ContractError("not a suite of Great Expectations: it has no list of expectations")
    found = list[Any](entries)
    for other in ((suite.get("meta") or {}).get("penstock") or {}).get("expectations") or ():
        entry = dict(other)
        found.insert(int(entry.pop("at", len(found))), entry)
    return found


def _told_apart(expectation: Expectation, known: set[str]) -> Expectation:
    """Under a name that no other has: the second of one type on the same columns ends on `_2`."""
    name, number = expectation.name, 1
    while expectation.name in known:
        number += 1
        expectation = replace(expectation, label=f"{name}_{number}")
    return expectation


def to_odcs(contract: Contract, *, version: str = "1.0.0") -> dict[str, Any]:
    """As a document of the Open Data Contract Standard, version 3.

    Expectations are quality rules of its engine `greatExpectations`; what the standard has no place
    for is in `customProperties`.
    """
    domain, _, table = contract.table.rpartition("/")
    return {
        "apiVersion": _ODCS,
        "kind": "DataContract",
        "id": contract.table,
        "name": contract.table,
        "version": version,
        "status": "active",
        "domain": domain,
        "description": {"purpose": contract.description},
        "team": {"members": [{"username": contract.owner, "role": "owner"}]}
        if contract.owner
        else {},
        "schema": [
            {
                "name": table,
                "physicalName": contract.table,
                "logicalType": "object",
                "physicalType": "table",
                "properties": [_property(contract, column) for column in contract.columns],
                "quality": [
                    {
                        "type": "custom",
                        "engine": "greatExpectations",
                        "implementation": expectation.to_gx(),
                    }
                    for expectation in contract.expectations
                ],
                "customProperties": [
                    {"property": "eventTime", "value": contract.event_time},
                    {"property": "freshness", "value": contract.freshness},
                    {"property": "unknownColumns", "value": _policies(contract)},
                    {"property": "maxRejected", "value": contract.max_rejected},
                    {"property": "grain", "value": contract.grain},
                ],
            }
        ],
    }


def _policies(contract: Contract) -> str | dict[str, str]:
    policies = contract.unknown_columns
    return policies if isinstance(policies, str) else dict(policies)


def from_odcs(
    document: Mapping[str, Any], *, table: str = "", event_time: str = ""
) -> tuple[Contract, dict[str, list[str]]]:
    """A contract of a table of an Open Data Contract Standard document, version 3.

    Parameters
    ----------
    table: which, by its name or physical name; by default the only one.
    event_time: the column of when things happened, a time or date; by default what the document
        says, or its first timestamp.

    Returns
    -------
    The contract, and for each reason what was left out: columns of types that contracts don't have,
    and quality rules that aren't Great Expectations'.

    Raises
    ------
    ContractError: it has no such table, no event time, or a rule that can't be.
    """
    try:
        return _from_odcs(document, table, event_time)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ContractError(f"not an Open Data Contract of version 3: {error!r}") from error


def _from_odcs(
    document: Mapping[str, Any], wanted: str, event_time: str
) -> tuple[Contract, dict[str, list[str]]]:
    table, left = _table(document, wanted), dict[str, list[str]]()
    columns, key = list[Column](), list[tuple[int, str]]()
    for each in table.get("properties") or ():
        kind = _kind(each)
        if kind is None:
            said = each.get("logicalType") or each.get("physicalType")
            left.setdefault(f"contracts have no columns of type {said}", []).append(each["name"])
            continue
        columns.append(_column(each, kind))
        if each.get("primaryKey"):
            key.append((int(each.get("primaryKeyPosition") or 0), str(each["name"])))
    custom = _custom(table)
    times = [c.name for kind in ("timestamp", "date") for c in columns if c.kind == kind]
    at = event_time or str(custom.get("eventTime") or (times[0] if times else ""))
    if at not in {column.name for column in columns}:
        raise ContractError(
            f"{table.get('name')}: no column {at or 'is a time'}, to be the event time; say "
            f"which tells when things happened, of {', '.join(each.name for each in columns)}"
        )
    name = str(table.get("physicalName") or table["name"])
    name = name if "/" in name else f"{document.get('domain') or 'default'}/{name}"
    columns = [replace(c, kind="timestamp") if c.name == at else c for c in columns]
    contract = Contract(
        name,
        tuple(columns),
        at,
        tuple(column for _, column in sorted(key)),
        tuple(_rules(table, columns, left)),
        str((document.get("description") or {}).get("purpose") or ""),
        _owner(document.get("team")),
        custom.get("unknownColumns", "rescue"),
        custom.get("maxRejected"),
        custom.get("freshness") or "",
        str(custom.get("grain") or ""),
    )
    return contract, left


def _table(document: Mapping[str, Any], wanted: str) -> Mapping[str, Any]:
    tables: Sequence[Mapping[str, Any]] = document.get("schema") or ()
    if not tables:
        raise ContractError("the document's schema has no table")
    names = ", ".join(str(each.get("name")) for each in tables)
    if wanted:
        named = (each.get("name") for each in tables), (each.get("physicalName") for each in tables)
        for each, *its in zip(tables, *named, strict=True):
            if wanted in its:
                return each
        raise ContractError(f"the document has no table {wanted}; there are {names}")
    if len(tables) > 1:
        raise ContractError(f"the document has several tables ({names}); say which")
    return tables[0]


def _rules(
    table: Mapping[str, Any], columns: Sequence[Column], left: dict[str, list[str]]
) -> list[Expectation]:
    """What the document expects in Great Expectations' words; of other rules only what they are."""
    found = list[Expectation]()
    quality = [({}, rule) for rule in table.get("quality") or ()]
    quality += [
        ({"column": each["name"]}, rule)
        for each in table.get("properties") or ()
        for rule in each.get("quality") or ()
    ]
    for about, rule in quality:
        if rule.get("engine") == "greatExpectations":
            entry: Any = rule["implementation"]
            entry = json.loads(entry) if isinstance(entry, str) else entry
            kwargs: dict[str, Any] = dict(entry.get("kwargs") or {})
            is_named = any(key.startswith("column") for key in kwargs)
            _take(
                {**entry, "kwargs": kwargs if is_named else {**about, **kwargs}},
                columns,
                found,
                left,
            )
            continue
        said = rule.get("name") or rule.get("metric") or rule.get("rule") or rule.get("description")
        how = rule.get("engine") or rule.get("type") or "library"
        reason = f"quality rules of {how}; write them as expectations"
        left.setdefault(reason, []).append(str(said or rule)[:80])
    return found


def _owner(team: Any) -> str:
    members = team.get("members") if isinstance(team, Mapping) else team  # pyright: ignore
    owners = [each for each in members or () if str(each.get("role")).lower() == "owner"]  # pyright: ignore
    return str(owners[0]["username"]) if owners else ""  # pyright: ignore


def from_arrow(schema: pa.Schema, table: str, event_time: str = "") -> Contract:
    """A contract of a table with these columns; `arrow_schema` is the way back.

    Raises
    ------
    ContractError: a column has a type that contracts don't, or none is a timestamp.
    """
    columns = tuple(_of_field(field, table) for field in schema)
    times = [column.name for column in columns if column.kind == "timestamp"]
    if not (event_time or times):
        raise ContractError(f"{table}: no column is a timestamp, to be the event time")
    return Contract(table, columns, event_time or times[0])


def _of_field(field: pa.Field, table: str) -> Column:
    metadata = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
    tests: list[tuple[Kind, bool]] = [
        ("bool", pa.types.is_boolean(field.type)),
        ("int32", pa.types.is_integer(field.type) and field.type.bit_width <= 32),
        ("int64", pa.types.is_integer(field.type)),
        ("float64", pa.types.is_floating(field.type)),
        ("date", pa.types.is_date(field.type)),
        ("timestamp", pa.types.is_timestamp(field.type)),
        ("binary", pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)),
        ("string", pa.types.is_string(field.type) or pa.types.is_large_string(field.type)),
        ("string", pa.types.is_dictionary(field.type)),
    ]
    kind: Kind | None = next((kind for kind, is_so in tests if is_so), None)
    if kind is None:
        raise ContractError(
            f"{table}: column {field.name} is {field.type}; a contract's columns are "
            f"{', '.join(get_args(Kind))}"
        )
    return Column(
        field.name,
        kind,
        metadata.get("comment", ""),
        source_name=metadata.get("source_name", ""),
        nullable=field.nullable and metadata.get("nullable") != "false",
        unit=metadata.get("unit", ""),
        personal=metadata.get("personal") == "true",
        evolution=cast("Evolution", metadata.get("evolution", "widen")),
        former_names=tuple(json.loads(metadata.get("former_names", "[]"))),
    )


def _expectation(value: dict[str, Any]) -> Expectation:
    value["columns"] = tuple(value["columns"])
    arguments: dict[str, Any] = value["arguments"]
    if "value_pairs_set" in arguments:
        arguments["value_pairs_set"] = [tuple(pair) for pair in arguments["value_pairs_set"]]
    return Expectation(**value)


def _typed(expectation: Expectation, columns: Sequence[Column]) -> Expectation:
    """With texts as the times that they are, where the column has times: JSON has none."""
    kinds = {column.name: column.kind for column in columns}
    are_times = [kinds.get(name) in ("timestamp", "date") for name in expectation.columns]
    return with_times(expectation, are_times) if any(are_times) else expectation


def _property(contract: Contract, column: Column) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": column.name,
        "physicalName": column.raw_name,
        "logicalType": _LOGICAL[column.kind],
        "physicalType": column.kind,
        "description": column.description,
        "required": not column.nullable,
    }
    if column.name in contract.key:
        place = contract.key.index(column.name) + 1
        found |= {"primaryKey": True, "primaryKeyPosition": place}
    if column.personal:
        found["classification"] = "personal"
    told = {
        "unit": column.unit,
        "evolution": "" if column.evolution == "widen" else "fixed",
        "formerNames": list(column.former_names),
    }
    if custom := [{"property": what, "value": value} for what, value in told.items() if value]:
        found["customProperties"] = custom
    return found


def _kind(each: Mapping[str, Any]) -> Kind | None:
    """By its physical type where that is one of ours, else by the logical one, else by the name
    that databases have for it.
    """
    physical, logical = str(each.get("physicalType") or ""), str(each.get("logicalType") or "")
    kind: Any = physical if physical in get_args(Kind) else _OF_LOGICAL.get(logical)
    if kind or logical:
        return kind
    return next((k for sign, k in _OF_PHYSICAL.items() if sign in physical.lower()), None)


def _column(each: Mapping[str, Any], kind: Kind) -> Column:
    name = str(each["name"])
    raw = str(each.get("physicalName") or name)
    return Column(
        name,
        kind,
        str(each.get("description") or ""),
        "" if raw == name else raw,
        not each.get("required"),
        str(_custom(each).get("unit", "")),
        str(each.get("classification") or "").lower() in ("personal", "pii", "confidential"),
        _custom(each).get("evolution", "widen"),
        tuple(_custom(each).get("formerNames", ())),
    )


def _custom(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {each["property"]: each["value"] for each in entry.get("customProperties") or ()}


def _tagged(value: Any) -> Any:
    match value:
        case datetime():
            return {"$datetime": value.isoformat()}
        case date():
            return {"$date": value.isoformat()}
        case _:
            raise TypeError(f"{value!r} has no place in a contract")


def _untagged(value: dict[str, Any]) -> Any:
    if "$datetime" in value:
        return datetime.fromisoformat(value["$datetime"])
    return date.fromisoformat(value["$date"]) if "$date" in value else value
