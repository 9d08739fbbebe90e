"""The power domain's assets: those of the factory, and a model trained on its dataset."""

from assets.factory import Domain, domain_assets
from assets.models import forecast_model
from pipelines.power import OIL, OIL_FEATURES
from schemas.power import FIRST_DAY, SOURCE

DOMAIN = Domain(
    name="power",
    source=SOURCE,
    first_day=FIRST_DAY,
    training_sets=(OIL,),
    served=(OIL_FEATURES,),
)

ASSETS = [
    *domain_assets(DOMAIN),
    forecast_model(
        OIL,
        naive="oil_24h",
        what="mean oil temperature in the next 24 hours (°C)",
        scale="difference",
    ),
]
