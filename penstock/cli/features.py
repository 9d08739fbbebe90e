"""Commands about features and training sets: what there is, what changed, where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from penstock.cli.output import (
    Commands,
    common,
    console,
    echo_json,
    print_facts,
    print_rows,
    project_option,
)
from penstock.errors import ProjectError, did_you_mean
from penstock.lake import Lake


@click.group(cls=Commands)
def features() -> None:
    """Feature views: what there is, what changed, where each column comes from.

    \b
    Examples:
      penstock features ls
      penstock features show retail/product_features
      penstock features search units
      penstock features lineage retail/product_features.units_7d
      penstock features refresh retail/product_features
    """


@features.command("ls")
@project_option
@common
def list_features(lake: Lake, project: Path, as_json: bool) -> None:
    """Views, label sets and training sets; what changed since the lake last saw them.

    \b
    Examples:
      penstock features ls
    """
    rows = [
        {
            "name": each.name,
            "kind": each.kind,
            "state": each.state,
            "since": each.since,
            "differs": list(each.differs),
            "read by": list(each.dependents),
        }
        for each in _registered(lake, project)
    ]
    print_rows(rows, as_json, empty="the project defines no feature view")


@features.command("show")
@click.argument("view")
@project_option
@common
def show_view(lake: Lake, view: str, project: Path, as_json: bool) -> None:
    """A view's features, each with what it is and the columns that it is made of.

    \b
    Examples:
      penstock features show retail/product_features
    """
    from penstock.features import registry
    from penstock.lineage import lineage

    node = _named(lineage(_opened(project)), view, ("features", "labels"))
    (state,) = [each for each in _registered(lake, project) if each.name == view]
    columns = [
        {"feature": name, "is": node.described.get(name, ""), "made of": list(made)}
        for name, made in node.columns.items()
    ]
    facts = {
        "view": view,
        "description": node.description,
        "owner": node.owner,
        "source": ", ".join(node.reads),
        "state": state.state,
        "differs": list(state.differs),
        "read by": list(state.dependents),
        "definitions kept": len(registry.history(lake, view)),
    }
    if as_json:
        echo_json({**facts, "features": columns})
        return
    print_facts(facts)
    print_rows(columns, as_json=False)


@features.command()
@click.argument("text")
@project_option
@common
def search(lake: Lake, text: str, project: Path, as_json: bool) -> None:
    """Features, labels and columns whose name, meaning or owner has a text in it.

    \b
    Examples:
      penstock features search units
    """
    from penstock.lineage import lineage

    wanted = text.lower()
    rows: list[dict[str, Any]] = []
    for node in lineage(_opened(project)).values():
        if node.kind in ("source", "bronze", "dataset"):
            continue
        about = f"{node.name} {node.description} {node.owner}".lower()
        for name in node.columns:
            told = node.described.get(name, "")
            if wanted in f"{name} {told}".lower() or wanted in about:
                rows.append({"table": node.name, "kind": node.kind, "column": name, "is": told})
    print_rows(rows, as_json, empty=f"nothing has {text} in its name or description")


@features.command("lineage")
@click.argument("name")
@project_option
@common
def show_lineage(lake: Lake, name: str, project: Path, as_json: bool) -> None:
    """What a table or a column is made of, and what is made of it.

    \b
    Examples:
      penstock features lineage retail/sales
      penstock features lineage retail/sales.quantity
    """
    from penstock.lineage import around, lineage

    up, down = around(lineage(_opened(project)), name)
    if as_json:
        echo_json({"name": name, "made_of": up, "makes": down})
        return
    for each in reversed(up):
        console.print(f"  {each}")
    console.print(f"> {name}")
    for each in down:
        console.print(f"  > {each}")


@features.command("refresh")
@click.argument("view")
@project_option
@common
def refresh_view(lake: Lake, view: str, project: Path, as_json: bool) -> None:
    """Work out a view's values as of now for every entity, for `latest` to serve.

    \b
    Examples:
      penstock features refresh retail/product_features
    """
    from penstock.features import refresh

    known = {each.table: each for each in _opened(project).views()}
    if view not in known:
        raise ProjectError(f"no view {view}.{did_you_mean(view, known)}")
    done = refresh(lake, known[view])
    facts = {"view": view, "as of": done.at.isoformat(), "entities": done.rows}
    facts |= {"source_version": done.source_version}
    if as_json:
        echo_json(facts)
    else:
        print_facts(facts)


@click.group(cls=Commands)
def training() -> None:
    """Training sets: their freezes, and what differs between two.

    \b
    Examples:
      penstock training ls retail/demand
      penstock training diff retail/demand 3f2a 91c0
      penstock training rebuild retail/demand 3f2a
    """


@training.command("ls")
@click.argument("name")
@common
def list_freezes(lake: Lake, name: str, as_json: bool) -> None:
    """Every freeze of a training set, the newest first.

    \b
    Examples:
      penstock training ls retail/demand
    """
    from penstock.training import freezes

    rows = [
        {
            "fingerprint": fingerprint,
            "version": note["version"],
            "rows": sum(note["rows"].values()),
            **note["rows"],
            "inputs": {table: pin["version"] for table, pin in note["inputs"].items()},
        }
        for fingerprint, note in freezes(lake, name).items()
    ]
    print_rows(rows, as_json, empty=f"{name} was never frozen")


@training.command("diff")
@click.argument("name")
@click.argument("before")
@click.argument("after")
@common
def diff_freezes(lake: Lake, name: str, before: str, after: str, as_json: bool) -> None:
    """What differs between two freezes: inputs, spec, code, rows, distributions.

    Fingerprints may be cut short.

    \b
    Examples:
      penstock training diff retail/demand 3f2a 91c0
    """
    from dataclasses import asdict

    from penstock.training import diff

    found = diff(lake, name, before, after)
    if as_json:
        said = asdict(found) | {"drift": [c.column for c in found.drift.columns if c.has_drifted]}
        echo_json(said)
    else:
        console.print(str(found))


@training.command("rebuild")
@click.argument("name")
@click.argument("fingerprint")
@project_option
@common
def rebuild_freeze(lake: Lake, name: str, fingerprint: str, project: Path, as_json: bool) -> None:
    """Freeze a training set again as of the versions that an earlier freeze pinned.

    \b
    Examples:
      penstock training rebuild retail/demand 3f2a
    """
    from penstock.training import freezes, rebuild

    matching = {f: n for f, n in freezes(lake, name).items() if f.startswith(fingerprint)}
    if len(matching) != 1:
        raise ProjectError(f"{name} has {len(matching)} freezes {fingerprint}")
    ((wanted, note),) = matching.items()
    done = rebuild(lake, _opened(project).training_set(name), note["inputs"])
    facts: dict[str, Any] = {
        "asked for": wanted,
        "rebuilt": done.fingerprint,
        "same": done.fingerprint == wanted,
        "rows": dict(done.rows),
    }
    if as_json:
        echo_json(facts)
    else:
        print_facts(facts)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("data/catalogue.html"))
@project_option
@common
def docs(lake: Lake, out: Path, project: Path, as_json: bool) -> None:
    """One static page: tables, features, training sets, datasets, and their lineage as a picture.

    \b
    Examples:
      penstock docs
      penstock docs --out site/index.html
    """
    from penstock.catalogue import catalogue

    page = catalogue(lake, _opened(project))
    part = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(page, encoding="utf-8")
        part.replace(out)
    except OSError as error:
        raise ProjectError(f"{out} can't be written: {error.strerror}; name a file") from error
    finally:
        if out.parent.is_dir():
            part.unlink(missing_ok=True)
    if as_json:
        echo_json({"page": str(out)})
    else:
        console.print(f"wrote {out}")


def _opened(project: Path) -> Any:
    from penstock.project import Project

    return Project(project)


def _registered(lake: Lake, project: Path) -> list[Any]:
    from penstock.features import registry

    opened = _opened(project)
    return registry.compared(lake, opened.definitions(), opened.reads())


def _named(nodes: dict[str, Any], name: str, kinds: tuple[str, ...]) -> Any:
    known = {each: node for each, node in nodes.items() if node.kind in kinds}
    if name not in known:
        raise ProjectError(f"no feature view or label set {name}.{did_you_mean(name, known)}")
    return known[name]


COMMANDS = (features, training, docs)
