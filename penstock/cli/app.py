"""The `penstock` command.

Exit codes: 0 done; 1 it failed, and the message says why; 2 it was called wrongly; 3 it ran, and
some files could not be read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from penstock._version import __version__
from penstock.cli import contracts, features, ingesting, profiles, tables
from penstock.cli.output import (
    Commands,
    common,
    console,
    echo_json,
    print_facts,
    print_rows,
    project_option,
)
from penstock.errors import DatasetNotFound, ProjectError, TableNotFound, did_you_mean
from penstock.lake import Lake


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="penstock")
def main() -> None:
    """Penstock: a feature lake, from raw files to the GPU.

    \b
    Examples:
      penstock ls                          tables and datasets of the lake
      penstock show retail/sales           schema, rows, versions, last commits, preview
      penstock ingest retail/sales         bring new files in, each exactly once
      penstock batches retail/sales        what each batch did
      penstock rejects retail/sales        why rows were rejected
      penstock report retail/sales         one page: expectations, rejects, columns, drift
      penstock publish retail/demand       freeze and publish a dataset
      penstock features ls                 features, labels, training sets; what changed
      penstock training ls retail/demand   freezes of a training set
      penstock docs                        one page: all there is, and its lineage
      penstock sql "select ..."            query tables, at any version
      penstock upkeep                      compact and vacuum what needs it
    """


for _command in (
    *tables.COMMANDS,
    *ingesting.COMMANDS,
    *contracts.COMMANDS,
    *profiles.COMMANDS,
    *features.COMMANDS,
):
    main.add_command(_command)


@main.command("ls")
@common
def list_all(lake: Lake, as_json: bool) -> None:
    """Tables and datasets of the lake.

    \b
    Examples:
      penstock ls
      penstock ls --lake s3://bucket/lake --json
    """
    from penstock.shards import open_manifest, read_tag, tags
    from penstock.tables import Table

    rows: list[dict[str, Any]] = []
    for name in lake.table_names():
        snapshot = Table(lake, name).snapshot_or_none()
        if snapshot is not None:
            rows.append(_entry(name, "table", snapshot.rows, snapshot.size_bytes, snapshot.version))
    for name in lake.dataset_names():
        pointers = tags(lake, name)
        if not pointers:
            continue  # a first publish that is under way, or was killed
        tag = "latest" if "latest" in pointers else pointers[0]
        manifest = open_manifest(lake, name, read_tag(lake, name, tag))
        total = sum(manifest.splits.values())
        rows.append(_entry(name, "dataset", total, manifest.size_bytes, manifest.fingerprint))
    print_rows(rows, as_json, empty=f"{lake.uri} is empty")


def _entry(name: str, kind: str, rows: int, size: int, version: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "rows": rows, "bytes": size, "version": version}


@main.command()
@click.argument("name")
@click.option(
    "--version", type=click.IntRange(min=0), help="A table's version; by default the newest."
)
@common
def show(lake: Lake, name: str, version: int | None, as_json: bool) -> None:
    """A table's or dataset's schema, rows, versions, last commits and a preview.

    Values of personal columns are masked.

    \b
    Examples:
      penstock show retail/sales
      penstock show retail/sales --version 3
      penstock show retail/demand --json
    """
    tables, datasets = lake.table_names(), lake.dataset_names()
    if name in tables:
        _show_table(lake, name, version, as_json)
    elif name in datasets:
        if version is not None:
            raise click.UsageError("--version is for tables; a dataset's versions are its tags")
        _show_dataset(lake, name, as_json)
    else:
        near = did_you_mean(name, [*tables, *datasets])
        raise TableNotFound(f"{lake.uri} has no table or dataset {name}.{near}")


def _show_table(lake: Lake, name: str, version: int | None, as_json: bool) -> None:
    import polars as pl

    from penstock.tables import Table

    snapshot = Table(lake, name).snapshot(version)
    columns = [_column(field) for field in snapshot.schema]
    personal = [column["name"] for column in columns if column["personal"]]
    masked = [pl.lit("•••").alias(column) for column in personal]
    told = [column["name"] for column in columns if not column["name"].startswith("_")]
    preview = snapshot.scan().head(5).with_columns(masked).select(told).collect()
    commits = [
        {
            "version": commit["version"],
            "at": _iso(commit["timestamp"]),
            "by": commit.get("penstock.application") or commit.get("operation"),
        }
        for commit in snapshot.history(5)
    ]
    value = _entry(name, "table", snapshot.rows, snapshot.size_bytes, snapshot.version)
    value |= {"files": len(snapshot.files), "uri": snapshot.table.uri}
    if as_json:
        rows = json.loads(preview.write_json())
        echo_json({**value, "columns": columns, "commits": commits, "preview": rows})
        return
    print_facts(value)
    print_rows(columns, as_json=False)
    print_rows(commits, as_json=False)
    with pl.Config(tbl_hide_dataframe_shape=True, tbl_width_chars=console.width, tbl_cols=-1):
        console.print(str(preview), markup=False)


def _show_dataset(lake: Lake, name: str, as_json: bool) -> None:
    from penstock.shards import open_manifest, read_tag, tags

    pointers = {tag: read_tag(lake, name, tag) for tag in tags(lake, name)}
    if not pointers:
        raise DatasetNotFound(f"{name} was never published to the end")
    manifest = open_manifest(lake, name, pointers.get("latest") or next(iter(pointers.values())))
    total = sum(manifest.splits.values())
    value = _entry(name, "dataset", total, manifest.size_bytes, manifest.fingerprint)
    value |= {"splits": dict(manifest.splits), "tags": pointers, "shards": len(manifest.shards)}
    value |= {"inputs": {table: pin["version"] for table, pin in manifest.inputs.items()}}
    columns = [_column(field) for field in manifest.schema]
    warnings = [each["message"] for each in manifest.details.get("warnings", ())]
    names = manifest.statistics["names"]
    features = [
        {
            key: manifest.statistics[key][i]
            for key in ("names", "mean", "std", "min", "max", "nulls")
        }
        for i in range(len(names))
    ]
    if as_json:
        echo_json({**value, "columns": columns, "features": features, "warnings": warnings})
        return
    print_facts(value)
    print_rows(columns, as_json=False)
    print_rows(features, as_json=False)
    for warning in warnings:
        console.print(f"look at: {warning}")


@main.command()
@click.argument("table")
@project_option
@common
def validate(lake: Lake, table: str, project: Path, as_json: bool) -> None:
    """Validate what was ingested and is not validated yet; show each expectation's last result.

    \b
    Examples:
      penstock validate retail/sales
      penstock validate retail/sales --json | jq '.results[] | select(.success | not)'
    """
    from penstock.quality.results import last_results

    source = ingesting.source_of(project, table)
    value = ingesting.validated(lake, source)
    last = last_results(lake, source.contract.table)
    if as_json:
        echo_json({**value, "results": last.get("results", [])})
        return
    print_facts(value)
    rows = [
        {
            "expectation": result["expectation_config"]["type"],
            "column": result["expectation_config"]["kwargs"].get("column", ""),
            "severity": result["expectation_config"]["meta"]["penstock"]["severity"],
            "broken": result["result"].get("unexpected_count", ""),
            "of": result["result"].get("element_count", ""),
            "found": json.dumps(result["result"].get("observed_value", "")).strip('"'),
            "holds": "yes" if result["success"] else "NO",
        }
        for result in last.get("results", [])
    ]
    print_rows(rows, as_json=False)


@main.command()
@click.argument("table")
@project_option
@common
def replay(lake: Lake, table: str, project: Path, as_json: bool) -> None:
    """Send rejected rows that the contract takes by now into their table, each once.

    \b
    Examples:
      penstock replay retail/sales
    """
    from dataclasses import asdict

    from penstock.quality import replay as run_replay

    done = asdict(run_replay(lake, ingesting.source_of(project, table)))
    if as_json:
        echo_json(done)
    else:
        print_facts(done)


@main.command()
@click.argument("table")
@click.option(
    "--limit", type=click.IntRange(min=0), default=10, show_default=True, help="Rows to show."
)
@click.option(
    "--by",
    type=click.Choice(["reason", "file", "batch"]),
    help="Only count them: by reason, source file or batch.",
)
@common
def rejects(lake: Lake, table: str, limit: int, by: str | None, as_json: bool) -> None:
    """Why rows of a table were rejected, and some of them as they came.

    A row rejected for several reasons counts for each.

    \b
    Examples:
      penstock rejects retail/sales
      penstock rejects retail/sales --by reason
      penstock rejects retail/sales --limit 100 --json
    """
    import polars as pl

    from penstock.quality.destinations import rejects_name
    from penstock.quality.refusals import refused_batches
    from penstock.tables import Table

    for refused in refused_batches(lake, table):
        click.echo(f"refused {refused.at:%Y-%m-%d %H:%M} UTC: {refused.why}", err=True)
    snapshot = Table(lake, rejects_name(table)).snapshot()
    rows = snapshot.scan()
    reason = pl.col("_reasons").list.eval(pl.element().struct.field("expectation"))
    of = {"file": "_source_file", "batch": "_batch"}
    counted = by or "reason"
    asked = pl.col(of[counted]) if counted in of else reason
    each = rows.select(asked.alias(counted))
    counts = (
        (each if counted in of else each.explode(counted))
        .group_by(counted)
        .len("rows")
        .sort(["rows", counted], descending=[True, False])
        .collect()
        .to_dicts()
    )
    if by is not None:
        print_rows(counts, as_json, empty=f"no row of {table} was rejected")
        return
    personal = [pl.lit("•••").alias(f.name) for f in snapshot.schema if _column(f)["personal"]]
    text = pl.col("_reasons").list.eval(
        pl.format(
            "{} ({})",
            pl.element().struct.field("expectation"),
            pl.element().struct.field("observed").fill_null(""),
        )
    )
    shown = (
        rows.head(limit).with_columns(*personal, text.list.join("; ").alias("reasons")).collect()
    )
    first = ["_source_file", "_source_row", "reasons"]
    raw = [name for name in shown.columns if not name.startswith("_") and name != "reasons"]
    listed = shown.select(*first, *raw).to_dicts()
    if as_json:
        echo_json({"table": table, "rows": snapshot.rows, "reasons": counts, "examples": listed})
        return
    console.print(f"{snapshot.rows:,} rejected rows of {table}")
    print_rows(counts, as_json=False)
    print_rows([{key: row[key] for key in first} for row in listed], as_json=False)


@main.command()
@click.argument("name")
@click.option("--tag", default="latest", show_default=True, help="The tag to move to it.")
@project_option
@common
def publish(lake: Lake, name: str, tag: str, project: Path, as_json: bool) -> None:
    """Recompute stale days, freeze a training set at its inputs' versions, publish it.

    With nothing new it writes nothing, and says so.

    \b
    Examples:
      penstock publish retail/demand
      penstock publish retail/demand --tag prod
    """
    from penstock.features import materialize, stale_days
    from penstock.project import Project
    from penstock.training import freeze
    from penstock.training import publish as run_publish

    opened = Project(project)
    spec = opened.training_set(name)
    days: dict[str, int] = {}
    for daily in opened.daily_tables(spec.inputs):
        if stale := stale_days(lake, daily):
            days[daily.table] = materialize(lake, daily, stale).days
    frozen = freeze(lake, spec)
    published = run_publish(lake, spec, frozen, tag=tag)
    value = {
        "dataset": name,
        "fingerprint": frozen.fingerprint,
        "tag": tag,
        "written": published.is_new,
        "splits": dict(published.manifest.splits),
        "bytes": published.manifest.size_bytes,
        "recomputed_days": days,
    }
    if as_json:
        echo_json(value)
        return
    print_facts(value)
    if not published.is_new:
        console.print(f"nothing new: this version was published before; {tag} points at it")


@main.command()
@click.option("--raw", help="A folder of raw retail files; by default a generated sample.")
@click.option("--lake", help="The lake's URI; by default data/lake, or one for the raw folder.")
@project_option
def demo(raw: str | None, lake: str | None, project: Path) -> None:
    """Run the main job of the project in this folder: raw files in, a trained model out.

    \b
    Examples:
      penstock demo
      penstock demo --raw /data/retail
    """
    if not (project / "dagster_project").is_dir():
        raise ProjectError(
            f"{project.absolute()} has no dagster_project/; the demo is part of Penstock's "
            "repository: clone it and run this there"
        )
    command = [sys.executable, "-m", "dagster_project.demo"]
    command += ["--raw", raw] if raw else []
    command += ["--lake", lake] if lake else []
    environment = {**os.environ, "AWS_EC2_METADATA_DISABLED": "true"}
    sys.exit(subprocess.run(command, cwd=project, env=environment, check=False).returncode)


def _column(field: Any) -> dict[str, Any]:
    notes = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
    return {
        "name": field.name,
        "type": str(field.type).removeprefix("extension<").removesuffix(">"),
        "unit": notes.get("unit", ""),
        "personal": notes.get("personal") == "true",
        "description": notes.get("comment", ""),
    }


def _iso(timestamp_ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).isoformat(timespec="seconds")
