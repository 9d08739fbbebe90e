"""The jobs of a domain: ingest what is new, recompute days, publish and train."""

# No `from __future__ import annotations` here: Dagster reads the annotations as types.

from dataclasses import asdict

import dagster as dg
import polars as pl
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.factory import Domain, current_key, key
from assets.lake import LakeResource
from assets.metadata import markdown
from penstock.features import DailyTable
from penstock.quality.destinations import rejects_name
from penstock.upkeep import tend


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


def refresh_job_name(domain: Domain) -> str:
    """The job that works out current values."""
    return f"{domain.name}_refresh"


def refresh_job(domain: Domain) -> UnresolvedAssetJobDefinition:
    """Current values of the views that are served."""
    return dg.define_asset_job(
        refresh_job_name(domain),
        selection=dg.AssetSelection.assets(*(current_key(view) for view in domain.served)),
        description="Work out the current values that `latest` serves",
    )


def publish_job(domain: Domain) -> UnresolvedAssetJobDefinition:
    """Training sets, datasets and models."""
    return dg.define_asset_job(
        publish_job_name(domain),
        selection=published_selection(domain),
        description="Freeze the training sets, publish their datasets, train",
    )


UPKEEP_JOB_NAME = "upkeep"


def upkeep_job() -> dg.JobDefinition:
    """Compaction and vacuum of every table, each told in bytes and files."""

    @dg.op(description="Compact tables with many small files, and vacuum all")
    def tend_tables(context: dg.OpExecutionContext, lake: LakeResource) -> None:
        rows = [asdict(done) for done in tend(lake.open())]
        for row in rows:
            context.log.info("%s", row)
        total = {
            name: sum(row[name] for row in rows)
            for name in ("files_before", "files_after", "files_deleted", "bytes_deleted")
        }
        shown = dg.MetadataValue.md(markdown(pl.DataFrame(rows)) if rows else "_no table_")
        context.add_output_metadata({**total, "tables": shown})

    @dg.job(name=UPKEEP_JOB_NAME, description="Compact and vacuum the lake's tables")
    def upkeep() -> None:
        tend_tables()

    return upkeep


def incoming_keys(domain: Domain) -> list[dg.AssetKey]:
    """The assets that new files go through first."""
    table = domain.source.contract.table
    return [key(domain.source.table), key(table), key(rejects_name(table))]


def published_selection(domain: Domain) -> dg.AssetSelection:
    """Training sets and all that is downstream of them."""
    frozen = [key(spec.table) for spec in domain.training_sets]
    return dg.AssetSelection.assets(*frozen).downstream()
