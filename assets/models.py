"""A forecast trained on a published dataset, beside a naive one, as an asset."""

# No `from __future__ import annotations` here: Dagster reads the annotations as types.

import json
import sys
from pathlib import Path
from typing import Literal

import dagster as dg

from assets.factory import key
from assets.lake import LakeResource
from assets.plots import forecast_against_truth
from penstock.shards import read_tag
from penstock.shards.tags import LATEST
from penstock.training import TrainingSet

_SCRIPT = Path(__file__).parent.parent / "examples" / "train_forecast.py"
_SHOWN = ("forecast_mae", "naive_mae", "forecast_wape", "naive_wape", "winner", "model_uri")


def forecast_model(
    spec: TrainingSet, *, naive: str, what: str, scale: Literal["log", "difference"] = "log"
) -> dg.AssetsDefinition:
    """Train on a training set's latest dataset, unless a model of that fingerprint is there.

    Parameters
    ----------
    naive: the feature that is the naive forecast.
    what: is forecast, with its unit; for the plot.
    scale: `log` for amounts of zero and more, `difference` for what is forecast from the naive on.
    """

    @dg.asset(
        key=key(f"{spec.name}_model"),
        deps=[key(spec.name)],
        group_name=spec.name.split("/")[0],
        description=f"{spec.description}: a small network beside the naive forecast (`{naive}`) on "
        "the same test split. Trained by `examples/train_forecast.py` in a process of its own.",
        kinds={"torch", "model"},
        owners=[spec.owner],
        tags={"layer": "model"},
    )
    def model(
        context: dg.AssetExecutionContext, lake: LakeResource, pipes: dg.PipesSubprocessClient
    ) -> dg.MaterializeResult:
        opened = lake.open()
        fingerprint = read_tag(opened, spec.name, LATEST)
        stored = f"models/{spec.name}/{fingerprint}/report.json"
        if opened.objects.get_or_none(stored) is None:
            command = [sys.executable, str(_SCRIPT), "--dataset", spec.name]
            command += ["--version", fingerprint, "--naive", naive, "--scale", scale]
            pipes.run(context=context, command=command, env={"PENSTOCK_LAKE": opened.uri})
        report = json.loads(opened.objects.get(stored))
        title = f"{what[0].upper()}{what[1:]} ({report['winner']} wins)"
        plot = forecast_against_truth(report["by_day"], title, what)
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

    return model
