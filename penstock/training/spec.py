"""What a training set is made of: a plain value."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.errors import FeatureError
from penstock.features import FeatureView
from penstock.labels import Outcome
from penstock.lake import checked_name
from penstock.training.split import TimeSplit


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """A spine of labelled rows, and the features joined to them as of each row's time.

    Raises
    ------
    FeatureError: two views have a feature of one name, or a view's entity isn't the labels'.
    """

    name: str
    """Of the dataset that it is published as."""
    labels: Outcome
    """Its rows are the spine."""
    views: tuple[FeatureView, ...]
    split: TimeSplit
    where: str = "true"
    """SQL over the joined columns: the rows that are kept."""
    description: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        checked_name(self.name)
        names = self.feature_names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise FeatureError(f"{self.name}: two views have a feature {', '.join(twice)}")
        for view in self.views:
            if missing := set(view.entity.keys) - set(self.labels.entity.keys):
                raise FeatureError(
                    f"{self.name}: {view.table} is keyed by {', '.join(sorted(missing))}, "
                    f"which {self.labels.table} lacks"
                )

    @property
    def table(self) -> str:
        """The table of frozen rows."""
        return f"{self.name}_training_set"

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns that tell rows of one time apart."""
        return self.labels.entity.keys

    @property
    def feature_names(self) -> list[str]:
        """Every feature, in the order of the views."""
        return [name for view in self.views for name in view.feature_names]
