"""Commands that bring files in: once, or as long as they keep coming."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.output import common, console, echo_json, print_facts, print_rows, project_option
from penstock.lake import Lake

if TYPE_CHECKING:
    from collections.abc import Generator

    from penstock.ingest import IngestReport, Progress, Source

SOME_UNREAD = 3
_SECONDS_BETWEEN = 0.1


@click.command()
@click.argument("table")
@click.option("--raw", help="The folder of raw files; by default the source's.")
@click.option("--max-files", type=click.IntRange(min=1), help="Files a batch.")
@click.option("--retry", is_flag=True, help="Also files that could not be read before.")
@click.option("--full", is_flag=True, help="List all, despite a lookback or notifications.")
@click.option("--watch", is_flag=True, help="Go on as new files come, until Ctrl-C.")
@click.option(
    "--every", type=click.FloatRange(min=0.1), default=30, show_default=True, help="Seconds."
)
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="For Prometheus, with --watch.")
@project_option
@common
def ingest(
    lake: Lake,
    table: str,
    raw: str | None,
    max_files: int | None,
    retry: bool,
    full: bool,
    watch: bool,
    every: float,
    metrics_port: int | None,
    project: Path,
    as_json: bool,
) -> None:
    """Bring new files in, exactly once each, and validate their rows.

    Exits with 3 while there are files that could not be read; the others are in.

    \b
    Examples:
      penstock ingest retail/sales
      penstock ingest retail/sales --raw s3://bucket/raw/retail
      penstock ingest retail/sales --watch --every 10 --metrics-port 9464
    """
    source = source_of(project, table, raw)
    if watch:
        _watch(lake, source, max_files, every, metrics_port)
        return
    with _shown(source) as tell:
        report, validated_, unread = _run(lake, source, max_files, tell, retry=retry, full=full)
    value = {**_facts(report), "unread": unread, "validated": validated_}
    if as_json:
        echo_json(value)
    elif not report.batches:
        console.print(f"{source.table}: nothing new in {source.uri}")
    else:
        print_facts(_facts(report) | validated_)
    if not as_json:
        for error in unread.values():
            click.echo(f"not read: {error}", err=True)
    if unread:
        sys.exit(SOME_UNREAD)


@click.command()
@click.argument("table")
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Commits looked at."
)
@project_option
@common
def batches(lake: Lake, table: str, limit: int, project: Path, as_json: bool) -> None:
    """What each batch did: files, rows, bytes, seconds a stage, lag; newest first.

    Rows accepted and rejected are there once the batch was validated.

    \b
    Examples:
      penstock batches retail/sales
      penstock batches retail/sales --limit 500 --json | jq '.[].lag_seconds'
    """
    from penstock.ingest import batches as read_batches
    from penstock.quality.destinations import rows_of_batches

    source = source_of(project, table)
    judged = rows_of_batches(lake, source.contract.table)
    rows: list[dict[str, Any]] = [
        batch | judged.get(batch["batch"], {"rows_accepted": None, "rows_rejected": None})
        for batch in read_batches(lake, source, limit)
    ]
    if as_json:
        echo_json(rows)
        return
    shown = [
        {
            "batch": row["batch"],
            "version": row["version"],
            "committed": row["committed_at"][:19],
            **{name: row[name] for name in ("files", "loaded", "unchanged", "removed")},
            "not read": row["failed"] + row["unavailable"],
            "rows": row["rows_read"],
            **{name: row[f"rows_{name}"] for name in ("rescued", "accepted", "rejected")},
            "bytes": row["bytes_read"],
            "seconds": sum(row["seconds"].values()),
            "lag s": row["lag_seconds"] or 0.0,
        }
        for row in rows
    ]
    print_rows(shown, as_json=False, empty=f"no batch in the last {limit} commits")


def source_of(project: Path, table: str, raw: str | None = None) -> Source:
    """The source of a table, by its name or the validated table's; over another folder if given."""
    from dataclasses import replace

    from penstock.project import Project

    source = Project(project).source_of(table)
    return source if raw is None else replace(source, uri=raw)


def validated(lake: Lake, source: Source) -> dict[str, Any]:
    """Validate what was ingested, and say what came of it."""
    from penstock.quality import validate as run_validate

    run = run_validate(lake, source)
    if run.batches:
        from penstock.quality.profiling import batch_profiles

        batch_profiles(lake, run.table, len(run.batches))  # while their files are surely there
    return {
        "validated_table": run.table,
        "rows_accepted": run.rows_accepted,
        "rows_rejected": run.rows_rejected,
        "reasons": run.reasons,
        "validated_version": run.version,
    }


def _run(
    lake: Lake,
    source: Source,
    max_files: int | None,
    tell: Callable[[Progress], None] | None,
    *,
    retry: bool = False,
    full: bool = False,
) -> tuple[IngestReport, dict[str, Any], dict[str, str]]:
    from penstock.ingest import ingest as run_ingest
    from penstock.ingest.ledger import read_ledger, unread_files

    report = run_ingest(lake, source, max_files=max_files, retry=retry, full=full, progress=tell)
    unread = unread_files(read_ledger(lake, source))
    return report, validated(lake, source) if report.version is not None else {}, unread


def _watch(
    lake: Lake, source: Source, max_files: int | None, every: float, metrics_port: int | None
) -> None:
    """Runs until Ctrl-C; an error is told, and the next run tries again."""
    from penstock.errors import LakeError, SourceError

    metrics, told = _metrics(metrics_port), dict[str, str]()
    console.print(f"watching {source.uri} for {source.table}, every {every:g} s; Ctrl-C ends it")
    try:
        while True:
            try:
                with _shown(source) as tell:
                    report, done, unread = _run(lake, source, max_files, tell)
            except (LakeError, SourceError) as error:  # the store or the source, for now
                click.secho(f"{time.strftime('%H:%M:%S')} {error}", fg="red", err=True)
                time.sleep(every)
                continue
            if metrics is not None:
                accepted, rejected = done.get("rows_accepted", 0), done.get("rows_rejected", 0)
                metrics.add(report, accepted=accepted, rejected=rejected)
            if report.batches:
                console.print(_line(report, done))
            for file, error in unread.items():
                if told.get(file) != error:
                    click.echo(f"not read: {error}", err=True)
            told = unread
            time.sleep(every)
    except KeyboardInterrupt:
        console.print("ended; the next run goes on where this one was")


def _metrics(port: int | None) -> Any:
    if port is None:
        return None
    from penstock.ingest.metrics import IngestMetrics

    metrics = IngestMetrics()
    server = metrics.serve(port)
    console.print(f"metrics at http://127.0.0.1:{server.server_port}/metrics")
    return metrics


def _line(report: IngestReport, done: dict[str, Any]) -> str:
    first, last = report.batches[0], report.batches[-1]
    which = f"batch {first}" if first == last else f"batches {first} to {last}"
    lag = "" if report.lag_seconds is None else f", lag {report.lag_seconds:,.0f} s"
    return (
        f"{time.strftime('%H:%M:%S')} {which}: {report.files_loaded:,} files, "
        f"{report.rows_read:,} rows ({done.get('rows_rejected', 0):,} rejected), "
        f"{report.bytes_read / 1e6:,.1f} MB in {sum(report.seconds.values()):.1f} s{lag}"
    )


@contextmanager
def _shown(source: Source) -> Generator[Callable[[Progress], None] | None]:
    """A line on the terminal that follows a batch; none where there is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    last = [0.0]

    def tell(progress: Progress) -> None:
        now = time.monotonic()
        if now - last[0] < _SECONDS_BETWEEN and progress.files_done < progress.files:
            return
        last[0] = now
        sys.stderr.write(
            f"\r\x1b[2K{source.table} batch {progress.batch}: {progress.files_done:,}/"
            f"{progress.files:,} files, {progress.rows_read:,} rows, "
            f"{progress.bytes_read / 1e6:,.1f} MB"
        )
        sys.stderr.flush()

    try:
        yield tell
    finally:
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()


def _facts(report: IngestReport) -> dict[str, Any]:
    return {
        "table": report.table,
        "batches": list(report.batches),
        "files_loaded": report.files_loaded,
        "files_unchanged": report.files_unchanged,
        "files_removed": report.files_removed,
        "rows_read": report.rows_read,
        "rows_rescued": report.rows_rescued,
        "bytes_read": report.bytes_read,
        "version": report.version,
        "seconds": report.seconds,
        "lag_seconds": report.lag_seconds,
    }


COMMANDS = (ingest, batches)
