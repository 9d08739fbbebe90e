"""What is made of what, column by column, from sources to datasets.

A pure function of a project's definitions; nothing is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.errors import ProjectError, did_you_mean
from penstock.features import FeatureView
from penstock.labels import Outcome
from penstock.project import Project


@dataclass(frozen=True, slots=True)
class Node:
    """Something with columns, and what each comes from."""

    name: str
    kind: str
    """`source`, `bronze`, `table`, `features`, `labels`, `training set` or `dataset`."""
    reads: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """For each column, those that it is made of, as `domain/table.column`."""
    described: Mapping[str, str] = field(default_factory=dict[str, str])
    """What a column is."""
    description: str = ""
    owner: str = ""
    picked_by: tuple[str, ...] = ()
    """Columns, as `domain/table.column`, by which rows are found for every column: keys, times and
    filters."""


def lineage(project: Project) -> dict[str, Node]:
    """Every node of a project by name, those that are read before those that read them."""
    nodes = dict[str, Node]()
    for source in project.sources():
        contract = source.contract
        folder = f"files of {source.table}"
        nodes[folder] = Node(folder, "source", ())
        raw = {column.name: column.raw_name for column in contract.columns}
        nodes[source.table] = Node(
            source.table, "bronze", (folder,), dict.fromkeys(raw.values(), ()), owner=contract.owner
        )
        nodes[contract.table] = Node(
            contract.table,
            "table",
            (source.table,),
            {name: (f"{source.table}.{given}",) for name, given in raw.items()},
            {column.name: column.description for column in contract.columns},
            contract.description,
            contract.owner,
        )
    for view in project.views():
        nodes[view.table] = _view(view)
    for outcome in project.outcomes():
        nodes[outcome.table] = _outcome(outcome)
    prefixes = {view.table: view.prefix for view in project.views()}
    for spec in project.training_sets():
        columns = dict[str, tuple[str, ...]]()
        for view in spec.views:  # which may have another prefix here than where it is defined
            own = nodes[view.table].columns if view.table in nodes else {}
            for name in view.feature_names:
                plain = prefixes.get(view.table, "") + name.removeprefix(view.prefix)
                columns[name] = (f"{view.table}.{plain}",) if plain in own else ()
        for each in spec.derived:
            columns[each.name] = tuple(f"{spec.table}.{name}" for name in each.inputs)
        columns["label"] = (f"{spec.labels.table}.label",)
        reads = list(dict.fromkeys([*(view.table for view in spec.views), spec.labels.table]))
        if spec.spine is not None:
            reads.insert(0, spec.spine.source)
        nodes[spec.table] = Node(
            spec.table, "training set", tuple(reads), columns, {}, spec.description, spec.owner
        )
        nodes[spec.name] = Node(
            spec.name,
            "dataset",
            (spec.table,),
            {name: (f"{spec.table}.{name}",) for name in columns},
            {},
            spec.description,
            spec.owner,
        )
    return nodes


def _view(view: FeatureView) -> Node:
    columns = dict[str, tuple[str, ...]]()
    described = dict[str, str]()
    for value in view.values:
        columns[value.name] = tuple(f"{view.source}.{c}" for c in value.expression.columns)
        described[value.name] = f"{value.expression} of the newest row"
    for window in view.windows:
        used = [*window.expression.columns, *(window.where.columns if window.where else [])]
        columns[window.name] = tuple(f"{view.source}.{c}" for c in dict.fromkeys(used))
        described[window.name] = window.describe()
    for each in view.derived:
        name = view.prefix + each.name
        inputs = [view.prefix + given for given in each.inputs]
        columns[name] = tuple(f"{view.table}.{c}" for c in inputs if c in columns)
        described[name] = str(each.expression or "a function") + f" of {', '.join(each.inputs)}"
    return Node(
        view.table,
        "features",
        (view.source,),
        columns,
        described,
        view.description,
        view.owner,
        _picked_by(view),
    )


def _picked_by(view: FeatureView) -> tuple[str, ...]:
    times = filter(None, (view.event_time, view.created_time))
    used = [*view.entity.keys, *times, *view.filter.columns]
    return tuple(f"{view.source}.{column}" for column in dict.fromkeys(used))


def _outcome(outcome: Outcome) -> Node:
    (window,) = outcome.view().windows
    used = tuple(f"{outcome.source}.{c}" for c in window.expression.columns)
    return Node(
        outcome.table,
        "labels",
        (outcome.source,),
        {"label": used},
        {"label": window.describe()},
        outcome.description,
        outcome.owner,
        _picked_by(outcome.view()),
    )


def around(nodes: Mapping[str, Node], name: str) -> tuple[list[str], list[str]]:
    """What a node, or one of its columns (`domain/table.column`), is made of, and what of it.

    Raises
    ------
    ProjectError: there is none of that name.
    """
    table, _, column = name.partition(".")
    if table not in nodes or (column and column not in nodes[table].columns):
        known = [*nodes, *(f"{node.name}.{c}" for node in nodes.values() for c in node.columns)]
        raise ProjectError(f"there is no {name}.{did_you_mean(name, known)}")
    up = dict[str, tuple[str, ...]]()
    for node in nodes.values():
        if column:
            up |= {
                f"{node.name}.{c}": tuple(dict.fromkeys([*made, *node.picked_by]))
                for c, made in node.columns.items()
            }
        else:
            up[node.name] = node.reads
    down = dict[str, list[str]]()
    for each, made in up.items():
        for other in made:
            down.setdefault(other, []).append(each)
    return _reached(name, up), _reached(name, {each: tuple(of) for each, of in down.items()})


def _reached(name: str, to: Mapping[str, tuple[str, ...]]) -> list[str]:
    found, waiting = dict[str, None](), [name]
    while waiting:
        for each in to.get(waiting.pop(0), ()):
            if each not in found:
                found[each] = None
                waiting.append(each)
    return list(found)
