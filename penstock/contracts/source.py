"""A contract as the Python module that defines it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import fields
from datetime import date, datetime
from typing import Any

from penstock.contracts.contract import Column, Contract
from penstock.contracts.expectation import Expectation


def _policies(contract: Contract) -> str:
    policies = contract.unknown_columns
    if isinstance(policies, str):
        return _text(policies)
    return "{" + ", ".join(f"{_text(k)}: {_text(v)}" for k, v in policies.items()) + "}"


def to_python(contract: Contract) -> str:
    """A module for `schemas/`; run, its contract equals this one."""
    names = sorted({each.type for each in contract.expectations})
    constant = contract.table.split("/")[-1].upper()
    body = [f"    table={_text(contract.table)},"]
    body += [
        f"    {name}={_text(getattr(contract, name))},"
        for name in ("description", "grain", "owner", "freshness")
        if getattr(contract, name)
    ]
    body.append(f"    event_time={_text(contract.event_time)},")
    if contract.key:
        body.append(f"    key=({', '.join(_text(name) for name in contract.key)},),")
    if contract.unknown_columns != "rescue":
        body.append(f"    unknown_columns={_policies(contract)},")
    if contract.max_rejected is not None:
        body.append(f"    max_rejected={contract.max_rejected!r},")
    body += ["    columns=(", *(f"        {_column(c)}," for c in contract.columns), "    ),"]
    if contract.expectations:
        calls = (f"        {_expectation(each)}," for each in contract.expectations)
        body += ["    expectations=(", *calls, "    ),"]
    whole = "\n".join(body)
    times = sorted(set(_times(contract)))
    imports = [f"from datetime import {', '.join(times)}\n"] if times else []
    listed = "".join(f"    {name},\n" for name in ("Column", "Contract", *names))
    imports.append(f"from penstock.contracts import (\n{listed})")
    head = "\n".join(imports)
    return f'"""{contract.table}."""\n\n{head}\n\n{constant} = Contract(\n{whole}\n)\n'


def _column(column: Column) -> str:
    given = [_text(column.name), _text(column.kind)]
    for each in fields(Column)[2:]:
        value = getattr(column, each.name)
        if value != each.default:
            given.append(f"{each.name}={_value(value)}")
    return f"Column({', '.join(given)})"


def _expectation(expectation: Expectation) -> str:
    columns = [_text(name) for name in expectation.columns]
    given = [f"[{', '.join(columns)}]"] if expectation.kind == "rows" else columns
    given += [f"{name}={_value(value)}" for name, value in expectation.arguments.items()]
    default = "reject" if expectation.is_about_rows else "warn"
    if expectation.severity != default:
        given.append(f"severity={_text(expectation.severity)}")
    if expectation.mostly != 1:
        given.append(f"mostly={expectation.mostly!r}")
    if expectation.label:
        given.append(f"label={_text(expectation.label)}")
    if expectation.row_condition is not None:
        given.append(f"row_condition={_text(expectation.row_condition)}")
    return f"{expectation.type}({', '.join(given)})"


def _value(value: Any) -> str:
    match value:
        case datetime():
            return f"datetime.fromisoformat({_text(value.isoformat())})"
        case date():
            return f"date.fromisoformat({_text(value.isoformat())})"
        case str():
            return _text(value)
        case float() if not math.isfinite(value):
            return f'float("{value}")'
        case tuple():
            return f"({', '.join(map(_value, value))},)"  # pyright: ignore[reportUnknownArgumentType]
        case dict():
            pairs = (f"{_text(str(key))}: {_value(each)}" for key, each in value.items())  # pyright: ignore
            return f"{{{', '.join(pairs)}}}"
        case list():
            return f"[{', '.join(map(_value, value))}]"  # pyright: ignore[reportUnknownArgumentType]
        case _:
            return repr(value)


def _times(contract: Contract) -> list[str]:
    values = [v for each in contract.expectations for v in each.arguments.values()]
    return [type(value).__name__ for value in _leaves(values) if isinstance(value, date)]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        for each in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _leaves(each)
    else:
        yield value


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
