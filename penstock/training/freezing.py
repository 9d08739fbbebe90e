"""Freezing: every input pinned to a version, the rows joined as of their time and written down.

The fingerprint is a hash of the inputs' table ids and versions, the spec, what was settled about
splits, and the code's version. The frozen table's log carries it: freezing what is frozen writes
nothing.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import xxhash

from penstock._version import __version__
from penstock.errors import CommitConflict, FeatureError, TableNotFound, did_you_mean
from penstock.features import registry, training_frame
from penstock.features.expressions import Expression
from penstock.features.hashing import shares_of
from penstock.features.view import check_inputs
from penstock.labels import LABEL, Outcome
from penstock.lake import Lake
from penstock.tables import Snapshot, Stager, Table, Transaction, sql
from penstock.training.spec import TIME, TrainingSet
from penstock.training.split import (
    SPLITS,
    ColumnSplit,
    Groups,
    GroupSplit,
    TimeCuts,
    TimeSplit,
    dealt_groups,
    found_cuts,
    keep_cuts,
    keep_groups,
)

log = logging.getLogger(__name__)

SPLIT, WEIGHT = "split", "weight"
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Frozen:
    """A training set at pinned versions."""

    name: str
    fingerprint: str
    """32 hex digits."""
    inputs: Mapping[str, Mapping[str, Any]]
    """For each input table, its id and version."""
    splits: str
    """How rows were split, for a reader."""
    version: int
    """Of the table of frozen rows."""
    rows: Mapping[str, int]
    """Rows of each split."""
    is_new: bool
    """Whether anything was written."""


def freeze(lake: Lake, spec: TrainingSet, *, versions: Mapping[str, int] | None = None) -> Frozen:
    """Pin the versions of the training set's inputs and write its rows.

    Parameters
    ----------
    versions: of inputs, by table; by default the newest.

    Raises
    ------
    TableNotFound: a view was never materialized, or there is no such version any more.
    FeatureError: there is no labelled row yet, none falls into the train split, a version is of a
        table that the training set doesn't read, or an expression of it can't be worked out.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _freeze(lake, spec, versions or {})
        except CommitConflict:  # another run froze; what it froze may be the same
            continue
    return _freeze(lake, spec, versions or {})


def _freeze(lake: Lake, spec: TrainingSet, versions: Mapping[str, int]) -> Frozen:
    for name in versions:
        if name not in spec.inputs:
            raise FeatureError(
                f"{spec.name} does not read {name}; it reads {', '.join(spec.inputs)}."
                f"{did_you_mean(name, spec.inputs)}"
            )
    inputs = _opened(lake, spec, versions)
    pins = {name: {"id": each.id, "version": each.version} for name, each in inputs.items()}
    labelled = _labelled(spec, inputs)
    schema = frozen_schema(spec, lake, inputs, labelled)
    cuts = _cuts(lake, spec, labelled) if isinstance(spec.split, TimeSplit) else None
    with tempfile.TemporaryDirectory(prefix="penstock-freeze-") as folder:
        groups = None
        joined: Path | None = None
        if isinstance(spec.split, GroupSplit):
            groups = Groups(spec.split)
            if spec.split.stratify is not None:  # known only once rows are joined
                joined = _joined(lake, spec, inputs, labelled, Path(folder))
                wanted = [*spec.split.by, spec.split.stratify]
                rows = pl.scan_ipc(joined).select(*dict.fromkeys(wanted)).collect()
                groups = dealt_groups(lake, spec.name, spec.split, rows)
        fingerprint = _fingerprint(spec, pins, cuts, groups)
        table = Table(lake, spec.table).create(schema, description=spec.description)
        application = f"freeze/{spec.name}"
        told = _told(spec, cuts, groups)
        note = table.metadata(application)
        # Rows that something else took out or put back are written anew.
        is_there = note.get("fingerprint") == fingerprint
        if is_there and table.rows == sum(note["rows"].values()):
            return Frozen(
                spec.name, fingerprint, pins, told, table.version, note["rows"], is_new=False
            )
        joined = joined or _joined(lake, spec, inputs, labelled, Path(folder))
        rows_of: dict[str, int] = dict.fromkeys(SPLITS, 0)
        with Stager(lake, spec.table, table.schema) as stager:
            for piece in _split_rows(spec, joined, cuts, groups, schema):
                stager.write(piece)
                for counted in piece[SPLIT].value_counts().to_pylist():
                    rows_of[counted["values"]] += counted["counts"]
            if not rows_of["train"]:
                raise FeatureError(
                    f"{spec.name}: of {stager.rows:,} rows none falls into the train split "
                    f"({told}); more data is needed"
                )
            for split in _wanted(spec):
                if not rows_of[split]:
                    log.warning("%s: no row falls into the %s split (%s)", spec.name, split, told)
            _keep_splits(lake, spec, cuts, groups)
            staged = stager.finish()
    registry.record(lake, spec.name, "training set", spec.definition())
    for view in spec.views:
        if view.source != view.table:  # else it is another view's table, which wrote itself down
            registry.record(lake, view.table, "features", view.definition())
    if isinstance(spec.labels, Outcome) and spec.spine is not None:  # else its table's commit did
        said = spec.labels.daily()
        registry.record(lake, spec.labels.table, "labels", said.view.definition() | said.beyond())
    note = {
        "fingerprint": fingerprint,
        "rows": rows_of,
        "inputs": pins,
        "spec": spec.definition(),
        "keys": list(spec.keys),
        "features": [*spec.feature_names, *([WEIGHT] if spec.has_weight else [])],
        "code": __version__,
    }
    # Every file out, the new ones in: a version holds the rows of one freeze and no others.
    following = Transaction(application, table.transaction(application) + 1)
    done = table.commit(staged, table.files, transaction=following, note=note)
    return Frozen(spec.name, fingerprint, pins, told, done.version, rows_of, is_new=True)


def _wanted(spec: TrainingSet) -> list[str]:
    """The splits that are to have rows."""
    if isinstance(spec.split, ColumnSplit):
        return []
    return ["test", *(["validation"] if spec.split.validation else [])]


def _keep_splits(
    lake: Lake, spec: TrainingSet, cuts: TimeCuts | None, groups: Groups | None
) -> None:
    if cuts is not None:
        assert isinstance(spec.split, TimeSplit)
        if keep_cuts(lake, spec.name, spec.split, cuts) != cuts:
            raise CommitConflict(f"{spec.name}: another run cut the splits first")
    if groups is not None:
        keep_groups(lake, spec.name, groups)


def _opened(lake: Lake, spec: TrainingSet, versions: Mapping[str, int]) -> dict[str, Snapshot]:
    found = dict[str, Snapshot]()
    for name in spec.inputs:
        table = Table(lake, name)
        if name == spec.labels.table and name not in versions:
            snapshot = table.snapshot_or_none()
            if snapshot is None:
                raise FeatureError(_unlabelled(spec))
            found[name] = snapshot
        else:
            found[name] = table.snapshot(versions.get(name))
    return found


def _unlabelled(spec: TrainingSet) -> str:
    if isinstance(spec.labels, Outcome):
        return (
            f"{spec.name}: {spec.labels.table} has no labelled row yet. A label is known "
            f"{spec.labels.horizon} after its row's time, so more than that of data is needed"
        )
    return f"{spec.name}: {spec.labels.table} has no label that counts"


def _labelled(spec: TrainingSet, inputs: Mapping[str, Snapshot]) -> pl.LazyFrame:
    """The spine; with its label, unless that is worked out as of each row's time."""
    labels = spec.labels
    if spec.spine is None:
        rows = inputs[labels.table].scan()
        rows = rows if isinstance(labels, Outcome) else labels.chosen(rows)
        return rows.select(*labels.entity.keys, TIME, *_others(spec, rows), LABEL)
    spine = spec.spine.rows(inputs[spec.spine.source].scan())
    if LABEL in spine.collect_schema():
        raise FeatureError(
            f"{spec.name}: the spine over {spec.spine.source} has a column {LABEL} of its own, "
            f"beside the one of {labels.table}; leave it out by a query"
        )
    if not isinstance(labels, Outcome):
        given = labels.chosen(inputs[labels.table].scan())
        on = [*labels.entity.keys, TIME]
        return spine.join(given.select(*on, LABEL), on=on, how="inner")
    source = inputs[labels.source]
    if labels.event_time not in source.schema.names:
        raise FeatureError(
            f"{labels.table}: its source {labels.source} has no column {labels.event_time}."
            f"{did_you_mean(labels.event_time, source.schema.names)}"
        )
    _, last = source.bounds(labels.event_time)
    if last is None:
        raise FeatureError(_unlabelled(spec))
    closed = last - timedelta(microseconds=labels.horizon_us)
    # Rows without a time stay, for the join to name them.
    return spine.filter(pl.col(TIME).is_null() | (pl.col(TIME) <= closed))


def _others(spec: TrainingSet, rows: pl.LazyFrame) -> list[str]:
    """Columns of the labels' table that the split looks at."""
    split, columns = spec.split, rows.collect_schema()
    asked: list[str] = []
    if isinstance(split, GroupSplit):
        asked = [*split.by, *([split.stratify] if split.stratify else [])]
    elif isinstance(split, ColumnSplit):
        asked = [split.column]
    known = {*spec.labels.entity.keys, TIME, LABEL}
    return [name for name in asked if name in columns and name not in known]


def _cuts(lake: Lake, spec: TrainingSet, labelled: pl.LazyFrame) -> TimeCuts:
    assert isinstance(spec.split, TimeSplit)
    time = pl.col(TIME).dt.epoch("us")
    first, last = (
        labelled.select(time.min().alias("low"), time.max().alias("high")).collect().row(0)
    )
    if first is None:
        raise FeatureError(_unlabelled(spec))
    from penstock.features.windows import length_us

    asked = length_us(spec.split.embargo) if spec.split.embargo else 0
    embargo_us = max(asked, spec.labels.horizon_us)
    return found_cuts(lake, spec.name, spec.split, embargo_us, first, last)


def _joined(
    lake: Lake,
    spec: TrainingSet,
    inputs: Mapping[str, Snapshot],
    labelled: pl.LazyFrame,
    folder: Path,
) -> Path:
    """The kept rows with label, features, weight, in a file of their own."""
    path = folder / "joined.arrow"
    writer: pa.RecordBatchFileWriter | None = None
    try:
        for batch in _frame(lake, spec, inputs, labelled).batches():
            table = _kept(spec, batch).to_arrow()
            writer = writer or pa.ipc.new_file(str(path), table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    return path


def _frame(
    lake: Lake, spec: TrainingSet, inputs: Mapping[str, Snapshot], labelled: pl.LazyFrame
) -> Any:
    views = list(spec.views)
    if spec.spine is not None and isinstance(spec.labels, Outcome):
        views.insert(0, spec.labels.view())
    return training_frame(
        labelled, views, known_at=spec.known_at, event_time=TIME, lake=lake, sources=inputs
    )


def _kept(spec: TrainingSet, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that the filter and the sample keep, with what is derived and their weights."""
    for each in spec.derived:
        check_inputs(each, spec.name, rows.columns)
        rows = rows.with_columns(each.column(rows))
    try:
        return _sampled(spec, rows)
    except pl.exceptions.PolarsError as error:
        raise FeatureError(
            f"{spec.name}: its where=, weight= or sample= can't be worked out of the joined "
            f"columns: {error}"
        ) from error


def _sampled(spec: TrainingSet, rows: pl.DataFrame) -> pl.DataFrame:
    where = spec.where
    assert isinstance(where, Expression)
    if where.text != "true":
        rows = rows.filter(where.polars())
    rows = rows.filter(pl.col(LABEL).is_not_null())
    share = pl.lit(1.0)
    if (sample := spec.sample) is not None:
        share = pl.lit(sample.fraction)
        for label, of_label in sample.of_label.items():
            share = pl.when(pl.col(LABEL) == label).then(of_label).otherwise(share)
        hashed = shares_of(rows.select(*spec.keys, TIME), sample.seed)
        rows = rows.with_columns(share.cast(pl.Float64).alias("_share")).filter(
            hashed < pl.col("_share")
        )
    if spec.weight is not None:
        assert isinstance(spec.weight, Expression)
        rows = rows.with_columns(spec.weight.polars().alias(WEIGHT))
    elif spec.has_weight:
        rows = rows.with_columns((1 / pl.col("_share")).alias(WEIGHT))
    return rows


def _split_rows(
    spec: TrainingSet,
    joined: Path,
    cuts: TimeCuts | None,
    groups: Groups | None,
    schema: pa.Schema,
) -> Iterator[pa.Table]:
    """Rows that are in a split, in order of time and keys."""
    order = [TIME, *spec.keys, LABEL]
    by = ", ".join(f'"{name}"' for name in dict.fromkeys(order))
    with sql.connect() as connection:
        connection.register("joined", pads.dataset(str(joined), format="ipc"))
        reader: Any = connection.sql(f"SELECT * FROM joined ORDER BY {by}").to_arrow_reader(1 << 16)
        for batch in reader:
            rows = pl.DataFrame(pl.from_arrow(batch))
            if cuts is not None:
                rows = rows.with_columns(cuts.of(pl.col(TIME)).alias(SPLIT))
            elif groups is not None:
                rows = rows.with_columns(groups.of(rows).alias(SPLIT))
            else:
                rows = _by_column(spec, rows)
            rows = rows.filter(pl.col(SPLIT).is_not_null())
            if rows.height:
                # As floats are, whole numbers past 2^24 are rounded to the nearest float32.
                yield rows.select(schema.names).to_arrow().cast(schema, safe=False)


def _by_column(spec: TrainingSet, rows: pl.DataFrame) -> pl.DataFrame:
    assert isinstance(spec.split, ColumnSplit)
    column = spec.split.column
    other = rows.filter(pl.col(column).is_not_null() & ~pl.col(column).is_in(SPLITS))
    if other.height:
        raise FeatureError(
            f"{spec.name}: {column} is {other[column][0]!r} in {other.height:,} rows; it may be "
            f"{', '.join(SPLITS)} or null"
        )
    return rows.with_columns(pl.col(column).cast(pl.String).alias(SPLIT))


def _told(spec: TrainingSet, cuts: TimeCuts | None, groups: Groups | None) -> str:
    if cuts is not None:
        return cuts.describe()
    if groups is not None:
        return groups.describe()
    assert isinstance(spec.split, ColumnSplit)
    return f"as {spec.split.column} says"


def _fingerprint(
    spec: TrainingSet,
    pins: Mapping[str, Mapping[str, Any]],
    cuts: TimeCuts | None,
    groups: Groups | None,
) -> str:
    parts = {
        "inputs": pins,
        "spec": spec.definition(),
        "cuts": None if cuts is None else asdict(cuts),
        "groups": groups.fingerprint() if groups is not None else "",
        "code": __version__,
    }
    return xxhash.xxh3_128_hexdigest(json.dumps(parts, sort_keys=True).encode())


def frozen_schema(
    spec: TrainingSet, lake: Lake, inputs: Mapping[str, Snapshot], labelled: pl.LazyFrame
) -> pa.Schema:
    """Columns of the frozen rows: numbers as float32, other features as they are."""
    try:
        nothing = labelled.clear().collect()
    except pl.exceptions.PolarsError as error:
        raise FeatureError(f"{spec.name}: its labelled rows can't be read: {error}") from error
    rows = _kept(spec, _frame(lake, spec, inputs, nothing.lazy()).collect())
    for name in spec.keys:
        if name not in rows.columns:
            raise FeatureError(f"{spec.name}: its rows have no column {name} to split them by")
    _check_split(spec, rows.schema)
    kinds = dict(rows.schema)
    empty = rows.to_arrow().schema

    def stored(name: str) -> pa.DataType:
        kind = kinds[name]
        if kind.is_numeric() or kind == pl.Boolean or kind == pl.Null:
            return pa.float32()
        if kind.is_nested() or kind.is_temporal():
            raise FeatureError(
                f"{spec.name}: {name} is {kind}, which is no number or text; derive one from it"
            )
        return pa.string()

    # What is said of a key, such as that it is personal, stays said.
    told = {field.name: field.metadata for each in inputs.values() for field in each.schema}
    keys = [
        pa.field(
            name,
            pa.string() if kinds[name] == pl.String else empty.field(name).type,
            metadata=told.get(name),
        )
        for name in spec.keys
    ]
    columns = [pa.field(name, stored(name)) for name in spec.feature_names]
    if spec.has_weight and not kinds[WEIGHT].is_numeric():
        raise FeatureError(f"{spec.name}: weight= is {kinds[WEIGHT]} and no number")
    weight = [pa.field(WEIGHT, pa.float32())] if spec.has_weight else []
    return pa.schema(
        [
            *keys,
            pa.field(TIME, pa.timestamp("us", "UTC")),
            pa.field(LABEL, stored(LABEL)),
            *columns,
            *weight,
            pa.field(SPLIT, pa.string()),
        ]
    )


def _check_split(spec: TrainingSet, columns: Mapping[str, pl.DataType]) -> None:
    """Refuse a split by a column that isn't there, or is of no use for it."""
    match spec.split:
        case GroupSplit(stratify=str(name)) | ColumnSplit(name) if name not in columns:
            raise FeatureError(
                f"{spec.name}: its rows have no column {name} to split them by."
                f"{did_you_mean(name, columns)}"
            )
        case ColumnSplit(name) if not isinstance(columns[name], pl.String | pl.Null):
            raise FeatureError(
                f"{spec.name}: {name} is {columns[name]}; it may be {', '.join(SPLITS)} or null"
            )
        case _:
            pass


def rebuild(lake: Lake, spec: TrainingSet, inputs: Mapping[str, Mapping[str, Any]]) -> Frozen:
    """Freeze a training set again as of the versions that an earlier freeze pinned.

    Parameters
    ----------
    inputs: as a manifest or a `Frozen` has them.

    Raises
    ------
    TableNotFound: a version is no longer to be had; says which.
    FeatureError: the training set reads other tables now.
    """
    if other := sorted({*inputs} ^ {*spec.inputs}):
        raise FeatureError(
            f"{spec.name} read {', '.join(sorted(inputs))} then and reads "
            f"{', '.join(sorted(spec.inputs))} now ({', '.join(other)} differs); take the "
            "definition of that time"
        )
    versions = dict[str, int]()
    for name, pin in inputs.items():
        versions[name] = int(pin["version"])
        snapshot = check_whole(lake, name, versions[name])
        if pin.get("id", snapshot.id) != snapshot.id:
            raise TableNotFound(
                f"{name} was made anew since: version {pin['version']} of table {pin['id']} is "
                "gone with that table, so it can't be rebuilt"
            )
    return freeze(lake, spec, versions=versions)


def check_whole(lake: Lake, name: str, version: int) -> Snapshot:
    """A version, if every data file of it is still there.

    Raises
    ------
    TableNotFound: vacuum has taken some.
    """
    table = Table(lake, name)
    snapshot = table.snapshot(version)
    present = {entry.key for entry in lake.objects.list(table.key)}
    gone = [file.path for file in snapshot.files if f"{table.key}/{file.path}" not in present]
    if gone:
        raise TableNotFound(
            f"{name} version {version}: vacuum has taken {len(gone):,} of its "
            f"{len(snapshot.files):,} files ({gone[0]}, ...), so it can't be rebuilt; "
            "`penstock upkeep` keeps versions that a dataset pins"
        )
    return snapshot
