"""What changes between two contracts of a table, and for whom."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from penstock.contracts.contract import Column, Contract, Kind
from penstock.contracts.expectation import Expectation

Effect = Literal["breaking", "stricter", "compatible"]
_WIDENS: set[tuple[Kind, Kind]] = {
    ("int32", "int64"),
    ("int32", "float64"),
    ("int64", "float64"),
    ("date", "timestamp"),
}


_LISTS = {"value_set", "value_pairs_set", "regex_list", "like_pattern_list", "type_list"}
_COMPARED = {*_LISTS, "min_value", "max_value", "strict_min", "strict_max"}
"""Arguments of which it can be seen whether they let in more."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    `breaking`: whoever reads the table, or the files that come today, must change. `stricter`: more
    rows may be rejected. `compatible`: neither.
    """

    what: str
    effect: Effect
    why: str = ""

    def __str__(self) -> str:
        return f"{self.effect:<10}  {self.what}" + (f": {self.why}" if self.why else "")


def diff(before: Contract, after: Contract) -> list[Change]:
    """Every difference, those that break something first."""
    found = [*_columns(before, after), *_expectations(before, after), *_rest(before, after)]
    return sorted(found, key=lambda each: ("breaking", "stricter", "compatible").index(each.effect))


def is_compatible(before: Contract, after: Contract) -> bool:
    """Whether nothing breaks."""
    return all(change.effect != "breaking" for change in diff(before, after))


def _columns(before: Contract, after: Contract) -> Iterator[Change]:
    old = {column.name: column for column in before.columns}
    new = {column.name: column for column in after.columns}
    for name, column in new.items():
        if name in old:
            yield from _column(old[name], column)
        elif column.nullable:
            yield Change(f"column {name} added", "compatible", "null in older rows")
        else:
            yield Change(f"column {name} added", "breaking", "files without it are refused")
    for name in old.keys() - new.keys():
        yield Change(
            f"column {name} removed", "breaking", "it stays in the table, null in new rows"
        )
    both = [name for name in old if name in new]
    if both != [name for name in new if name in old]:
        yield Change("columns in another order", "compatible")


def _column(old: Column, new: Column) -> Iterator[Change]:
    name = f"column {new.name}"
    if old.kind != new.kind:
        widens = (old.kind, new.kind) in _WIDENS and old.evolution == "widen"
        why = "the table is written anew" if widens else "the table keeps its type; take a new name"
        effect: Effect = "compatible" if widens else "breaking"
        yield Change(f"{name} {old.kind} -> {new.kind}", effect, why)
    if old.nullable and not new.nullable:
        yield Change(f"{name} must have a value", "stricter")
    if new.nullable and not old.nullable:
        yield Change(f"{name} may be null", "breaking", "readers may count on a value")
    if old.raw_name != new.raw_name:
        what = f"{name} is {new.raw_name} in files, not {old.raw_name}"
        is_known = old.raw_name in new.former_names
        effect = "compatible" if is_known else "breaking"
        yield Change(what, effect, "" if is_known else "files that come today have the old name")
    if old.unit != new.unit:
        yield Change(f"{name} unit {old.unit!r} -> {new.unit!r}", "breaking", "values mean another")
    if old.personal != new.personal:
        what = "personal" if new.personal else "no longer personal"
        why = "" if new.personal else "values are shown from now on"
        yield Change(f"{name} is {what}", "compatible" if new.personal else "breaking", why)
    if old.description != new.description:
        yield Change(f"{name} described anew", "compatible")
    if old.evolution != new.evolution:
        yield Change(f"{name} evolution {old.evolution} -> {new.evolution}", "compatible")


def _expectations(before: Contract, after: Contract) -> Iterator[Change]:
    old = {each.name: each for each in before.expectations}
    new = {each.name: each for each in after.expectations}
    for name, each in new.items():
        if name not in old:
            yield Change(f"expected: {each.describe()}", _effect(each), f"severity {each.severity}")
        elif old[name] != each:
            what = f"{old[name].describe()} -> {each.describe()}"
            is_let_go = each.severity == "warn" and old[name].severity != "warn"
            lets_more = old[name].severity != "warn" and _lets_more(old[name], each)
            effect: Effect = "breaking" if is_let_go or lets_more else _effect(each)
            why = "values come in that readers may not count on" if lets_more else ""
            yield Change(
                f"expected: {what}", effect, "; ".join(filter(None, [_how(old[name], each), why]))
            )
    for name in old.keys() - new.keys():
        what = f"no longer expected: {old[name].describe()}"
        is_held = old[name].severity != "warn"
        why = "readers may count on it" if is_held else ""
        yield Change(what, "breaking" if is_held else "compatible", why)


def _lets_more(old: Expectation, new: Expectation) -> bool:
    """Whether the new one takes values that the old one refused, as far as can be seen: a wider
    range or set, other rows looked at, fewer that must hold, or another rule.
    """
    before, after = old.arguments, new.arguments
    if new.mostly < old.mostly and new.severity != "reject":
        return True
    if old.row_condition != new.row_condition and new.row_condition:
        return True
    ruled = {*before, *after} - _COMPARED
    if any(before.get(key) != after.get(key) for key in ruled):
        return True
    for key in _LISTS & {*before} & {*after}:
        was, now = ({*map(repr, arguments[key])} for arguments in (before, after))
        takes_any = before.get("match_on", "any") == "any"
        takes_any &= not any(word in old.type for word in ("_not_", "_contain_"))
        if not (now <= was if takes_any else was <= now):
            return True
    for bound, strict, is_wider in (
        ("min_value", "strict_min", operator.lt),
        ("max_value", "strict_max", operator.gt),
    ):
        was, now = before.get(bound), after.get(bound)
        if was is None:
            continue
        try:
            if now is None or is_wider(now, was):
                return True
        except TypeError:  # of another kind: nothing is sure
            continue
        if now == was and before.get(strict) and not after.get(strict):
            return True
    return False


def _effect(expectation: Expectation) -> Effect:
    return "compatible" if expectation.severity == "warn" else "stricter"


def _how(old: Expectation, new: Expectation) -> str:
    said = list[str]()
    for what in ("severity", "mostly", "row_condition"):
        before, after = getattr(old, what), getattr(new, what)
        if before != after:
            said.append(f"{what} {before} -> {after}")
    return ", ".join(said)


def _rest(before: Contract, after: Contract) -> Iterator[Change]:
    for what in ("table", "event_time", "key"):
        old, new = getattr(before, what), getattr(after, what)
        if old != new:
            yield Change(f"{what} {old!r} -> {new!r}", "breaking")
    if before.unknown_columns != after.unknown_columns:
        old, new = before.unknown_columns, after.unknown_columns
        fails = "fail" in ((new,) if isinstance(new, str) else new.values())
        effect: Effect = "stricter" if fails else "compatible"
        yield Change(f"unknown columns: {old} -> {new}", effect)
    if before.max_rejected != after.max_rejected:
        old_most, most = before.max_rejected, after.max_rejected
        is_stricter = most is not None and (old_most is None or most < old_most)
        what = f"max_rejected {old_most} -> {most}"
        yield Change(what, "stricter" if is_stricter else "compatible")
    if before.freshness != after.freshness:
        yield Change(f"freshness {before.freshness!r} -> {after.freshness!r}", "compatible")
    for what in ("owner", "description", "grain"):
        if getattr(before, what) != getattr(after, what):
            yield Change(f"{what} changed", "compatible")
