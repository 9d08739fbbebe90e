"""Contracts held at the speed of a scan.

raw batch (text) ─▶ cast.py: typed values, and which did not cast
                 ─▶ compiled.py: expectations as polars expressions, all in one pass
                 ─▶ repeats.py: rows equal to an earlier one of their file
                 ─▶ splitting.py: accepted rows, rejected rows with every reason
                 ─▶ validation.py: commits both (destinations.py), or keeps why not (refusals.py);
                    replaying.py sends rejects through again
                 ─▶ results.py: counts, in the shape of Great Expectations' results

any table ─▶ checking.py: the same expectations over a frame, file or table as it is, by scans.py,
             with columns.py (whole columns; of long ones long.py), passing.py (repeats, order) and
             implied.py (expectations that follow from others)
training set ─▶ training_sets.py: what is suspicious about it, with near.py (near-duplicates)
          ─▶ profiling.py: what is in its columns ─▶ drifting.py: how far two profiles are apart
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.quality.checking import Report, check
    from penstock.quality.drifting import Drift, Limits, drift
    from penstock.quality.profiling import Profile, profile, profile_of
    from penstock.quality.refusals import Refusal, refused_batches
    from penstock.quality.replaying import Replay, replay
    from penstock.quality.training_sets import Finding, inspect
    from penstock.quality.validation import Validation, validate

_HOMES = {
    "Drift": "penstock.quality.drifting",
    "Finding": "penstock.quality.training_sets",
    "Limits": "penstock.quality.drifting",
    "Profile": "penstock.quality.profiling",
    "Refusal": "penstock.quality.refusals",
    "Replay": "penstock.quality.replaying",
    "Report": "penstock.quality.checking",
    "Validation": "penstock.quality.validation",
    "check": "penstock.quality.checking",
    "drift": "penstock.quality.drifting",
    "inspect": "penstock.quality.training_sets",
    "profile": "penstock.quality.profiling",
    "profile_of": "penstock.quality.profiling",
    "refused_batches": "penstock.quality.refusals",
    "replay": "penstock.quality.replaying",
    "validate": "penstock.quality.validation",
}

__all__ = [
    "Drift",
    "Finding",
    "Limits",
    "Profile",
    "Refusal",
    "Replay",
    "Report",
    "Validation",
    "check",
    "drift",
    "inspect",
    "profile",
    "profile_of",
    "refused_batches",
    "replay",
    "validate",
]


def __getattr__(name: str) -> Any:
    """A public name, loaded when first used: a check needs none of what ingest does."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
