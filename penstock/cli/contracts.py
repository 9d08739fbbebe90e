"""Commands on contracts."""

from __future__ import annotations

from typing import Any, cast

import click

from penstock.cli.output import Commands


@click.group(cls=Commands)
def contract() -> None:
    """Contracts: what tables promise."""


@contract.command()
@click.argument("uri")
@click.argument("table")
@click.option("--hint", "hints", multiple=True, help="column=kind, as often as needed.")
@click.option("--event-time", default="", help="The column of when things happened.")
def infer(uri: str, table: str, hints: tuple[str, ...], event_time: str) -> None:
    """Draft the contract of a folder's files, or of one file, as a module for schemas/.

    \b
    Examples:
      penstock contract infer data/raw/shop shop/orders > schemas/shop.py
      penstock contract infer s3://bucket/raw/a.parquet shop/orders --hint id=string
    """
    from penstock.quality.inferring import infer_contract

    given = dict[str, Any]()
    for hint in hints:
        name, sign, kind = hint.partition("=")
        if not sign:
            raise click.BadParameter(f"{hint}: say column=kind", param_hint="--hint")
        given[name] = kind
    draft = infer_contract(uri, table, hints=cast("Any", given), event_time=event_time)
    click.echo(draft.to_python(), nl=False)


COMMANDS = [contract]
