from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from penstock import contracts as c
from penstock.contracts import Contract, Expectation
from penstock.contracts.beyond import seconds
from penstock.errors import ContractError
from penstock.ingest import ingest
from penstock.quality import check, replay, validate
from penstock.quality.results import Result
from penstock.quality.validation import Validation
from penstock.tables import Table, append
from tests.conftest import ORDERS, Shop, order


def _run(shop: Shop) -> Validation:
    ingest(shop.lake, shop.source)
    return validate(shop.lake, shop.source)


def _with(shop: Shop, *expectations: Expectation, **rest: object) -> Shop:
    contract = replace(ORDERS, expectations=expectations, **rest)  # type: ignore[arg-type]
    return shop.with_source(contract=contract)


def _of(run: Validation, kind: str) -> Result:
    return next(result for result in run.results if result.expectation.type == kind)


def _products(shop: Shop, *names: str) -> None:
    append(Table(shop.lake, "shop/products"), pl.DataFrame({"code": names}).to_arrow())


FOREIGN = c.expect_column_values_to_exist_in_table("product", "shop/products", "code")


def test_rows_without_a_partner_are_rejected_and_replayed(shop: Shop) -> None:
    shop = _with(shop, FOREIGN)
    _products(shop, "p1", "p2")
    shop.write("a.csv", order(1), order(2), order(3), order(8))

    run = _run(shop)

    assert (run.rows_accepted, run.reasons) == (3, {FOREIGN.name: 1})
    reasons = shop.rows("shop/orders__rejected")["_reasons"][0]
    assert reasons[0]["observed"] == "p3"
    _products(shop, "p3")
    assert replay(shop.lake, shop.source).rows_accepted == 1
    assert shop.rows("shop/orders").height == 4


def test_a_partner_is_looked_for_at_a_version(shop: Shop) -> None:
    _products(shop, "p1")
    _products(shop, "p2")
    pinned = c.expect_column_values_to_exist_in_table("product", "shop/products", "code", version=1)
    shop = _with(shop, pinned)
    shop.write("a.csv", order(1), order(2))

    assert Table(shop.lake, "shop/products").snapshot(1).rows == 1
    assert _run(shop).rows_rejected == 1


@pytest.mark.parametrize(
    ("table", "column", "told"),
    [
        ("shop/nosuch", "code", "nosuch"),
        ("shop/products", "kode", "no column kode; it has code"),
    ],
)
def test_a_partner_that_isnt_there_is_told(shop: Shop, table: str, column: str, told: str) -> None:
    _products(shop, "p1")
    shop = _with(shop, c.expect_column_values_to_exist_in_table("product", table, column))
    shop.write_orders("a.csv", 2)

    with pytest.raises(ContractError, match=told):
        _run(shop)


def test_freshness(shop: Shop) -> None:
    now = datetime.now(UTC)
    shop = _with(shop, freshness="1h")
    shop.write("a.csv", order(1, at=f"{now - timedelta(hours=2):%F %T}"))
    stale = _of(_run(shop), "expect_column_max_to_be_recent")
    shop.write("b.csv", order(2, at=f"{now:%F %T}"))
    fresh = _of(_run(shop), "expect_column_max_to_be_recent")

    assert (stale.success, fresh.success) == (False, True)
    assert fresh.observed == now.replace(microsecond=0)


@pytest.mark.parametrize(
    ("days", "missing", "gaps"),
    [([1, 2, 3], 0, 0), ([1, 1, 4, 5, 9], 5, 2), ([7], 0, 0), ([], 0, 0)],
)
def test_gaps_in_time(days: list[int], missing: int, gaps: int) -> None:
    frame = pl.DataFrame({"t": [datetime(2024, 3, day, 9, tzinfo=UTC) for day in days]})
    frame = frame.cast(pl.Datetime("us", "UTC"))

    result = check(frame, [c.expect_column_values_to_have_no_gaps("t", "1d")]).results[0]

    assert (result.success, result.observed) == (missing == 0, missing)
    assert result.details["gaps"] == gaps
    if gaps:
        assert result.details["partial_gaps_list"][0] == "2024-03-02T00:00:00+00:00"


def test_a_batch_much_smaller_than_those_before(shop: Shop) -> None:
    near = c.expect_table_row_count_to_be_near_previous(0.5, 2, severity="fail")
    shop = _with(shop, near)
    for number, rows in enumerate((10, 12, 11)):
        shop.write_orders(f"{number}.csv", rows, first=100 * number)
        assert _of(_run(shop), near.type).success
    shop.write_orders("tiny.csv", 2, first=900)

    with pytest.raises(ContractError, match=r"found 0\.18"):
        _run(shop)
    assert shop.rows("shop/orders").height == 33


def test_columns_that_nobody_knew(shop: Shop) -> None:
    shop = _with(shop, c.expect_table_columns_to_be_known())
    shop.write_orders("a.csv", 2)
    assert _of(_run(shop), "expect_table_columns_to_be_known").success
    header = "id,product,units,price,at,email,colour\n"
    shop.write("b.csv", order(7) + ",red", header=header)

    result = _of(_run(shop), "expect_table_columns_to_be_known")

    assert (result.success, result.observed) == (False, ["colour"])


def test_columns_that_nobody_knew_are_all_named_however_late(shop: Shop) -> None:
    shop = _with(shop, c.expect_table_columns_to_be_known())
    header = "id,product,units,price,at,email,colour,shade\n"
    rows = [order(number) + ",red," for number in range(1, 1500)]
    shop.write("a.csv", *rows, order(1500) + ",,dark", header=header)

    result = _of(_run(shop), "expect_table_columns_to_be_known")

    assert result.observed == ["colour", "shade"]


def test_a_distribution_that_moved(shop: Shop) -> None:
    stable = c.expect_column_distribution_to_be_stable("units")
    shop = _with(shop, stable)
    said = list[bool]()
    for number, factor in enumerate((1, 1, 50)):
        rows = [order(n).split(",") for n in range(1000 * number, 1000 * number + 300)]
        for place, row in enumerate(rows):
            row[2] = str((place % 7 + 1) * factor)
        shop.write(f"{number}.csv", *(",".join(row) for row in rows))
        said.append(_of(_run(shop), stable.type).success)

    assert said == [True, True, False]


def test_a_version_to_be_held_against_that_isnt_there(shop: Shop) -> None:
    shop = _with(shop, c.expect_column_distribution_to_be_stable("units", "prod"))
    shop.write_orders("a.csv", 5)
    assert _run(shop).rows_accepted == 5  # the first batch, which may be tagged then
    shop.write_orders("b.csv", 5, first=100)

    with pytest.raises(ContractError, match="prod"):
        _run(shop)


def test_a_query_finds_rows(shop: Shop) -> None:
    query = "SELECT order_id, email FROM {batch} WHERE units > (SELECT avg(units) FROM {batch})"
    shop = _with(shop, c.unexpected_rows_expectation(query))
    shop.write("a.csv", order(1, units=9), order(2), order(3))

    result = _of(_run(shop), "unexpected_rows_expectation")

    assert (result.success, result.observed) == (False, 1)
    assert result.details == {"unexpected_rows": "•••"}  # one of its columns is personal
    failing = _with(
        shop, c.unexpected_rows_expectation("SELECT * FROM {batch} WHERE email::INT > 1")
    )
    with pytest.raises(ContractError) as told:
        shop.write("b.csv", order(5))
        _run(failing)
    assert "example.com" not in str(told.value)


def test_a_query_over_any_frame() -> None:
    frame = pl.DataFrame({"low": [1, 5], "high": [2, 4]})
    query = c.unexpected_rows_expectation("SELECT * FROM {batch} WHERE low > high")

    report = check(frame, [query])

    assert report.results[0].details["unexpected_rows"] == [{"low": 5, "high": 4}]
    with pytest.raises(ContractError, match="nosuch"):
        check(frame, [c.unexpected_rows_expectation("SELECT nosuch FROM {batch}")])


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 FROM {batch}); COPY (SELECT * FROM __batch) TO 'PATH'; SELECT 1 FROM (SELECT 1",
        "SELECT * FROM {batch}; COPY (SELECT 1) TO 'PATH'",
        "COPY (SELECT * FROM {batch}) TO 'PATH'",
        "SELECT * FROM read_text('/etc/hostname'), {batch}",
        "SELECT * FROM {batch}, 'PATH'",
    ],
)
def test_a_query_reads_its_batch_and_nothing_else(query: str, tmp_path: Path) -> None:
    path = tmp_path / "out.csv"

    with pytest.raises(ContractError):
        made = c.unexpected_rows_expectation(query.replace("PATH", str(path)))
        check(pl.DataFrame({"a": [1]}), [made])
    assert not path.exists()


def test_a_querys_text_is_kept_as_it_is() -> None:
    frame = pl.DataFrame({"s": ["a  b"]})
    query = """
        WITH odd AS (SELECT * FROM {batch})  -- those with two blanks
        SELECT * FROM odd WHERE s = 'a  b';
    """
    assert check(frame, [c.unexpected_rows_expectation(query)]).results[0].observed == 1


@pytest.mark.parametrize("codes", [[1, 2], [1.5], [datetime(2024, 1, 1)]])
def test_a_partner_of_another_type_is_told(shop: Shop, codes: list[object]) -> None:
    append(Table(shop.lake, "shop/products"), pl.DataFrame({"code": codes}).to_arrow())
    shop = _with(shop, FOREIGN)
    shop.write_orders("a.csv", 2)

    with pytest.raises(ContractError, match="are of one type"):
        _run(shop)


def test_a_file_that_is_emptied_is_no_small_batch(shop: Shop) -> None:
    shop = _with(shop, c.expect_table_row_count_to_be_near_previous(severity="fail"))
    shop.write_orders("a.csv", 10)
    _run(shop)
    shop.write("a.csv")

    _run(shop)

    assert shop.rows("shop/orders").height == 0


def test_a_distribution_of_a_personal_column_is_refused() -> None:
    with pytest.raises(ContractError, match="no values are kept"):
        replace(ORDERS, expectations=(c.expect_column_distribution_to_be_stable("email"),))


def test_a_check_leaves_out_of_a_contract_what_it_cant_know() -> None:
    frame = pl.DataFrame({"a": [1]})
    with pytest.raises(ContractError, match="which only `validate` knows"):
        check(frame, [c.expect_table_columns_to_be_known()])
    contract = Contract("shop/x", (c.Column("at", "timestamp"),), "at")
    contract = replace(contract, expectations=(c.expect_table_columns_to_be_known(),))
    rows = pl.DataFrame({"at": [datetime(2024, 1, 1, tzinfo=UTC)]})
    assert check(rows, contract).results == []


@pytest.mark.parametrize(
    "made",
    [
        lambda: c.expect_column_values_to_exist_in_table("a", "products"),
        lambda: c.expect_column_max_to_be_recent("a", "soon"),
        lambda: c.expect_column_values_to_have_no_gaps("a", "0d"),
        lambda: c.expect_column_distribution_to_be_stable("a", psi=None),
        lambda: c.expect_table_row_count_to_be_near_previous(2, 1),
        lambda: c.unexpected_rows_expectation("SELECT 1"),
        lambda: c.unexpected_rows_expectation("SELECT * FORM {batch}"),
        lambda: c.expect_table_row_count_to_equal_other_table("products"),
        lambda: c.expect_query_results_to_match_comparison("SELECT 1", "SELECT 1"),
        lambda: c.expect_query_results_to_match_comparison("FROM {batch}", "FROM {batch}"),
        lambda: c.expect_query_results_to_match_comparison("FROM {batch}", "SELECT 1; SELECT 2"),
        lambda: c.expect_query_results_to_match_comparison("FROM {batch}", "FROM a.b@v1 WHERE"),
        lambda: c.expect_query_results_to_match_comparison("FROM {batch}", "FROM a.b", "warehouse"),
        lambda: c.expect_query_results_to_match_comparison("FROM {batch}", "FROM a.b", mostly=0),
        lambda: c.expect_column_distribution_to_be_stable("a", psi=float("nan")),
        lambda: c.expect_table_row_count_to_be_near_previous(max_ratio=float("inf")),
        lambda: check(pl.DataFrame({"a": [1]}), [c.expect_column_max_to_be_recent("a")]),
    ],
)
def test_what_can_never_hold_is_refused(made: object) -> None:
    with pytest.raises(ContractError):
        made()  # type: ignore[operator]


def test_lengths_of_time() -> None:
    assert [seconds(text) for text in ("90m", "1d12h", "2w")] == [5400, 129_600, 1_209_600]


def test_gaps_between_batches(shop: Shop) -> None:
    shop = _with(shop, c.expect_column_values_to_have_no_gaps("at", "1d"))
    found = list[tuple[int, object]]()
    for number, day in enumerate((1, 2, 5, 4, 6)):  # the fourth file is late
        shop.write(f"{number}.csv", order(number, at=f"2024-03-0{day} 10:00:00"))
        result = _of(_run(shop), "expect_column_values_to_have_no_gaps")
        found.append((result.observed, result.details["partial_gaps_list"]))

    assert [missing for missing, _ in found] == [0, 0, 2, 0, 0]
    assert found[2][1] == ["2024-03-03T00:00:00+00:00"]


def test_gaps_are_between_rows_that_stay_and_are_looked_at(shop: Shop) -> None:
    gaps = c.expect_column_values_to_have_no_gaps("at", "1d", row_condition="units > 1")
    shop = _with(shop, gaps)
    shop.write("a.csv", order(1, at="2024-03-01 10:00:00"))
    shop.write("b.csv", order(2, units=1, at="2024-03-04 10:00:00"))
    assert _of(_run(shop), gaps.type).observed == 0
    shop.write("c.csv", order(3, at="2024-03-05 10:00:00"))
    assert _of(_run(shop), gaps.type).observed == 3

    shop.write("a.csv", order(1, at="2024-03-09 10:00:00"))
    shop.write("c.csv", order(3, at="2024-03-10 10:00:00"))

    assert _of(_run(shop), gaps.type).observed == 0
