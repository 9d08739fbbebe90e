"""Schedules: when datasets are published, and tables tended to."""

from __future__ import annotations

import dagster as dg

from assets.factory import Domain
from dagster_project.jobs import UPKEEP_JOB_NAME, publish_job_name


def publish_schedule(domain: Domain) -> dg.ScheduleDefinition:
    """Every morning: freeze, publish, train. With nothing new it writes nothing."""
    return dg.ScheduleDefinition(
        name=f"{domain.name}_publish_daily",
        job_name=publish_job_name(domain),
        cron_schedule="0 5 * * *",
        execution_timezone="UTC",
        description="Publish what the day before brought",
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
