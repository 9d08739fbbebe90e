"""Everything that Dagster loads, gathered: each module in `assets/` that defines a `DOMAIN`."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import dagster as dg

import assets
from assets.factory import Domain
from assets.lake import LakeResource
from dagster_project.hooks import failure_webhook
from dagster_project.jobs import daily_jobs, ingest_job, publish_job, refresh_job, upkeep_job
from dagster_project.schedules import (
    ingest_schedule,
    publish_schedule,
    refresh_schedule,
    upkeep_schedule,
)
from dagster_project.sensors import new_files_sensor, stale_days_sensor


def domain_modules() -> list[ModuleType]:
    """The modules of `assets/` that define a domain, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(assets.__path__))
    modules = [importlib.import_module(f"assets.{name}") for name in names]
    return [module for module in modules if hasattr(module, "DOMAIN")]


_MODULES = domain_modules()
DOMAINS: list[Domain] = [module.DOMAIN for module in _MODULES]
ASSETS: list[dg.AssetsDefinition] = [asset for module in _MODULES for asset in module.ASSETS]
_DAILY_JOBS = {domain.name: daily_jobs(domain) for domain in DOMAINS}

defs = dg.Definitions(
    assets=ASSETS,
    jobs=[
        *(ingest_job(domain) for domain in DOMAINS),
        *(job for jobs in _DAILY_JOBS.values() for job in jobs),
        *(publish_job(domain) for domain in DOMAINS if domain.training_sets),
        *(refresh_job(domain) for domain in DOMAINS if domain.served),
        upkeep_job(),
    ],
    sensors=[
        *(new_files_sensor(domain) for domain in DOMAINS),
        *(
            stale_days_sensor(domain, _DAILY_JOBS[domain.name])
            for domain in DOMAINS
            if domain.daily_tables
        ),
        failure_webhook,
    ],
    schedules=[
        *(ingest_schedule(domain) for domain in DOMAINS),
        *(publish_schedule(domain) for domain in DOMAINS if domain.training_sets),
        *(refresh_schedule(domain) for domain in DOMAINS if domain.served),
        upkeep_schedule(),
    ],
    resources={"lake": LakeResource(), "pipes": dg.PipesSubprocessClient()},
    # A step in a process of its own costs about 5 s; deployments whose steps are long choose that.
    executor=dg.in_process_executor,
)
