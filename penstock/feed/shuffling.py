"""How good a shuffle is, measured on an epoch's order: a few numbers and a plot."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import MissingExtra
from penstock.feed.order import Order
from penstock.feed.source import BlockSource

_SAMPLED_POSITIONS = 200_000
_SAMPLED_STEPS = 64


@dataclass(frozen=True, slots=True)
class ShuffleQuality:
    """An epoch's order against a perfect shuffle's.

    A perfect shuffle has a correlation of 0 +- 1/sqrt(samples), a spread of 1, and draws a batch
    from nearly as many blocks as `perfect_blocks_a_batch` says.
    """

    correlation: float
    """Pearson's, of a sample's stored position with its position in the epoch; 1 if in order."""
    spread: float
    """Mean distance between stored positions of samples that follow one another, as a share of a
    perfect shuffle's (a third of all samples)."""
    blocks_a_batch: float
    """Distinct blocks that a batch draws from, on average."""
    perfect_blocks_a_batch: float
    """What a perfect shuffle would draw from."""
    shards_a_batch: float
    positions: NDArray[np.int64]
    """(n,) positions in the epoch that were looked at."""
    stored: NDArray[np.int64]
    """(n,) where the samples at these positions are stored."""

    def __str__(self) -> str:
        return (
            f"correlation with the stored order  {self.correlation:+.4f} (perfect: 0)\n"
            f"distance between neighbours        {self.spread:.3f} of a perfect shuffle's\n"
            f"blocks a batch draws from          {self.blocks_a_batch:,.1f} "
            f"(perfect: {self.perfect_blocks_a_batch:,.1f})\n"
            f"shards a batch draws from          {self.shards_a_batch:,.1f}"
        )

    __repr__ = __str__

    def plot(self) -> Any:
        """A matplotlib figure: stored position over position in the epoch; perfect is even grey.

        Raises
        ------
        MissingExtra: matplotlib is not installed.
        """
        try:
            figure_module = importlib.import_module("matplotlib.figure")
        except ImportError as error:
            raise MissingExtra("matplotlib", "plots") from error
        figure = figure_module.Figure(figsize=(6, 5), layout="constrained")
        axes = figure.subplots()
        axes.hist2d(self.positions, self.stored, bins=100, cmap="Greys", cmin=1)
        axes.set(xlabel="position in the epoch", ylabel="position as stored")
        axes.set_title(
            f"correlation {self.correlation:+.3f}, {self.blocks_a_batch:.0f} of "
            f"{self.perfect_blocks_a_batch:.0f} blocks a batch"
        )
        return figure


def shuffle_quality(order: Order, source: BlockSource) -> ShuffleQuality:
    """Measured on up to 200,000 positions and 64 batches, evenly over the epoch."""
    rows = max(1, order.rows)
    positions = np.unique(np.linspace(0, rows - 1, min(rows, _SAMPLED_POSITIONS)).astype(np.int64))
    # Neighbours are looked at in pairs: each position and the one after it.
    stored = order.rows_of(positions)
    after = order.rows_of(np.minimum(positions + 1, rows - 1))
    distance = float(np.abs(after - stored).mean()) if rows > 1 else 0.0
    ends = np.cumsum(order.block_rows)
    files = source.file_of
    blocks, shards, sizes = list[int](), list[int](), list[int]()
    for step in np.unique(np.linspace(0, order.steps - 1, _SAMPLED_STEPS).astype(int)).tolist():
        drawn = np.unique(np.searchsorted(ends, order.rows_at(step), side="right"))
        blocks.append(len(drawn))
        shards.append(len(np.unique(files[drawn])))
        sizes.append(min(order.global_batch, rows))
    share = order.block_rows / max(1, order.total)
    perfect = float((1 - (1 - share) ** float(np.mean(sizes))).sum())
    has_spread = len(positions) > 1 and float(stored.std()) > 0
    return ShuffleQuality(
        correlation=float(np.corrcoef(positions, stored)[0, 1]) if has_spread else 0.0,
        spread=distance / (order.total / 3) if order.total else 0.0,
        blocks_a_batch=float(np.mean(blocks)),
        perfect_blocks_a_batch=perfect,
        shards_a_batch=float(np.mean(shards)),
        positions=positions,
        stored=stored,
    )
