"""Training sets: a spec, frozen to pinned table versions, published as a dataset.

spec.py         TrainingSet: labels (the spine), views, split
split.py        rows to splits by time, with an embargo; the cut stays where it was first made
freezing.py     pin versions, join, write the frozen table
publishing.py   the frozen table as Arrow shards, with statistics from the train split
"""

from penstock.training.freezing import Frozen, freeze
from penstock.training.publishing import Published, publish
from penstock.training.spec import TrainingSet
from penstock.training.split import TimeCuts, TimeSplit

__all__ = ["Frozen", "Published", "TimeCuts", "TimeSplit", "TrainingSet", "freeze", "publish"]
