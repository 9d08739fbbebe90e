"""The lake as a Dagster resource."""

from __future__ import annotations

import os

import dagster as dg

from penstock import Lake
from penstock.lake import DEFAULT_URI


class LakeResource(dg.ConfigurableResource[Lake]):
    """Where the lake lies. Credentials come from the environment and are no part of this config."""

    uri: str = os.environ.get("PENSTOCK_LAKE", DEFAULT_URI)

    def open(self) -> Lake:
        """The lake."""
        return Lake(self.uri)
