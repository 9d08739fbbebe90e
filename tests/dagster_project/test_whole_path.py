"""Raw files in, a trained model out, through Dagster, on disk and on S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.retail_sample import sample_days, write_sample
from tests.conftest import ROOT, S3Server

ROWS, DAYS = 15_000, 35
ASSET_NAMES = [
    "retail/sales_raw",
    "retail/sales",
    "retail/sales__rejected",
    "retail/product_features",
    "retail/demand_labels",
    "retail/product_features_latest",
    "retail/customer_features_latest",
    "retail/country_features_latest",
    "retail/demand_training_set",
    "retail/demand",
    "retail/customer_value_training_set",
    "retail/customer_value",
    "retail/demand_model",
    "retail/customer_value_model",
]
POWER_NAMES = [
    "power/loads_raw",
    "power/loads",
    "power/loads__rejected",
    "power/oil_features_latest",
    "power/oil_training_set",
    "power/oil",
    "power/oil_model",
]


def demo(
    place: Path,
    lake: str,
    environment: dict[str, str] | None = None,
    domain: str = "retail",
) -> dict[str, Any]:
    """Run a domain's main job on the place's raw files; its summary."""
    command = [sys.executable, "-m", "dagster_project.demo", "--domain", domain]
    done = subprocess.run(
        [*command, "--raw", str(place / "raw"), "--json"],
        cwd=ROOT,
        env={
            **os.environ,
            "PENSTOCK_LAKE": lake,
            "DAGSTER_HOME": str(place / "dagster"),
            **(environment or {}),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_main_job_then_nothing_new_then_one_more_day(tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    write_sample(tmp_path / "raw", rows=ROWS, days=DAYS)

    first = demo(tmp_path, lake)

    assert first["new_files"] == 30
    assert list(first["assets"]) == ASSET_NAMES
    sales, model = first["assets"]["retail/sales"], first["assets"]["retail/demand_model"]
    assert sales["rows_in"] == sales["accepted"] + sales["rejected"]
    assert sales["rejected"] > 100
    assert model["fingerprint"] == first["assets"]["retail/demand"]["fingerprint"]
    assert model["winner"] in ("forecast", "naive")
    assert 0 < model["forecast_mae"] < 3 * model["naive_mae"]

    second = demo(tmp_path, lake)

    assert (second["new_files"], second["stale_days"], second["runs"]) == (0, 0, 0)
    assert second["assets"] == first["assets"]

    day, rows = sample_days(rows=ROWS, days=DAYS + 1, seed=8)[-1]
    rows.write_csv(tmp_path / "raw" / f"{day}.csv")
    third = demo(tmp_path, lake)

    # The new day's features, and the labels whose week it closes; the days between had no trade.
    assert third["new_files"] == 1
    assert third["assets"]["retail/product_features"]["days"] <= 2
    assert third["assets"]["retail/demand_labels"]["days"] <= 2
    assert third["assets"]["retail/sales"]["rows_in"] == rows.height
    assert third["assets"]["retail/demand"]["fingerprint"] != model["fingerprint"]


@pytest.mark.slow
def test_another_domain_is_those_files_and_no_others(tmp_path: Path) -> None:
    from pipelines.power import OIL
    from pipelines.power_sample import write_sample as write_power_sample

    write_power_sample(tmp_path / "raw", hours=24 * 90)

    done = demo(tmp_path, str(tmp_path / "lake"), domain="power")

    assert list(done["assets"]) == POWER_NAMES
    assert len(OIL.feature_names) >= 30
    model = done["assets"]["power/oil_model"]
    assert model["dagster/row_count"] > 500
    assert 0 < model["forecast_mae"] < 5 * model["naive_mae"]


def test_an_unknown_domain_is_said() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dagster_project.demo", "--domain", "nothing"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "nothing: no such domain" in done.stdout


@pytest.mark.slow
def test_the_main_job_on_s3(s3_server: S3Server, tmp_path: Path) -> None:
    from penstock import Lake, Table, load_dataset

    uri = f"s3://{s3_server.new_bucket()}/lake"
    write_sample(tmp_path / "raw", rows=ROWS, days=DAYS)

    done = demo(tmp_path, uri, s3_server.environment)

    lake = Lake(uri, storage_options=s3_server.options)
    dataset = load_dataset("retail/demand", lake=lake, cache=tmp_path / "cache")
    feed = dataset.shuffle(seed=1).batch(512).to("torch")
    assert sum(len(batch["label"]) for batch in feed) == len(dataset) > 1000
    feed.close()
    assert dataset.fingerprint == done["assets"]["retail/demand"]["fingerprint"]
    assert Table(lake, "retail/sales").snapshot().rows == done["assets"]["retail/sales"]["accepted"]
    assert not any(s3_server.secret in str(value) for value in done.values())
    text = b"".join(lake.objects.get(info.key) for info in lake.objects.list("sources"))
    assert s3_server.secret.encode() not in text


@pytest.mark.slow
def test_raw_files_in_s3_are_ingested(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from penstock import Lake, validate
    from penstock.ingest import ingest
    from penstock.storage.objects import ObjectStore
    from schemas.retail import SOURCE

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"s3://{s3_server.new_bucket()}"
    raw, lake = Lake(f"{bucket}/raw"), Lake(f"{bucket}/lake")
    assert isinstance(raw.objects, ObjectStore)
    for path in write_sample(tmp_path, rows=2000, days=10):
        raw.objects.put(f"retail/{path.name}", path.read_bytes())
    source = dataclasses.replace(SOURCE, uri=f"{bucket}/raw/retail")

    report = ingest(lake, source)

    assert (report.files_loaded, report.failed) == (9, {})
    assert ingest(lake, source).batches == ()
    run = validate(lake, source)
    assert run.rows_accepted + run.rows_rejected == report.rows_read
