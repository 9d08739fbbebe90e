"""Publishing: a frozen training set as Arrow shards that `load_dataset` streams."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from penstock._version import __version__
from penstock.errors import FeatureError
from penstock.labels import LABEL
from penstock.lake import Lake, dataset_key
from penstock.quality import inspect
from penstock.shards import Manifest, Packing, move_tag, open_manifest, write_dataset
from penstock.shards.manifest import MANIFEST
from penstock.shards.tags import LATEST
from penstock.tables import Snapshot, Table
from penstock.training.freezing import SPLIT, WEIGHT, Frozen
from penstock.training.spec import TIME, TrainingSet
from penstock.training.split import SPLITS, GroupSplit

log = logging.getLogger(__name__)

_LOOKED_AT = 10_000
_TEXT = 25
"""Characters on average, from which on texts are no mere names, which many rows share."""


@dataclass(frozen=True, slots=True)
class Published:
    """A dataset in the lake."""

    manifest: Manifest
    is_new: bool
    """Whether shards were written; not when the fingerprint was published before."""


def publish(lake: Lake, spec: TrainingSet, frozen: Frozen, *, tag: str = LATEST) -> Published:
    """Publish a frozen training set and point a tag at it.

    The fingerprint names the dataset: publishing it again writes no shard.
    """
    key = f"{dataset_key(spec.name)}/{frozen.fingerprint}/{MANIFEST}"
    is_new = lake.objects.get_or_none(key) is None
    if is_new:
        snapshot = Table(lake, spec.table).snapshot(frozen.version)
        told = snapshot.metadata(f"freeze/{spec.name}").get("fingerprint")
        if told != frozen.fingerprint or snapshot.rows != sum(frozen.rows.values()):
            raise FeatureError(
                f"{spec.table} version {frozen.version} has {snapshot.rows:,} rows of freeze "
                f"{told}, not the {sum(frozen.rows.values()):,} of {frozen.fingerprint}; something "
                "else wrote to the table. Freeze again"
            )
        # Columns that the spec no longer has are still in the table, and no part of this dataset.
        wanted = {*spec.keys, TIME, LABEL, *spec.feature_names}
        wanted |= {WEIGHT} if spec.has_weight else set()
        schema = pa.schema([field for field in snapshot.schema if field.name in wanted])
        manifest = write_dataset(
            lake,
            spec.name,
            frozen.fingerprint,
            {split: _rows(snapshot, split, schema) for split in SPLITS if frozen.rows.get(split)},
            schema,
            Packing(tuple(_numbers(spec, snapshot))),
            inputs=frozen.inputs,
            details={
                "description": spec.description,
                "owner": spec.owner,
                "split": frozen.splits,
                "spec": spec.definition(),
                "code": __version__,
                "training_set_version": frozen.version,
                "warnings": _warnings(spec, snapshot),
            },
        )
    else:
        manifest = open_manifest(lake, spec.name, frozen.fingerprint)
    move_tag(lake, spec.name, tag, frozen.fingerprint)
    return Published(manifest, is_new)


def _warnings(spec: TrainingSet, snapshot: Snapshot) -> list[dict[str, Any]]:
    """What is suspicious about the frozen rows; the manifest keeps it."""
    split = spec.split
    found = inspect(
        snapshot.scan(),
        features=_numbers(spec, snapshot),
        label=LABEL,
        split=SPLIT,
        time=TIME,
        groups=split.by if isinstance(split, GroupSplit) else (),
        texts=_texts(spec, snapshot),
    )
    for each in found:
        log.warning("%s: %s", spec.name, each.message)
    return [each.to_json() for each in found]


def _texts(spec: TrainingSet, snapshot: Snapshot) -> list[str]:
    """Features that may be nearly the same in two rows: texts that are no mere names."""
    names = [n for n in spec.feature_names if pa.types.is_string(snapshot.schema.field(n).type)]
    some = snapshot.scan().select(pl.col(names).str.len_chars()).head(_LOOKED_AT).collect()
    return [name for name in names if float(some[name].mean() or 0) >= _TEXT]  # pyright: ignore[reportArgumentType]


def _numbers(spec: TrainingSet, snapshot: Snapshot) -> list[str]:
    """The features that are packed; texts stay columns of their own."""
    kinds = snapshot.schema
    return [name for name in spec.feature_names if kinds.field(name).type == pa.float32()]


def _rows(snapshot: Snapshot, split: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """The split's rows in frozen order, streamed file by file."""
    files = sorted(snapshot.files, key=lambda file: file.path)
    wanted = pl.col(SPLIT) == split
    for frame in snapshot.stream(files, lambda rows: rows.filter(wanted).select(schema.names)):
        yield frame.to_arrow().cast(schema)
