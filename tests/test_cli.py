"""The `penstock` command, run as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from pipelines.retail_sample import write_sample
from tests.conftest import ROOT, free_port, wait_for

PENSTOCK = str(Path(sys.executable).parent / "penstock")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw files that were ingested and published into a lake."""
    folder = tmp_path_factory.mktemp("cli")
    write_sample(folder / "raw", rows=12_000, days=30)
    (folder / "raw" / "broken.csv").write_bytes(b"")
    assert run(folder, "ingest", "retail/sales", "--raw", str(folder / "raw")).returncode == 3
    assert run(folder, "publish", "retail/demand").returncode == 0
    return folder


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `penstock` in the project, on the place's lake."""
    environment = {**os.environ, "PENSTOCK_LAKE": str(place / "lake"), "COLUMNS": "200"}
    return subprocess.run(
        [PENSTOCK, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def as_json(place: Path, *arguments: str) -> dict:
    """What a command prints with --json."""
    done = run(place, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_ls_lists_tables_and_datasets(place: Path) -> None:
    entries = {(e["kind"], e["name"]): e for e in as_json(place, "ls")}

    assert ("table", "retail/sales__rejected") in entries
    assert len(entries["dataset", "retail/demand"]["version"]) == 32
    assert "retail/product_features" in run(place, "ls").stdout


def test_show_of_a_table(place: Path) -> None:
    told = as_json(place, "show", "retail/sales")

    columns = {column["name"]: column for column in told["columns"]}
    assert columns["unit_price"]["unit"] == "GBP"
    assert columns["customer_id"]["personal"]
    assert {row["customer_id"] for row in told["preview"]} == {"•••"}
    assert told["commits"][0]["by"] == "validate/retail/sales_raw"
    assert "invoice_time" in run(place, "show", "retail/sales").stdout


def test_show_of_a_dataset(place: Path) -> None:
    told = as_json(place, "show", "retail/demand")

    assert set(told["splits"]) == {"train", "test"}
    assert told["tags"] == {"latest": told["version"]}
    assert told["features"][0]["names"] == "units_1d"
    assert "units_28d" in run(place, "show", "retail/demand").stdout


def test_rejects_counts_the_reasons_and_masks_what_is_personal(place: Path) -> None:
    told = as_json(place, "rejects", "retail/sales", "--limit", "5")

    assert sum(r["rows"] for r in told["reasons"]) >= told["rows"] > 0
    assert {row["CustomerID"] for row in told["examples"]} == {"•••"}
    assert "unit_price_values_to_be_between" in run(place, "rejects", "retail/sales").stdout
    by_reason = as_json(place, "rejects", "retail/sales", "--by", "reason")
    assert by_reason == told["reasons"]
    by_file = as_json(place, "rejects", "retail/sales", "--by", "file")
    assert sum(each["rows"] for each in by_file) == told["rows"]


def test_validate_shows_the_last_results(place: Path) -> None:
    told = as_json(place, "validate", "retail/sales")

    assert told["rows_accepted"] == 0
    assert any(result["success"] for result in told["results"])
    assert "expect_column_values_to_be_between" in run(place, "validate", "retail/sales").stdout


def test_ingesting_and_publishing_again_find_nothing_new(place: Path) -> None:
    ingested = run(place, "ingest", "retail/sales", "--raw", str(place / "raw"))
    published = run(place, "publish", "retail/demand")

    # The broken file is still there, and still told of.
    assert (ingested.returncode, published.returncode) == (3, 0)
    assert "not read: broken.csv: the file is empty" in ingested.stderr
    assert "nothing new" in ingested.stdout
    assert "nothing new" in published.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["show", "retail/sale"], 1, "Did you mean retail/sales"),
        (["rejects", "retail/salse"], 1, "has no table retail/salse__rejected"),
        (["publish", "retail/demnd"], 1, "Did you mean retail/demand?"),
        (["ingest", "retail/sold"], 1, "Did you mean retail/sales?"),
        (["ingest", "retail/sales", "--raw", "/nowhere"], 1, "no such folder"),
        (["ingest", "retail/sales", "--raw", __file__], 1, "it is a file"),
        (["ls", "--lake", "s3://bucket/lake"], 1, "no credentials"),
        (["shwo", "x"], 2, "Did you mean show?"),
        (["show"], 2, "Missing argument"),
        (["rejects", "retail/sales", "--limit", "-1"], 2, "not in the range"),
        (["show", "retail/demand", "--version", "1"], 2, "--version is for tables"),
        (["ls", "--lake", "/nowhere/[/x]"], 1, "there is no lake here"),
        (["publish", "retail/demand", "--tag", "A B"], 1, "'A B' is no tag"),
        (["demo", "--project", "/tmp"], 1, "has no dagster_project/"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_gets_one_clear_line_and_an_exit_code(
    place: Path, arguments: list[str], code: int, message: str
) -> None:
    done = run(place, *arguments)

    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    ["", "ls", "show", "ingest", "validate", "publish", "rejects", "report", "drift", "demo"],
)
def test_help_has_examples(place: Path, command: str) -> None:
    arguments = [command, "--help"] if command else ["--help"]

    assert "Examples:" in run(place, *arguments).stdout


def test_sql_at_versions_and_tags(place: Path) -> None:
    rows = as_json(place, "ls")
    sales = next(entry for entry in rows if entry["name"] == "retail/sales")
    (counted,) = as_json(place, "sql", "select count(*) n from retail.sales")
    assert counted["n"] == sales["rows"]
    as_json(place, "tag", "retail/sales", "start", "--version", "0")

    joined = as_json(
        place,
        "sql",
        "select (select count(*) from retail.sales@start) a, (select count(*) from "
        f"retail.sales@v{sales['version']}) b, 'retail.sales@v9' c",
    )

    assert joined == [{"a": 0, "b": sales["rows"], "c": "retail.sales@v9"}]
    assert as_json(place, "tag", "retail/sales") == [{"tag": "start", "version": 0}]
    missing = run(place, "sql", "select * from retail.slaes@v1")
    assert missing.returncode == 1
    assert "Did you mean retail/sales" in missing.stderr
    wrong = run(place, "sql", "select nothing from retail.sales")
    assert "the query can't be run: Binder Error" in wrong.stderr


def test_upkeep_leaves_what_datasets_were_made_from(place: Path) -> None:
    counted = "select count(*) n, sum(quantity_sum_7d) q from retail.product_features"
    columns = [column["column"] for column in as_json(place, "schema", "retail/product_features")]
    counted = counted.replace("quantity_sum_7d", next(c for c in columns if c.startswith("units")))
    (made_from,) = as_json(place, "sql", counted)
    optimized = as_json(place, "optimize", "retail/product_features", "--sort-by", "stock_code")
    assert optimized["version"] > 0

    tended = {row["table"]: row for row in as_json(place, "upkeep")}
    vacuumed = as_json(place, "vacuum", "retail/product_features", "--keep-hours", "0")

    assert tended["retail/product_features"]["problem"] == ""
    (pinned,) = vacuumed["versions_kept"]
    assert pinned < optimized["version"]
    for at in ("", f"@v{pinned}"):
        found = counted.replace("product_features", f"product_features{at}")
        assert as_json(place, "sql", found) == [made_from]


def test_a_tables_columns_and_their_history(place: Path) -> None:
    columns = as_json(place, "schema", "retail/sales")
    history = as_json(place, "schema", "retail/sales", "--history")

    assert {"customer_id", "_source_file"} <= {column["column"] for column in columns}
    assert next(c for c in columns if c["column"] == "unit_price")["unit"] == "GBP"
    assert history[0]["version"] == 0
    assert "quantity integer" in history[0]["added"]
    assert "quantity integer" in run(place, "schema", "retail/sales", "--history").stdout


def test_batches_say_what_they_did(place: Path) -> None:
    (batch,) = as_json(place, "batches", "retail/sales")

    files = len([*(place / "raw").glob("*.csv")])
    assert (batch["batch"], batch["loaded"], batch["failed"]) == (1, files - 1, 1)
    assert batch["rows_read"] > 10_000
    assert batch["rows_accepted"] + batch["rows_rejected"] == batch["rows_read"]
    assert batch["rows_rescued"] >= 0
    assert set(batch["seconds"]) == {"planning", "reading"}
    assert batch["lag_seconds"] >= 0
    assert "not read" in run(place, "batches", "retail/sales").stdout


@pytest.mark.slow
def test_a_watch_takes_files_as_they_come_and_counts_them(tmp_path: Path) -> None:
    write_sample(tmp_path / "raw", rows=2_000, days=4)
    *first, later = sorted((tmp_path / "raw").glob("*.csv"))
    later.rename(tmp_path / "later.csv")
    command = [PENSTOCK, "ingest", "retail/sales", "--raw", str(tmp_path / "raw"), "--watch"]
    environment = {**os.environ, "PENSTOCK_LAKE": str(tmp_path / "lake"), "PYTHONUNBUFFERED": "1"}
    port = free_port()
    with subprocess.Popen(
        [*command, "--every", "0.2", "--metrics-port", str(port)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        try:
            wait_for(lambda: _metric(port, "loaded") == len(first), seconds=60)
            (tmp_path / "later.csv").rename(later)
            wait_for(lambda: _metric(port, "loaded") == len(first) + 1, seconds=60)
        finally:
            watching.send_signal(signal.SIGINT)
        text = watching.communicate(timeout=30)[0]

    assert watching.returncode == 0
    assert f"batch 1: {len(first)} files" in text
    assert "batch 2: 1 files" in text
    assert text.endswith("the next run goes on where this one was\n")


def _metric(port: int, kind: str) -> float:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0
    start = f'penstock_ingest_files_total{{kind="{kind}",'
    return sum(float(line.split()[-1]) for line in lines if line.startswith(start))
