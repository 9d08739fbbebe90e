"""The main job: raw files in, trained models out, through Dagster: `make demo`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import shlex
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as ConsoleTable

from dagster_project.place import SAMPLES, is_missing, settle
from penstock.errors import PenstockError, ProjectError

# Dagster's own log goes to its UI; failures are told here in a line.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
console = Console(highlight=False, markup=False, soft_wrap=True, width=max(Console().width, 110))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and show what it came to; 0 when every run succeeded."""
    warnings.filterwarnings("ignore", module="dagster")  # notices of what is beta in it
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--domain", default="retail", help="a module of assets/; retail or power")
    parser.add_argument("--raw", help="a folder of raw files of your own, of the domain's layout")
    parser.add_argument("--lake", help="the lake's URI")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    if is_missing(options.raw):
        console.print(f"{options.raw}: no such folder; RAW must name a folder of raw files")
        return 2
    if not Path("assets", f"{options.domain}.py").is_file():
        console.print(f"{options.domain}: no such domain; assets/ has no module of that name")
        return 2
    settle(options.raw, options.lake, options.domain)
    os.environ["PENSTOCK_RETAIL_EVERY_DAY"] = "yes"  # new files may bring newer days
    try:
        if options.raw is None:
            _write_sample(options.domain)
        done = _Demo(options.domain).run()
    except PenstockError as error:
        console.print(f"{type(error).__name__}: {error}", style="red")
        return 1
    _show(done, time.perf_counter() - started, options, as_json=options.json)
    return 0 if done.succeeded else 1


def _write_sample(domain: str) -> None:
    name = f"pipelines.{domain}_sample"
    if importlib.util.find_spec(name) is None:
        raise ProjectError(f"{domain} generates no sample; give raw files with RAW=<folder>")
    write_sample = importlib.import_module(name).write_sample
    folder = SAMPLES / domain
    if not any(folder.glob("*.csv")):
        started = time.perf_counter()
        files = write_sample(folder)
        seconds = time.perf_counter() - started
        console.print(f"wrote a generated sample: {len(files)} files in {folder}, {seconds:.1f} s")


@dataclass(frozen=True)
class Done:
    """What the demo came to."""

    new_files: int
    stale_days: int
    runs: int
    succeeded: bool
    assets: Mapping[str, Mapping[str, Any]]
    """Metadata of each asset's newest materialization."""
    unread: Mapping[str, str]
    """Files that could not be read, with the reason."""


class _Demo:
    """The same steps as the sensors and the schedule take, one after the other."""

    def __init__(self, domain: str) -> None:
        import dagster as dg

        from dagster_project.definitions import defs

        module = importlib.import_module(f"assets.{domain}")
        self._domain, self._defs = module.DOMAIN, defs
        self._keys = [spec.key for asset in module.ASSETS for spec in asset.specs]
        self._instance = dg.DagsterInstance.get()
        self._runs, self._succeeded = 0, True

    def run(self) -> Done:
        from assets.lake import LakeResource
        from dagster_project.jobs import (
            daily_job_name,
            ingest_job_name,
            publish_job_name,
            refresh_job_name,
        )
        from dagster_project.sensors import stale_ranges
        from penstock.features import stale_days
        from penstock.ingest import waiting_files
        from penstock.ingest.ledger import read_ledger, unread_files

        domain, lake = self._domain, LakeResource().open()
        waiting, days = waiting_files(lake, domain.source).height, 0
        if waiting or not self._was_materialized():
            self._execute(ingest_job_name(domain), f"{waiting} new files")
        for daily in domain.daily_tables:
            if not self._succeeded:
                break
            days += len(stale_days(lake, daily))
            for tags in stale_ranges(lake, daily):
                span = " to ".join(tags.values())
                self._execute(daily_job_name(daily), f"{daily.table}, {span}", tags)
        is_new = bool(waiting or days or self._runs)
        if self._succeeded and is_new:
            self._execute(publish_job_name(domain), "training sets, datasets, models")
        if self._succeeded and is_new and domain.served:
            self._execute(refresh_job_name(domain), "current values, for latest()")
        unread = unread_files(read_ledger(lake, domain.source))
        return Done(waiting, days, self._runs, self._succeeded, self._assets(), unread)

    def _was_materialized(self) -> bool:
        return all(self._instance.get_latest_materialization_event(key) for key in self._keys)

    def _execute(self, job: str, what: str, tags: Mapping[str, str] | None = None) -> None:
        started = time.perf_counter()
        with console.status(f"{job}: {what}"):
            result = self._defs.resolve_job_def(job).execute_in_process(
                run_config=_QUIET,
                instance=self._instance,
                tags=dict(tags or {}),
                raise_on_error=False,
            )
        self._runs += 1
        self._succeeded = self._succeeded and result.success
        seconds = time.perf_counter() - started
        mark, style = ("done", "green") if result.success else ("failed", "red")
        console.print(f"{mark:6} {job:34} {what}, {seconds:.1f} s", style=style)
        for event in result.all_events:
            if event.is_step_failure:
                error = getattr(event.event_specific_data, "error", None)
                cause = getattr(error, "cause", None) or error
                console.print(str(getattr(cause, "message", "")).strip(), style="red")

    def _assets(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for key in self._keys:
            event = self._instance.get_latest_materialization_event(key)
            if event and event.asset_materialization:
                metadata = event.asset_materialization.metadata
                found["/".join(key.path)] = {name: v.value for name, v in metadata.items()}
        return found


_COLUMNS = {
    "rows in": "rows_in",
    "accepted": "accepted",
    "rejected": "rejected",
    "rows": "dagster/row_count",
    "bytes": "bytes",
    "seconds": "seconds",
    "version": "version",
}


def _show(done: Done, seconds: float, options: argparse.Namespace, *, as_json: bool) -> None:
    raw, domain = options.raw, options.domain
    models = {name: told for name, told in done.assets.items() if "winner" in told}
    if as_json:
        shown = ("preview", "dagster/column_schema", "forecast against truth", "rejects by reason")
        assets = {
            name: {key: value for key, value in metadata.items() if key not in shown}
            for name, metadata in done.assets.items()
        }
        summary = {
            "new_files": done.new_files,
            "stale_days": done.stale_days,
            "runs": done.runs,
            "unread": done.unread,
        }
        print(json.dumps({**summary, "seconds": seconds, "assets": assets}, default=str))
        return
    table = ConsoleTable(header_style="bold", box=None, pad_edge=False)
    table.add_column("asset", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for name, metadata in done.assets.items():
        table.add_row(name, *(_cell(metadata.get(key)) for key in _COLUMNS.values()))
    if done.runs == 0:
        console.print("nothing new: every file is in the ledger and no day is stale")
    for error in done.unread.values():
        console.print(f"not read: {error}", style="yellow")
    console.print()
    console.print(table)
    if not done.succeeded:
        return
    for name, model in models.items():
        winner = "the forecast" if model["winner"] == "forecast" else "the naive forecast"
        console.print(
            f"\n{name.removesuffix('_model')}  {model['fingerprint']}\n"
            f"  forecast  MAE {model['forecast_mae']:.3f}, WAPE {model['forecast_wape']:.1%}\n"
            f"  naive     MAE {model['naive_mae']:.3f}, WAPE {model['naive_wape']:.1%}\n"
            f"  on {model['dagster/row_count']:,} rows of the test split {winner} wins"
        )
    console.print(f"\ntook {seconds:.1f} s, {done.runs} Dagster runs\n")
    lake, suffix = shlex.quote(os.environ["PENSTOCK_LAKE"]), ""
    if domain != "retail":
        suffix += f" DOMAIN={domain}"
    if raw is not None:
        suffix += f" RAW={shlex.quote(raw)}"
    console.print("try next:")
    console.print(f"  make ui{suffix}     every asset, check and plot, in Dagster")
    dataset = next((name.removesuffix("_model") for name in models), f"{domain}/dataset")
    console.print(f"  .venv/bin/penstock show {dataset} --lake {lake}")
    console.print(f"  .venv/bin/penstock features ls --lake {lake}")
    console.print(f"  .venv/bin/penstock docs --lake {lake}")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"


if __name__ == "__main__":
    sys.exit(main())
