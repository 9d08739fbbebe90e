"""One factory turns a domain's values into Dagster assets, so that all have the same care.

    bronze ─▶ table + rejected rows ─▶ feature tables ─┐
                    ├────────────────▶ label tables ───┴▶ training set ─▶ dataset
                    └────────────────▶ current values

Asset keys are table names. Bronze and validated tables are incremental and have no partitions;
feature and label tables have a partition a day, and one run does any range of them.
"""

# No `from __future__ import annotations` here: Dagster reads the annotations as types.

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from assets.lake import LakeResource
from assets.metadata import column_schema, counts_markdown, table_metadata
from assets.partitions import daily_partitions
from assets.plots import bars
from penstock import Lake
from penstock.catalogue import catalogue
from penstock.contracts import Contract
from penstock.contracts.beyond import seconds
from penstock.errors import BatchRefused, SourceError
from penstock.features import DailyTable, FeatureView, materialize, refresh
from penstock.ingest import Source, ingest
from penstock.ingest.ledger import read_ledger, unread_files
from penstock.labels import Outcome
from penstock.project import Project
from penstock.quality import Profile, drift, validate
from penstock.quality.destinations import rejects_name
from penstock.quality.profiling import batch_profiles
from penstock.quality.proving import prove_contract
from penstock.quality.results import Result, explain
from penstock.storage.listing import without_credentials
from penstock.tables import Table
from penstock.training import TrainingSet, freeze, publish


@dataclass(frozen=True)
class Domain:
    """Everything of a domain that becomes an asset."""

    name: str
    source: Source
    first_day: str
    """Of the daily partitions, `YYYY-MM-DD`."""
    last_day: date | None = None
    """Of the source's data; None while new days keep coming."""
    views: Sequence[FeatureView] = ()
    labels: Sequence[Outcome] = ()
    training_sets: Sequence[TrainingSet] = ()
    served: Sequence[FeatureView] = ()
    """Views whose current values are kept for `latest`."""

    @property
    def daily_tables(self) -> list[DailyTable]:
        """Feature and label tables, as they are computed a day at a time."""
        return [definition.daily() for definition in (*self.views, *self.labels)]

    def partitions(self, daily: DailyTable) -> dg.DailyPartitionsDefinition:
        """A partition for each day that can be computed."""
        return daily_partitions(self.first_day, self.last_day, daily.lookahead_days)


def key(name: str) -> dg.AssetKey:
    """The asset key of a table or dataset: its name's path."""
    return dg.AssetKey(name.split("/"))


def domain_assets(domain: Domain) -> list[dg.AssetsDefinition]:
    """The assets of a domain."""
    return [
        _bronze(domain),
        _validated(domain),
        *(_daily(domain, view, {"features"}) for view in domain.views),
        *(_daily(domain, label, {"labels"}) for label in domain.labels),
        *(_current(domain, view) for view in domain.served),
        *(asset for spec in domain.training_sets for asset in _training_set(domain, spec)),
    ]


class IngestConfig(dg.Config):
    """How a run brings files in."""

    full: bool = False
    """List the whole folder, though the source has a lookback or notifications."""
    retry: bool = False
    """Read files again that could not be read before."""


def _bronze(domain: Domain) -> dg.AssetsDefinition:
    source = domain.source
    uri = without_credentials(source.uri)

    @dg.asset(
        key=key(source.table),
        group_name=domain.name,
        description=f"Rows of the files in `{uri}` as they came, each file's exactly once.",
        kinds={"deltalake", "bronze"},
        owners=_owners(source.contract.owner),
        tags={"layer": "bronze"},
        metadata={"source": uri},
        retry_policy=dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL),
        check_specs=[
            dg.AssetCheckSpec(
                "every_file_was_read",
                asset=key(source.table),
                description="No file is damaged, empty or without a column that it needs.",
            )
        ],
    )
    def bronze(
        context: dg.AssetExecutionContext, config: IngestConfig, lake: LakeResource
    ) -> dg.MaterializeResult:
        started, opened = time.perf_counter(), lake.open()
        try:
            report = ingest(opened, source, full=config.full, retry=config.retry)
        except SourceError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        if report.version is None:
            raise dg.Failure(f"{uri} holds no file to read yet", allow_retries=False)
        context.log.info(
            "%d files, %d rows, %d failed",
            report.files_loaded,
            report.rows_read,
            len(report.failed),
        )
        snapshot = Table(opened, source.table).snapshot()
        seconds = time.perf_counter() - started
        counts = {
            "rows_in": report.rows_read,
            "rows_rescued": report.rows_rescued,
            "files": report.files_loaded,
            "source_bytes": report.bytes_read,
            "files_unchanged": report.files_unchanged,
            "files_removed": report.files_removed,
            "files_failed": len(report.failed),
            **{f"seconds_{stage}": spent for stage, spent in report.seconds.items()},
        }
        if report.lag_seconds is not None:
            counts["lag_seconds"] = round(report.lag_seconds, 1)
        return dg.MaterializeResult(
            metadata=table_metadata(snapshot, seconds=seconds, **counts),
            check_results=[_files_check(unread_files(read_ledger(opened, source)))],
        )

    return bronze


def _files_check(unread: dict[str, str]) -> dg.AssetCheckResult:
    failed = "\n".join(f"- {error}" for error in unread.values()) or "none"
    return dg.AssetCheckResult(
        check_name="every_file_was_read",
        passed=not unread,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(unread)} files could not be read" if unread else None,
        metadata={"failed": dg.MetadataValue.md(failed)},
    )


def _validated(domain: Domain) -> dg.AssetsDefinition:
    source, contract = domain.source, domain.source.contract
    prove_contract(contract)  # what can't be asked is told as the code is loaded, not at night
    table, rejects = contract.table, rejects_name(contract.table)
    common: dict[str, Any] = {
        "deps": [key(source.table)],
        "group_name": domain.name,
        "owners": _owners(contract.owner),
        "code_version": contract.fingerprint(),
        "automation_condition": dg.AutomationCondition.eager(),
        "tags": {"layer": "silver"},
    }

    @dg.multi_asset(
        name=table.replace("/", "__"),
        specs=[
            dg.AssetSpec(
                key(table),
                description=contract.description,
                kinds={"deltalake", "silver"},
                metadata={"dagster/column_schema": column_schema(contract.arrow_schema())},
                freshness_policy=_freshness(contract),
                **common,
            ),
            dg.AssetSpec(
                key(rejects),
                description=f"Rows that broke `{table}`'s contract, as they came, with reasons.",
                kinds={"deltalake", "rejects"},
                **common,
            ),
        ],
        check_specs=[
            dg.AssetCheckSpec(
                expectation.name,
                asset=key(table),
                description=f"{expectation.describe()} ({expectation.severity})",
                blocking=expectation.severity == "fail",
            )
            for expectation in contract.all_expectations
        ],
    )
    def validated(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        started, opened = time.perf_counter(), lake.open()
        try:
            run = validate(opened, source)
        except BatchRefused as refused:
            yield from (_check(table, result) for result in refused.results)
            raise dg.Failure(str(refused), allow_retries=False) from refused
        context.log.info("%d accepted, %d rejected", run.rows_accepted, run.rows_rejected)
        seconds = time.perf_counter() - started
        counts = {
            "rows_in": run.rows_read,
            "accepted": run.rows_accepted,
            "rejected": run.rows_rejected,
        }
        good = Table(opened, table).snapshot()
        yield dg.MaterializeResult(
            asset_key=key(table),
            metadata=table_metadata(good, seconds=seconds, **counts)
            | _moved(batch_profiles(opened, table, 2)),
            check_results=[_check(table, result) for result in run.results],
        )
        bad = Table(opened, rejects).snapshot()
        yield dg.MaterializeResult(
            asset_key=key(rejects),
            metadata=table_metadata(bad, seconds=0.0, rows_in=run.rows_rejected)
            | _reasons(run.reasons),
        )

    return validated


def _freshness(contract: Contract) -> dg.FreshnessPolicy | None:
    """As often as the contract says the table is to be written to, also when nothing runs."""
    if not contract.freshness:
        return None
    allowed = timedelta(seconds=seconds(contract.freshness))
    return dg.FreshnessPolicy.time_window(fail_window=allowed)


def _check(table: str, result: Result) -> dg.AssetCheckResult:
    expectation = result.expectation
    is_error = expectation.severity == "fail"
    return dg.AssetCheckResult(
        asset_key=key(table),
        check_name=expectation.name,
        passed=result.success,
        severity=dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN,
        description=explain(table, result),
        metadata={
            "rows looked at": result.looked_at,
            "rows that break it": result.broken,
            "mostly": expectation.mostly,
            "severity": expectation.severity,
            **_found(result),
        },
    )


def _found(result: Result) -> dict[str, Any]:
    """What a column came to, or some of the values that break the expectation."""
    if result.holds is not None and not result.looked_at:
        return {"observed": json.dumps(result.to_json()["result"]["observed_value"])}
    counts = Counter(str(value) for value in result.examples)
    if not counts:
        return {}
    return {"examples": dg.MetadataValue.md(counts_markdown(counts, "value"))}


def _moved(profiles: Sequence[Profile]) -> dict[str, Any]:
    """The newest batch's columns beside the one's before it, those that moved first."""
    if len(profiles) < 2 or not all(each.rows for each in profiles):
        return {}
    before, after = profiles
    found = drift(before, after)
    head = "| column | moved | PSI | nulls | middle |\n|---|---|---|---|---|\n"
    rows = "\n".join(
        f"| {each.column} | {'yes' if each.has_drifted else ''} | {each.psi:.3f} "
        f"| {each.nulls[0]:.1%} to {each.nulls[1]:.1%} | {each.middle[0]} to {each.middle[1]} |"
        for each in found.columns
    )
    return {
        "columns that moved": sum(each.has_drifted for each in found.columns),
        "since the batch before": dg.MetadataValue.md(head + rows),
    }


def _reasons(reasons: dict[str, int]) -> dict[str, Any]:
    if not reasons:
        return {}
    return {
        "reasons": dg.MetadataValue.md(counts_markdown(reasons, "reason")),
        "rejects by reason": dg.MetadataValue.md(bars(reasons, "Rejected rows by reason")),
    }


def _daily(
    domain: Domain, definition: FeatureView | Outcome, kinds: set[str]
) -> dg.AssetsDefinition:
    daily = definition.daily()

    @dg.asset(
        key=key(daily.table),
        deps=[key(daily.source)],
        group_name=domain.name,
        description=definition.description,
        kinds={"deltalake", *kinds},
        owners=_owners(definition.owner),
        tags={"layer": "gold"},
        code_version=daily.fingerprint(),
        partitions_def=domain.partitions(daily),
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=dg.RetryPolicy(max_retries=2, delay=2),
    )
    def computed(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        started, opened = time.perf_counter(), lake.open()
        days = [date.fromisoformat(day) for day in context.partition_keys]
        done = materialize(opened, daily, days)
        context.log.info("%d days, %d rows, version %d", done.days, done.rows, done.version)
        snapshot = Table(opened, daily.table).snapshot()
        counts = {"rows_in": done.rows_in, "days": done.days, "rows_written": done.rows}
        seconds = time.perf_counter() - started
        return dg.MaterializeResult(metadata=table_metadata(snapshot, seconds=seconds, **counts))

    return computed


def current_key(view: FeatureView) -> dg.AssetKey:
    """The asset of a view's current values."""
    return key(f"{view.table}_latest")


def _current(domain: Domain, view: FeatureView) -> dg.AssetsDefinition:
    @dg.asset(
        key=current_key(view),
        deps=[key(view.source)],
        group_name=domain.name,
        description=f"{view.description}: of every {view.entity.name}, as of now, for `latest`",
        kinds={"arrow", "features"},
        owners=_owners(view.owner),
        tags={"layer": "serving"},
        code_version=view.fingerprint(),
        retry_policy=dg.RetryPolicy(max_retries=2, delay=2),
    )
    def current_values(lake: LakeResource) -> dg.MaterializeResult:
        started = time.perf_counter()
        done = refresh(lake.open(), view)
        return dg.MaterializeResult(
            metadata={
                "entities": done.rows,
                "features": len(view.feature_names),
                "as_of": dg.MetadataValue.timestamp(done.at),
                "source_version": done.source_version,
                "definition": done.fingerprint,
                "file": done.key,
                "seconds": round(time.perf_counter() - started, 3),
            }
        )

    return current_values


def _training_set(domain: Domain, spec: TrainingSet) -> list[dg.AssetsDefinition]:
    inputs = [key(name) for name in spec.inputs]
    owners = _owners(spec.owner)

    @dg.asset(
        key=key(spec.table),
        deps=inputs,
        group_name=domain.name,
        description=f"{spec.description}: labelled rows with features as of their time, at pinned "
        "versions of their tables.",
        kinds={"deltalake", "training_set"},
        owners=owners,
        tags={"layer": "gold"},
    )
    def training_set(lake: LakeResource) -> dg.MaterializeResult:
        started, opened = time.perf_counter(), lake.open()
        frozen = freeze(opened, spec)
        snapshot = Table(opened, spec.table).snapshot()
        seconds = time.perf_counter() - started
        metadata = table_metadata(snapshot, seconds=seconds, rows_in=_labelled(opened, spec))
        pinned = {name: pin["version"] for name, pin in frozen.inputs.items()}
        return dg.MaterializeResult(
            metadata=metadata
            | {
                "fingerprint": frozen.fingerprint,
                "pinned versions": pinned,
                "rows by split": dict(frozen.rows),
                "split": frozen.splits,
            },
            data_version=dg.DataVersion(frozen.fingerprint),
        )

    @dg.asset(
        key=key(spec.name),
        deps=[key(spec.table)],
        group_name=domain.name,
        description=f"{spec.description}: `load_dataset({spec.name!r})` streams it.",
        kinds={"arrow", "dataset"},
        owners=owners,
        tags={"layer": "dataset"},
    )
    def dataset(lake: LakeResource) -> dg.MaterializeResult:
        started, opened = time.perf_counter(), lake.open()
        published = publish(opened, spec, freeze(opened, spec))
        manifest = published.manifest
        rows = sum(manifest.splits.values())
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": rows,
                "dagster/uri": f"{opened.uri}/datasets/{manifest.name}/{manifest.fingerprint}",
                "dagster/column_schema": column_schema(manifest.schema),
                "fingerprint": manifest.fingerprint,
                "rows_in": rows,
                "rows by split": dict(manifest.splits),
                "bytes": manifest.size_bytes,
                "shards": len(manifest.shards),
                "written anew": published.is_new,
                "catalogue": dg.MetadataValue.path(_write_catalogue(opened)),
                "look at": _listed([w["message"] for w in manifest.details.get("warnings", ())]),
                "seconds": round(time.perf_counter() - started, 3),
            },
            data_version=dg.DataVersion(manifest.fingerprint),
        )

    return [training_set, dataset]


def _write_catalogue(lake: Lake) -> str:
    """Write the page of all that the project has beside its tables; where it is."""
    page = catalogue(lake, Project(Path(__file__).parent.parent))
    lake.objects.put("catalogue.html", page.encode())
    return f"{lake.uri}/catalogue.html"


def _listed(lines: Sequence[str]) -> Any:
    return dg.MetadataValue.md("\n".join(f"- {line}" for line in lines) or "nothing suspicious")


def _labelled(lake: Any, spec: TrainingSet) -> int:
    """Rows of its label table; of a spine's table where it has one."""
    name = spec.labels.table if spec.spine is None else spec.spine.source
    return Table(lake, name).snapshot().rows


def _owners(owner: str) -> list[str]:
    return [owner] if owner else []
