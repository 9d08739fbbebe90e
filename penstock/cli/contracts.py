"""Commands on contracts."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from penstock.cli.output import Commands, common, console, echo_json
from penstock.errors import ContractError, MissingExtra
from penstock.lake import Lake

if TYPE_CHECKING:
    from penstock.contracts import Contract


@click.group(cls=Commands)
def contract() -> None:
    """Contracts: what tables promise."""


@contract.command()
@click.argument("uri")
@click.argument("table")
@click.option("--hint", "hints", multiple=True, help="column=kind, as often as needed.")
@click.option("--event-time", default="", help="The column of when things happened.")
@click.option("--lake", help="The lake of a table; by default PENSTOCK_LAKE, then data/lake.")
def infer(uri: str, table: str, hints: tuple[str, ...], event_time: str, lake: str | None) -> None:
    """Draft the contract of a folder's files, of one file, or of a table, as a module for schemas/.

    \b
    Examples:
      penstock contract infer data/raw/shop shop/orders > schemas/shop.py
      penstock contract infer s3://bucket/raw/a.parquet shop/orders --hint id=string
      penstock contract infer shop/old_orders@prod shop/orders
      penstock contract infer s3://other/lake/orders shop/orders
    """
    from penstock.quality.inferring import infer_contract, schema_of_table, table_contract

    given = dict[str, Any]()
    for hint in hints:
        name, sign, kind = hint.partition("=")
        if not sign:
            raise click.BadParameter(f"{hint}: say column=kind", param_hint="--hint")
        given[name] = kind
    if (schema := schema_of_table(Lake(lake), uri)) is not None:
        from penstock.contracts.source import to_python

        drafted = table_contract(schema, table, hints=cast("Any", given), event_time=event_time)
        click.echo(to_python(drafted), nl=False)
        return
    draft = infer_contract(uri, table, hints=cast("Any", given), event_time=event_time)
    click.echo(draft.to_python(), nl=False)


@contract.command()
@click.argument("table")
@click.option("--to", "to", default="", help="A version or tag to compare with, not today's.")
@common
def diff(lake: Lake, table: str, to: str, as_json: bool) -> None:
    """What changed since a version of a table: its contract then, and the project's now.

    Ends with 1 where a change is breaking.

    \b
    Examples:
      penstock contract diff retail/sales
      penstock contract diff retail/sales@3
      penstock contract diff retail/sales@3 --to prod
    """
    from penstock.contracts.diff import diff as differences
    from penstock.quality.history import contract_of

    name, _, version = table.partition("@")
    before = contract_of(lake, name, version or None)
    after = contract_of(lake, name, to) if to else _contract(name)
    found = differences(before, after)
    if as_json:
        echo_json([asdict(change) for change in found])
    for change in found if not as_json else ():
        console.print(str(change), highlight=False, markup=False)
    if not found and not as_json:
        console.print("no difference")
    if any(change.effect == "breaking" for change in found):
        raise SystemExit(1)


@contract.command()
@click.argument("table")
@click.option("--as", "form", type=click.Choice(["gx", "odcs", "json"]), default="odcs")
def export(table: str, form: str) -> None:
    """A contract as a Great Expectations suite, or as an Open Data Contract (JSON, which is YAML).

    \b
    Examples:
      penstock contract export retail/sales > sales.odcs.yaml
      penstock contract export retail/sales --as gx > suite.json
    """
    from penstock.contracts.exchange import to_json, to_odcs

    found = _contract(table)
    if form == "json":
        click.echo(to_json(found))
        return
    if form == "odcs":
        echo_json(to_odcs(found))
        return
    if others := [each.name for each in found.all_expectations if not each.is_in_gx]:
        said = "Great Expectations lacks them, or their row_condition"
        click.echo(f"in meta.penstock alone, as {said}: {', '.join(others)}", err=True)
    echo_json(found.gx_suite())


@contract.command("import")
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--table",
    default="",
    help="Whose contract a suite's expectations are added to, or which of a document's tables.",
)
@click.option("--event-time", default="", help="The column of when things happened.")
def import_(path: Path, table: str, event_time: str) -> None:
    """A suite of Great Expectations (with --table), or an Open Data Contract, as a schemas/ module.

    \b
    Examples:
      penstock contract import sales.odcs.yaml > schemas/sales.py
      penstock contract import suite.json --table retail/sales
    """
    from penstock.contracts.exchange import from_gx_suite, from_odcs
    from penstock.contracts.source import to_python

    document = _document(path)
    if document.get("kind") == "DataContract":
        found, left = from_odcs(document, table=table, event_time=event_time)
        _print_left(left)
        click.echo(to_python(found), nl=False)
        return
    if not table:
        raise click.UsageError("say with --table whose contract the suite's expectations are for")
    found, left = from_gx_suite(document, _contract(table))
    _print_left(left)
    click.echo(to_python(found), nl=False)


def _print_left(left: Mapping[str, list[str]]) -> None:
    for reason, names in left.items():
        click.echo(f"left out: {', '.join(names)}: {reason}", err=True)


def _contract(table: str) -> Contract:
    from penstock.project import Project

    return Project(Path.cwd()).source_of(table).contract


def _document(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise ContractError(f"{path}: neither JSON nor YAML: {error}") from error
    found = _parsed(path, text)
    if not isinstance(found, dict):
        raise ContractError(f"{path}: holds no object, but {type(found).__name__}")
    return cast("dict[str, Any]", found)


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        yaml = importlib.import_module("yaml")
    except ImportError as error:
        raise MissingExtra("pyyaml", "dagster") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ContractError(f"{path}: neither JSON nor YAML: {error}") from error


@click.command()
@click.argument("data")
@click.option("--table", default="", help="Whose contract; by default the checked table's own.")
@click.option("--suite", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=None)
@click.option("--rejects", type=click.Path(path_type=Path), default=None, help="A Parquet file.")
@common
def check(
    lake: Lake, data: str, table: str, suite: Path | None, rejects: Path | None, as_json: bool
) -> None:
    """Hold a contract, or a suite of Great Expectations, against a table or file as it is.

    Ends with 1 where something but a warning is broken. --json prints Great Expectations' own
    result of a suite.

    \b
    Examples:
      penstock check retail/sales
      penstock check retail/sales@12
      penstock check new.parquet --table retail/sales --rejects bad.parquet
      penstock check s3://bucket/table --suite suite.json --json
    """
    from penstock.contracts import Expectation
    from penstock.contracts.exchange import entries_of
    from penstock.quality import check as run
    from penstock.tables import Table

    name, _, version = data.partition("@")
    is_table = "://" not in data and not Path(data).exists() and name in lake.table_names()
    wanted: Contract | list[Expectation]
    if suite is not None:
        try:
            wanted = [*map(Expectation.from_gx, entries_of(_document(suite)))]
        except ContractError as error:
            raise ContractError(f"{suite}: {error}") from error
    elif table or is_table:
        wanted = _contract(table or name)
    else:
        raise click.UsageError("say with --table whose contract, or with --suite which suite")
    rows = Table(lake, name).snapshot(version or None) if is_table else data
    report = run(rows, wanted, rejects=rejects, name="" if table else data)
    if as_json:
        echo_json(report.to_json())
    else:
        console.print(str(report), highlight=False, markup=False)
    if not report.success:
        raise SystemExit(1)


COMMANDS = [contract, check]
