"""Contracts: what is accepted, what is rejected and why, what forbids a commit."""

from __future__ import annotations

import dataclasses

import polars as pl
import pytest
from click.testing import CliRunner

from penstock import Contract, Table, validate
from penstock.cli import main
from penstock.contracts import (
    Column,
    Expectation,
    expect_column_pair_values_a_to_be_greater_than_b,
    expect_column_value_lengths_to_be_between,
    expect_column_values_to_be_between,
    expect_column_values_to_be_in_set,
    expect_column_values_to_match_regex,
    expect_column_values_to_not_be_in_set,
    expect_column_values_to_not_be_null,
    expect_compound_columns_to_be_unique,
    expect_table_row_count_to_be_between,
)
from penstock.errors import BatchRefused, CommitConflict, ContractError
from penstock.ingest import ingest
from penstock.quality import validate as validate_function
from penstock.quality.refusals import refused_batches
from penstock.quality.report import report
from penstock.quality.results import last_results
from tests.conftest import ORDERS, Shop, order


def _with(shop: Shop, *expectations: Expectation) -> Shop:
    contract = dataclasses.replace(ORDERS, expectations=expectations)
    return shop.with_source(contract=contract)


def test_a_row_lands_in_the_rejects_with_every_reason(shop: Shop) -> None:
    shop.write("a.csv", order(1), "o2,p2,0,-1.5,yesterday,x@example.com")

    ingest(shop.lake, shop.source)
    run = validate(shop.lake, shop.source)

    assert run.reasons == {
        "at_is_timestamp": 1,
        "price_values_to_be_between": 1,
        "units_values_to_be_between": 1,
    }
    (row,) = shop.rows("shop/orders__rejected").to_dicts()
    observed = {reason["expectation"]: reason["observed"] for reason in row["_reasons"]}
    assert observed["price_values_to_be_between"] == "-1.5"
    assert row["at"] == "yesterday"


@pytest.mark.parametrize(
    ("expectation", "broken_by", "held_by"),
    [
        (expect_column_values_to_be_between("units", 2, 3), ["1", "4"], ["2", "3"]),
        (expect_column_values_to_be_between("units", 2, strict_min=True), ["2"], ["3"]),
        (expect_column_values_to_be_in_set("units", [1, 2]), ["3"], ["1", "2"]),
        (expect_column_values_to_not_be_in_set("units", [1, 2]), ["1"], ["3"]),
    ],
    ids=lambda value: value.name if isinstance(value, Expectation) else None,
)
def test_an_expectation_on_a_number(
    shop: Shop, expectation: Expectation, broken_by: list[str], held_by: list[str]
) -> None:
    shop = _with(shop, expectation)
    values = [*broken_by, *held_by]
    shop.write("a.csv", *(order(n, units=value) for n, value in enumerate(values)))

    ingest(shop.lake, shop.source)
    run = validate(shop.lake, shop.source)

    assert run.reasons == {expectation.name: len(broken_by)}
    assert sorted(shop.rows("shop/orders")["units"].cast(str)) == sorted(held_by)


@pytest.mark.parametrize(
    ("expectation", "broken_by", "held_by"),
    [
        (expect_column_values_to_match_regex("product", r"^\d{2}$"), ["1", "a2"], ["12"]),
        (expect_column_value_lengths_to_be_between("product", 2, 3), ["a", "abcd"], ["ab", "äöü"]),
        (expect_column_values_to_not_be_null("email"), [""], ["x"]),
    ],
    ids=lambda value: value.name if isinstance(value, Expectation) else None,
)
def test_an_expectation_on_text(
    shop: Shop, expectation: Expectation, broken_by: list[str], held_by: list[str]
) -> None:
    shop = _with(shop, expectation)
    about = expectation.columns[0]
    lines = [
        f"o{n},{value if about == 'product' else 'p'},1,1.0,2024-03-01,"
        f"{value if about == 'email' else 'e'}"
        for n, value in enumerate([*broken_by, *held_by])
    ]
    shop.write("a.csv", *lines)

    ingest(shop.lake, shop.source)
    run = validate(shop.lake, shop.source)

    assert (run.rows_accepted, run.rows_rejected) == (len(held_by), len(broken_by))


def test_a_pair_of_columns(shop: Shop) -> None:
    shop = _with(shop, expect_column_pair_values_a_to_be_greater_than_b("price", "units"))
    shop.write("a.csv", "o1,p,1,2.0,2024-03-01,e", "o2,p,2,2.0,2024-03-01,e", "o3,p,2,,2024-03-01,")

    ingest(shop.lake, shop.source)

    assert validate(shop.lake, shop.source).rows_rejected == 1


def test_repeated_rows_are_rejected_but_the_first_even_across_chunks(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.quality.validation.PASS_ROWS", 100)
    shop = _with(shop, expect_compound_columns_to_be_unique(("order_id", "email")))
    lines = [order(n) for n in range(150)]
    shop.write("a.csv", *lines, *lines[:30])
    shop.write("b.csv", *lines[:5])

    ingest(shop.lake, shop.source)
    run = validate(shop.lake, shop.source)

    assert (run.rows_accepted, run.rows_rejected) == (155, 30)
    assert min(shop.rows("shop/orders__rejected")["_source_row"]) == 151


def test_a_row_condition_picks_the_rows(shop: Shop) -> None:
    rule = expect_column_values_to_be_between("units", 1, row_condition="product = 'sold'")
    shop = _with(shop, rule)
    shop.write("a.csv", "o1,sold,-1,1.0,2024-03-01,e", "o2,returned,-1,1.0,2024-03-01,e")

    ingest(shop.lake, shop.source)
    run = validate(shop.lake, shop.source)

    assert shop.rows("shop/orders")["product"].to_list() == ["returned"]
    assert [r.looked_at for r in run.results if r.expectation.row_condition] == [1]


def test_a_warning_lets_the_row_through_and_is_counted(shop: Shop) -> None:
    shop = _with(shop, expect_column_values_to_be_between("units", 10, severity="warn", mostly=0.5))
    shop.write("a.csv", order(1, units=1), order(2, units=2), order(3, units=20))

    ingest(shop.lake, shop.source)
    run = validate(shop.lake, shop.source)

    (result,) = (r for r in run.results if r.expectation.severity == "warn")
    assert run.rows_accepted == 3
    assert (result.looked_at, result.broken, result.success) == (3, 2, False)


@pytest.mark.parametrize(
    "rule",
    [
        expect_column_values_to_be_between("units", 10, severity="fail"),
        expect_table_row_count_to_be_between(100, severity="fail"),
    ],
    ids=["rows", "table"],
)
def test_severity_fail_commits_nothing_and_can_be_mended(shop: Shop, rule: Expectation) -> None:
    failing = _with(shop, rule)
    shop.write_orders("a.csv", 3)
    ingest(failing.lake, failing.source)

    with pytest.raises(ContractError, match="severity fail"):
        validate(failing.lake, failing.source)
    assert Table(shop.lake, "shop/orders").snapshot().rows == 0

    assert validate(shop.lake, shop.source).rows_accepted == 3


def test_a_refused_batch_is_told_by_rows_until_it_commits(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = _with(shop, expect_column_values_to_be_between("units", 1, severity="fail"))
    shop.write("good.csv", order(1))
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)
    shop.write("a.csv", order(2, units=5), order(3, units=-7))
    ingest(shop.lake, shop.source)

    with pytest.raises(
        BatchRefused, match=r"a\.csv row 2: units_values_to_be_between \(-7\)"
    ) as got:
        validate(shop.lake, shop.source)

    (told,) = refused_batches(shop.lake, "shop/orders")
    assert (told.source, told.batch, told.why) == ("shop/orders_raw", 2, str(got.value))
    assert [row["_source_row"] for row in told.rows] == [2]
    broken = [result for result in got.value.results if not result.success]
    assert [result.expectation.name for result in broken] == ["units_values_to_be_between"]
    assert len(told.results) == len(got.value.results) > 1
    assert "row 2: units" in report(shop.lake, "shop/orders")
    said = CliRunner().invoke(main, ["rejects", "shop/orders", "--lake", shop.lake.uri])
    assert "a.csv row 2" in said.output

    shop.write("a.csv", order(2, units=5))
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    assert refused_batches(shop.lake, "shop/orders") == []


def test_a_refusal_is_forgotten_whenever_its_batch_has_committed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = _with(shop, expect_column_values_to_be_between("units", 1, severity="fail"))
    shop.write("a.csv", order(3, units=-7))
    ingest(shop.lake, shop.source)
    with pytest.raises(BatchRefused):
        validate(shop.lake, shop.source)
    shop.write("a.csv", order(3))
    ingest(shop.lake, shop.source)
    with monkeypatch.context() as killed:
        killed.setattr("penstock.quality.validation.forget_refusal", lambda *_: None)
        validate(shop.lake, shop.source)
    assert len(refused_batches(shop.lake, "shop/orders")) == 1

    validate(shop.lake, shop.source)

    assert refused_batches(shop.lake, "shop/orders") == []


def test_severity_fail_is_mended_by_a_new_state_of_the_file(shop: Shop) -> None:
    shop = _with(shop, expect_column_values_to_be_between("units", 1, severity="fail"))
    shop.write("a.csv", order(1, units=0))
    ingest(shop.lake, shop.source)
    with pytest.raises(ContractError):
        validate(shop.lake, shop.source)
    shop.write("a.csv", order(1, units=5), order(2))

    ingest(shop.lake, shop.source)

    assert validate(shop.lake, shop.source).rows_accepted == 2
    assert sorted(shop.rows("shop/orders")["units"]) == [2, 5]


def test_a_fixed_column_is_not_widened(shop: Shop) -> None:
    shop.write_orders("a.csv", 3)
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)
    wide = tuple(
        dataclasses.replace(each, kind="int64", evolution="fixed") if each.name == "units" else each
        for each in ORDERS.columns
    )
    shop = shop.with_source(contract=dataclasses.replace(ORDERS, columns=wide))
    before = Table(shop.lake, "shop/orders").snapshot().version

    with pytest.raises(ContractError, match="units is int64 in the contract and int32"):
        validate(shop.lake, shop.source)

    assert Table(shop.lake, "shop/orders").snapshot().version == before


def test_rows_that_do_not_add_up_fail_loudly(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.write_orders("a.csv", 3)
    ingest(shop.lake, shop.source)
    monkeypatch.setattr("penstock.quality.validation.Stager.write", lambda *_: None)

    with pytest.raises(ContractError, match=r"3 rows were read, but 0 accepted \+ 0 rejected"):
        validate(shop.lake, shop.source)


def test_rows_counted_to_another_file_fail_loudly(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.write_orders("a.csv", 3)
    shop.write_orders("b.csv", 3, first=10)
    ingest(shop.lake, shop.source)

    def to_one(into: dict[str, int], values: pl.Series) -> None:
        into["a.csv"] = into.get("a.csv", 0) + len(values)

    monkeypatch.setattr("penstock.quality.splitting._count_files", to_one)

    with pytest.raises(ContractError, match=r"3 rows of a.csv were read, but 6 accepted"):
        validate(shop.lake, shop.source)
    assert shop.rows("shop/orders").height == 0


def test_a_run_killed_between_its_commits_is_finished_by_the_next(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.write("a.csv", order(1), order(2, units=0))
    ingest(shop.lake, shop.source)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("penstock.quality.validation._Batch._stage_ledger", killed)
        with pytest.raises(KeyboardInterrupt):
            validate(shop.lake, shop.source)
    assert shop.rows("shop/orders__rejected").height == 1
    assert shop.rows("shop/orders").height == 0

    validate(shop.lake, shop.source)

    assert shop.rows("shop/orders__rejected").height == 1
    assert shop.rows("shop/orders").height == 1
    assert shop.rows("shop/orders__ledger").height == 1


def test_validating_twice_does_nothing_the_second_time(shop: Shop) -> None:
    shop.write_orders("a.csv", 3)
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    assert validate_function(shop.lake, shop.source).batches == []
    assert shop.rows("shop/orders").height == 3


def test_personal_values_stay_in_their_own_column(shop: Shop) -> None:
    shop = _with(shop, expect_column_values_to_match_regex("email", "@"))
    shop.write("a.csv", "o1,p,1,1.0,2024-03-01,secret")

    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    (row,) = shop.rows("shop/orders__rejected").to_dicts()
    assert row["email"] == "secret"
    assert "secret" not in str(row["_reasons"])


def test_results_are_kept_in_the_shape_of_great_expectations(shop: Shop) -> None:
    shop.write("a.csv", order(1), order(2, units=0))
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    kept = last_results(shop.lake, "shop/orders")

    assert (kept["rows_accepted"], kept["rows_rejected"]) == (1, 1)
    (units,) = (
        r
        for r in kept["results"]
        if r["expectation_config"]["type"] == "expect_column_values_to_be_between"
        and r["expectation_config"]["kwargs"]["column"] == "units"
    )
    assert not units["success"]
    assert units["result"] == {
        "element_count": 2,
        "unexpected_count": 1,
        "unexpected_percent": 50.0,
        "partial_unexpected_list": [0],
        "missing_count": 0,
        "missing_percent": 0.0,
        "unexpected_percent_total": 50.0,
        "unexpected_percent_nonmissing": 50.0,
    }


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int64", "17850.0", 17850),
        ("int64", " 3 ", 3),
        ("int64", "3.5", None),
        ("int32", "99999999999", None),
        ("float64", "1e3", 1000.0),
        ("float64", "nan", None),
        ("float64", "inf", None),
        ("bool", "TRUE", True),
        ("bool", "maybe", None),
        ("date", "2024-02-29", "2024-02-29"),
        ("date", "2023-02-29", None),
        ("timestamp", "2024-03-01T10:00:00+02:00", "2024-03-01 08:00:00+00:00"),
        ("timestamp", "2024-03-01 10:00", "2024-03-01 10:00:00+00:00"),
    ],
)
def test_text_becomes_a_value_or_is_told_apart(
    shop: Shop, kind: str, text: str, value: object
) -> None:
    columns = (Column("v", kind), Column("at", "timestamp"))
    shop = shop.with_source(contract=Contract("shop/orders", columns, "at"))
    shop.write("a.csv", f"{text},2024-01-01", header="v,at\n")

    ingest(shop.lake, shop.source)
    run = validate(shop.lake, shop.source)

    if value is None:
        assert run.reasons == {f"v_is_{kind}": 1}
    else:
        (read,) = shop.rows("shop/orders")["v"].to_list()
        assert (str(read) if isinstance(value, str) else read) == value


def test_a_contract_that_names_no_column_is_refused() -> None:
    with pytest.raises(ContractError, match="no column nothing"):
        Contract("shop/orders", ORDERS.columns, "nothing")


def test_a_second_commit_of_a_batch_is_refused(shop: Shop) -> None:
    from penstock.tables import Transaction

    shop.write_orders("a.csv", 1)
    ingest(shop.lake, shop.source)
    table = Table(shop.lake, "shop/orders_raw").snapshot()

    with pytest.raises(CommitConflict, match="batch 1 is in the table already"):
        table.commit([], transaction=Transaction(shop.source.application, 1))


def test_a_batch_that_another_writer_came_into_is_done_again_and_not_passed_over(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.tables import Snapshot

    shop.write_orders("a.csv", 3)
    ingest(shop.lake, shop.source)
    shop.write_orders("b.csv", 4, first=10)
    ingest(shop.lake, shop.source)
    commit, refused = Snapshot.commit, list[str]()

    def refused_once(snapshot: Snapshot, *arguments: object, **options: object) -> Snapshot:
        if snapshot.table.name == "shop/orders" and not refused:
            refused.append(snapshot.table.name)
            raise CommitConflict("a compaction came in between")
        return commit(snapshot, *arguments, **options)

    monkeypatch.setattr(Snapshot, "commit", refused_once)

    run = validate(shop.lake, shop.source)

    assert refused
    assert run.rows_accepted == 7
    assert shop.rows("shop/orders").height == 7
    assert shop.rows("shop/orders__ledger").height == 2


def test_a_column_that_the_bronze_table_lacks_is_named(shop: Shop) -> None:
    shop.write_orders("a.csv", 2)
    ingest(shop.lake, shop.source)
    contract = shop.source.contract
    more = dataclasses.replace(contract, columns=(*contract.columns, Column("size", "int64", "")))
    later = shop.with_source(contract=more)

    with pytest.raises(ContractError, match=r"has no column size.*`penstock ingest` adds it"):
        validate(later.lake, later.source)
    ingest(later.lake, later.source)
    assert validate(later.lake, later.source).rows_accepted == 2
