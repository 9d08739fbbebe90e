"""Mean, standard deviation, range and nulls of each feature, over a stream of matrices.

Batches are merged by Chan, Golub and LeVeque's update (1979), which loses no precision to large
means as a running sum of squares does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.shards.packing import as_floats


class FeatureStatistics:
    """Statistics of the columns of the matrices added; NaN counts as null."""

    def __init__(self, names: tuple[str, ...]) -> None:
        width = len(names)
        self._names = names
        self._count = np.zeros(width, np.int64)
        self._nulls = np.zeros(width, np.int64)
        self._mean = np.zeros(width)
        self._squares = np.zeros(width)
        self._low = np.full(width, np.inf)
        self._high = np.full(width, -np.inf)

    def add(self, matrix: NDArray[np.float32]) -> None:
        """Count the rows of a (rows, features) matrix in."""
        values = matrix.astype(np.float64)
        known = ~np.isnan(values)
        count = known.sum(axis=0)
        self._nulls += len(values) - count
        filled = np.where(known, values, 0.0)
        mean = filled.sum(axis=0) / np.maximum(count, 1)
        squares = (np.where(known, values - mean, 0.0) ** 2).sum(axis=0)
        total = self._count + count
        delta = mean - self._mean
        weight = count / np.maximum(total, 1)
        self._mean += delta * weight
        self._squares += squares + delta**2 * self._count * weight
        self._count = total
        self._low = np.minimum(
            self._low, np.where(known, values, np.inf).min(axis=0, initial=np.inf)
        )
        self._high = np.maximum(
            self._high, np.where(known, values, -np.inf).max(axis=0, initial=-np.inf)
        )

    def to_json(self) -> dict[str, Any]:
        """A list a statistic, in the order of the features; null where there is no value."""
        has_any = self._count > 0
        std = np.sqrt(self._squares / np.maximum(self._count, 1))
        return {
            "names": list(self._names),
            "count": self._count.tolist(),
            "nulls": self._nulls.tolist(),
            "mean": as_floats(np.where(has_any, self._mean, np.nan).tolist()),
            "std": as_floats(np.where(has_any, std, np.nan).tolist()),
            "min": as_floats(np.where(has_any, self._low, np.nan).tolist()),
            "max": as_floats(np.where(has_any, self._high, np.nan).tolist()),
        }
