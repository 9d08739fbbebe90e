"""The point-in-time join: to each row of a spine, the newest values known by its time.

A row of a view is known from the later of its event time and its created time on. Of the rows
known by a spine row's time, the one with the newest event time wins, ties going to the newest
created time; if it is older than the view's TTL, there is no value. Worked out in two sorted
passes rather than by comparing every pair: first, for each entity, the winner at each moment that
something becomes known; then an ASOF join of the spine with those moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow.dataset as pads


@dataclass(frozen=True, slots=True)
class JoinedView:
    """Rows to join: one view of a spine's features."""

    name: str
    """Short, and unique among the views of a join."""
    data: pads.Dataset
    keys: tuple[str, ...]
    event_time: str
    features: tuple[str, ...]
    created_time: str | None = None
    ttl_us: int | None = None
    """How old a row may be, in microseconds; the edge is included."""


def point_in_time_join(
    connection: duckdb.DuckDBPyConnection,
    spine: str,
    views: Sequence[JoinedView],
    time: str = "event_time",
) -> str:
    """Make the SQL of the join, over views that it registers with the connection.

    Parameters
    ----------
    spine: the name of a table or view with the keys and `time`; every row of it is in the result
        once, repeated rows and rows with null keys too (these get null features).

    Returns
    -------
    A query: the spine's columns, then each view's features, in no promised order.
    """
    query = f'SELECT *, epoch_us("{time}") AS "_t" FROM {spine}'
    for number, view in enumerate(views):
        connection.register(f"_view{number}", view.data)
        _make_winners(connection, number, view)
        query = _joined(query, f"_winners{number}", view)
    return f'SELECT * EXCLUDE ("_t") FROM ({query})'


def _make_winners(connection: duckdb.DuckDBPyConnection, number: int, view: JoinedView) -> None:
    """A temporary table of moments: the row that wins for an entity from each on.

    Worked out before the join, so that memory holds one step at a time; temporary tables spill.
    """
    keys = ", ".join(_quoted(key) for key in view.keys)
    features = ", ".join(_quoted(name) for name in view.features)
    created = f"epoch_us({_quoted(view.created_time)})" if view.created_time else "NULL::BIGINT"
    same = " AND ".join(f"moments.{_quoted(key)} = numbered.{_quoted(key)}" for key in view.keys)
    # Values last among the sort keys: two rows alike in all times must not depend on file order.
    connection.execute(f"""
        CREATE TEMP TABLE _numbered{number} AS
        SELECT {keys}, event, greatest(event, coalesce(created, event)) AS known, {features},
               row_number() OVER (PARTITION BY {keys}
                                  ORDER BY event, created NULLS FIRST, {features}) AS rank
        FROM (SELECT *, epoch_us({_quoted(view.event_time)}) AS event, {created} AS created
              FROM _view{number})""")
    connection.execute(f"""
        CREATE TEMP TABLE _moments{number} AS
        SELECT DISTINCT {keys}, known, max(rank) OVER (PARTITION BY {keys} ORDER BY known) AS winner
        FROM _numbered{number}""")
    connection.execute(f"""
        CREATE TEMP TABLE _winners{number} AS
        SELECT moments.*, numbered.event, {_of("numbered", view.features)}
        FROM _moments{number} moments JOIN _numbered{number} numbered
             ON {same} AND winner = rank""")
    connection.execute(f"DROP TABLE _numbered{number}; DROP TABLE _moments{number}")


def _joined(spine: str, winners: str, view: JoinedView) -> str:
    on = " AND ".join(f"s.{_quoted(key)} = m.{_quoted(key)}" for key in view.keys)
    fresh = f"s._t - m.event <= {view.ttl_us}" if view.ttl_us is not None else "true"
    chosen = ", ".join(
        f"CASE WHEN {fresh} THEN m.{_quoted(name)} END AS {_quoted(name)}" for name in view.features
    )
    return (
        f"SELECT s.*, {chosen} FROM ({spine}) s ASOF LEFT JOIN {winners} m "
        f"ON {on} AND s._t >= m.known"
    )


def _of(table: str, names: Sequence[str]) -> str:
    return ", ".join(f"{table}.{_quoted(name)}" for name in names)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
