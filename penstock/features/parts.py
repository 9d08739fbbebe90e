"""One part of a join that does not fit in memory: a task for any engine."""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl

from penstock.engines import Threads
from penstock.features.join import Joined, KnownAt, Prepared, join_views
from penstock.features.preparing import TIME
from penstock.features.spilling import Parted


@dataclass(frozen=True, slots=True)
class JoinPart:
    """Joins a view's rows of a part to the spine's."""

    spine: Parted
    """Keys and times."""
    rows: Parted
    """As the view is read."""
    prepared: Prepared
    known_at: KnownAt
    unit_us: float

    def __call__(self, part: int) -> tuple[int, pl.DataFrame, list[Joined]]:
        """The part, its columns in the order of the spine's rows, and what it came to."""
        wanted = self.spine.take(part)
        if wanted is None:
            return part, pl.DataFrame(), []
        rows = self.rows.take(part)
        if rows is None:
            rows = self.prepared.rows.collect()
        found, reports = join_views(
            wanted.select(self.prepared.view.entity.keys),
            wanted[TIME].to_numpy(),
            [(self.prepared, lambda: rows)],
            self.known_at,
            self.unit_us,
            engine=Threads(1),
        )
        return part, found, reports


def alone(prepared: Prepared) -> Prepared:
    """A view without its source and its functions: what another process can be given."""
    view = replace(prepared.view, derived=())
    return replace(prepared, view=view, rows=prepared.rows.clear(), tied=())
