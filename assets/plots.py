"""Pictures for the Dagster UI, as Markdown with the image in it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

_TEAL, _ORANGE, _GREY = "#0f7b8a", "#d9822b", "#8a9ba8"


def bars(counts: Mapping[str, int], title: str) -> str:
    """A bar for each name, the largest on top."""
    ordered = sorted(counts.items(), key=lambda item: item[1])
    figure = Figure(figsize=(7, 0.8 + 0.4 * max(1, len(ordered))), layout="constrained")
    axes = figure.subplots()
    drawn = axes.barh([name for name, _ in ordered], [n for _, n in ordered], color=_TEAL)
    axes.bar_label(drawn, labels=[f"{n:,}" for _, n in ordered], padding=3, fontsize=8)
    axes.margins(x=0.12)
    return _markdown(figure, axes, title)


def forecast_against_truth(by_day: Mapping[str, Sequence[Any]], title: str, what: str) -> str:
    """What came, what was forecast and the naive forecast, for each day of the test split."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    days = by_day["day"]
    axes.plot(days, by_day["truth"], color="black", label="truth")
    axes.plot(days, by_day["forecast"], color=_TEAL, label="forecast")
    axes.plot(days, by_day["naive"], color=_ORANGE, linestyle="--", label="naive")
    axes.set_xticks(days[:: max(1, len(days) // 6)])
    if min(by_day["truth"], default=0) >= 0:
        axes.set_ylim(bottom=0)
    axes.set_ylabel(what, fontsize=8)
    axes.legend(frameon=False, fontsize=8)
    return _markdown(figure, axes, title)


def _markdown(figure: Figure, axes: Any, title: str) -> str:
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, color=_GREY)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=90)
    encoded = base64.b64encode(image.getvalue()).decode()
    return f"![{title}](data:image/png;base64,{encoded})"
