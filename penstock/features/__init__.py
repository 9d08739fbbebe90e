"""Features that were known at a row's time, and no others.

view.py      FeatureView: entity, source, event time, windows (Sum, Count, ...)
windows.py   the SQL of windows, tiled by day, exact to the event
daily.py     tables computed a day at a time: which days are stale, and recomputing them
join.py      point-in-time join: to each spine row the newest values known by its time
"""

from penstock.features.daily import DailyTable, Materialized, materialize, stale_days
from penstock.features.join import JoinedView, point_in_time_join
from penstock.features.view import Aggregate, Count, Entity, FeatureView, Max, Mean, Min, Sum

__all__ = [
    "Aggregate",
    "Count",
    "DailyTable",
    "Entity",
    "FeatureView",
    "JoinedView",
    "Materialized",
    "Max",
    "Mean",
    "Min",
    "Sum",
    "materialize",
    "point_in_time_join",
    "stale_days",
]
