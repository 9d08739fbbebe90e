"""Freezing: every input pinned to a version, the rows joined as of their time and written down.

The fingerprint is a hash of the inputs' table ids and versions, the spec, the cuts between splits
and the code's version. The frozen table's log carries it: freezing what is frozen writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import duckdb
import pyarrow as pa
import xxhash

from penstock._version import __version__
from penstock.errors import CommitConflict, FeatureError
from penstock.features import JoinedView, point_in_time_join
from penstock.features.daily import TIME
from penstock.labels.outcome import LABEL
from penstock.lake import Lake
from penstock.tables import Snapshot, Stager, Table, Transaction, sql
from penstock.training.spec import TrainingSet
from penstock.training.split import SPLITS, TimeCuts, found_cuts, keep_cuts

SPLIT = "split"
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Frozen:
    """A training set at pinned versions."""

    name: str
    fingerprint: str
    """32 hex digits."""
    inputs: Mapping[str, Mapping[str, Any]]
    """For each input table, its id and version."""
    cuts: TimeCuts
    version: int
    """Of the table of frozen rows."""
    rows: Mapping[str, int]
    """Rows of each split."""
    is_new: bool
    """Whether anything was written."""


def freeze(lake: Lake, spec: TrainingSet) -> Frozen:
    """Pin the newest versions of the training set's inputs and write its rows.

    Raises
    ------
    TableNotFound: a view was never materialized.
    FeatureError: there is no labelled row yet, or none falls into the train split.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _freeze(lake, spec)
        except CommitConflict:  # another run froze; what it froze may be the same
            continue
    return _freeze(lake, spec)


def _freeze(lake: Lake, spec: TrainingSet) -> Frozen:
    labels = _labelled(lake, spec)
    views = [Table(lake, view.table).snapshot() for view in spec.views]
    inputs = {
        snapshot.table.name: {"id": snapshot.id, "version": snapshot.version}
        for snapshot in (labels, *views)
    }
    cuts = _cuts(lake, spec, labels)
    fingerprint = _fingerprint(spec, inputs, cuts)
    application = f"freeze/{spec.name}"
    table = Table(lake, spec.table).create(
        frozen_schema(spec, labels), description=spec.description
    )
    note = table.metadata(application)
    if note.get("fingerprint") == fingerprint:
        rows = note["rows"]
        return Frozen(spec.name, fingerprint, inputs, cuts, table.version, rows, is_new=False)
    rows: dict[str, int] = dict.fromkeys(SPLITS, 0)
    with Stager(lake, spec.table, table.schema) as stager, sql.connect() as connection:
        for piece in _rows(connection, spec, labels, views, cuts):
            stager.write(piece)
            for counted in piece[SPLIT].value_counts().to_pylist():
                rows[counted["values"]] += counted["counts"]
        if not rows["train"]:
            raise FeatureError(
                f"{spec.name}: of {stager.rows:,} rows none falls into the train split "
                f"({cuts.describe()}); more days of data are needed"
            )
        if keep_cuts(lake, spec.name, spec.split, cuts) != cuts:
            raise CommitConflict(f"{spec.name}: another run cut the splits first")
        staged = stager.finish()
    note = {"fingerprint": fingerprint, "rows": rows, "inputs": inputs}
    # Every file out, the new ones in: a version holds the rows of one freeze and no others.
    following = Transaction(application, table.transaction(application) + 1)
    done = table.commit(staged, table.files, transaction=following, note=note)
    return Frozen(spec.name, fingerprint, inputs, cuts, done.version, rows, is_new=True)


def _labelled(lake: Lake, spec: TrainingSet) -> Snapshot:
    """The label table, which has rows."""
    labels = Table(lake, spec.labels.table).snapshot_or_none()
    if labels is None or not labels.files:
        raise FeatureError(
            f"{spec.name}: {spec.labels.table} has no labelled row yet. A label is known "
            f"{spec.labels.horizon} after its row's time, so more than that of data is needed"
        )
    return labels


def _rows(
    connection: duckdb.DuckDBPyConnection,
    spec: TrainingSet,
    labels: Snapshot,
    views: list[Snapshot],
    cuts: TimeCuts,
) -> pa.RecordBatchReader:
    """The rows in order, streamed for as long as the connection is open."""
    joined = [
        JoinedView(
            name=view.table,
            data=snapshot.dataset(),
            keys=view.entity.keys,
            event_time=TIME,
            features=tuple(view.feature_names),
            ttl_us=view.ttl_us,
        )
        for view, snapshot in zip(spec.views, views, strict=True)
    ]
    connection.register("labels", labels.dataset())
    query = point_in_time_join(connection, "labels", joined, TIME)
    keys = ", ".join(f'"{key}"' for key in spec.keys)
    features = "".join(f', "{name}"::FLOAT AS "{name}"' for name in spec.feature_names)
    relation = connection.sql(
        f'SELECT {keys}, "{TIME}", {LABEL}::FLOAT AS {LABEL}{features}, {SPLIT} '
        f"FROM (SELECT *, {cuts.sql(TIME)} AS {SPLIT} FROM ({query}) WHERE {spec.where}) "
        f'WHERE {SPLIT} IS NOT NULL ORDER BY "{TIME}", {keys}'
    )
    return relation.to_arrow_reader(1 << 16)


def _cuts(lake: Lake, spec: TrainingSet, labels: Snapshot) -> TimeCuts:
    times = [(file.lowest[TIME], file.highest[TIME]) for file in labels.files]
    first_us = int(min(low for low, _ in times).timestamp()) * 1_000_000
    last_us = int(max(high for _, high in times).timestamp()) * 1_000_000
    return found_cuts(lake, spec.name, spec.split, spec.labels.horizon_us, first_us, last_us)


def _fingerprint(spec: TrainingSet, inputs: Mapping[str, Mapping[str, Any]], cuts: TimeCuts) -> str:
    parts = {
        "inputs": inputs,
        "spec": asdict(spec),
        "cuts": asdict(cuts),
        "code": __version__,
    }
    return xxhash.xxh3_128_hexdigest(json.dumps(parts, sort_keys=True).encode())


def frozen_schema(spec: TrainingSet, labels: Snapshot) -> pa.Schema:
    """Columns of the frozen rows."""
    keys = [labels.schema.field(key) for key in spec.keys]
    features = [pa.field(name, pa.float32()) for name in spec.feature_names]
    time, label = pa.field(TIME, pa.timestamp("us", "UTC")), pa.field(LABEL, pa.float32())
    return pa.schema([*keys, time, label, *features, pa.field(SPLIT, pa.string())])
