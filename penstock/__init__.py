"""Penstock: a feature lake engine for people who train models.

Public names are loaded when first used, so that `import penstock` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from penstock._version import __version__ as __version__

if TYPE_CHECKING:
    from penstock.contracts import Column, Contract
    from penstock.errors import PenstockError
    from penstock.features import Entity, FeatureView
    from penstock.feed import (
        CacheOptions,
        Dataset,
        FetchOptions,
        MemoryOptions,
        Mixture,
        interleave,
        load_dataset,
    )
    from penstock.ingest import Source
    from penstock.labels import Outcome
    from penstock.lake import Lake
    from penstock.quality import validate
    from penstock.tables import Table
    from penstock.training import TimeSplit, TrainingSet, freeze, publish

_HOMES = {
    "CacheOptions": "penstock.feed",
    "Column": "penstock.contracts",
    "Contract": "penstock.contracts",
    "Dataset": "penstock.feed",
    "Entity": "penstock.features",
    "FeatureView": "penstock.features",
    "FetchOptions": "penstock.feed",
    "Lake": "penstock.lake",
    "MemoryOptions": "penstock.feed",
    "Mixture": "penstock.feed",
    "Outcome": "penstock.labels",
    "PenstockError": "penstock.errors",
    "Source": "penstock.ingest",
    "Table": "penstock.tables",
    "TimeSplit": "penstock.training",
    "TrainingSet": "penstock.training",
    "freeze": "penstock.training",
    "interleave": "penstock.feed",
    "load_dataset": "penstock.feed",
    "publish": "penstock.training",
    "validate": "penstock.quality",
}

__all__ = [
    "CacheOptions",
    "Column",
    "Contract",
    "Dataset",
    "Entity",
    "FeatureView",
    "FetchOptions",
    "Lake",
    "MemoryOptions",
    "Mixture",
    "Outcome",
    "PenstockError",
    "Source",
    "Table",
    "TimeSplit",
    "TrainingSet",
    "__version__",
    "freeze",
    "interleave",
    "load_dataset",
    "publish",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
