"""Schedules: when datasets are published."""

from __future__ import annotations

import dagster as dg

from assets.factory import Domain
from dagster_project.jobs import publish_job_name


def publish_schedule(domain: Domain) -> dg.ScheduleDefinition:
    """Every morning: freeze, publish, train. With nothing new it writes nothing."""
    return dg.ScheduleDefinition(
        name=f"{domain.name}_publish_daily",
        job_name=publish_job_name(domain),
        cron_schedule="0 5 * * *",
        execution_timezone="UTC",
        description="Publish what the day before brought",
    )
