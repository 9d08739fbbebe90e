"""Training frames: a spine with the features of views, as of each row's own time.

Nothing is read until rows are asked for. What fits the memory given is joined at once; else spine
and views are parted by entity on this machine's disk and joined part after part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
from polars.exceptions import PolarsError

from penstock.engines import Engine, engine_of
from penstock.errors import FeatureError
from penstock.features.events import Ints
from penstock.features.join import Joined, KnownAt, Prepared, join_views
from penstock.features.parts import JoinPart, alone
from penstock.features.preparing import TIME, Plan, counted_rows, plan
from penstock.features.spilling import (
    BATCH,
    MOST_PARTS,
    STRETCH,
    InOrder,
    Parted,
    PartedSpine,
    Spill,
)
from penstock.features.view import FeatureView, derived
from penstock.features.windows import Counted
from penstock.lake import Lake
from penstock.tables import Snapshot, Table

if TYPE_CHECKING:
    from penstock.features.explaining import Explanation

Frame = pl.DataFrame | pl.LazyFrame | pa.Table
MEMORY_BYTES = int(os.environ.get("PENSTOCK_JOIN_MEMORY_BYTES", str(1 << 30)))
_LAST = (1 << 63) - 1
_VALUE_BYTES, _ORDER_BYTES = 8, 64
"""What a value costs while it is joined, and to put a row in order."""
_SLACK = 5
"""Of a part on its way from disk, sorted and back, this many times as much is held (measured)."""
_WORKED_BYTES = {"sum": 64, "mean": 16, "std": 160, "min": 28, "max": 28, "quantile": 64}
"""What is worked out of an event beside, by the function of a window."""


def training_frame(
    spine: str | Frame,
    views: FeatureView | Sequence[FeatureView],
    *,
    known_at: KnownAt = "created",
    event_time: str = "event_time",
    lake: Lake | None = None,
    sources: Mapping[str, Frame | Snapshot] | None = None,
    memory_bytes: int = MEMORY_BYTES,
    engine: Engine | None = None,
) -> TrainingFrame:
    """A spine with the features of views, each as of the row's own time.

    Parameters
    ----------
    spine: rows with the entities' keys and a time, or the name of a table of the lake. Each comes
        back once, in its order, whatever is joined to it.
    known_at: `created`: rows of views that have a created time count from then on; `event`: from
        their event time on, as if nothing were ever late.
    event_time: the spine's column of times.
    lake: where the views' sources and a spine named are; by default that of `Lake()`.
    sources: rows of sources by name, in place of the lake's tables: frames, or pinned snapshots.
    memory_bytes: about what a join may hold beside its inputs' own reading; more is parted on disk.
    engine: on which such parts are joined; by default that of `PENSTOCK_ENGINE`.

    Raises
    ------
    FeatureError: a key, time or column is missing or of a type that can't be compared, or two
        features share a name; before any row is read.
    TableNotFound: the lake has no such table.
    """
    if isinstance(views, FeatureView):
        views = [views]
    if memory_bytes < 1:
        raise FeatureError(f"memory_bytes={memory_bytes}: it is above 0")
    if known_at not in ("event", "created"):
        raise FeatureError(f"known_at={known_at!r}: it is 'created' or 'event'")
    given = dict(sources or {})
    opened = _Opened(lake)
    name = spine if isinstance(spine, str) else "the spine"
    rows = opened.rows(spine, given) if isinstance(spine, str) else _lazy(spine)
    scans = [(view, opened.rows(view.source, given)) for view in views]
    found = plan(rows, event_time, scans, spine_name=name)
    return TrainingFrame(
        spine=rows,
        name=name,
        event_time=event_time,
        views=tuple(views),
        scans={view.table: scan for view, scan in scans},
        versions=opened.versions,
        joins=found,
        known_at=known_at,
        memory_bytes=memory_bytes,
        engine=engine or engine_of(),
    )


class _Opened:
    """Sources by name, each opened once."""

    def __init__(self, lake: Lake | None) -> None:
        self._lake = lake
        self._rows = dict[str, pl.LazyFrame]()
        self.versions = dict[str, int]()

    def rows(self, name: str, given: Mapping[str, Frame | Snapshot]) -> pl.LazyFrame:
        if name not in self._rows:
            source = given.get(name)
            if source is None:
                self._lake = self._lake or Lake()
                source = Table(self._lake, name).snapshot()
            if isinstance(source, Snapshot):
                self.versions[name] = source.version
                source = source.scan()
            self._rows[name] = _lazy(source)
        return self._rows[name]


def _lazy(frame: Any) -> pl.LazyFrame:
    match frame:
        case pa.Table():
            return pl.DataFrame(pl.from_arrow(frame)).lazy()
        case pl.DataFrame() | pl.LazyFrame():
            return frame.lazy()
        case _:
            raise FeatureError(
                f"{type(frame).__name__} is no frame to join: give a polars or Arrow one, such as "
                "pl.DataFrame(rows), or a table's name"
            )


@dataclass
class TrainingFrame:
    """A spine with features: read it with `collect`, `batches` or `write_parquet`."""

    spine: pl.LazyFrame
    name: str
    event_time: str
    views: tuple[FeatureView, ...]
    scans: Mapping[str, pl.LazyFrame]
    """Rows of each view's source, by the view's name."""
    versions: Mapping[str, int]
    """Of the tables that it reads."""
    joins: Plan
    known_at: KnownAt
    memory_bytes: int
    engine: Engine = field(default_factory=engine_of)

    def __post_init__(self) -> None:
        self._report: list[Joined] | None = None

    @property
    def feature_names(self) -> list[str]:
        """Every feature, in the order of the views."""
        return [name for view in self.views for name in view.feature_names]

    @property
    def report(self) -> list[Joined]:
        """What each view's join came to, once rows were read.

        Raises
        ------
        FeatureError: none were read yet.
        """
        if self._report is None:
            raise FeatureError("the report tells of rows that were read; collect them first")
        return self._report

    def collect(self) -> pl.DataFrame:
        """All rows, in the spine's order."""
        return pl.concat(self.batches(), rechunk=False)

    def write_parquet(self, path: str | Path) -> int:
        """Write all rows to a file; how many. The file is there when it is whole."""
        import pyarrow.parquet as pq

        whole, part = Path(path), Path(f"{path}.part")
        rows, writer = 0, None
        try:
            for batch in self.batches():
                table = batch.to_arrow()
                writer = writer or pq.ParquetWriter(str(part), table.schema, compression="zstd")
                writer.write_table(table)
                rows += batch.height
            if writer is not None:
                writer.close()
                part.replace(whole)
        finally:
            if writer is not None:
                writer.close()
            part.unlink(missing_ok=True)
        return rows

    def batches(self) -> Iterator[pl.DataFrame]:
        """The rows in the spine's order; a few at a time where they are parted on disk.

        Raises
        ------
        FeatureError: a row of the spine has no time, or an expression fails on a value.
        """
        self._report = []
        try:
            parts = _parts(self)
            yield from [self._at_once()] if parts == 1 else self._in_parts(parts)
        except PolarsError as error:  # what schemas don't tell, such as a text that is no number
            names = ", ".join(view.table for view in self.views)
            raise FeatureError(f"{self.name} with {names}: {error}") from error

    def explain_row(self, row: int) -> Explanation:
        """Which rows of the sources gave one row its values, and why no newer ones did.

        Parameters
        ----------
        row: its place in the spine, from 0.
        """
        from penstock.features.explaining import explain

        return explain(self, row)

    def _at_once(self) -> pl.DataFrame:
        spine = self.spine.collect()
        wanted = spine.select(self.joins.spine_columns)
        self._check_times(wanted[TIME], 0)
        columns = dict[str, pl.Series]()
        for keys, group in self.joins.groups:
            time = wanted[TIME].to_numpy()
            rows = [(each, _bounded(each, time, self.joins.unit_us).collect) for each in group]
            found, reports = join_views(
                wanted.select(keys), time, rows, self.known_at, self.joins.unit_us
            )
            columns |= {series.name: series for series in found}
            self._told(reports)
        return self._finished(spine, columns)

    def _finished(self, spine: pl.DataFrame, columns: Mapping[str, pl.Series]) -> pl.DataFrame:
        """The features beside the spine, and those that are derived from both."""
        whole = spine.hstack(list(columns.values())) if columns else spine
        for view in self.views:
            if view.derived:
                whole = whole.with_columns(derived(view, whole, spine.columns))
        return whole.select([*spine.columns, *self.feature_names])

    def _told(self, reports: Sequence[Joined]) -> None:
        assert self._report is not None
        for report in reports:
            for known in self._report:
                if known.view == report.view:
                    known.add(report)
                    break
            else:
                self._report.append(report)

    def _check_times(self, times: pl.Series, first: int) -> None:
        if nulls := times.null_count():
            row = first + int(times.is_null().arg_max() or 0)
            raise FeatureError(
                f"{self.name}: {nulls:,} rows have no {self.event_time} (the first is row "
                f"{row:,}); without a time nothing is known of what was known: leave them out "
                "first"
            )

    def _in_parts(self, parts: int) -> Iterator[pl.DataFrame]:
        groups = self.joins.groups
        with Spill() as kept, Spill() as rows, Spill() as found:
            spine = PartedSpine(kept, [keys for keys, _ in groups], parts)
            low, high = self._part_spine(spine)
            outputs = list[InOrder]()
            for number, (keys, group) in enumerate(groups):
                outputs.append(InOrder(found, spine, number))
                for prepared in group:
                    rows.again()
                    bounded = _bounded(prepared, np.array([low, high]), self.joins.unit_us)
                    parted = Parted(rows, keys, parts)
                    parted.write(bounded.collect_batches(chunk_size=BATCH))
                    task = JoinPart(
                        spine.group(number),
                        parted,
                        alone(prepared),
                        self.known_at,
                        self.joins.unit_us,
                    )
                    outputs[-1].begin()
                    for part, columns, reports in self.engine.run(task, range(parts)):
                        self._told(reports)
                        outputs[-1].put(part, columns)
            for number, stretch in enumerate(spine.stretches()):
                columns = [column for output in outputs for column in output.stretch(number)]
                yield self._finished(stretch, {column.name: column for column in columns})

    def _part_spine(self, spine: PartedSpine) -> tuple[int, int]:
        """Part the spine's keys and times; the first and the last time."""
        # Read once: a query may give its rows in another order when it is asked again.
        lows, highs, first = list[int](), list[int](), 0
        for rows in _in_stretches(self.spine):
            wanted = rows.select(self.joins.spine_columns)
            self._check_times(wanted[TIME], first)
            found = wanted[TIME].to_numpy()
            lows.append(int(found.min()))
            highs.append(int(found.max()))
            spine.put(rows, [wanted.select(*keys, TIME) for keys, _ in self.joins.groups])
            first += rows.height
        return min(lows, default=0), max(highs, default=0)


def _in_stretches(rows: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """Rows in order, `STRETCH` at a time."""
    held = list[pl.DataFrame]()
    count = 0
    for batch in rows.collect_batches(chunk_size=STRETCH, maintain_order=True):
        rest = batch
        while rest.height:
            piece = rest.head(STRETCH - count)
            rest = rest.slice(piece.height)
            held.append(piece)
            count += piece.height
            if count == STRETCH:
                yield pl.concat(held)
                held, count = [], 0
    if held:
        yield pl.concat(held)


def _bounded(prepared: Prepared, times: Ints, unit_us: float) -> pl.LazyFrame:
    """The rows that can matter to spine rows of these times."""
    from penstock.features.join import EVENT

    if not len(times):
        return prepared.rows.clear()
    view = prepared.view
    low, high = int(times.min()), int(times.max())
    ahead = max([0, *(-window.lag_us for window in view.windows)])
    kept = pl.col(EVENT) <= min(high + round(ahead / unit_us), _LAST)
    if not view.values or view.ttl_us is not None:
        reach = max([view.ttl_us or 0, *(window.reach_us for window in view.windows)])
        kept &= pl.col(EVENT) >= max(low - round(reach / unit_us), -_LAST - 1)
    return prepared.rows.filter(kept)


def _parts(frame: TrainingFrame) -> int:
    """Into how many parts a join is to be cut; 1 where it is done at once."""
    spine = counted_rows(frame.spine)
    needed = list[int]()
    for _, group in frame.joins.groups:
        for prepared in group:
            view = prepared.view
            columns = len(prepared.rows.collect_schema())
            row = _VALUE_BYTES * columns + _ORDER_BYTES
            row += sum(_WORKED_BYTES.get(function, 0) for _, function in _worked(view))
            of_spine = _VALUE_BYTES * (len(view.feature_names) + 3)
            needed.append(counted_rows(frame.scans[view.table]) * row + spine * of_spine)
    if sum(needed) <= frame.memory_bytes or not spine:
        return 1
    # Parts are joined to one view after the other.
    parts = -(-max(needed) * frame.engine.workers * _SLACK // frame.memory_bytes)
    return max(2, min(parts, spine, MOST_PARTS))


def _worked(view: FeatureView) -> set[tuple[Counted, str]]:
    """What is worked out of all events for windows, each once."""
    return {(window.counted, window.function) for window in view.windows}
