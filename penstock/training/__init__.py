"""Training sets: what they are made of, pinned, split, and published.

spec.py        TrainingSet: spine, labels, views, split, filter, sample, weight
split.py       which split a row is in: by time, by a group's hash, or as a column says
freezing.py    inputs at pinned versions, rows as of their time; rebuilding an older one
comparing.py   what differs between two freezes
publishing.py  frozen rows as Arrow shards
"""

from penstock.training.comparing import TrainingSetDiff, diff, freezes
from penstock.training.freezing import Frozen, freeze, rebuild
from penstock.training.publishing import Published, publish
from penstock.training.spec import Sample, Spine, TrainingSet
from penstock.training.split import ColumnSplit, GroupSplit, TimeCuts, TimeSplit

__all__ = [
    "ColumnSplit",
    "Frozen",
    "GroupSplit",
    "Published",
    "Sample",
    "Spine",
    "TimeCuts",
    "TimeSplit",
    "TrainingSet",
    "TrainingSetDiff",
    "diff",
    "freeze",
    "freezes",
    "publish",
    "rebuild",
]
