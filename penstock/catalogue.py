"""One static page of all that a project has: tables, features, training sets, datasets, lineage.

No script and no server; the picture is SVG, and each of its boxes links to its table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from penstock.features import registry
from penstock.lake import Lake
from penstock.lineage import Node, lineage
from penstock.project import Project
from penstock.shards import open_manifest, read_tag, tags
from penstock.tables import Table

_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;color:#1d2733}
body{max-width:76rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin:2rem 0 .3rem}h2 small{color:#6b7785;font-weight:400}
p{margin:.2rem 0 .6rem}table{border-collapse:collapse;width:100%;margin:.4rem 0 1rem}
th,td{text-align:left;padding:.2rem .6rem .2rem 0;vertical-align:top}
th,td{border-bottom:1px solid #e4e9ee}
th{color:#6b7785;font-weight:600}code{font-size:.92em}a{color:#0b62a4;text-decoration:none}
.changed{color:#b3541e;font-weight:600}.personal{color:#a11d3f}svg{max-width:100%;height:auto}
svg rect{fill:#f3f6f9;stroke:#9fb0c0}svg .features{fill:#e6f2ea}svg .labels{fill:#fdf1dc}
svg .dataset{fill:#e4ecfa}svg text{font:11px system-ui,sans-serif;fill:#1d2733}
svg .kind{fill:#6b7785}svg path{fill:none;stroke:#9fb0c0}
"""
_WIDE, _HIGH, _GAP_X, _GAP_Y = 190, 38, 46, 14


def catalogue(lake: Lake, project: Project) -> str:
    """The page, as HTML."""
    nodes = lineage(project)
    states = {
        each.name: each for each in registry.compared(lake, project.definitions(), project.reads())
    }
    tables, datasets = set(lake.table_names()), set(lake.dataset_names())
    sections = [
        _section(lake, node, nodes, states.get(node.name), tables, datasets)
        for node in nodes.values()
        if node.kind != "source"
    ]
    gone = [each for each in states.values() if each.state == "gone"]
    if gone:
        listed = ", ".join(f"<code>{escape(each.name)}</code> ({each.kind})" for each in gone)
        sections.append(f"<h2>No longer defined</h2><p>{listed}</p>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Catalogue</title>'
        f"<style>{_STYLE}</style></head><body><h1>Catalogue of {escape(lake.uri)}</h1>"
        f"{picture(nodes)}{''.join(sections)}"
        f"<p><small>Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by Penstock.</small></p>"
        "</body></html>\n"
    )


def picture(nodes: Mapping[str, Node]) -> str:
    """The lineage as SVG: what is read stands left of what reads it."""
    rank = dict[str, int]()
    for name, node in nodes.items():  # in order: what is read comes first
        rank[name] = max((rank.get(each, -1) + 1 for each in node.reads), default=0)
    rows = dict[int, int]()
    place = dict[str, tuple[int, int]]()
    for name in nodes:
        column = rank[name]
        row = rows.get(column, 0)
        rows[column] = row + 1
        place[name] = (column * (_WIDE + _GAP_X), row * (_HIGH + _GAP_Y))
    lines, boxes = list[str](), list[str]()
    for name, node in nodes.items():
        x, y = place[name]
        for each in node.reads:
            if each in place:
                from_x, from_y = place[each][0] + _WIDE, place[each][1] + _HIGH // 2
                to_y, middle = y + _HIGH // 2, (from_x + x) / 2
                lines.append(
                    f'<path d="M{from_x},{from_y} C{middle},{from_y} {middle},{to_y} {x},{to_y}"/>'
                )
        text = name if len(name) <= 30 else f"{name[:29]}…"
        kind = f"{node.kind}, {len(node.columns)} columns" if node.columns else node.kind
        boxes.append(
            f'<a href="#{escape(_anchor(name))}">'
            f'<rect class="{node.kind.replace(" ", "-")}" x="{x}" y="{y}" width="{_WIDE}" '
            f'height="{_HIGH}" rx="5"><title>{escape(name)}</title></rect>'
            f'<text x="{x + 8}" y="{y + 16}">{escape(text)}</text>'
            f'<text class="kind" x="{x + 8}" y="{y + 30}">{escape(kind)}</text></a>'
        )
    width = (max(rank.values(), default=0) + 1) * (_WIDE + _GAP_X)
    height = max(rows.values(), default=1) * (_HIGH + _GAP_Y)
    return (
        f'<svg viewBox="-2 -2 {width} {height + 4}" width="{width}" role="img" '
        f'aria-label="lineage">{"".join(lines)}{"".join(boxes)}</svg>'
    )


def _section(
    lake: Lake,
    node: Node,
    nodes: Mapping[str, Node],
    state: registry.Registered | None,
    tables: set[str],
    datasets: set[str],
) -> str:
    about, kinds = list[str](), dict[str, Any]()
    personal = set[str]()
    if node.name in tables:
        snapshot = Table(lake, node.name).snapshot()
        about.append(f"{snapshot.rows:,} rows, version {snapshot.version}")
        for field in snapshot.schema:
            kinds[field.name] = str(field.type)
            if (field.metadata or {}).get(b"personal") == b"true":
                personal.add(field.name)
    elif node.name in datasets:
        about += _published(lake, node.name)
    elif node.kind not in ("training set", "dataset"):
        about.append("not made yet")
    if node.owner:
        about.append(escape(node.owner))
    if state is not None and state.state != "same":
        differs = f": {', '.join(state.differs)}" if state.differs else ""
        about.append(f'<span class="changed">{state.state}{escape(differs)}</span>')
    readers = [other.name for other in nodes.values() if node.name in other.reads]
    if node.reads:
        about.append("reads " + _links(node.reads))
    if readers:
        about.append("read by " + _links(readers))
    rows = "".join(
        f"<tr><td><code{_marked(name, personal)}>{escape(name)}</code></td>"
        f"<td>{escape(kinds.get(name, ''))}</td><td>{escape(node.described.get(name, ''))}</td>"
        f"<td>{_links(made)}</td></tr>"
        for name, made in node.columns.items()
    )
    head = "<tr><th>column</th><th>type</th><th>is</th><th>made of</th></tr>"
    table = f"<table>{head}{rows}</table>" if rows else ""
    return (
        f'<h2 id="{escape(_anchor(node.name))}">{escape(node.name)} <small>{node.kind}</small></h2>'
        f"<p>{escape(node.description)}</p><p>{'; '.join(about)}</p>{table}"
    )


def _published(lake: Lake, name: str) -> list[str]:
    pointers = tags(lake, name)
    if not pointers:
        return ["not published yet"]
    tag = "latest" if "latest" in pointers else pointers[0]
    manifest = open_manifest(lake, name, read_tag(lake, name, tag))
    splits = ", ".join(f"{rows:,} {split}" for split, rows in manifest.splits.items())
    inputs = ", ".join(f"{table} v{pin['version']}" for table, pin in manifest.inputs.items())
    warned = [escape(each["message"]) for each in manifest.details.get("warnings", ())]
    return [
        f"{escape(tag)} is <code>{manifest.fingerprint}</code> ({splits})",
        f"made of {escape(inputs)}",
        *(f"look at: {each}" for each in warned),
    ]


def _marked(name: str, personal: set[str]) -> str:
    return ' class="personal" title="personal data"' if name in personal else ""


def _links(names: Sequence[str]) -> str:
    return ", ".join(
        f'<a href="#{escape(_anchor(name.partition(".")[0]))}">{escape(name)}</a>' for name in names
    )


def _anchor(name: str) -> str:
    return name.replace("/", "-").replace(" ", "-")
