"""Splits by time: train before validation before test, with an embargo between them.

Cuts are moments, made from the shares once, when a training set is first frozen, and kept in the
lake. Later rows fall after them, so that none ever moves from one split to another.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import xxhash

from penstock.errors import FeatureError
from penstock.lake import Lake

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """Shares of the time that the rows span, the newest for test.

    The embargo between two splits is the label's horizon: rows of the earlier one whose labels
    reach past the cut belong to none.
    """

    test: float
    validation: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.test < 1 and 0 <= self.validation < 1 - self.test):
            raise FeatureError(
                f"test ({self.test}) and validation ({self.validation}) must leave some for train"
            )


@dataclass(frozen=True, slots=True)
class TimeCuts:
    """The moments between splits, in microseconds (UTC)."""

    validation_from_us: int
    test_from_us: int
    embargo_us: int

    def sql(self, time: str) -> str:
        """SQL for the split of a row; null where it belongs to none."""
        t = f'epoch_us("{time}")'
        return (
            f"CASE WHEN {t} >= {self.test_from_us} THEN 'test' "
            f"WHEN {t} > {self.test_from_us - self.embargo_us} THEN NULL "
            f"WHEN {t} >= {self.validation_from_us} THEN 'validation' "
            f"WHEN {t} > {self.validation_from_us - self.embargo_us} THEN NULL ELSE 'train' END"
        )

    def describe(self) -> str:
        """For a reader: where test begins."""
        begins = datetime.fromtimestamp(self.test_from_us / 1e6, UTC)
        return f"test from {begins:%Y-%m-%d}, embargo {self.embargo_us // 86_400_000_000} d"


def found_cuts(
    lake: Lake, name: str, split: TimeSplit, embargo_us: int, first_us: int, last_us: int
) -> TimeCuts:
    """The cuts of a training set: those kept in the lake, else made now from the shares.

    Parameters
    ----------
    first_us, last_us: the first and last row's time, both included.
    """
    key = _key(name, split, embargo_us)
    if (found := lake.objects.get_or_none(key)) is not None:
        return TimeCuts(**json.loads(found))
    span = last_us - first_us
    test_from = first_us + round(span * (1 - split.test))
    validation_from = first_us + round(span * (1 - split.test - split.validation))
    if not split.validation:
        validation_from = test_from
    return TimeCuts(validation_from, test_from, embargo_us)


def keep_cuts(lake: Lake, name: str, split: TimeSplit, cuts: TimeCuts) -> TimeCuts:
    """Keep the cuts of a training set that has rows to train on; those that count from now on.

    They are others than those given when another run kept its own first.
    """
    key = _key(name, split, cuts.embargo_us)
    if lake.objects.put_if_absent(key, json.dumps(asdict(cuts)).encode()):
        return cuts
    return TimeCuts(**json.loads(lake.objects.get(key)))


def _key(name: str, split: TimeSplit, embargo_us: int) -> str:
    policy = xxhash.xxh3_64_hexdigest(json.dumps([asdict(split), embargo_us]).encode())
    return f"training/{name}/cuts-{policy}.json"
