"""What definitions were when they were last used, as the lake keeps them: changed, renamed, gone.

<lake>/registry/<domain>/<name>.json    fingerprints of a definition, the newest last

There is no server: whatever computes a table or freezes a training set writes its definition down.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import xxhash

from penstock.lake import Lake, checked_name

State = Literal["new", "same", "changed", "renamed", "gone"]
_KEPT = 20
"""Definitions of one name."""


class Defined(Protocol):
    """A feature view, a label set or a training set."""

    def definition(self) -> dict[str, Any]:
        """What it says, as JSON."""
        ...


@dataclass(frozen=True, slots=True)
class Registered:
    """A definition beside what the lake knows of it."""

    name: str
    kind: str
    state: State
    since: str
    """When the lake first knew the definition that it knows last; empty where it knows none."""
    differs: tuple[str, ...] = ()
    """Parts of it that changed, or the name that it had."""
    dependents: tuple[str, ...] = ()
    """What reads it."""


def record(lake: Lake, name: str, kind: str, defined: Mapping[str, Any]) -> None:
    """Keep a definition, unless it is the one that the lake knows last."""
    key, fingerprint = _key(name), fingerprint_of(defined)
    known = _known(lake, key)
    if known and known[-1]["fingerprint"] == fingerprint:
        return
    entry = {
        "fingerprint": fingerprint,
        "kind": kind,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "definition": defined,
    }
    lake.objects.put(key, json.dumps([*known, entry][-_KEPT:]).encode())


def fingerprint_of(defined: Mapping[str, Any]) -> str:
    """16 hex digits of a definition."""
    return xxhash.xxh3_64_hexdigest(json.dumps(defined, sort_keys=True).encode())


def history(lake: Lake, name: str) -> list[dict[str, Any]]:
    """Every definition of a name that the lake keeps, the newest last."""
    return _known(lake, _key(name))


def compared(
    lake: Lake,
    defined: Sequence[tuple[str, str, Mapping[str, Any]]],
    reads: Mapping[str, Iterable[str]],
) -> list[Registered]:
    """Definitions beside those that the lake knows.

    Parameters
    ----------
    defined: name, kind and definition of each.
    reads: the tables that each name reads.
    """
    stored = {
        name: entries
        for folder in lake.objects.folders("registry")
        for entry in lake.objects.listed(f"registry/{folder}")
        if (name := entry.key.removeprefix("registry/").removesuffix(".json"))
        if (entries := _known(lake, entry.key))
    }
    names = {name for name, _, _ in defined}
    bodies = {
        _body(entries[-1]["definition"]): name
        for name, entries in stored.items()
        if name not in names
    }
    found: list[Registered] = []
    taken = set[str]()
    for name, kind, definition in defined:
        dependents = tuple(sorted(other for other, tables in reads.items() if name in tables))
        entries = stored.get(name)
        if entries is None:
            former = bodies.pop(_body(definition), None)
            state: State = "renamed" if former else "new"
            if former:
                taken.add(former)
            told = (former,) if former else ()
            found.append(Registered(name, kind, state, "", told, dependents))
            continue
        last = entries[-1]
        is_same = last["fingerprint"] == fingerprint_of(definition)
        differs = () if is_same else tuple(_differs(last["definition"], definition))
        found.append(
            Registered(
                name, kind, "same" if is_same else "changed", last["since"], differs, dependents
            )
        )
    for name, entries in stored.items():
        if name not in names and name not in taken:
            dependents = tuple(sorted(other for other, tables in reads.items() if name in tables))
            last = entries[-1]
            found.append(
                Registered(name, last["kind"], "gone", last["since"], dependents=dependents)
            )
    return found


def _differs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The parts that differ; of features and windows, which."""
    found: list[str] = []
    for part in sorted({*old, *new}):
        a, b = json.loads(json.dumps(old.get(part))), json.loads(json.dumps(new.get(part)))
        if a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            names = {*a, *b}
            found += [f"{part}.{name}" for name in sorted(names) if a.get(name) != b.get(name)]
        else:
            found.append(part)
    return found


def _body(definition: Mapping[str, Any]) -> str:
    """A definition without its name."""
    rest = {part: said for part, said in definition.items() if part not in ("table", "name")}
    return json.dumps(rest, sort_keys=True)


def _known(lake: Lake, key: str) -> list[dict[str, Any]]:
    found = lake.objects.get_or_none(key)
    return [] if found is None else json.loads(found)


def _key(name: str) -> str:
    return f"registry/{checked_name(name)}.json"
