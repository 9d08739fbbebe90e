"""Features that were known at a row's time, and no others.

view.py         FeatureView: entity, source, times, features: values of the newest row, windows
windows.py      Sum, Count, Mean, ... over windows of time, by bucket, filtered, lagged
expressions.py  SQL or polars expressions as plain values

A join, from a spine to a frame:

preparing.py    what is read of each input, checked by schemas alone
events.py       a view's rows in order of entity and time; the newest known by a time
aggregating.py  windows as of each row's own time
streams.py      the values that windows are over   (exact.py: sums, ranges.py: minima and maxima,
                selecting.py: distinct counts and quantiles, listing.py: event by event)
join.py         the point-in-time join of rows that fit in memory
parts.py        a part of a join that does not fit, as a task for an engine
spilling.py     rows parted by entity on disk, and put back into the spine's order
frame.py        training_frame: all of this for a spine and views
explaining.py   which source rows gave a training row its values, and why no newer ones did

daily.py        tables computed a day at a time: which days are stale, and recomputing them
serving.py      current values by entity, from the same definitions
registry.py     what definitions were, as the lake keeps them: changed, renamed, gone
hashing.py      a number for a row, by its values, the same for ever
"""

from penstock.features.daily import DailyTable, Materialized, materialize, stale_days
from penstock.features.frame import TrainingFrame, training_frame
from penstock.features.join import Joined
from penstock.features.serving import LatestValues, Refreshed, latest, refresh
from penstock.features.view import Derived, Entity, Feature, FeatureView, Value
from penstock.features.windows import (
    Aggregate,
    Count,
    DistinctCount,
    First,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    Quantile,
    Std,
    Sum,
    TopK,
)

__all__ = [
    "Aggregate",
    "Count",
    "DailyTable",
    "Derived",
    "DistinctCount",
    "Entity",
    "Feature",
    "FeatureView",
    "First",
    "Joined",
    "Last",
    "LastK",
    "LatestValues",
    "Materialized",
    "Max",
    "Mean",
    "Min",
    "Quantile",
    "Refreshed",
    "Std",
    "Sum",
    "TopK",
    "TrainingFrame",
    "Value",
    "latest",
    "materialize",
    "refresh",
    "stale_days",
    "training_frame",
]
