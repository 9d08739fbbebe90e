"""The retail domain's assets: those of the factory, and models trained on its datasets."""

from assets.factory import Domain, domain_assets
from assets.models import forecast_model
from assets.partitions import last_day_of_history
from pipelines.retail import (
    COUNTRY_FEATURES,
    CUSTOMER_FEATURES,
    CUSTOMER_VALUE,
    DEMAND,
    DEMAND_LABELS,
    PRODUCT_FEATURES,
)
from schemas.retail import EVERY_DAY, FIRST_DAY, SALES, SOURCE

DOMAIN = Domain(
    name="retail",
    source=SOURCE,
    first_day=FIRST_DAY,
    last_day=None if EVERY_DAY else last_day_of_history(SALES.table, SALES.event_time),
    views=(PRODUCT_FEATURES,),
    labels=(DEMAND_LABELS,),
    training_sets=(DEMAND, CUSTOMER_VALUE),
    served=(PRODUCT_FEATURES, CUSTOMER_FEATURES, COUNTRY_FEATURES),
)

ASSETS = [
    *domain_assets(DOMAIN),
    forecast_model(DEMAND, naive="units_7d", what="units of all products in the next 7 days"),
    forecast_model(
        CUSTOMER_VALUE, naive="spent_28d", what="spending of customers in the next 28 days (GBP)"
    ),
]
