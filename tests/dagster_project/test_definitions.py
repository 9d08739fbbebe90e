"""What Dagster loads, the sensors, and the real webserver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.factory import _validated, key
from assets.lake import LakeResource
from assets.retail import DOMAIN as RETAIL
from dagster_project.definitions import ASSETS, defs
from dagster_project.hooks import failure_webhook
from dagster_project.jobs import (
    daily_job_name,
    daily_jobs,
    ingest_job_name,
    refresh_job_name,
)
from dagster_project.sensors import new_files_sensor, stale_days_sensor, stale_ranges
from penstock import Lake, validate
from penstock.errors import SourceError
from penstock.features import LatestValues
from penstock.ingest import ingest
from pipelines.retail import PRODUCT_FEATURES as PRODUCT
from pipelines.retail_sample import write_sample
from schemas.retail import SALES
from tests.conftest import ROOT, free_port, wait_for
from tests.dagster_project.test_whole_path import ASSET_NAMES, POWER_NAMES


def _specs() -> dict[str, dg.AssetSpec]:
    return {"/".join(spec.key.path): spec for asset in ASSETS for spec in asset.specs}


def test_asset_keys_are_table_names_and_each_is_cared_for() -> None:
    specs = _specs()

    assert set(specs) == {*ASSET_NAMES, *POWER_NAMES}
    for name, spec in specs.items():
        assert spec.group_name == name.split("/")[0], name
        assert spec.description, name
        assert spec.owners, name
        assert spec.kinds, name
        assert spec.tags.get("layer"), name


def test_there_is_a_check_for_each_expectation() -> None:
    checks = {check.name for asset in ASSETS for check in asset.check_specs}

    assert checks >= {expectation.name for expectation in SALES.all_expectations}


def test_tables_from_features_on_have_a_partition_a_day() -> None:
    partitioned = {name for name, spec in _specs().items() if spec.partitions_def}

    assert partitioned == {"retail/product_features", "retail/demand_labels"}


def test_the_graph_ends_in_the_model() -> None:
    graph = defs.resolve_asset_graph()

    made = {"retail/demand_model", "retail/sales__rejected"}
    assert graph.get_ancestor_asset_keys(key("retail/demand_model")) == {
        key(name)
        for name in ASSET_NAMES
        if name not in made
        and not name.startswith("retail/customer_value")
        and not name.endswith("_latest")
    }
    ancestors = graph.get_ancestor_asset_keys(key("retail/customer_value_model"))
    assert key("retail/sales") in ancestors
    assert key("retail/customer_value") in ancestors


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, LakeResource]]:
    """Raw files, and a lake beside them that the domain's source points at."""
    write_sample(tmp_path / "raw", rows=3000, days=12)
    object.__setattr__(RETAIL.source, "uri", str(tmp_path / "raw"))
    yield tmp_path / "raw", LakeResource(uri=str(tmp_path / "lake"))
    monkeypatch.undo()


def _tick(lake: LakeResource, cursor: str | None = None) -> tuple[Any, str | None]:
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, resources={"lake": lake}, definitions=defs
        )
        return new_files_sensor(RETAIL)(context), context.cursor


def test_the_sensor_asks_for_a_run_once_for_the_same_files(
    place: tuple[Path, LakeResource],
) -> None:
    raw, lake = place
    first, cursor = _tick(lake)
    second, cursor = _tick(lake, cursor)
    write_sample(raw, rows=3600, days=13)
    third, _ = _tick(lake, cursor)

    assert isinstance(first, dg.RunRequest)
    assert isinstance(second, dg.SkipReason)
    assert isinstance(third, dg.RunRequest)
    assert first.run_key != third.run_key


def test_the_sensor_says_why_it_skips(place: tuple[Path, LakeResource]) -> None:
    raw, lake = place
    for path in raw.iterdir():
        path.unlink()
    nothing, _ = _tick(lake)
    raw.rmdir()
    missing, _ = _tick(lake)

    assert nothing.skip_message == "no new file"
    assert "no such folder" in missing.skip_message


def test_the_stale_days_sensor_asks_for_a_range_a_table(place: tuple[Path, LakeResource]) -> None:
    _, lake = place
    opened = lake.open()
    ingest(opened, RETAIL.source)
    validate(opened, RETAIL.source)
    sensor = stale_days_sensor(RETAIL, daily_jobs(RETAIL))
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(
            instance=instance, resources={"lake": lake}, definitions=defs
        )
        asked = list(sensor(context))
        again = list(sensor(context))

    assert [request.job_name for request in asked] == [
        "retail_product_features_days",
        "retail_demand_labels_days",
    ]
    assert asked[0].tags["dagster/asset_partition_range_start"] == "2010-12-01"
    assert [request.run_key for request in again] == [request.run_key for request in asked]


def test_materializing_through_dagster_tells_rows_versions_and_checks(
    place: tuple[Path, LakeResource],
) -> None:
    _, lake = place
    with dg.DagsterInstance.ephemeral() as instance:
        ingested = defs.resolve_job_def(ingest_job_name(RETAIL)).execute_in_process(
            instance=instance, resources={"lake": lake}
        )
        checks = {e.check_name: e for e in ingested.get_asset_check_evaluations()}
        (sales,) = ingested.asset_materializations_for_node("retail__sales")[:1]
        features = RETAIL.daily_tables[0]
        (tags,) = stale_ranges(lake.open(), features)
        days = defs.resolve_job_def(daily_job_name(features)).execute_in_process(
            instance=instance, resources={"lake": lake}, tags=tags
        )
        partitions = instance.get_materialized_partitions(key(features.table))
        served = defs.resolve_job_def(refresh_job_name(RETAIL)).execute_in_process(
            instance=instance, resources={"lake": lake}
        )

    metadata = {name: value.value for name, value in sales.metadata.items()}
    assert ingested.success
    assert days.success
    assert metadata["rows_in"] == metadata["accepted"] + metadata["rejected"]
    assert metadata["version"] == 1
    assert "•••" in metadata["preview"]
    assert set(checks) == {"every_file_was_read"} | {e.name for e in SALES.all_expectations}
    assert checks["unit_price_values_to_be_between"].metadata["rows that break it"].value > 0
    assert len(partitions) == 12
    assert served.success
    (current,) = served.asset_materializations_for_node("retail__product_features_latest")
    assert current.metadata["entities"].value == LatestValues(lake.open(), PRODUCT).refreshed.rows
    assert stale_ranges(lake.open(), features) == []


def test_a_file_that_could_not_be_read_fails_its_check_and_not_the_run(
    place: tuple[Path, LakeResource],
) -> None:
    raw, lake = place
    (raw / "empty.csv").write_bytes(b"")
    with dg.DagsterInstance.ephemeral() as instance:
        done = defs.resolve_job_def(ingest_job_name(RETAIL)).execute_in_process(
            instance=instance, resources={"lake": lake}
        )
    (check,) = (
        e for e in done.get_asset_check_evaluations() if e.check_name == "every_file_was_read"
    )

    assert done.success
    assert not check.passed
    assert "empty.csv" in check.metadata["failed"].value


def test_a_refused_batch_fails_its_run_and_tells_its_checks(
    place: tuple[Path, LakeResource], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, lake = place
    strict = tuple(
        replace(each, severity="fail", mostly=1.0)
        if each.name == "unit_price_values_to_be_between"
        else each
        for each in SALES.expectations
    )
    contract = replace(SALES, expectations=strict)
    domain = replace(RETAIL, source=replace(RETAIL.source, contract=contract))
    ingest(lake.open(), domain.source)

    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(
            [_validated(domain)], instance=instance, resources={"lake": lake}, raise_on_error=False
        )

    assert not done.success
    checks = {e.check_name: e for e in done.get_asset_check_evaluations()}
    assert not checks["unit_price_values_to_be_between"].passed
    assert checks["quantity_values_to_not_be_null"].passed
    (failure,) = [event for event in done.all_events if event.is_step_failure]
    assert "unit_price_values_to_be_between" in str(failure.step_failure_data.error)


def test_a_failed_run_is_told_with_its_cause_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dg.op
    def reads() -> None:
        try:
            raise SourceError("file:///raw: no such folder; create it or mend the source's uri")
        except SourceError as error:
            raise dg.Failure(str(error), allow_retries=False) from error

    @dg.job
    def brings_in() -> None:
        reads()

    bodies = list[dict[str, Any]]()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as server, dg.DagsterInstance.ephemeral() as instance:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PENSTOCK_ALERT_WEBHOOK", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("PENSTOCK_UI_URL", "http://dagster.example.com/")
        failed = brings_in.execute_in_process(instance=instance, raise_on_error=False)
        context = dg.build_run_status_sensor_context(
            sensor_name="failure_webhook",
            dagster_instance=instance,
            dagster_run=failed.dagster_run,
            dagster_event=failed.get_run_failure_event(),
        ).for_run_failure()
        failure_webhook(context)
        server.shutdown()

    (told,) = bodies
    assert told["job"] == "brings_in"
    assert told["url"] == f"http://dagster.example.com/runs/{failed.run_id}"
    assert told["cause"].startswith("file:///raw: no such folder")
    assert told["what_to_do"].startswith("Mend the source")
    assert [step["step"] for step in told["steps"]] == ["reads"]


def test_the_nightly_ingest_lists_all_and_retries(lake: Lake, tmp_path: Path) -> None:
    schedule = defs.resolve_schedule_def("retail_ingest_nightly")
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(instance=instance)
        (request,) = schedule.evaluate_tick(context).run_requests or []
    assert dg.validate_run_config(defs.resolve_job_def("retail_ingest"), request.run_config)
    (config,) = request.run_config["ops"].values()
    assert config == {"config": {"full": True, "retry": True}}


@pytest.mark.slow
def test_the_webserver_shows_the_assets_sensors_and_schedules(tmp_path: Path) -> None:
    port = free_port()
    webserver = str(Path(sys.executable).parent / "dagster-webserver")
    command = [webserver, "-m", "dagster_project.definitions", "-h", "127.0.0.1", "-p", str(port)]
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(tmp_path),
        "PENSTOCK_LAKE": Lake(tmp_path / "lake").uri,
    }
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    log = (tmp_path / "log").open("wb")
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log) as server:
        try:
            url = f"http://127.0.0.1:{port}/graphql"
            wait_for(lambda: _graphql(url, "{ version }") is not None, seconds=60)
            told = _graphql(
                url,
                "{ assetNodes { assetKey { path } } repositoriesOrError { ... on "
                "RepositoryConnection { nodes { sensors { name } schedules { name } } } } }",
            )
        finally:
            server.terminate()

    assert told is not None
    (repository,) = told["repositoriesOrError"]["nodes"]
    assert {"/".join(node["assetKey"]["path"]) for node in told["assetNodes"]} == set(_specs())
    sensors = {sensor["name"] for sensor in repository["sensors"]}
    assert sensors >= {"retail_new_files", "retail_stale_days", "failure_webhook"}
    assert "default_automation_condition_sensor" in sensors
    schedules = {schedule["name"] for schedule in repository["schedules"]}
    assert schedules == {
        *(f"{domain}_ingest_nightly" for domain in ("retail", "power")),
        *(f"{domain}_publish_daily" for domain in ("retail", "power")),
        *(f"{domain}_refresh_hourly" for domain in ("retail", "power")),
        "upkeep_nightly",
    }


def _graphql(url: str, query: str) -> dict[str, Any] | None:
    data = json.dumps({"query": query}).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["data"]
    except OSError:
        return None
