"""The retail domain's assets: those of the factory, and the model trained on its dataset."""

# No `from __future__ import annotations` here: Dagster reads the annotations as types.

import json
import sys
from pathlib import Path

import dagster as dg

from assets.factory import Domain, domain_assets, key
from assets.lake import LakeResource
from assets.partitions import last_day_of_history
from assets.plots import forecast_against_truth
from penstock.shards import read_tag
from penstock.shards.tags import LATEST
from pipelines.retail import DEMAND, DEMAND_LABELS, PRODUCT_FEATURES
from schemas.retail import EVERY_DAY, FIRST_DAY, SALES, SOURCE

DOMAIN = Domain(
    name="retail",
    source=SOURCE,
    first_day=FIRST_DAY,
    last_day=None if EVERY_DAY else last_day_of_history(SALES.table, SALES.event_time),
    views=(PRODUCT_FEATURES,),
    labels=(DEMAND_LABELS,),
    training_sets=(DEMAND,),
)

_SCRIPT = Path(__file__).parent.parent / "examples" / "train_demand.py"
_SHOWN = ("forecast_mae", "naive_mae", "forecast_wape", "naive_wape", "winner", "model_uri")


@dg.asset(
    key=key("retail/demand_model"),
    deps=[key(DEMAND.name)],
    group_name="retail",
    description="A forecast of each product's units over the next 7 days, beside a seasonal-naive "
    "one on the same test split. Trained by `examples/train_demand.py` in a process of its own.",
    kinds={"torch", "model"},
    owners=[DEMAND.owner],
    tags={"layer": "model"},
)
def demand_model(
    context: dg.AssetExecutionContext, lake: LakeResource, pipes: dg.PipesSubprocessClient
) -> dg.MaterializeResult:
    """Train on the latest dataset, unless a model of that fingerprint is there."""
    opened = lake.open()
    fingerprint = read_tag(opened, DEMAND.name, LATEST)
    stored = f"models/{DEMAND.name}/{fingerprint}/report.json"
    if opened.objects.get_or_none(stored) is None:
        command = [sys.executable, str(_SCRIPT), "--version", fingerprint]
        pipes.run(context=context, command=command, env={"PENSTOCK_LAKE": opened.uri})
    report = json.loads(opened.objects.get(stored))
    title = f"Units sold in the next 7 days, all products ({report['winner']} wins)"
    plot = forecast_against_truth(report["by_day"], title)
    return dg.MaterializeResult(
        metadata={
            "fingerprint": fingerprint,
            "rows_in": report["train_rows"],
            "dagster/row_count": report["test_rows"],
            "seconds": report["seconds"],
            "forecast against truth": dg.MetadataValue.md(plot),
            **{name: report[name] for name in _SHOWN},
        },
        data_version=dg.DataVersion(fingerprint),
    )


ASSETS = [*domain_assets(DOMAIN), demand_model]
