"""The jobs of a domain: ingest what is new, recompute days, publish and train."""

from __future__ import annotations

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.factory import Domain, key
from penstock.features import DailyTable
from penstock.quality.validation import rejects_name


def ingest_job_name(domain: Domain) -> str:
    """The job that brings new files in and validates them."""
    return f"{domain.name}_ingest"


def daily_job_name(daily: DailyTable) -> str:
    """The job that recomputes days of one table."""
    return f"{daily.table.replace('/', '_')}_days"


def publish_job_name(domain: Domain) -> str:
    """The job that freezes, publishes and trains."""
    return f"{domain.name}_publish"


def ingest_job(domain: Domain) -> UnresolvedAssetJobDefinition:
    """New files: ingest and validate."""
    return dg.define_asset_job(
        ingest_job_name(domain),
        selection=dg.AssetSelection.assets(*incoming_keys(domain)),
        description=f"New files of {domain.source.uri}: ingest and validate",
    )


def daily_jobs(domain: Domain) -> list[UnresolvedAssetJobDefinition]:
    """Days of each feature and label table."""
    return [
        dg.define_asset_job(
            daily_job_name(daily),
            selection=dg.AssetSelection.assets(key(daily.table)),
            description=f"Days of {daily.table}",
        )
        for daily in domain.daily_tables
    ]


def publish_job(domain: Domain) -> UnresolvedAssetJobDefinition:
    """Training sets, datasets and models."""
    return dg.define_asset_job(
        publish_job_name(domain),
        selection=published_selection(domain),
        description="Freeze the training sets, publish their datasets, train",
    )


def incoming_keys(domain: Domain) -> list[dg.AssetKey]:
    """The assets that new files go through first."""
    table = domain.source.contract.table
    return [key(domain.source.table), key(table), key(rejects_name(table))]


def published_selection(domain: Domain) -> dg.AssetSelection:
    """Training sets and all that is downstream of them."""
    frozen = [key(spec.table) for spec in domain.training_sets]
    return dg.AssetSelection.assets(*frozen).downstream()
