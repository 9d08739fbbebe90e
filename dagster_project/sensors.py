"""Sensors: new files start an ingest; days that it touched are recomputed."""

# No `from __future__ import annotations` here: Dagster reads the annotations as types.

from collections.abc import Iterator, Sequence
from datetime import date, timedelta

import dagster as dg
import xxhash
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.factory import Domain
from assets.lake import LakeResource
from dagster_project.jobs import daily_job_name, ingest_job_name
from penstock import Lake
from penstock.errors import SourceError
from penstock.features import DailyTable, stale_days
from penstock.ingest import waiting_files
from penstock.tables import Table

_RANGE_START = "dagster/asset_partition_range_start"
_RANGE_END = "dagster/asset_partition_range_end"
_BUSY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def new_files_sensor(domain: Domain) -> dg.SensorDefinition:
    """Starts the ingest when the source has files that the ledger doesn't.

    One run at a time; the cursor is a digest of the files found, so that a batch that failed is
    not started again until the source changes (the run's own retries are for that).
    """

    @dg.sensor(
        name=f"{domain.name}_new_files",
        job_name=ingest_job_name(domain),
        minimum_interval_seconds=30,
        description=f"New or changed files in {domain.source.uri}",
    )
    def sensor(
        context: dg.SensorEvaluationContext, lake: LakeResource
    ) -> dg.RunRequest | dg.SkipReason:
        if busy := _busy(context, ingest_job_name(domain)):
            return busy
        try:
            found = waiting_files(lake.open(), domain.source)
        except SourceError as error:
            return dg.SkipReason(str(error))
        if found.is_empty():
            return dg.SkipReason("no new file")
        states = found.select("path", "size_bytes", "tag").write_csv()
        digest = xxhash.xxh3_64_hexdigest(states.encode())
        if digest == context.cursor:
            return dg.SkipReason(f"{len(found)} files were asked for already")
        context.update_cursor(digest)
        return dg.RunRequest(run_key=digest, tags={"penstock/files": str(len(found))})

    return sensor


def stale_days_sensor(
    domain: Domain, jobs: Sequence[UnresolvedAssetJobDefinition]
) -> dg.SensorDefinition:
    """Recomputes the days of feature and label tables that new or late rows touched.

    Automation by upstream updates alone would recompute every day: the tables that days are
    computed from have no partitions. Which days are stale is in the tables' logs.

    Parameters
    ----------
    jobs: those that recompute days, one a table.
    """

    @dg.sensor(
        name=f"{domain.name}_stale_days",
        jobs=jobs,
        minimum_interval_seconds=30,
        description="Days of feature and label tables that are missing or out of date",
    )
    def sensor(
        context: dg.SensorEvaluationContext, lake: LakeResource
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        opened, asked = lake.open(), 0
        for daily in domain.daily_tables:
            name = daily_job_name(daily)
            if _busy(context, name):
                continue
            known = set(domain.partitions(daily).get_partition_keys())
            for tags in stale_ranges(opened, daily):
                asked += 1
                if not known.issuperset(tags.values()):
                    yield dg.SkipReason(
                        f"{daily.table}: {' to '.join(tags.values())} lies outside the partitions "
                        "that were loaded; reload the definitions"
                    )
                    continue
                yield dg.RunRequest(run_key=_state(opened, daily), job_name=name, tags=tags)
                break  # a range at a time: runs on one table would refuse each other's commits
        if not asked:
            yield dg.SkipReason("no day is stale, or a run is at it")

    return sensor


def stale_ranges(lake: Lake, daily: DailyTable) -> list[dict[str, str]]:
    """Run tags for each unbroken range of stale days."""
    return [
        {_RANGE_START: first.isoformat(), _RANGE_END: last.isoformat()}
        for first, last in _ranges(stale_days(lake, daily))
    ]


def _state(lake: Lake, daily: DailyTable) -> str:
    """Names what a run would start from, so that the same is not asked for twice."""
    source = Table(lake, daily.source).snapshot()
    table = Table(lake, daily.table).snapshot_or_none()
    version = -1 if table is None else table.version
    return f"{daily.table}@{version} from {source.id}@{source.version} {daily.fingerprint()}"


def _ranges(days: Sequence[date]) -> list[tuple[date, date]]:
    ranges: list[tuple[date, date]] = []
    for day in days:
        if ranges and day - ranges[-1][1] == timedelta(days=1):
            ranges[-1] = (ranges[-1][0], day)
        else:
            ranges.append((day, day))
    return ranges


def _busy(context: dg.SensorEvaluationContext, job: str) -> dg.SkipReason | None:
    """A reason to wait, when a run of the job is under way."""
    runs = context.instance.get_runs(dg.RunsFilter(job_name=job, statuses=_BUSY), limit=1)
    return dg.SkipReason(f"run {runs[0].run_id[:8]} of {job} is under way") if runs else None
