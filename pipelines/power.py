"""Power: from hourly loads to a data set of oil temperatures.

For each transformer and hour: its loads and its oil's temperature over the last hours, days and
weeks, as of that hour; and, as the label, the oil's mean temperature over the 24 hours that follow.
"""

from __future__ import annotations

from penstock.features import Derived, Entity, FeatureView, Max, Mean, Min, Std, Value
from penstock.labels import Outcome
from penstock.training import Spine, TimeSplit, TrainingSet

# There is a file a transformer, and no other name of it.
TRANSFORMER = Entity("transformer", keys=("_source_file",), description="By its file")
_OVER = ("24h", "7d", "28d")
_LOADS = ("high_useful", "middle_useful", "low_useful")

OIL_FEATURES = FeatureView(
    table="power/oil_features",
    description="A transformer's oil temperature and loads over the last hours, days and weeks",
    owner="power-data@example.com",
    entity=TRANSFORMER,
    source="power/loads",
    event_time="at",
    ttl="3h",
    features=(
        Value.of("oil", "oil_now"),
        *(Value.of(name, f"{name}_now") for name in _LOADS),
        Mean("oil", ("3h", *_OVER), "oil"),
        Mean("oil", ("24h",), "oil", lag="24h"),
        Mean("oil", ("24h",), "oil", lag="6d"),
        Std("oil", ("24h", "7d"), "oil_spread"),
        Min("oil", ("24h", "7d"), "oil_lowest"),
        Max("oil", ("24h", "7d"), "oil_highest"),
        *(Mean(name, _OVER, name) for name in _LOADS),
        *(Mean(name, ("24h",), name) for name in ("high_useless", "middle_useless", "low_useless")),
    ),
    derived=(
        Derived.of("rising", "oil_3h - oil_24h"),
        Derived.of("warmer", "oil_24h - oil_24h_lag_24h"),
        Derived.of("hour_sine", "sin(extract(hour from event_time) * 0.2617993877991494)"),
        Derived.of("hour_cosine", "cos(extract(hour from event_time) * 0.2617993877991494)"),
    ),
)

OIL_LABELS = Outcome(
    table="power/oil_labels",
    description="The oil's mean temperature over the 24 hours that follow",
    owner="power-data@example.com",
    entity=TRANSFORMER,
    source="power/loads",
    event_time="at",
    expression="oil",
    function="mean",
    horizon="24h",
    population="1d",
)

OIL = TrainingSet(
    name="power/oil",
    description="Forecast a transformer's mean oil temperature over the next 24 hours",
    owner="power-ml@example.com",
    labels=OIL_LABELS,
    views=(OIL_FEATURES,),
    spine=Spine("power/loads", event_time="at"),
    split=TimeSplit(test=0.2),
    where="oil_28d IS NOT NULL",
)
