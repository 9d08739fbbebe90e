"""Commands on tables: query them, and keep them well."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

from penstock.cli.output import common, console, echo_json, print_facts, print_rows
from penstock.lake import Lake


@click.command()
@click.argument("query")
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Rows to show."
)
@common
def sql(lake: Lake, query: str, limit: int, as_json: bool) -> None:
    """Query tables with DuckDB; a table is domain.table, at a version, tag or time behind @.

    \b
    Examples:
      penstock sql "select country, sum(quantity) from retail.sales group by 1 order by 2 desc"
      penstock sql "select count(*) from retail.sales@v12"
      penstock sql "select count(*) from retail.sales@2024-03-01T12:00:00Z"
      penstock sql "select * from retail.sales@prod where quantity < 0" --json
    """
    from penstock.tables import query as run_query

    rows = run_query(lake, query, limit=limit + 1)
    shown = rows[:limit]
    print_rows(shown, as_json, empty="no row")
    if len(rows) > limit and not as_json:
        console.print(f"more than {limit:,} rows; --limit shows more")


@click.command()
@click.argument("table")
@click.option("--sort-by", multiple=True, help="A column to order rows by; may be given again.")
@click.option("--z-order-by", multiple=True, help="A column of a Z-order; may be given again.")
@click.option("--file-mb", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--purge", is_flag=True, help="Also every file with a deletion vector.")
@common
def optimize(
    lake: Lake,
    table: str,
    sort_by: tuple[str, ...],
    z_order_by: tuple[str, ...],
    file_mb: int,
    purge: bool,
    as_json: bool,
) -> None:
    """Write small files anew as large ones; all files, to order them. No row changes.

    \b
    Examples:
      penstock optimize retail/sales
      penstock optimize retail/sales --z-order-by stock_code --z-order-by invoice_time
    """
    from dataclasses import asdict

    from penstock.tables import Table
    from penstock.tables import optimize as run_optimize

    done = run_optimize(
        Table(lake, table),
        file_bytes=file_mb << 20,
        sort_by=sort_by,
        z_order_by=z_order_by,
        purge=purge,
    )
    _print_one(asdict(done), as_json)


@click.command()
@click.argument("table")
@click.option(
    "--keep-hours",
    type=click.IntRange(min=0),
    default=168,
    show_default=True,
    help="Files that left the table, or were staged, more recently stay.",
)
@click.option("--dry-run", is_flag=True, help="Say what would go.")
@common
def vacuum(lake: Lake, table: str, keep_hours: int, dry_run: bool, as_json: bool) -> None:
    """Delete files that no version needs, and what killed runs staged.

    Versions with a tag, and those that a published dataset was made from, stay whole.

    \b
    Examples:
      penstock vacuum retail/sales --dry-run
      penstock vacuum retail/sales --keep-hours 24
    """
    from dataclasses import asdict

    from penstock.tables import Table
    from penstock.tables import vacuum as run_vacuum
    from penstock.upkeep import pinned_versions, unfinished

    found = Table(lake, table)
    found.snapshot()
    if problem := unfinished(found):
        raise click.ClickException(problem)
    done = run_vacuum(
        found,
        keep=timedelta(hours=keep_hours),
        pinned=pinned_versions(lake).get(table, ()),
        is_dry=dry_run,
    )
    _print_one(asdict(done), as_json)


@click.command()
@common
def upkeep(lake: Lake, as_json: bool) -> None:
    """Compact tables with many small files and vacuum all.

    \b
    Examples:
      penstock upkeep
      penstock upkeep --lake s3://bucket/lake --json
    """
    from dataclasses import asdict

    from penstock.upkeep import tend

    rows = [asdict(done) for done in tend(lake)]
    print_rows(rows, as_json, empty=f"{lake.uri} has no table")


@click.command()
@click.argument("table")
@click.argument("name", required=False)
@click.option("--version", type=click.IntRange(min=0), help="By default the newest.")
@click.option("--delete", is_flag=True, help="Take the tag away.")
@common
def tag(
    lake: Lake, table: str, name: str | None, version: int | None, delete: bool, as_json: bool
) -> None:
    """Name a version of a table; without a name, list its tags.

    \b
    Examples:
      penstock tag retail/sales before_migration
      penstock tag retail/sales before_migration --delete
    """
    from penstock.tables import Table, tags, untag
    from penstock.tables import tag as put_tag

    found = Table(lake, table)
    found.snapshot()
    if name is not None and delete:
        untag(found, name)
    elif name is not None:
        put_tag(found, name, version)
    rows = [{"tag": known, "version": number} for known, number in tags(found).items()]
    print_rows(rows, as_json, empty=f"{table} has no tag")


@click.command()
@click.argument("table")
@click.argument("version")
@common
def restore(lake: Lake, table: str, version: str, as_json: bool) -> None:
    """Bring back the rows of an older version, by number, tag or time, as a new version.

    \b
    Examples:
      penstock restore retail/sales 12
      penstock restore retail/sales before_migration
    """
    from penstock.tables import Table
    from penstock.tables import restore as run_restore

    found = Table(lake, table)
    number = found.snapshot(version).version
    now = run_restore(found, number)
    _print_one({"table": table, "restored": number, "version": now.version}, as_json)


@click.command()
@click.argument("table")
@click.option("--history", is_flag=True, help="Every version that changed the columns.")
@common
def schema(lake: Lake, table: str, history: bool, as_json: bool) -> None:
    """A table's columns, or what they were when.

    \b
    Examples:
      penstock schema retail/sales
      penstock schema retail/sales_raw --history
    """
    from penstock.tables import Table, schema_history

    found = Table(lake, table)
    if not history:
        rows = [
            {"column": f.name, "type": str(f.type), **_notes(f)} for f in found.snapshot().schema
        ]
        print_rows(rows, as_json)
        return
    changes = schema_history(found)
    rows = [
        {
            "version": change.version,
            "at": change.at.isoformat(timespec="seconds"),
            "added": list(change.added) if as_json else ", ".join(change.added),
            "removed": list(change.removed) if as_json else ", ".join(change.removed),
            "changed": list(change.changed) if as_json else ", ".join(change.changed),
        }
        for change in changes
    ]
    print_rows(rows, as_json)


def _notes(field: Any) -> dict[str, str]:
    said = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    return {
        "unit": said.get("unit", ""),
        "personal": said.get("personal", ""),
        "description": said.get("comment", ""),
    }


def _print_one(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        echo_json(facts)
    else:
        print_facts(facts)


COMMANDS = (sql, optimize, vacuum, upkeep, tag, restore, schema)
