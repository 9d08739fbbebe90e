"""What the lake knows of definitions; lineage, the catalogue page, and the commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

from penstock import Lake, Table
from penstock.catalogue import catalogue, picture
from penstock.cli import main
from penstock.errors import ProjectError
from penstock.features import Entity, FeatureView, Sum, materialize, registry, stale_days
from penstock.lineage import around, lineage
from penstock.project import Project
from penstock.tables import append

_SHOP = """
from penstock.features import Derived, Entity, FeatureView, Sum
from penstock.labels import Outcome
from penstock.training import GroupSplit, Spine, TrainingSet

CUSTOMER = Entity("customer", ("customer",))
SPENT = FeatureView(
    "regshop/spent", CUSTOMER, "regshop/orders", "at", (Sum("amount", ["7d"], "spent"),),
    derived=(Derived.of("twice", "spent_7d * 2"),), owner="ml@example.com",
)
NEXT = Outcome(
    "regshop/next", CUSTOMER, "regshop/orders", "at",
    expression="amount", horizon="7d", population="28d",
)
VALUE = TrainingSet(
    "regshop/value", NEXT, (SPENT,), GroupSplit("customer", test=0.3),
    spine=Spine("regshop/orders", event_time="at"),
)
"""
_SCHEMA = """
from penstock import Column, Contract, Source

ORDERS = Contract(
    table="regshop/orders",
    event_time="at",
    columns=(
        Column("customer", "int64", "Who", personal=True),
        Column("at", "timestamp"),
        Column("amount", "float64", "What it came to"),
    ),
)
SOURCE = Source(table="regshop/orders_raw", uri="data/raw/none", contract=ORDERS)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project of one domain."""
    for folder, text in (("pipelines", _SHOP), ("schemas", _SCHEMA)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
        (tmp_path / folder / "regshop.py").write_text(text)
    before = {name: sys.modules.pop(name) for name in _modules()}
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in _modules():
        del sys.modules[name]
    sys.modules.update(before)


def _modules() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] in ("pipelines", "schemas")]


@pytest.fixture
def orders(lake: Lake) -> Lake:
    """A lake with sixty days of orders."""
    start = datetime(2024, 1, 1, 12, tzinfo=UTC)
    rows = [(c, start + timedelta(days=d), float(d)) for d in range(60) for c in range(30)]
    schema = {"customer": pl.Int64, "at": pl.Datetime("us", "UTC"), "amount": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    append(Table(lake, "regshop/orders"), frame.to_arrow())
    return lake


def run(lake: Lake, project: Path, *arguments: str) -> Any:
    """A command's JSON."""
    told = ["--lake", lake.uri, "--json"]
    if arguments[:2] not in (("training", "ls"), ("training", "diff")):
        told += ["--project", str(project)]
    done = CliRunner().invoke(main, [*arguments, *told])
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def test_definitions_are_known_once_used_and_changes_name_their_parts(
    orders: Lake, project: Path
) -> None:
    listed = {row["name"]: row for row in run(orders, project, "features", "ls")}
    assert {row["state"] for row in listed.values()} == {"new"}
    assert listed["regshop/spent"]["read by"] == ["regshop/value"]

    run(orders, project, "publish", "regshop/value")
    listed = {row["name"]: row for row in run(orders, project, "features", "ls")}
    assert listed["regshop/spent"]["state"] == listed["regshop/value"]["state"] == "same"

    opened = Project(project)
    changed = [
        (name, kind, {**said, "ttl": "3d", "windows": {}} if name == "regshop/spent" else said)
        for name, kind, said in opened.definitions()
    ]
    (found,) = [
        each
        for each in registry.compared(orders, changed, opened.reads())
        if each.name == "regshop/spent"
    ]
    assert (found.state, found.differs) == ("changed", ("ttl", "windows.spent_7d"))
    assert found.dependents == ("regshop/value",)


def test_a_renamed_view_is_known_again_and_one_taken_away_is_gone(orders: Lake) -> None:
    view = FeatureView(
        "regshop/spent",
        Entity("customer", ("customer",)),
        "regshop/orders",
        "at",
        (Sum("amount", ["7d"], "spent"),),
    )
    materialize(orders, view.daily(), stale_days(orders, view.daily())[:2])
    renamed = replace(view, table="regshop/spending")

    def states(*views: FeatureView) -> list[tuple[str, str, tuple[str, ...]]]:
        defined = [(v.table, "features", v.definition()) for v in views]
        found = registry.compared(orders, defined, {"regshop/value": ["regshop/spent"]})
        return [(each.name, each.state, each.differs) for each in found]

    assert states(view) == [("regshop/spent", "same", ())]
    assert states(renamed) == [("regshop/spending", "renamed", ("regshop/spent",))]
    assert states() == [("regshop/spent", "gone", ())]


def test_the_same_view_under_a_prefix_is_no_other_definition(orders: Lake) -> None:
    view = FeatureView(
        "regshop/spent",
        Entity("customer", ("customer",)),
        "regshop/orders",
        "at",
        (Sum("amount", ["7d"], "spent"),),
    )
    prefixed = replace(view, prefix="my_")

    assert prefixed.definition() == view.definition()
    assert prefixed.fingerprint() != view.fingerprint()


def test_lineage_goes_from_a_file_to_a_dataset_column_by_column(project: Path) -> None:
    nodes = lineage(Project(project))

    up, down = around(nodes, "regshop/orders.amount")
    assert up == ["regshop/orders_raw.amount"]
    assert "regshop/spent.spent_7d" in down
    assert "regshop/value.spent_7d" in down
    assert "regshop/value.label" in down
    up, _ = around(nodes, "regshop/value.twice")
    assert up[-1] == "regshop/orders_raw.amount"
    for picked_by in ("at", "customer"):  # no part of a value, but whoever drops it breaks both
        _, down = around(nodes, f"regshop/orders.{picked_by}")
        assert {"regshop/spent.spent_7d", "regshop/next.label"} <= {*down}
    with pytest.raises(ProjectError, match="no regshop/spent.spend_7d. Did you mean"):
        around(nodes, "regshop/spent.spend_7d")
    assert picture(nodes).count("<rect") == len(nodes) == 7


def test_a_view_may_have_a_prefixed_twin_and_no_other_namesake(orders: Lake, project: Path) -> None:
    module = project / "pipelines" / "regshop.py"
    twin = "from dataclasses import replace\nTWIN = replace(SPENT, prefix='p_')\n"
    module.write_text(module.read_text() + twin)
    assert run(orders, project, "features", "show", "regshop/spent")["state"] == "new"
    assert len(Project(project).views()) == 1

    module.write_text(module.read_text() + "OTHER = replace(SPENT, ttl='3d')\n")
    for name in _modules():
        del sys.modules[name]
    with pytest.raises(ProjectError, match="two different views are called regshop/spent"):
        Project(project).views()


def test_a_module_that_cannot_be_loaded_is_named(project: Path) -> None:
    (project / "pipelines" / "broken.py").write_text("import nosuch_package\n")
    with pytest.raises(ProjectError, match=r"pipelines.broken can't be loaded: No module named"):
        Project(project).views()
    (project / "pipelines" / "broken.py").write_text("x = (\n")
    with pytest.raises(ProjectError, match=r"pipelines.broken can't be loaded: line 1: "):
        Project(project).views()


def test_a_module_of_another_project_is_not_taken_for_ones_own(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    Project(project).views()
    other = tmp_path_factory.mktemp("other")
    (other / "pipelines").mkdir()
    (other / "pipelines" / "regshop.py").write_text("")
    with pytest.raises(ProjectError, match="pipelines.regshop was loaded from"):
        Project(other).views()


def test_a_page_that_cannot_be_written_leaves_the_old_one(
    orders: Lake, project: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "page.html"
    folder.mkdir()
    told = ["--lake", orders.uri, "--project", str(project), "--out", str(folder)]
    done = CliRunner().invoke(main, ["docs", *told])
    assert done.exit_code == 1
    assert "can't be written" in done.output
    assert not list(tmp_path.glob(".page*"))


def test_the_commands_show_search_and_trace(orders: Lake, project: Path) -> None:
    shown = run(orders, project, "features", "show", "regshop/spent")
    assert [each["feature"] for each in shown["features"]] == ["spent_7d", "twice"]
    assert shown["features"][0]["is"] == "sum of amount over 7d"
    found = run(orders, project, "features", "search", "spent")
    assert {"table": "regshop/spent", "kind": "features"}.items() <= found[0].items()
    traced = run(orders, project, "features", "lineage", "regshop/spent")
    assert traced["makes"] == ["regshop/value_training_set", "regshop/value"]
    assert run(orders, project, "features", "refresh", "regshop/spent")["entities"] == 30


def test_freezes_are_listed_compared_and_rebuilt(orders: Lake, project: Path) -> None:
    run(orders, project, "publish", "regshop/value")
    rows = Table(orders, "regshop/orders").snapshot().scan().tail(30).collect()
    append(
        Table(orders, "regshop/orders"),
        rows.with_columns(pl.col("at") + timedelta(days=1)).to_arrow(),
    )
    run(orders, project, "publish", "regshop/value")

    newer, older = run(orders, project, "training", "ls", "regshop/value")
    found = run(
        orders,
        project,
        "training",
        "diff",
        "regshop/value",
        older["fingerprint"][:8],
        newer["fingerprint"][:8],
    )
    again = run(orders, project, "training", "rebuild", "regshop/value", older["fingerprint"])

    assert found["inputs"] == {"regshop/orders": [1, 2]}
    assert found["added"] == newer["rows"] - older["rows"] == 30
    assert (again["same"], again["rebuilt"]) == (True, older["fingerprint"])


def test_the_catalogue_is_one_page_with_every_column_and_no_script(
    orders: Lake, project: Path, tmp_path: Path
) -> None:
    run(orders, project, "publish", "regshop/value")
    page = tmp_path / "site" / "index.html"

    run(orders, project, "docs", "--out", str(page))

    text = page.read_text()
    assert "<script" not in text
    for said in ("regshop/orders", "spent_7d", "sum of amount over 7d", "1,800 rows", "made of"):
        assert said in text, said
    assert 'href="#regshop-spent"' in text
    assert 'id="regshop-spent"' in text
    assert text.startswith(catalogue(orders, Project(project))[:200])
