"""Expectations that compare a batch with other tables of the lake."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import contracts as c
from penstock.contracts import Expectation
from penstock.errors import ContractError
from penstock.ingest import ingest
from penstock.lake import Lake
from penstock.quality import check, validate
from penstock.quality.queries import judge_comparison
from penstock.quality.results import Result
from penstock.tables import Table, append, tag
from tests.conftest import ORDERS, Shop, order

COUNT = c.expect_table_row_count_to_equal_other_table("shop/copy")
SUMS = c.expect_query_results_to_match_comparison(
    "SELECT product, sum(units) FROM {batch} GROUP BY product",
    "SELECT code, sum(pieces) AS units FROM shop.copy GROUP BY code",
    label="sums",
)
Made = Callable[..., Result]


@pytest.fixture
def asked(shop: Shop) -> Made:
    """What an expectation comes to over a batch with these orders' rows."""

    def one(expectation: Expectation, *orders: str, file: str = "a.csv") -> Result:
        # The e-mail address is personal, and would hide what is found.
        columns = tuple(replace(column, personal=False) for column in ORDERS.columns)
        contract = replace(ORDERS, columns=columns, expectations=(expectation,))
        source = shop.with_source(contract=contract).source
        shop.write(file, *orders)
        ingest(shop.lake, source)
        return validate(shop.lake, source).results[-1]

    return one


def _copy(shop: Shop, **columns: list[Any]) -> None:
    append(Table(shop.lake, "shop/copy"), pl.DataFrame(columns).to_arrow())


def test_a_batch_has_as_many_rows_as_another_table(shop: Shop, asked: Made) -> None:
    _copy(shop, code=["p1", "p2"])

    less = asked(COUNT, order(1))
    assert (less.success, less.observed) == (False, {"self": 1, "other": 2})
    assert asked(COUNT, order(2), order(3), file="b.csv").success


def test_another_table_is_counted_at_a_version(shop: Shop, asked: Made) -> None:
    _copy(shop, code=["p1"])
    tag(Table(shop.lake, "shop/copy"), "prod")
    _copy(shop, code=["p2"])
    pinned = c.expect_table_row_count_to_equal_other_table("shop/copy", "prod", severity="fail")

    assert asked(pinned, order(1)).observed == {"self": 1, "other": 1}
    with pytest.raises(ContractError, match="'self': 2, 'other': 1"):
        asked(pinned, order(2), order(3), file="b.csv")


def test_two_results_are_compared_row_by_row(shop: Shop, asked: Made) -> None:
    _copy(shop, code=["p0", "p1", "p2"], pieces=[1, 2, 7])

    result = asked(SUMS, order(0, units=1), order(1, units=1), order(8, units=1), order(2, units=3))

    assert (result.success, result.observed) == (False, 1)
    assert result.details == {
        "unexpected_count": 1,
        "unexpected_percent": pytest.approx(100 / 3),
        "details": {
            "missing_rows": [{"code": "p2", "units": 7}],
            "unexpected_rows": [{"product": "p2", "sum(units)": 3}],
        },
    }
    again = asked(replace(SUMS, mostly=0.6), *(order(n) for n in (10, 11)), file="b.csv")
    assert not again.success  # none of three, or two, is the same
    assert json.loads(json.dumps(again.to_json()))["result"]["unexpected_percent"] == 100


def test_a_comparison_reads_a_version(shop: Shop, asked: Made) -> None:
    _copy(shop, code=["p1"])
    _copy(shop, code=["p2"])
    then = c.expect_query_results_to_match_comparison(
        "SELECT product FROM {batch};", "SELECT code FROM shop.copy@v1;"
    )

    assert asked(then, order(1)).success


def test_values_of_people_are_not_shown(shop: Shop) -> None:
    _copy(shop, code=["p1"], pieces=[5])
    shop = shop.with_source(contract=replace(ORDERS, expectations=(SUMS,)))
    shop.write("a.csv", order(1, units=1))
    ingest(shop.lake, shop.source)

    (result,) = [r for r in validate(shop.lake, shop.source).results if r.expectation == SUMS]

    assert result.observed == 1
    assert result.details["details"] == "•••"


@pytest.mark.parametrize(
    ("comparison", "told"),
    [
        ("SELECT 1 FROM shop.nosuch", "has no table shop/nosuch"),
        ("SELECT 1 FROM shop.copy@v99", "99"),
        ("SELECT nosuch FROM shop.copy", "nosuch"),
        ("SELECT code, pieces FROM shop.copy", "gives 1 columns, and its comparison_query 2"),
        ("SELECT pieces FROM shop.copy", "column 1 is VARCHAR .* and BIGINT"),
        ("SELECT content FROM read_text('/etc/hostname')", "disabled"),
    ],
)
def test_a_comparison_that_cant_be_made_commits_nothing(
    shop: Shop, asked: Made, comparison: str, told: str
) -> None:
    _copy(shop, code=["p1"], pieces=[5])
    query = "SELECT product FROM {batch}"

    with pytest.raises(ContractError, match=told):
        asked(c.expect_query_results_to_match_comparison(query, comparison), order(1))
    assert (
        Table(shop.lake, "shop/orders").snapshot_or_none() is None
        or not shop.rows("shop/orders").height
    )


def test_only_validation_knows_other_tables() -> None:
    for expectation in (COUNT, SUMS):
        with pytest.raises(ContractError, match="which only `validate` knows"):
            check(pl.DataFrame({"product": ["p1"]}), [expectation])


CELLS = st.none() | st.integers(-2, 2)
ROWS = st.lists(st.tuples(CELLS, st.none() | st.sampled_from(["", "a", "é"])), max_size=8)


@settings(deadline=None, max_examples=40)
@given(ROWS, ROWS, st.sampled_from([0.1, 0.5, 0.75, 1.0]))
def test_it_comes_to_what_great_expectations_says(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int | None, str | None]],
    others: list[tuple[int | None, str | None]],
    mostly: float,
) -> None:
    gx = pytest.importorskip("great_expectations.expectations.core")
    schema = {"n": pl.Int64, "s": pl.String}
    base, other = (pl.DataFrame(each, schema, orient="row") for each in (rows, others))
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    append(Table(lake, "shop/copy"), other.to_arrow())
    made = c.expect_query_results_to_match_comparison(
        "FROM {batch}", "FROM shop.copy", mostly=mostly
    )
    theirs = gx.ExpectQueryResultsToMatchComparison(**made.to_gx()["kwargs"])._validate(
        {
            "base_query.table": base.to_dicts(),
            "comparison_query.data_source_table": other.to_dicts(),
        },
        {"result_format": "COMPLETE"},
    )

    result = Result(made)
    judge_comparison(result, base.lazy(), set(), lake)

    found = result.to_json()
    assert found["success"] == theirs["success"]
    assert found["result"]["unexpected_count"] == theirs["result"]["unexpected_count"]
    assert found["result"]["unexpected_percent"] == theirs["result"]["unexpected_percent"]
    if theirs["result"]["unexpected_count"]:
        for key, told in theirs["result"]["details"].items():
            ours = found["result"]["details"][key]
            assert sorted(map(repr, ours)) == sorted(map(repr, told))
