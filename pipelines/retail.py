"""Retail: from sales to a data set of product demand.

For each product and day: what sold over the last 1, 7 and 28 days, and, as the label, how many
units sell in the 7 days that follow.
"""

from __future__ import annotations

from penstock.features import Count, Entity, FeatureView, Max, Mean, Sum
from penstock.labels import Outcome
from penstock.training import TimeSplit, TrainingSet

PRODUCT = Entity("product", keys=("stock_code",))
# Sales of products: neither returns nor postage, fees and vouchers.
_PRODUCT_SALES = r"quantity > 0 AND regexp_like(stock_code, '^\d{5}[A-Za-z]{0,2}$')"
_WINDOWS = ("1d", "7d", "28d")

PRODUCT_FEATURES = FeatureView(
    table="retail/product_features",
    description="What each product sold over the last days, as of each day's end",
    owner="retail-data@example.com",
    entity=PRODUCT,
    source="retail/sales",
    event_time="invoice_time",
    where=_PRODUCT_SALES,
    ttl="1d",
    features=(
        Sum("quantity", _WINDOWS, "units"),
        Sum("quantity * unit_price", _WINDOWS, "revenue"),
        Count(_WINDOWS, "sales"),
        Mean("unit_price", ("28d",), "price"),
        Max("quantity", ("28d",), "largest_sale"),
    ),
)

DEMAND_LABELS = Outcome(
    table="retail/demand_labels",
    description="Units of each product sold in the 7 days after each day's end",
    owner="retail-data@example.com",
    entity=PRODUCT,
    source="retail/sales",
    event_time="invoice_time",
    where=_PRODUCT_SALES,
    expression="quantity",
    horizon="7d",
    population="28d",
)

DEMAND = TrainingSet(
    name="retail/demand",
    description="Forecast each product's demand over the next 7 days",
    owner="retail-ml@example.com",
    labels=DEMAND_LABELS,
    views=(PRODUCT_FEATURES.materialized(),),
    split=TimeSplit(test=0.25),
)
