"""Commands on what is in tables: profiles, drift, reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.output import common, console, echo_json, print_facts, print_rows
from penstock.errors import StorageError, TableNotFound, did_you_mean
from penstock.lake import Lake

if TYPE_CHECKING:
    from penstock.quality import Profile

_WHERE = "An SQL expression that picks the rows."


@click.command()
@click.argument("data")
@click.option("--where", default=None, help=_WHERE)
@click.option("--batch", is_flag=True, help="Only the rows that this version's commit brought in.")
@common
def profile(lake: Lake, data: str, where: str | None, batch: bool, as_json: bool) -> None:
    """What is in the columns of a table (`retail/sales`, `retail/sales@3`) or a file.

    \b
    Examples:
      penstock profile retail/sales
      penstock profile retail/sales@3 --batch
      penstock profile retail/training --where "split = 'train'"
      penstock profile new.parquet --json
    """
    from penstock.quality.drifting import shown

    if batch and where is not None:
        raise click.UsageError("--batch is of a whole commit; leave out --where")
    found = _profile(lake, data, where, batch=batch)
    if as_json:
        echo_json(json.loads(found.to_json()))
        return
    facts: dict[str, Any] = {"name": found.name, "rows": found.rows}
    print_facts(facts if found.version is None else {**facts, "version": found.version})
    rows = list[dict[str, Any]]()
    for name, column in found.columns.items():
        at = column.quantiles
        ends = [shown(at[place], column.kind) for place in (0, 50, 100)] if at else ["", "", ""]
        rows.append(
            {
                "column": name,
                "type": column.type,
                "nulls": column.nulls,
                "distinct": column.distinct,
                "least": ends[0],
                "median": ends[1],
                "greatest": ends[2],
                "mean": "" if column.mean is None or column.kind == "time" else column.mean,
                "frequent": ", ".join(f"{t} ({n:,})" for t, n in column.frequent[:3])
                or ("•••" if column.is_masked else ""),
            }
        )
    print_rows(rows, as_json=False)


@click.command()
@click.argument("before")
@click.argument("after")
@click.option("--where", default=None, help=f"{_WHERE} Of both, unless --where-after is given.")
@click.option("--where-after", default=None, help=_WHERE)
@click.option("--psi", type=float, help="The greatest PSI; by default 0.2.")
@click.option("--js", type=float, help="The greatest Jensen-Shannon distance; by default 0.1.")
@click.option("--ks", type=float, help="The greatest Kolmogorov-Smirnov distance; by default 0.1.")
@common
def drift(
    lake: Lake,
    before: str,
    after: str,
    where: str | None,
    where_after: str | None,
    psi: float | None,
    js: float | None,
    ks: float | None,
    as_json: bool,
) -> None:
    """How far the columns of two tables, versions, splits or files are apart.

    With any limit given only those count. Ends with 1 where a column has drifted.

    \b
    Examples:
      penstock drift retail/sales@3 retail/sales
      penstock drift shop/training shop/training --where "split='train'" --where-after "split='val'"
      penstock drift shop/training served.parquet --where "split='train'" --where-after true
    """
    from penstock.quality.drifting import as_limits
    from penstock.quality.drifting import drift as compare

    given = [
        (name, value) for name, value in (("psi", psi), ("js", js), ("ks", ks)) if value is not None
    ]
    limits = as_limits(given)
    found = compare(
        _profile(lake, before, where), _profile(lake, after, where_after or where), limits
    )
    if as_json:
        echo_json(found.to_json())
    else:
        print_facts({"before": found.before, "after": found.after, "rows": list(found.rows)})
        print_rows(
            [
                {
                    "column": each.column,
                    "": "MOVED" if each.has_drifted else "",
                    "psi": f"{each.psi:.4f}",
                    "js": f"{each.js:.4f}",
                    "ks": "" if each.ks is None else f"{each.ks:.4f}",
                    "p": f"{each.p_value:.2g}",
                    "nulls": f"{each.nulls[0]:.1%} -> {each.nulls[1]:.1%}",
                    "middle": f"{each.middle[0]} -> {each.middle[1]}",
                }
                for each in found.columns
            ],
            as_json=False,
            empty="no column in common",
        )
        for what in ("added", "removed", "changed"):
            if names := getattr(found, what):
                console.print(f"{what}: {', '.join(names)}")
    if found.has_drifted:
        raise SystemExit(1)


@click.command()
@click.argument("table")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file; by default named for the table, in this folder.",
)
@click.option(
    "--data-docs",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder for Great Expectations' own pages of the batches, too.",
)
@common
def report(lake: Lake, table: str, out: Path | None, data_docs: Path | None, as_json: bool) -> None:
    """One static page: expectations over batches, rejects, columns, what moved.

    \b
    Examples:
      penstock report retail/sales
      penstock report retail/sales --out site/sales.html
      penstock report retail/sales --data-docs site/gx
    """
    from penstock.quality.report import report as made

    text = made(lake, table)
    path = out or Path(f"{table.replace('/', '-')}.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    facts: dict[str, Any] = {"table": table, "page": str(path), "bytes": len(text)}
    if data_docs is not None:
        from penstock.quality.data_docs import write_data_docs

        facts["data_docs"] = str(write_data_docs(lake, table, data_docs))
    if as_json:
        echo_json(facts)
    else:
        print_facts(facts)


def _profile(lake: Lake, data: str, where: str | None, *, batch: bool = False) -> Profile:
    """Of a table of the lake, at a version or not; else of a file."""
    from penstock.quality import profile as made
    from penstock.quality import profile_of
    from penstock.tables import Table

    name, _, version = data.partition("@")
    known = list[str]()
    if "." not in name and name.count("/") == 1:
        try:
            known = lake.table_names()
        except StorageError:  # no lake, and none needed for a folder of files
            if not Path(data).exists():
                raise
    if name not in known:
        if Path(data).exists() or "://" in data or "*" in data:
            return made(data, where=where)
        near = did_you_mean(name, known) if known else ""  # of a path no table is near
        raise TableNotFound(
            f"{data}: {lake.uri} has no such table, and there is no such file.{near}"
        )
    number = version.removeprefix("v")
    at = int(number) if number.isdigit() else version or None
    if where is None:
        return profile_of(lake, name, at, batch=batch)
    return made(Table(lake, name).snapshot(at), where=where, name=data)


COMMANDS = (profile, drift, report)
