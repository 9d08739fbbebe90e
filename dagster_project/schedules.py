"""Schedules: when datasets are published, and tables tended to."""

from __future__ import annotations

import dagster as dg

from assets.factory import Domain
from dagster_project.jobs import (
    UPKEEP_JOB_NAME,
    ingest_job_name,
    publish_job_name,
    refresh_job_name,
)


def publish_schedule(domain: Domain) -> dg.ScheduleDefinition:
    """Every morning: freeze, publish, train. With nothing new it writes nothing."""
    return dg.ScheduleDefinition(
        name=f"{domain.name}_publish_daily",
        job_name=publish_job_name(domain),
        cron_schedule="0 5 * * *",
        execution_timezone="UTC",
        description="Publish what the day before brought",
    )


def refresh_schedule(domain: Domain) -> dg.ScheduleDefinition:
    """Every hour: the current values that are served."""
    return dg.ScheduleDefinition(
        name=f"{domain.name}_refresh_hourly",
        job_name=refresh_job_name(domain),
        cron_schedule="30 * * * *",
        execution_timezone="UTC",
        description="Work out the current values that `latest` serves",
    )


def ingest_schedule(domain: Domain) -> dg.ScheduleDefinition:
    """Every night: look at the whole source, and read again what could not be read.

    For what a sensor may miss: files of which no message came, or that came later than a lookback.
    """
    asset = domain.source.table.replace("/", "__")
    return dg.ScheduleDefinition(
        name=f"{domain.name}_ingest_nightly",
        job_name=ingest_job_name(domain),
        cron_schedule="0 1 * * *",
        execution_timezone="UTC",
        run_config={"ops": {asset: {"config": {"full": True, "retry": True}}}},
        description=f"All of {domain.source.uri}, and what could not be read before",
    )


def upkeep_schedule() -> dg.ScheduleDefinition:
    """Every night: compact what has many small files, vacuum what nobody needs."""
    return dg.ScheduleDefinition(
        name="upkeep_nightly",
        job_name=UPKEEP_JOB_NAME,
        cron_schedule="0 2 * * *",
        execution_timezone="UTC",
        description="Compact and vacuum the lake's tables",
    )
