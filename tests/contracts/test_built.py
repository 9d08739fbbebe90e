"""What can't hold, or can't be asked of a contract's columns, is told as it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from penstock import contracts as c
from penstock.contracts import Column, Contract, Expectation
from penstock.errors import ContractError
from penstock.quality.proving import prove_contract
from tests.conftest import ORDERS


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: c.expect_column_values_to_match_regex("s", "(a"), "no regular expression"),
        (lambda: c.expect_column_values_to_match_regex("s", ""), "regex is empty"),
        (lambda: c.expect_column_values_to_match_regex("s", "(?=a)"), "looks around or back"),
        (lambda: c.expect_column_values_to_match_regex_list("s", ["a", "["]), "no regular"),
        (lambda: c.expect_column_values_to_match_regex("s", r"a\Z"), "no regular"),
        (lambda: c.expect_column_values_to_match_regex_list("s", ["a"], "some"), "any or all"),  # type: ignore[arg-type]
        (lambda: c.expect_column_values_to_be_in_set("s", [b"a"]), "values are text"),
        (lambda: c.expect_compound_columns_to_be_unique(["n", "n"]), "names a column twice"),
        (lambda: c.expect_column_values_to_match_json_schema("s", {}), "json_schema is empty"),
        (lambda: c.expect_column_values_to_be_in_set("s", ["a", 1]), "several types"),
        (lambda: c.expect_column_values_to_be_in_set("s", []), "at least one value"),
        (lambda: c.expect_column_values_to_be_in_set("s", "abc"), "at least one value"),
        (lambda: c.expect_column_values_to_be_between("n"), "needs min_value"),
        (lambda: c.expect_column_values_to_be_between("n", 2, 1), "greater than max_value"),
        (lambda: c.expect_column_values_to_be_between("n", 1, "b"), "of two types"),
        (lambda: c.expect_column_values_to_be_between("n", float("nan")), "NaN is no bound"),
        (lambda: c.expect_column_values_to_be_null("n", mostly=0), "mostly must lie in"),
        (lambda: Expectation("expect_columns_to_shine", ("n",)), "is no expectation known"),
        (lambda: Expectation("expect_column_sum_to_be_between", ("n",)), "could be rejected"),
        (
            lambda: c.expect_column_quantile_values_to_be_between(
                "n", {"quantiles": [0.5, 2], "value_ranges": [[0, 1]]}
            ),
            "for each quantile",
        ),
        (lambda: c.expect_column_quantile_values_to_be_between("n", {"quantile": [0.5]}), "range"),
        (
            lambda: c.expect_column_quantile_values_to_be_between(
                "n", {"quantiles": [0.5], "value_ranges": [[2, 1]]}
            ),
            "range",
        ),
        (lambda: c.expect_column_values_to_be_between("n", 5, 5, strict_min=True), "strictly"),
        (lambda: c.expect_column_values_to_be_in_set("n", [1.0, float("nan")]), "NaN"),
        (lambda: c.expect_column_value_lengths_to_equal("s", -1), "whole number"),
        (lambda: c.expect_column_value_z_scores_to_be_less_than("n", float("nan")), "threshold"),
        (lambda: c.expect_column_values_to_not_be_outliers("n", multiplier=-1), "multiplier"),
        (lambda: c.expect_multicolumn_sum_to_equal(["n", "m"], float("nan")), "sum_total"),
        (lambda: c.expect_multicolumn_sum_to_equal([], 3), "names no column"),
        (lambda: c.expect_column_sum_to_be_between("n", "a"), "min_value is a number"),
        (lambda: c.expect_table_columns_to_match_set("abc"), "list of names"),
        (lambda: c.expect_table_row_count_to_equal("3"), "value is a number"),
        (lambda: c.expect_column_values_to_be_null("n", mostly="0.9"), "mostly"),
        (lambda: c.expect_column_sum_to_be_between("n", 1, mostly=0.9), "takes no mostly"),
        (lambda: c.expect_table_row_count_to_equal(3, row_condition="n > 1"), "row_condition"),
        (lambda: c.expect_column_values_to_be_null("n", label="a b"), "a label is of letters"),
    ],
)
def test_what_can_never_hold_is_refused_when_it_is_built(
    build: Callable[[], Any], says: str
) -> None:
    with pytest.raises(ContractError, match=says):
        build()


@pytest.mark.parametrize(
    ("expectation", "says"),
    [
        (c.expect_column_values_to_be_null("units", row_condition="price >"), "is not SQL"),
        (c.expect_column_values_to_be_null("units", row_condition="prise > 1"), "no column prise"),
        (c.expect_column_values_to_be_null("units", row_condition="MAX(price) > 1"), "aggregate"),
        (c.expect_column_values_to_be_in_set("units", ["a"]), "units is int32, which 'a'"),
        (c.expect_column_values_to_match_regex("units", "a"), "units is int32, not text"),
        (c.expect_column_mean_to_be_between("product", 1), "product is string, not a number"),
        (c.expect_column_mean_to_be_between("at", 1), "at is timestamp, which 1"),
        (c.expect_column_values_to_have_no_gaps("product"), "product is string, not a time"),
        (
            c.expect_column_pair_values_to_be_in_set("units", "product", [(1, "a"), ("b", "c")]),
            "units is int32, which 'b'",
        ),
    ],
)
def test_what_a_contracts_columns_cannot_be_asked_is_told_as_it_is_built(
    expectation: Expectation, says: str
) -> None:
    with pytest.raises(ContractError, match=says):
        replace(ORDERS, expectations=(expectation,))


@pytest.mark.parametrize("change", [{"kind": "decimal"}, {"most": "1%"}, {"most": True}])
def test_a_contract_of_odd_values_is_refused(change: dict[str, Any]) -> None:
    kind, most = change.get("kind", "int64"), change.get("most")
    with pytest.raises(ContractError, match=r"is no kind|max_rejected is"):
        Contract("a/b", (Column("n", kind), Column("t", "timestamp")), "t", max_rejected=most)


def test_what_columns_can_be_asked_is_not_refused() -> None:
    columns = (*ORDERS.columns, Column("paid", "bool"))
    weights = {"values": ["a", "b"], "weights": [0.5, 0.5]}
    contract = replace(
        ORDERS,
        columns=columns,
        expectations=(
            c.expect_column_mean_to_be_between("paid", 0.1, 0.9),
            c.expect_column_sum_to_be_between("paid", 1),
            c.expect_column_kl_divergence_to_be_less_than("product", weights, 0.1),
            c.expect_column_proportion_of_unique_values_to_be_between("at", 0.1),
            c.expect_column_unique_value_count_to_be_between("product", 1, 9),
            c.expect_column_median_to_be_between("units", 1, 9),
            c.expect_column_values_to_not_be_outliers("at"),
        ),
    )

    prove_contract(contract)
