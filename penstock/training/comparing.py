"""What changed between two freezes of a training set: inputs, spec, code, rows, distributions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from penstock.errors import FeatureError, did_you_mean
from penstock.labels import LABEL
from penstock.lake import Lake
from penstock.quality import Drift, Profile, drift, profile
from penstock.tables import Snapshot, Table
from penstock.training.freezing import SPLIT, check_whole
from penstock.training.spec import TIME


@dataclass(frozen=True, slots=True)
class TrainingSetDiff:
    """Two freezes beside each other; `print` it."""

    before: str
    """Fingerprints."""
    after: str
    inputs: Mapping[str, tuple[int | None, int | None]]
    """Tables whose pinned versions differ; None where one has no such input."""
    spec: Mapping[str, tuple[Any, Any]]
    """Parts of the spec that differ."""
    code: tuple[str, str] | None
    """Versions of the code, where they differ."""
    rows: Mapping[str, tuple[int, int]]
    """Rows of each split."""
    added: int
    """Rows, by keys and time."""
    removed: int
    changed: int
    """Rows of both with another value."""
    moved: int
    """Rows of both in another split."""
    drift: Drift
    """Of every column."""

    def __str__(self) -> str:
        lines = [f"{self.before} to {self.after}"]
        lines += [f"  input {name}: version {a} to {b}" for name, (a, b) in self.inputs.items()]
        lines += [
            f"  spec: {part}: {_short(a)} to {_short(b)}" for part, (a, b) in self.spec.items()
        ]
        if self.code:
            lines.append(f"  code: {self.code[0]} to {self.code[1]}")
        lines += [f"  {split}: {a:,} to {b:,} rows" for split, (a, b) in self.rows.items()]
        lines.append(
            f"  {self.added:,} rows added, {self.removed:,} removed, {self.changed:,} changed, "
            f"{self.moved:,} in another split"
        )
        moved = [column for column in self.drift.columns if column.has_drifted]
        lines += [f"  {column.column} moved: PSI {column.psi:.3f}" for column in moved]
        lines += [f"  new column {name}" for name in self.drift.added]
        lines += [f"  no column {name} any more" for name in self.drift.removed]
        return "\n".join(lines)


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 120 else f"{text[:117]}..."


def diff(lake: Lake, name: str, before: str, after: str) -> TrainingSetDiff:
    """What differs between two freezes of a training set.

    Parameters
    ----------
    before, after: fingerprints, or the first digits of them.

    Raises
    ------
    FeatureError: there is no such freeze.
    TableNotFound: vacuum has taken its rows.
    """
    known = freezes(lake, name)
    one, other = _found(name, known, before), _found(name, known, after)
    table = Table(lake, f"{name}_training_set")
    a, b = (check_whole(lake, table.name, known[each]["version"]) for each in (one, other))
    notes = known[one], known[other]
    versions = [{t: pin["version"] for t, pin in note["inputs"].items()} for note in notes]
    inputs = {
        each: (versions[0].get(each), versions[1].get(each))
        for each in sorted({*versions[0], *versions[1]})
        if versions[0].get(each) != versions[1].get(each)
    }
    specs = [note.get("spec", {}) for note in notes]
    codes = [str(note.get("code", "")) for note in notes]
    keys, columns = _compared(name, *notes)
    return TrainingSetDiff(
        before=one,
        after=other,
        inputs=inputs,
        spec={
            part: (specs[0].get(part), specs[1].get(part))
            for part in sorted({*specs[0], *specs[1]})
            if specs[0].get(part) != specs[1].get(part)
        },
        code=(codes[0], codes[1]) if codes[0] != codes[1] else None,
        rows={
            split: (notes[0]["rows"].get(split, 0), notes[1]["rows"].get(split, 0))
            for split in notes[1]["rows"]
        },
        **_rows(a.scan(), b.scan(), keys, columns),
        drift=drift(_profile(a, notes[0]), _profile(b, notes[1])),
    )


def freezes(lake: Lake, name: str) -> dict[str, dict[str, Any]]:
    """What each freeze of a training set noted, and its table's `version`; the newest first.

    Raises
    ------
    TableNotFound: it was never frozen.
    """
    snapshot, application = Table(lake, f"{name}_training_set").snapshot(), f"freeze/{name}"
    found = dict[str, dict[str, Any]]()
    for commit in snapshot.commits():
        if commit.get("penstock.application") == application:
            note = json.loads(commit.get("penstock.note") or "{}")
            found.setdefault(note["fingerprint"], note | {"version": commit["version"]})
    return found


def _found(name: str, known: Mapping[str, Any], wanted: str) -> str:
    matching = [each for each in known if each.startswith(wanted)]
    if len(matching) != 1:
        near = did_you_mean(wanted, known)
        raise FeatureError(
            f"{name} has {len(matching)} freezes {wanted}; there are {', '.join(known) or 'none'}."
            f"{near}"
        )
    return matching[0]


def _profile(snapshot: Snapshot, note: Mapping[str, Any]) -> Profile:
    """Of a freeze's own columns: those that the spec no longer has are still in the table."""
    return profile(snapshot, columns=[*note["keys"], TIME, LABEL, *note["features"], SPLIT])


def _compared(
    name: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Keys that rows are known by, and the columns that both freezes have."""
    if "keys" not in before or "keys" not in after:
        raise FeatureError(f"{name}: a freeze did not note its columns; freeze it again")
    keys = [*(key for key in before["keys"] if key in after["keys"]), TIME]
    both = [name for name in before["features"] if name in after["features"]]
    return keys, [LABEL, *both]


def _rows(
    before: pl.LazyFrame, after: pl.LazyFrame, keys: list[str], columns: list[str]
) -> dict[str, int]:
    """Counted by a hash of each row's values; rows alike in their keys by their number."""

    def hashed(rows: pl.LazyFrame, suffix: str) -> pl.LazyFrame:
        values = pl.struct(columns).hash()
        told = rows.select(*keys, pl.col(SPLIT).alias(f"split{suffix}"), values.alias("hash"))
        number = pl.int_range(pl.len()).over(*keys).alias("number")
        return told.sort("hash").with_columns(number).rename({"hash": f"hash{suffix}"})

    on = [*keys, "number"]
    both = hashed(before, "_a").join(
        hashed(after, "_b"), on=on, how="full", coalesce=True, nulls_equal=True
    )
    a, b = pl.col("split_a").is_null(), pl.col("split_b").is_null()
    there = ~a & ~b
    counts = both.select(
        a.sum().alias("added"),
        b.sum().alias("removed"),
        (there & (pl.col("hash_a") != pl.col("hash_b"))).sum().alias("changed"),
        (there & (pl.col("split_a") != pl.col("split_b"))).sum().alias("moved"),
    )
    return {
        name: int(value)
        for name, value in counts.collect(engine="streaming").row(0, named=True).items()
    }
