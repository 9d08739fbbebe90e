"""What every command shares: its options, and how it prints."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table as ConsoleTable

from penstock.errors import PenstockError, did_you_mean
from penstock.lake import Lake

FAILED = 1
_WIDTH = None if sys.stdout.isatty() else 140
console = Console(highlight=False, markup=False, soft_wrap=True, width=_WIDTH)


class Commands(click.Group):
    """Tells an error of ours in a line, and suggests near commands."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PenstockError as error:
            click.secho(f"{type(error).__name__}: ", fg="red", nl=False, err=True)
            click.echo(str(error), err=True)
            ctx.exit(FAILED)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = did_you_mean(args[0], self.list_commands(ctx)) if args else ""
            raise click.UsageError(f"{error.message}{near}", ctx) from None


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every command has."""

    @click.option("--lake", help="The lake's URI; by default PENSTOCK_LAKE, then data/lake.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
    @functools.wraps(command)
    def wrapped(*args: Any, lake: str | None, **options: Any) -> Any:
        return command(*args, lake=Lake(lake), **options)

    return wrapped


project_option = click.option(
    "--project",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="The folder with schemas/ and pipelines/; by default this one.",
)


def print_facts(facts: Mapping[str, Any]) -> None:
    """A line a fact."""
    width = max(len(key) for key in facts)
    for key, value in facts.items():
        console.print(f"{key:{width}}  {as_text(value)}", markup=False)
    console.print()


def print_rows(rows: list[dict[str, Any]], as_json: bool, *, empty: str = "") -> None:
    """A table, or JSON; `empty` where there is no row."""
    if as_json:
        echo_json(rows)
        return
    if not rows:
        console.print(empty)
        return
    table = ConsoleTable(header_style="bold", box=None, pad_edge=False)
    for name, value in rows[0].items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        table.add_column(name, justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(as_text(value) for value in row.values()))
    console.print(table)
    console.print()


def as_text(value: Any) -> str:
    """A value as a table shows it."""
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4g}"
        case dict():
            return ", ".join(f"{key}: {as_text(item)}" for key, item in value.items()) or "none"
        case list():
            return ", ".join(as_text(item) for item in value) or "none"
        case _:
            return str(value)


def echo_json(value: Any) -> None:
    """JSON on standard output."""
    click.echo(json.dumps(value, default=str, ensure_ascii=False))
