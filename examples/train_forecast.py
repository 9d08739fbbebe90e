"""Train a forecast on a published dataset, and compare it with a naive one.

An ordinary training script: it needs `penstock[torch]` and a lake, and nothing of Dagster. Where
Dagster starts it (Dagster Pipes), it reports what it made.

    PENSTOCK_LAKE=data/lake python examples/train_forecast.py --dataset retail/demand
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from penstock import Dataset, Lake, load_dataset

BATCH = 4096
STEPS = 400
"""Optimiser steps at least; whole epochs are run."""


class Forecast(nn.Module):
    """A number of what is to come; trained to its median, which is what the mean absolute error
    asks for.

    On the `log` scale from the logarithms of features that are amounts, to that of an amount; as a
    `difference` from the features as they are, to how far the naive forecast is off.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, naive: int, scale: str, hidden: int = 64) -> None:
        super().__init__()
        self.naive, self.is_log = naive, scale == "log"
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.layers = nn.Sequential(
            nn.Linear(len(mean), hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(rows, features) of raw values to (rows,) on the scale of the loss."""
        known = torch.nan_to_num(torch.log1p(features.clamp_min(0)) if self.is_log else features)
        return self.layers((known - self.mean) / self.std).squeeze(1)

    def wanted(self, features: Tensor, label: Tensor) -> Tensor:
        """Labels on the scale of the loss."""
        return torch.log1p(label.clamp_min(0)) if self.is_log else label - features[:, self.naive]

    def forecast(self, features: Tensor) -> Tensor:
        """(rows,) in the unit of the label."""
        found = self(features)
        return torch.expm1(found).clamp_min(0) if self.is_log else features[:, self.naive] + found


def main() -> None:
    """Train, evaluate, save, report."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--dataset", default="retail/demand")
    arguments.add_argument("--version", default="latest")
    arguments.add_argument("--naive", default="units_7d", help="the feature to beat")
    arguments.add_argument("--scale", default="log", choices=["log", "difference"])
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    lake = Lake()
    torch.manual_seed(options.seed)
    train = load_dataset(options.dataset, split="train", version=options.version, lake=lake)
    test = load_dataset(options.dataset, split="test", version=train.fingerprint, lake=lake)
    started = time.perf_counter()
    model, epochs = fit(train, options.naive, options.scale, options.seed)
    report = evaluate(model, test) | {
        "dataset": train.name,
        "fingerprint": train.fingerprint,
        "epochs": epochs,
        "train_rows": len(train),
        "seconds": round(time.perf_counter() - started, 2),
    }
    report["model_uri"] = f"{lake.uri}/{model_key(train)}"
    save(lake, train, model, report)
    if "DAGSTER_PIPES_CONTEXT" in os.environ:
        report_to_dagster(report)
    else:
        print(json.dumps({key: report[key] for key in report if key != "by_day"}, indent=1))


def fit(train: Dataset, naive: str, scale: str, seed: int) -> tuple[Forecast, int]:
    """The trained model, and the epochs that it took."""
    feed = train.select_columns(["features", "label"]).shuffle(seed=seed)
    feed = feed.batch(min(BATCH, len(train)), drop_last=True).to("torch")
    mean, std = statistics(train, scale)
    model = Forecast(mean, std, train.features.index(naive), scale)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    epochs = math.ceil(STEPS / len(feed))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=epochs * len(feed))
    for _ in range(epochs):
        for batch in feed:
            features = batch["features"]
            wanted = model.wanted(features, batch["label"])
            loss = nn.functional.l1_loss(model(features), wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    feed.close()
    return model.eval(), epochs


def statistics(train: Dataset, scale: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the features, over a first part of the train split."""
    rows = train.select_columns(["features"])[: min(len(train), 100_000)]["features"]
    values = np.nan_to_num(np.log1p(np.clip(rows, 0, None)) if scale == "log" else rows)
    std = np.maximum(values.std(axis=0), 1e-3)
    return torch.from_numpy(values.mean(axis=0)), torch.from_numpy(std)


def evaluate(model: Forecast, test: Dataset) -> dict[str, Any]:
    """Errors of the forecast and of the naive one on the same rows.

    The naive forecast is one feature, such as that next week sells what the last one did.
    """
    truth, forecast, naive, times = [], [], [], []
    feed = test.select_columns(["features", "label", "event_time"]).batch(65_536).to("torch")
    with torch.no_grad():
        for batch in feed:
            forecast.append(model.forecast(batch["features"]).numpy())
            naive.append(torch.nan_to_num(batch["features"][:, model.naive]).numpy())
            truth.append(batch["label"].numpy())
            times.append(batch["event_time"].numpy())
    feed.close()
    y, ours, theirs, at = (np.concatenate(parts) for parts in (truth, forecast, naive, times))
    total = max(float(np.abs(y).sum()), 1.0)
    ours_error, naive_error = np.abs(ours - y), np.abs(theirs - y)
    return {
        "test_rows": len(y),
        "forecast_mae": round(float(ours_error.mean()), 4),
        "naive_mae": round(float(naive_error.mean()), 4),
        "forecast_wape": round(float(ours_error.sum()) / total, 4),
        "naive_wape": round(float(naive_error.sum()) / total, 4),
        "winner": "forecast" if ours_error.mean() < naive_error.mean() else "naive",
        "by_day": by_day(at, {"truth": y, "forecast": ours, "naive": theirs}, model.is_log),
    }


def by_day(
    times: np.ndarray, series: dict[str, np.ndarray], has_total: bool
) -> dict[str, Sequence[Any]]:
    """The total, or else the mean, of each day of the test split."""
    days, which = np.unique(
        times.astype("datetime64[us]").astype("datetime64[D]"), return_inverse=True
    )
    rows = 1 if has_total else np.bincount(which)
    told = {name: (np.bincount(which, v) / rows).round(1).tolist() for name, v in series.items()}
    return {"day": np.datetime_as_string(days, unit="D").tolist(), **told}


def model_key(train: Dataset) -> str:
    """Where the weights go in the lake: beside the datasets, by the dataset's fingerprint."""
    return f"models/{train.name}/{train.fingerprint}/model.pt"


def save(lake: Lake, train: Dataset, model: Forecast, report: dict[str, Any]) -> None:
    """Put the weights, then the report that says that they are there."""
    weights = io.BytesIO()
    torch.save({"state": model.state_dict(), "features": train.features}, weights)
    key = model_key(train)
    lake.objects.put(key, weights.getvalue())
    lake.objects.put(key.replace("model.pt", "report.json"), json.dumps(report).encode())


def report_to_dagster(report: dict[str, Any]) -> None:
    """Pass the report on to Dagster, which started this process."""
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        pipes.log.info(f"trained {report['epochs']} epochs; the {report['winner']} wins")
        pipes.report_custom_message(report)


if __name__ == "__main__":
    main()
