"""The daily partitions of a domain's tables."""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from penstock import Lake, Table
from penstock.errors import PenstockError

log = logging.getLogger(__name__)

_LIVE_DAYS = 62
"""Data whose newest day is older than this is history, and gets no partitions up to today."""


def daily_partitions(
    first_day: str, last_day: date | None, lookahead_days: int
) -> dg.DailyPartitionsDefinition:
    """A partition a day.

    Parameters
    ----------
    last_day: of the source; None for yesterday, and each day anew.
    lookahead_days: days that a row must be old before it can be computed (a label's horizon).
    """
    if last_day is None:
        return dg.DailyPartitionsDefinition(start_date=first_day, end_offset=-lookahead_days)
    # The source's last day is hardly ever whole, which a label asks of the days that it looks at.
    end = last_day + timedelta(days=1 - lookahead_days - bool(lookahead_days))
    end = max(end, date.fromisoformat(first_day) + timedelta(days=1))
    return dg.DailyPartitionsDefinition(start_date=first_day, end_date=end.isoformat())


def last_day_of_history(table: str, event_time: str) -> date | None:
    """The newest day of a table in the lake of the environment, if its data is history; else None.

    Without it, data of years ago would have thousands of partitions that never come. Read from
    the table's log when definitions are loaded; a lake that can't be reached then is no error.
    """
    try:
        snapshot = Table(Lake(), table).snapshot_or_none()
    except PenstockError as error:
        log.warning("partitions run up to today: %s", error)
        return None
    newest: datetime | None = None
    if snapshot is not None:
        _, newest = snapshot.bounds(event_time)
    if newest is not None and newest.tzinfo is None:
        newest = newest.replace(tzinfo=UTC)
    if newest is None or datetime.now(UTC) - newest < timedelta(days=_LIVE_DAYS):
        return None
    return newest.astimezone(UTC).date()
