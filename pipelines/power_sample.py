"""A generated sample of hourly loads of two transformers: seasons, weather, work and noise."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

HOURS = 24 * 400
_FIRST = datetime(2016, 7, 1)
_NAMES = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL")
_SCALE = (10.0, 2.0, 7.0, 1.0, 3.0, 0.8)


def write_sample(folder: Path, *, hours: int = HOURS, seed: int = 7) -> list[Path]:
    """Write a CSV a transformer into `folder`; the same seed writes the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    files: list[Path] = []
    for name, warmth in (("transformer-1", 0.0), ("transformer-2", 6.0)):
        path = folder / f"{name}.csv"
        _hours(random, hours, warmth).write_csv(path, datetime_format="%Y-%m-%d %H:%M:%S")
        files.append(path)
    return files


def _hours(random: np.random.Generator, hours: int, warmth: float) -> pl.DataFrame:
    hour = np.arange(hours)
    day, year = 2 * np.pi * hour / 24, 2 * np.pi * hour / (24 * 365)
    is_work = ((hour // 24) % 7 < 5).astype(float)
    weather = _wandering(random, hours, 0.995, 0.25)
    demand = 1 + 0.35 * np.sin(day - 1.8) + 0.25 * is_work + 0.04 * weather
    loads = {
        name: np.round(scale * demand + random.normal(0, 0.08 * scale, hours), 3)
        for name, scale in zip(_NAMES, _SCALE, strict=True)
    }
    # Oil follows the weather at once and the load by some hours.
    heat = np.convolve(demand, np.exp(-np.arange(48) / 8) / 8)[:hours]
    oil = 14 + warmth + 9 * np.cos(year) + 2.2 * weather + 7 * heat + random.normal(0, 0.4, hours)
    dates = np.datetime64(_FIRST, "us") + hour.astype("timedelta64[h]")
    return pl.DataFrame({"date": dates, **loads, "OT": np.round(oil, 3)})


def _wandering(random: np.random.Generator, steps: int, keeps: float, by: float) -> np.ndarray:
    """A walk that is drawn back to zero: the sum of past steps, each fading."""
    fading = keeps ** np.arange(2000)
    return np.convolve(random.normal(0, by, steps + 2000), fading)[2000 : 2000 + steps]
