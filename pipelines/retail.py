"""Retail: from sales to data sets of product demand and of customers' worth.

For each product and day: what sold over the last 1, 7 and 28 days, and, as the label, how many
units sell in the 7 days that follow. For each invoice of a customer: what the customer, the country
and one of the invoice's products brought until then, to the minute, and, as the label, what the
customer spends in the 28 days that follow.
"""

from __future__ import annotations

from dataclasses import replace

from penstock.features import (
    Count,
    Derived,
    DistinctCount,
    Entity,
    FeatureView,
    Max,
    Mean,
    Std,
    Sum,
)
from penstock.labels import Outcome
from penstock.training import GroupSplit, Spine, TimeSplit, TrainingSet

PRODUCT = Entity("product", keys=("stock_code",))
CUSTOMER = Entity("customer", keys=("customer_id",))
COUNTRY = Entity("country", keys=("country",))
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

_SPENT = "quantity * unit_price"

CUSTOMER_FEATURES = FeatureView(
    table="retail/customer_features",
    description="What each customer bought and sent back, as of any moment",
    owner="retail-data@example.com",
    entity=CUSTOMER,
    source="retail/sales",
    event_time="invoice_time",
    features=(
        Sum(_SPENT, ("1d", "7d", "28d", "90d"), "spent", where="quantity > 0"),
        Sum(_SPENT, ("28d",), "spent", where="quantity > 0", lag="28d"),
        Count(("7d", "28d", "90d"), "lines", where="quantity > 0"),
        Count(("90d",), "returned", where="quantity < 0"),
        Mean("unit_price", ("90d",), "price"),
        Std(_SPENT, ("90d",), "line_spread"),
        Max(_SPENT, ("90d",), "largest_line"),
        DistinctCount("invoice", ("28d", "90d"), "invoices"),
        DistinctCount("stock_code", ("28d", "90d"), "products"),
    ),
    derived=(
        Derived.of("per_invoice", "spent_90d / nullif(invoices_90d, 0)"),
        Derived.of("growth", "spent_28d - spent_28d_lag_28d"),
    ),
)

COUNTRY_FEATURES = FeatureView(
    table="retail/country_features",
    description="What each country's customers bought, as of any moment",
    owner="retail-data@example.com",
    entity=COUNTRY,
    source="retail/sales",
    event_time="invoice_time",
    where="quantity > 0",
    prefix="country_",
    features=(
        Sum(_SPENT, ("7d", "28d"), "spent"),
        Count(("7d", "28d"), "lines"),
        Mean("unit_price", ("28d",), "price"),
    ),
    derived=(Derived.of("per_line", "spent_28d / nullif(lines_28d, 0)"),),
)

CUSTOMER_VALUE_LABELS = Outcome(
    table="retail/customer_value_labels",
    description="What each customer spends in the 28 days that follow",
    owner="retail-data@example.com",
    entity=CUSTOMER,
    source="retail/sales",
    event_time="invoice_time",
    where="quantity > 0",
    expression=_SPENT,
    horizon="28d",
    population="28d",
)

CUSTOMER_VALUE = TrainingSet(
    name="retail/customer_value",
    description="Forecast what a customer spends in the next 28 days, at each of their invoices",
    owner="retail-ml@example.com",
    labels=CUSTOMER_VALUE_LABELS,
    views=(CUSTOMER_FEATURES, COUNTRY_FEATURES, replace(PRODUCT_FEATURES, prefix="product_")),
    spine=Spine(
        "retail/sales",
        query="""
            SELECT customer_id, country, invoice_time AS event_time, max(stock_code) AS stock_code
            FROM sales WHERE customer_id IS NOT NULL AND quantity > 0
            GROUP BY customer_id, country, invoice_time""",
    ),
    # No customer is in two splits: what is learned is tried on strangers.
    split=GroupSplit(("customer_id",), test=0.25),
)
