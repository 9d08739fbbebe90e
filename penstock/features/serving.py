"""Current values of features, by entity: a compact table, refreshed at will and mapped into memory.

<lake>/serving/<domain>/<view>/<fingerprint>-<moment>.arrow    a row an entity, by its hash
<lake>/serving/<domain>/<view>/latest.json                     which of them counts

It is made by the join that makes training frames, from the same definition, with one moment for
every entity; derived features are worked out as values are asked for, as they are in training.
"""

from __future__ import annotations

import functools
import json
import operator
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from penstock.errors import FeatureError, did_you_mean
from penstock.features.frame import training_frame
from penstock.features.hashing import hashes_of
from penstock.features.preparing import prepare
from penstock.features.view import FeatureView, derived
from penstock.lake import Lake
from penstock.tables import Table

_HASH = "_hash"
_TIME = "_as_of"
_SEEDS = 8


@dataclass(frozen=True, slots=True)
class Refreshed:
    """A view's table of current values."""

    view: str
    fingerprint: str
    """Of the definition."""
    at: datetime
    """The moment that values are as of."""
    rows: int
    source_version: int
    key: str
    seed: int


def refresh(lake: Lake, view: FeatureView, *, at: datetime | None = None) -> Refreshed:
    """Work out the values of every entity as of a moment, by default now, and serve those.

    Raises
    ------
    TableNotFound: the view's source is not there.
    """
    moment = at or datetime.now(UTC)
    plain = replace(view, derived=())
    source = Table(lake, view.source).snapshot()
    keys = list(view.entity.keys)
    rows = prepare(plain, source.scan()).rows
    entities = rows.select(keys).drop_nulls().unique().collect(engine="streaming").sort(keys)
    spine = entities.with_columns(pl.lit(moment).cast(pl.Datetime("us", "UTC")).alias(_TIME))
    kind = source.scan().collect_schema()[view.event_time]
    if isinstance(kind, pl.Datetime) and kind.time_zone is None:
        spine = spine.with_columns(pl.col(_TIME).dt.replace_time_zone(None))
    found = training_frame(spine, [plain], event_time=_TIME, sources={view.source: source})
    values = found.collect().drop(_TIME)
    seed, hashes = _hashed(values.select(keys))
    values = values.with_columns(pl.Series(_HASH, hashes)).sort(_HASH)
    fingerprint = view.fingerprint()
    key = f"{_folder(view)}/{fingerprint}-{moment:%Y%m%dT%H%M%S%f}.arrow"
    with lake.objects.open_writer(key) as sink:
        table = values.rechunk().to_arrow()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    done = Refreshed(view.table, fingerprint, moment, values.height, source.version, key, seed)
    said = {name: getattr(done, name) for name in Refreshed.__slots__} | {"at": moment.isoformat()}
    before = _pointer(lake, view)
    lake.objects.put(f"{_folder(view)}/latest.json", json.dumps(said).encode())
    if before is not None and before.key != key:
        _discard_older(lake, view, keep={key, before.key})
    return done


def _hashed(keys: pl.DataFrame) -> tuple[int, Any]:
    """A seed with which no two keys have one hash, and the hashes."""
    for seed in range(_SEEDS):
        hashes = hashes_of(keys, seed)
        if len(np.unique(hashes)) == keys.height:
            return seed, hashes
    raise FeatureError(f"{', '.join(keys.columns)}: keys that can't be told apart")


def _discard_older(lake: Lake, view: FeatureView, keep: set[str]) -> None:
    """Tables before the last one, which a reader may still have."""
    old = [
        entry.key
        for entry in lake.objects.listed(_folder(view))
        if entry.key.endswith(".arrow") and entry.key not in keep
    ]
    lake.objects.delete(old)


def _folder(view: FeatureView) -> str:
    return f"serving/{view.table}"


def _pointer(lake: Lake, view: FeatureView) -> Refreshed | None:
    found = lake.objects.get_or_none(f"{_folder(view)}/latest.json")
    if found is None:
        return None
    said = json.loads(found)
    return Refreshed(**said | {"at": datetime.fromisoformat(said["at"])})


class LatestValues:
    """A view's current values, mapped into memory; a lookup touches the rows asked for alone.

    Raises
    ------
    FeatureError: they were never refreshed, or for another definition of the view.
    """

    def __init__(self, lake: Lake, view: FeatureView) -> None:
        found = _pointer(lake, view)
        if found is None:
            raise FeatureError(
                f"{view.table}: no current values are served yet; refresh them first "
                f"(`penstock features refresh {view.table}`)"
            )
        if found.fingerprint != view.fingerprint():
            raise FeatureError(
                f"{view.table}: the values served, as of {found.at:%Y-%m-%d %H:%M}, are those of "
                f"another definition; refresh them (`penstock features refresh {view.table}`)"
            )
        self.view, self.refreshed = view, found
        with pa.memory_map(str(_local(lake, found.key))) as file:
            table = pa.ipc.open_file(file).read_all()
        self._rows = pl.DataFrame(pl.from_arrow(table))
        self._hashes = self._rows[_HASH].to_numpy()
        self._keys = self._rows.select(view.entity.keys)
        plain = [name for name in view.feature_names if name in self._rows.columns]
        self._values = self._rows.select(plain)

    def of(self, keys: pl.DataFrame | Mapping[str, Sequence[Any]]) -> pl.DataFrame:
        """A row for each of the entities, in their order: what was given, then the features.

        Parameters
        ----------
        keys: the entity's key columns; and what derived features ask for beside the view's own.

        Raises
        ------
        FeatureError: a key column is missing or of a type that can't be compared.
        """
        asked = keys if isinstance(keys, pl.DataFrame) else pl.DataFrame(keys)
        wanted = self._compared(asked)
        place = np.searchsorted(self._hashes, hashes_of(wanted, self.refreshed.seed))
        place = np.minimum(place, max(0, len(self._hashes) - 1))
        rows = pl.Series(place.astype(np.int64))
        if len(self._hashes):
            own = self._keys[rows]
            equal = [(own[name] == wanted[name]).fill_null(value=False) for name in own.columns]
            rows = rows.set(~functools.reduce(operator.and_, equal), None)
            found = asked.hstack(self._values.select(pl.all().gather(rows)))
        else:
            empty = [pl.Series(s.name, [None] * asked.height, s.dtype) for s in self._values]
            found = asked.hstack(empty)
        return derived(self.view, found, asked.columns) if self.view.derived else found

    def _compared(self, asked: pl.DataFrame) -> pl.DataFrame:
        columns: list[pl.Series] = []
        for name in self.view.entity.keys:
            kind = self._keys.schema[name]
            if name not in asked.columns:
                raise FeatureError(
                    f"{self.view.table}: its entity has the key {name}, which wasn't given."
                    f"{did_you_mean(name, asked.columns)}"
                )
            given = asked[name]
            fits = given.dtype == kind or (given.dtype.is_integer() and kind.is_integer())
            if not fits and given.dtype != pl.Null:
                raise FeatureError(
                    f"{self.view.table}: the key {name} is {kind} and was given as {given.dtype}"
                )
            columns.append(given.cast(kind))
        return pl.DataFrame(columns)


_OPEN = dict[tuple[str, int], LatestValues]()
"""By the lake and the view, which is held by its values and so is no other's."""


def latest(
    view: FeatureView,
    keys: pl.DataFrame | Mapping[str, Sequence[Any]],
    *,
    lake: Lake | None = None,
) -> pl.DataFrame:
    """Current values of a view for some entities, in their order; null for those unknown.

    The table is opened once a process and view; `LatestValues` opens the newest anew.

    Raises
    ------
    FeatureError: see `LatestValues`.
    """
    opened = lake or Lake()
    about = (opened.uri, id(view))
    if about not in _OPEN:
        _OPEN[about] = LatestValues(opened, view)
    return _OPEN[about].of(keys)


def _local(lake: Lake, key: str) -> Path:
    """The object as a file of this machine: in the lake, or copied beside the cache."""
    if lake.is_local:
        return Path(lake.uri) / key
    root = Path(os.environ.get("PENSTOCK_CACHE") or Path.home() / ".cache" / "penstock")
    path = root / "serving" / key
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        data = lake.objects.get(key)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
        Path(file.name).replace(path)
    return path
