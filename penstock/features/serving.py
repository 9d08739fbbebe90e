"""Current values of features, by entity: a compact table, refreshed at will and mapped into memory.

<lake>/serving/<domain>/<view>/<fingerprint>/<moment>-<source version>-....arrow

It has a row an entity, by its hash; of those of one definition, the last by name counts.

It is made by the join that makes training frames, from the same definition, with one moment for
every entity; derived features are worked out as values are asked for, as they are in training.
"""

from __future__ import annotations

import functools
import json
import operator
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import xxhash

from penstock.errors import FeatureError, StorageError, did_you_mean
from penstock.features.frame import training_frame
from penstock.features.hashing import hashes_of
from penstock.features.preparing import prepare
from penstock.features.view import FeatureView, derived
from penstock.lake import Lake
from penstock.tables import Table

_HASH = "_hash"
_TIME = "_as_of"
_SAID = b"penstock"
_SEEDS = 8
_KEPT = 2
"""Tables of one definition: the newest, and the one before, which a reader may still open."""
_TRIES = 10


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
    # Whoever has a row, even one that the view leaves out, as a training frame has it.
    rows = prepare(replace(plain, where="true"), source.scan()).rows
    entities = rows.select(keys).drop_nulls().unique().collect(engine="streaming").sort(keys)
    spine = entities.with_columns(pl.lit(moment).cast(pl.Datetime("us", "UTC")).alias(_TIME))
    kind = source.scan().collect_schema()[view.event_time]
    if isinstance(kind, pl.Datetime) and kind.time_zone is None:
        spine = spine.with_columns(pl.col(_TIME).dt.replace_time_zone(None))
    found = training_frame(spine, [plain], event_time=_TIME, sources={view.source: source})
    values = found.collect().drop(_TIME)
    seed, hashes = _hashed(values.select(keys))
    values = values.with_columns(pl.Series(_HASH, hashes)).sort(_HASH)
    # In order of their names the last one counts: no refresh that began earlier takes its place.
    name = f"{moment.astimezone(UTC):%Y%m%dT%H%M%S%f}-{source.version:010d}-{secrets.token_hex(4)}"
    fingerprint = view.fingerprint()
    key = f"{_folder(view)}/{name}.arrow"
    done = Refreshed(view.table, fingerprint, moment, values.height, source.version, key, seed)
    said = {name: getattr(done, name) for name in Refreshed.__slots__} | {"at": moment.isoformat()}
    table = values.rechunk().to_arrow().replace_schema_metadata({_SAID: json.dumps(said)})
    with (
        lake.objects.open_writer(key) as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    lake.objects.delete(_served(lake, view)[:-_KEPT])
    for about in [each for each in _OPEN if each[0] == lake.uri]:
        if _OPEN[about].view.table == view.table:
            del _OPEN[about]
    return done


def _hashed(keys: pl.DataFrame) -> tuple[int, Any]:
    """A seed with which no two keys have one hash, and the hashes."""
    for seed in range(_SEEDS):
        hashes = hashes_of(keys, seed)
        if len(np.unique(hashes)) == keys.height:
            return seed, hashes
    raise FeatureError(f"{', '.join(keys.columns)}: keys that can't be told apart")


def _folder(view: FeatureView) -> str:
    return f"serving/{view.table}/{view.fingerprint()}"


def _served(lake: Lake, view: FeatureView) -> list[str]:
    """The view's tables of current values, the newest last."""
    found = [entry.key for entry in lake.objects.list(_folder(view))]
    return sorted(key for key in found if key.endswith(".arrow"))


class LatestValues:
    """A view's current values, mapped into memory; a lookup touches the rows asked for alone.

    Raises
    ------
    FeatureError: they were never refreshed, or for another definition of the view.
    StorageError: the lake can't be reached.
    """

    def __init__(self, lake: Lake, view: FeatureView) -> None:
        table = _opened(lake, view)
        said = json.loads(table.schema.metadata[_SAID])
        self.refreshed = Refreshed(**said | {"at": datetime.fromisoformat(said["at"])})
        self.view = view
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
        try:
            asked = keys if isinstance(keys, pl.DataFrame) else pl.DataFrame(keys)
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise FeatureError(f"{self.view.table}: no columns of keys: {error}") from error
        if both := [name for name in asked.columns if name in self._values.columns]:
            raise FeatureError(
                f"{self.view.table}: {', '.join(both)} was given and is a feature too; leave it out"
            )
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
            fits = fits or (kind == pl.String and isinstance(given.dtype, pl.Categorical | pl.Enum))
            if not fits and given.dtype != pl.Null:
                raise FeatureError(
                    f"{self.view.table}: the key {name} is {kind} and was given as {given.dtype}"
                )
            columns.append(given.cast(kind, strict=False))  # what does not fit is nobody's key
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


def _opened(lake: Lake, view: FeatureView) -> pa.Table:
    """The newest table of current values, mapped."""
    for _ in range(_TRIES):
        served = _served(lake, view)
        if not served:
            others = lake.objects.folders(f"serving/{view.table}")
            what = "are those of another definition" if others else "are none yet"
            raise FeatureError(
                f"{view.table}: the current values served {what}; refresh them "
                f"(`penstock features refresh {view.table}`)"
            )
        try:
            with pa.memory_map(str(_local(lake, served[-1]))) as file:
                return pa.ipc.open_file(file).read_all()
        except FileNotFoundError:
            continue  # refreshed, and gone, since it was listed
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
    raise FeatureError(
        f"{view.table}: its current values are refreshed faster than they can be opened"
    )


def _local(lake: Lake, key: str) -> Path:
    """The object as a file of this machine: in the lake, or copied beside the cache."""
    if lake.is_local:
        return Path(lake.uri) / key
    root = Path(os.environ.get("PENSTOCK_CACHE") or Path.home() / ".cache" / "penstock")
    path = root / "serving" / xxhash.xxh3_64_hexdigest(lake.uri.encode()) / key
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        data = lake.objects.get(key)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
        Path(file.name).replace(path)
        for old in sorted(path.parent.glob("*.arrow"))[:-_KEPT]:
            old.unlink(missing_ok=True)
    return path
