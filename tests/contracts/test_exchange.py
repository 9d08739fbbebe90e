"""Contracts in others' formats, and what changes between two."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from penstock import contracts as c
from penstock import validate
from penstock.cli import main
from penstock.contracts import Column, Contract, Expectation
from penstock.contracts.diff import diff, is_compatible
from penstock.contracts.exchange import (
    from_arrow,
    from_gx_suite,
    from_json,
    from_odcs,
    to_json,
    to_odcs,
)
from penstock.contracts.source import to_python
from penstock.errors import ContractError, TableNotFound
from penstock.ingest import ingest
from penstock.quality.history import contract_of
from schemas.retail import SALES
from tests.conftest import ORDERS, Shop, order
from tests.quality.expected import EXPECTED

_WIDE = Contract(
    "shop/all",
    (
        Column("n", "int64"),
        Column("m", "int64"),
        Column("f", "float64"),
        Column("s", "string"),
        Column("t", "timestamp"),
    ),
    event_time="t",
    freshness="26h",
    unknown_columns={"promo_*": "add", "*": "fail"},
    expectations=tuple({each.name: each for each in EXPECTED}.values()),
)


@pytest.mark.parametrize("contract", [ORDERS, SALES, _WIDE], ids=lambda each: each.table)
def test_a_contract_comes_back_whole(contract: Contract) -> None:
    assert from_json(to_json(contract)).fingerprint() == contract.fingerprint()
    module: dict[str, Any] = {}
    exec(to_python(contract), module)
    found = module[contract.table.split("/")[-1].upper()]
    assert found.fingerprint() == contract.fingerprint()


_RICH = replace(
    ORDERS,
    grain="a product on an order",
    freshness="2d",
    max_rejected=0.1,
    columns=tuple(
        replace(column, evolution="fixed", unit="pieces", former_names=("n", "count"))
        if column.name == "units"
        else column
        for column in ORDERS.columns
    ),
    expectations=(
        *ORDERS.expectations,
        c.expect_column_values_to_be_between("units", 1, 10, severity="warn", label="usual_units"),
        c.expect_column_mean_to_be_between("price", 1, row_condition="units > 1"),
    ),
)


def test_all_of_a_contract_comes_back_from_every_form() -> None:
    module: dict[str, Any] = {}
    exec(to_python(_RICH), module)

    assert module["ORDERS"] == _RICH
    assert from_json(to_json(_RICH)) == _RICH
    assert from_odcs(json.loads(json.dumps(to_odcs(_RICH)))) == (_RICH, {})
    assert from_arrow(_RICH.arrow_schema(), "shop/orders", "at").columns == _RICH.columns
    assert len({_RICH, from_json(to_json(_RICH)), ORDERS}) == 2
    said = str(_RICH)
    for told in ("a row is a product on an order", "rejected at most: 0.1", "id in files", "fixed"):
        assert told in said


@pytest.mark.parametrize("contract", [ORDERS, SALES], ids=lambda each: each.table)
def test_an_open_data_contract_comes_back(contract: Contract) -> None:
    document = json.loads(json.dumps(to_odcs(contract)))
    found, left = from_odcs(document)

    assert document["apiVersion"] == "v3.1.0"
    assert left == {}
    assert found.columns == contract.columns
    assert (found.table, found.key, found.owner) == (contract.table, contract.key, contract.owner)
    assert [e.name for e in found.expectations] == [e.name for e in contract.expectations]
    assert [e.severity for e in found.expectations] == [e.severity for e in contract.expectations]


def test_a_contract_prints_itself_for_a_reader() -> None:
    contract = Contract(
        table="shop/orders",
        description="A row for each order.",
        event_time="at",
        key=("id",),
        columns=(
            Column("id", "string", nullable=False),
            Column("at", "timestamp", "When, as UTC"),
            Column("price", "float64", unit="GBP", personal=True),
        ),
        expectations=(
            c.expect_column_values_to_be_between("price", 0, severity="warn", mostly=0.9),
        ),
    )

    assert str(contract).splitlines() == [
        "shop/orders",
        "  A row for each order.",
        "columns",
        "  id     string, not null, key",
        "  at     timestamp, event time: When, as UTC",
        "  price  float64, personal, in GBP",
        "expectations",
        "  reject  expect_column_values_to_not_be_null(id)",
        "  warn    expect_column_values_to_be_between(price, min_value=0, max_value=None), "
        "of 90% at least",
    ]


def test_an_arrow_schema_comes_back() -> None:
    found = from_arrow(ORDERS.arrow_schema(), "shop/orders")

    assert [(x.name, x.kind, x.personal) for x in found.columns] == [
        (x.name, x.kind, x.personal) for x in ORDERS.columns
    ]
    with pytest.raises(ContractError, match=r"column tags is list<item: int64>"):
        from_arrow(pa.schema([("tags", pa.list_(pa.int64()))]), "shop/orders")


def test_a_suite_of_great_expectations_is_taken_in_and_what_is_not_is_named() -> None:
    suite = {
        "expectations": [
            {
                "expectation_type": "expect_column_values_to_be_in_set",
                "kwargs": {"column": "product", "value_set": ["a"], "mostly": 0.9},
            },
            {
                "type": "expect_column_mean_to_be_between",
                "kwargs": {"column": "no", "max_value": 1},
            },
            {"type": "expect_column_values_to_shine", "kwargs": {"column": "product"}},
            {
                "type": "expect_column_values_to_be_null",
                "severity": "critical",
                "kwargs": {"column": "price"},
            },
        ]
    }
    found, left = from_gx_suite(suite, ORDERS)

    new = found.expectations[len(ORDERS.expectations) :]
    assert [(e.name, e.mostly, e.severity) for e in new] == [
        ("product_values_to_be_in_set", 0.9, "reject"),
        ("price_values_to_be_null", 1.0, "fail"),
    ]
    assert [*left.values()] == [
        ["expect_column_mean_to_be_between"],
        ["expect_column_values_to_shine"],
    ]


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "x",
        {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "product"}},
        {"type": "expect_column_values_to_be_in_set", "kwargs": {"value_set": ["a"]}},
        {"type": "expect_column_values_to_be_null", "kwargs": {"column": "price", "mostly": 0}},
        {"type": "expect_column_values_to_be_null", "kwargs": {"column": "price", "nosuch": 1}},
        {"type": "expect_column_values_to_be_null", "kwargs": "price"},
        {"type": "expect_compound_columns_to_be_unique", "kwargs": {"column_list": 3}},
    ],
)
def test_an_odd_entry_of_a_suite_is_left_out_by_name(entry: Any) -> None:
    found, left = from_gx_suite({"expectations": [entry]}, ORDERS)

    assert found == ORDERS
    assert len(left) == 1


def test_a_second_of_one_name_and_times_as_text_are_seen_in_a_suite() -> None:
    bound = {"column": "at", "min_value": "2024-01-01T00:00:00+00:00"}
    units = {"column": "units", "min_value": 5}
    kind = "expect_column_values_to_be_between"
    entries = [{"type": kind, "kwargs": each} for each in (bound, units, units)]

    found, left = from_gx_suite({"expectations": entries}, ORDERS)

    at, second = found.expectations[-2:]
    assert at.arguments["min_value"] == datetime(2024, 1, 1, tzinfo=UTC)
    assert (second.name, second.arguments["min_value"]) == ("units_values_to_be_between_2", 5)
    assert "expected already" in next(iter(left))


def test_a_suite_holds_for_great_expectations_no_more_than_what_it_looks_at_alike() -> None:
    sold = c.expect_column_values_to_be_between("units", 1, row_condition="units > 0")
    pair = c.expect_column_pair_values_to_be_equal(
        "order_id", "id2", ignore_row_if="all_values_are_missing"
    )
    contract = replace(
        ORDERS,
        columns=(*ORDERS.columns, Column("id2", "string")),
        expectations=(sold, pair, c.expect_column_values_to_have_no_gaps("at")),
        freshness="2d",
    )

    suite = contract.gx_suite()

    assert all("_if" not in str(entry["meta"]) for entry in suite["expectations"])
    kinds = [entry["type"] for entry in suite["expectations"]]
    assert "expect_column_max_to_be_recent" not in kinds
    assert "expect_column_values_to_be_between" not in kinds
    told = next(entry for entry in suite["expectations"] if "pair" in entry["type"])
    assert told["kwargs"]["ignore_row_if"] == "both_values_are_missing"
    bare = replace(contract, expectations=(), freshness="")
    again, left = from_gx_suite(json.loads(json.dumps(suite)), bare)
    assert again.expectations == (
        c.expect_column_max_to_be_recent("at", "2d"),
        *contract.expectations,
    )
    assert all("expected already" in reason for reason in left)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("both_values_are_missing", "all_values_are_missing"),
        ("either_value_is_missing", "any_value_is_missing"),
        ("neither", "never"),
        (None, "all_values_are_missing"),
    ],
)
def test_which_rows_of_a_pair_are_not_looked_at_is_said_in_great_expectations_words(
    theirs: str | None, ours: str
) -> None:
    kwargs = {"column_A": "a", "column_B": "b"} | ({"ignore_row_if": theirs} if theirs else {})

    found = Expectation.from_gx({"type": "expect_column_pair_values_to_be_equal", "kwargs": kwargs})

    assert found.ignores == ours
    assert Expectation.from_gx(found.to_gx()) == found


@pytest.mark.parametrize(
    "change",
    [
        {"schema": []},
        {"schema": "x"},
        {"team": [3]},
        {"description": "text"},
        {"schema": [{"name": "a", "properties": [{"logicalType": "string"}]}]},
        {"schema": [{"name": "a", "properties": [{"name": "n", "logicalType": "number"}]}]},
        {"schema": [{"name": "a"}, {"name": "b"}]},
    ],
)
def test_an_odd_open_data_contract_is_refused_in_words(change: dict[str, Any]) -> None:
    with pytest.raises(ContractError):
        from_odcs({**to_odcs(ORDERS), **change})


def test_an_open_data_contract_of_others_gives_what_a_contract_has() -> None:
    column = {"name": "at", "physicalType": "timestamptz(6)", "required": True}
    document = {
        "domain": "bank",
        "team": [{"username": "ann", "role": "Owner"}],
        "schema": [
            {"name": "other", "properties": [{"name": "day", "logicalType": "date"}]},
            {
                "name": "moves",
                "properties": [
                    {"name": "id", "physicalType": "varchar(18)", "primaryKey": True},
                    {"name": "tags", "logicalType": "array"},
                    {**column, "quality": [{"type": "library", "metric": "nullValues"}]},
                ],
                "quality": [{"type": "custom", "engine": "soda", "name": "freshness"}],
            },
        ],
    }

    found, left = from_odcs(document, table="moves")
    other, _ = from_odcs(document, table="other")

    assert found.table == "bank/moves"
    assert (found.owner, found.key, found.event_time) == ("ann", ("id",), "at")
    assert [(c.name, c.kind) for c in found.columns] == [("id", "string"), ("at", "timestamp")]
    assert sorted(name for names in left.values() for name in names) == [
        "freshness",
        "nullValues",
        "tags",
    ]
    assert other.column("day").kind == "timestamp"
    with pytest.raises(ContractError, match="no table none; there are other, moves"):
        from_odcs(document, table="none")


_UNITS = ORDERS.column("units")


def _with(column: Column) -> Contract:
    columns = tuple(column if each.name == column.name else each for each in ORDERS.columns)
    return replace(ORDERS, columns=columns)


@pytest.mark.parametrize(
    ("after", "effect", "says"),
    [
        (_with(replace(_UNITS, kind="int64")), "compatible", "int32 -> int64"),
        (_with(replace(ORDERS.column("email"), kind="binary")), "breaking", "take a new name"),
        (_with(replace(_UNITS, nullable=True)), "breaking", "may be null"),
        (_with(replace(ORDERS.column("price"), nullable=False)), "stricter", "must have a value"),
        (_with(replace(_UNITS, unit="kg")), "breaking", "unit '' -> 'kg'"),
        (_with(replace(_UNITS, source_name="u")), "breaking", "is u in files"),
        (_with(replace(ORDERS.column("email"), personal=False)), "breaking", "no longer personal"),
        (
            replace(ORDERS, columns=(*ORDERS.columns, Column("note", "string"))),
            "compatible",
            "column note added",
        ),
        (
            replace(ORDERS, columns=(*ORDERS.columns, Column("no", "string", nullable=False))),
            "breaking",
            "files without it are refused",
        ),
        (
            replace(ORDERS, columns=tuple(x for x in ORDERS.columns if x.name != "price"),
                    expectations=()),
            "breaking",
            "column price removed",
        ),
        (
            replace(ORDERS, expectations=(*ORDERS.expectations,
                                          c.expect_column_values_to_be_in_set("product", ["a"]))),
            "stricter",
            "expect_column_values_to_be_in_set",
        ),
        (replace(ORDERS, expectations=ORDERS.expectations[1:]), "breaking", "no longer expected"),
        (
            replace(ORDERS, expectations=(c.expect_column_values_to_be_between("units", 0, 1000),
                                          *ORDERS.expectations[1:])),
            "breaking",
            "readers may not count on",
        ),
        (
            replace(ORDERS, expectations=(c.expect_column_values_to_be_between("units", 1, 500),
                                          *ORDERS.expectations[1:])),
            "stricter",
            "expect_column_values_to_be_between",
        ),
        *(
            (replace(ORDERS, expectations=(rule, *ORDERS.expectations[1:])), "breaking", "count on")
            for rule in (
                replace(ORDERS.expectations[0], row_condition="price > 1",
                        label=ORDERS.expectations[0].name),
                replace(ORDERS.expectations[0], severity="fail", mostly=0.5),
            )
        ),
        (replace(ORDERS, owner="them@example.com"), "compatible", "owner changed"),
        (replace(ORDERS, unknown_columns="fail"), "stricter", "unknown columns"),
        (replace(ORDERS, key=("order_id",)), "breaking", "key"),
    ],
)  # fmt: skip
def test_each_change_says_whom_it_breaks(after: Contract, effect: str, says: str) -> None:
    found = diff(ORDERS, after)

    assert any(change.effect == effect and says in str(change) for change in found), found
    assert is_compatible(ORDERS, after) == all(change.effect != "breaking" for change in found)
    assert diff(ORDERS, ORDERS) == []


def test_each_version_of_a_table_has_the_contract_of_its_batch(shop: Shop) -> None:
    shop.write("a.csv", order(1))
    ingest(shop.lake, shop.source)
    first = validate(shop.lake, shop.source).version
    wider = _with(replace(_UNITS, kind="int64"))
    again = shop.with_source(contract=wider)
    shop.write("b.csv", order(2))
    ingest(again.lake, again.source)
    validate(again.lake, again.source)

    assert contract_of(shop.lake, "shop/orders", first).fingerprint() == ORDERS.fingerprint()
    assert contract_of(shop.lake, "shop/orders").fingerprint() == wider.fingerprint()
    with pytest.raises(TableNotFound):
        contract_of(shop.lake, "shop/none")
    with pytest.raises(ContractError, match="no contract is kept of version 0"):
        contract_of(shop.lake, "shop/orders", 0)


_SCHEMA = """
from penstock.contracts import Column, Contract
from penstock.ingest import Source

ORDERS = Contract(
    "shop/orders", (Column("id", "string"), Column("at", "timestamp")), event_time="at"
)
SOURCE = Source("shop/orders_raw", "raw", ORDERS)
"""


def test_the_command_line_compares_exports_and_imports(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.write("a.csv", order(1))
    ingest(shop.lake, shop.source)
    version = validate(shop.lake, shop.source).version
    for name in ("schemas", "pipelines"):
        (tmp_path / "project" / name).mkdir(parents=True)
    (tmp_path / "project" / "schemas" / "shop_contracts.py").write_text(_SCHEMA)
    (tmp_path / "project" / "pipelines" / "shop_contracts.py").write_text("")
    monkeypatch.chdir(tmp_path / "project")
    for name in ("schemas", "pipelines"):
        monkeypatch.setattr(f"{name}.__path__", [str(tmp_path / "project" / name)])

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["contract", *arguments])

    told = run("diff", f"shop/orders@{version}", "--lake", shop.lake.uri)
    assert told.exit_code == 1
    assert "column units removed" in told.output
    assert run("diff", "shop/orders", "--to", str(version), "--lake", shop.lake.uri).exit_code == 0

    (tmp_path / "odcs.json").write_text(run("export", "shop/orders").output)
    imported = run("import", str(tmp_path / "odcs.json"))
    assert 'Column("at", "timestamp")' in imported.output
    suite = run("export", "shop/orders", "--as", "gx").output
    (tmp_path / "suite.json").write_text(suite)
    assert run("import", str(tmp_path / "suite.json")).exit_code == 2
    taken = run("import", str(tmp_path / "suite.json"), "--table", "shop/orders")
    assert taken.exit_code == 0
