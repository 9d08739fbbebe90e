"""Expectations held against any table, and what contracts refuse when they are built."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import contracts as c
from penstock import validate
from penstock.contracts import Expectation
from penstock.contracts.catalogue import BEYOND, KINDS
from penstock.errors import ContractError, SourceError
from penstock.ingest import ingest
from penstock.quality import check, passing
from penstock.quality.passing import Hashes, Steps
from penstock.tables import Table, append
from tests.conftest import Shop, order

ROWS = pl.DataFrame(
    {
        "n": [1, 2, None, 4, 5, 5],
        "x": [1.0, float("nan"), 3.0, 4.0, 50.0, 6.0],
        "s": ["a", "bb", None, "c c", "", "a"],
        "who": ["ann", "bob", "cy", "di", "ed", "flo"],
    }
)


def test_rejects_are_the_rows_as_they_came_with_every_reason(tmp_path: Path) -> None:
    report = check(
        ROWS,
        [
            c.expect_column_values_to_not_be_null("x"),
            c.expect_column_values_to_be_between("n", 2, 4),
            c.expect_compound_columns_to_be_unique(["n", "s"]),
            c.expect_column_values_to_match_regex("s", "^[a-z]+$", severity="warn"),
        ],
        rejects=tmp_path / "bad" / "rows.parquet",
    )

    bad = pl.read_parquet(tmp_path / "bad" / "rows.parquet")
    reasons = [[r["expectation"] for r in row] for row in bad["_reasons"].to_list()]
    assert dict(zip(bad["_row"], reasons, strict=True)) == {
        0: ["n_values_to_be_between"],
        1: ["x_values_to_not_be_null"],
        4: ["n_values_to_be_between"],
        5: ["n_values_to_be_between"],
    }
    assert np.isnan(bad.row(1, named=True)["x"])  # missing, and kept as it came
    assert bad.columns == ["_row", *ROWS.columns, "_reasons"]
    assert (report.rows, report.rejected, report.success) == (6, 4, False)
    assert [result.examples for result in report.results] == [[None], [1, 5, 5], [], ["c c", ""]]
    assert [*(tmp_path / "bad").iterdir()] == [tmp_path / "bad" / "rows.parquet"]


def test_rejects_of_many_pieces_are_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.quality.scans.BATCH_ROWS", 100)
    monkeypatch.setattr("penstock.quality.breaking.TOLD_ROWS", 100)
    monkeypatch.setattr("penstock.quality.breaking.FEW", 0)
    many = pl.DataFrame({"n": range(5000)})
    expected = [c.expect_column_values_to_be_between("n", 0, 999)]

    report = check(many, expected, rejects=tmp_path / "rows.parquet")

    assert report.rejected == 4000
    bad = pl.read_parquet(tmp_path / "rows.parquet")
    assert bad["_row"].to_list() == [*range(1000, 5000)]
    assert [*tmp_path.iterdir()] == [tmp_path / "rows.parquet"]


def test_repeated_rows_are_rejected_with_the_first_of_them(tmp_path: Path) -> None:
    twice = pl.concat([ROWS, ROWS.head(2)])
    expected = [c.expect_compound_columns_to_be_unique(["n", "s"])]

    report = check(twice, expected, rejects=tmp_path / "rows.parquet")

    assert report.rejected == report.results[0].broken == 4
    assert pl.read_parquet(tmp_path / "rows.parquet")["_row"].to_list() == [0, 1, 6, 7]


def test_a_clean_table_has_an_empty_file_of_rejects(tmp_path: Path) -> None:
    report = check(ROWS, [c.expect_column_to_exist("n")], rejects=tmp_path / "rows.parquet")

    assert report.success
    assert pl.read_parquet(tmp_path / "rows.parquet").shape == (0, 6)


@pytest.mark.parametrize("kind", ["frame", "lazy", "arrow", "parquet", "csv", "delta", "snapshot"])
def test_any_table_can_be_checked(shop: Shop, tmp_path: Path, kind: str) -> None:
    frame = ROWS.with_columns(pl.col("x").fill_nan(None))
    frame.write_parquet(tmp_path / "rows.parquet")
    frame.write_csv(tmp_path / "rows.csv")
    append(Table(shop.lake, "shop/rows"), frame)
    data: Any = {
        "frame": frame,
        "lazy": frame.lazy(),
        "arrow": frame.to_arrow(),
        "parquet": tmp_path / "rows.parquet",
        "csv": str(tmp_path / "rows.csv"),
        "delta": shop.lake.table_uri("shop/rows"),
        "snapshot": Table(shop.lake, "shop/rows").snapshot(),
    }[kind]

    report = check(data, [c.expect_column_values_to_not_be_null("n"), _SUM])

    assert [r.broken for r in report.results] == [1, 0]
    assert report.results[1].observed == 17


_SUM = c.expect_column_sum_to_be_between("n", 0, 20)


def test_a_row_condition_picks_the_rows(tmp_path: Path) -> None:
    (result,) = check(
        ROWS, [c.expect_column_values_to_be_between("x", 0, 5, row_condition="n >= 4")]
    ).results

    assert (result.elements, result.looked_at, result.broken) == (3, 3, 2)


_EMPTY = pl.DataFrame(schema=ROWS.schema)
_NULLS = pl.DataFrame({name: [None] * 3 for name in ROWS.columns}, schema=ROWS.schema)


@pytest.mark.parametrize("rows", [_EMPTY, _NULLS], ids=["empty", "nulls"])
def test_of_no_value_rows_hold_and_columns_do_not(rows: pl.DataFrame) -> None:
    holding = [
        c.expect_column_values_to_be_between("n", 1, 2),
        c.expect_column_values_to_be_unique("n"),
        c.expect_column_values_to_be_increasing("n"),
        c.expect_column_value_z_scores_to_be_less_than("x", 1),
        c.expect_column_values_to_not_be_outliers("x"),
        c.expect_column_distinct_values_to_be_in_set("n", [1]),
    ]
    broken = [
        c.expect_column_mean_to_be_between("n", 1, 2),
        c.expect_column_max_to_be_between("x", 1, 2),
        c.expect_column_median_to_be_between("x", 1, 2),
        c.expect_column_most_common_value_to_be_in_set("s", ["a"]),
        c.expect_column_distinct_values_to_contain_set("n", [1]),
    ]

    assert [r.success for r in check(rows, holding).results] == [True] * len(holding)
    assert [r.success for r in check(rows, broken).results] == [False] * len(broken)


def test_what_is_personal_is_not_shown(shop: Shop, tmp_path: Path) -> None:
    contract = c.Contract(
        "shop/rows",
        (c.Column("who", "string", personal=True), c.Column("at", "timestamp")),
        event_time="at",
        expectations=(c.expect_column_values_to_be_in_set("who", ["ann"]),),
    )
    frame = ROWS.select("who", at=pl.lit(0).cast(pl.Datetime("us", "UTC")))

    report = check(frame, contract, rejects=tmp_path / "rows.parquet")

    assert report.rejected == 5
    assert "bob" not in json.dumps(report.to_json())
    assert "bob" not in str(pl.read_parquet(tmp_path / "rows.parquet")["_reasons"].to_list())


@pytest.mark.parametrize(
    ("expectation", "says"),
    [
        (c.expect_column_values_to_be_null("nn"), "no column nn; there are n, x, s, who"),
        (c.expect_column_values_to_match_regex("n", "a"), "column n is Int64, not text"),
        (c.expect_column_values_to_be_between("s", 1, 2), "s is String, which 1 can't be"),
        (c.expect_column_values_to_be_in_set("n", ["a"]), "n is Int64, which 'a' can't be"),
    ],
)
def test_what_cannot_be_asked_of_a_column_is_told_before_anything_is_read(
    expectation: Expectation, says: str, tmp_path: Path
) -> None:
    with pytest.raises(ContractError, match=says):
        check(ROWS, [expectation], rejects=tmp_path / "rows.parquet")
    assert not [*tmp_path.iterdir()]


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.lists(st.integers(0, 30), max_size=30), max_size=8),
    held=st.sampled_from([1, 7, 1000]),
)
def test_repeats_are_found_in_memory_and_in_files(batches: list[list[int]], held: int) -> None:
    before, passing._HELD = passing._HELD, held
    try:
        with Hashes(["n"]) as hashes:
            for batch in batches:
                hashes.add(pl.DataFrame({"n": batch}, schema={"n": pl.Int64}))
            found, rows = hashes.repeated()
    finally:
        passing._HELD = before
    counts = Counter(n for batch in batches for n in batch)
    twice = [n for n, count in counts.items() if count > 1]
    expected = hashes.of(pl.DataFrame({"n": twice}, schema={"n": pl.Int64}))

    assert rows == sum(counts[n] for n in twice)
    assert sorted(expected.tolist()) == found.tolist()


@settings(max_examples=100, deadline=None)
@given(
    batches=st.lists(st.lists(st.none() | st.integers(0, 3), max_size=6), max_size=6),
    direction=st.sampled_from([1, -1]),
    strictly=st.booleans(),
)
def test_order_goes_on_from_batch_to_batch(
    batches: list[list[int | None]], direction: int, strictly: bool
) -> None:
    steps = Steps("n", direction, strictly=strictly)
    for batch in batches:
        steps.add(pl.DataFrame({"n": batch}, schema={"n": pl.Int64}))

    values = [n for batch in batches for n in batch if n is not None]
    climbs = [(after - before) * direction for before, after in itertools.pairwise(values)]
    assert steps.broken == sum(climb < 0 or (strictly and climb == 0) for climb in climbs)


def test_every_expectation_goes_to_a_suite_and_back() -> None:
    from tests.quality.expected import EXPECTED

    own = [
        c.expect_column_values_to_exist_in_table("a", "shop/b", "c", version=3, mostly=0.9),
        c.expect_column_max_to_be_recent("t", "26h", severity="fail"),
        c.expect_column_values_to_have_no_gaps("t", "1h"),
        c.expect_column_distribution_to_be_stable("n", "prod", psi=None, ks=0.2),
        c.expect_table_row_count_to_be_near_previous(0.8, 1.5, 3),
        c.expect_table_columns_to_be_known(severity="fail"),
    ]
    assert {each.type for each in own} == BEYOND
    queries = [
        c.unexpected_rows_expectation("SELECT * FROM {batch} WHERE n < 0"),
        c.expect_table_row_count_to_equal_other_table("shop/b", 3),
        c.expect_query_results_to_match_comparison("FROM {batch}", "FROM shop.b@v1", mostly=0.9),
    ]
    for expectation in (*EXPECTED, *own, *queries):
        entry = json.loads(json.dumps(expectation.to_gx()))
        assert Expectation.from_gx(entry).to_gx() == expectation.to_gx()
    kl = c.expect_column_kl_divergence_to_be_less_than(
        "n", {"values": [1, 2], "weights": [0.5, 0.5]}, 0.1, tail_weight_holdout=0.01
    )
    assert Expectation.from_gx(json.loads(json.dumps(kl.to_gx()))).to_gx() == kl.to_gx()
    compared = {kind for kind in KINDS if "json_schema" not in kind} - BEYOND
    assert {e.type for e in EXPECTED} >= compared - {
        *(each.type for each in queries),
        "expect_column_kl_divergence_to_be_less_than",
        "expect_column_most_common_value_to_be_in_set",
        "expect_column_type_to_be",
        "expect_column_values_to_be_in_type_list",
        "expect_column_values_to_be_of_type",
        "expect_column_values_to_match_like_pattern",
        "expect_column_values_to_match_like_pattern_list",
        "expect_column_values_to_not_match_like_pattern",
        "expect_column_values_to_not_match_like_pattern_list",
        "expect_multicolumn_values_to_be_unique",
    }


@pytest.mark.parametrize(
    ("expectation", "holds"),
    [
        (c.expect_column_values_to_match_like_pattern("s", "b%"), [1]),
        (c.expect_column_values_to_not_match_like_pattern("s", "_"), [1, 3, 4]),
        (c.expect_column_values_to_match_like_pattern_list("s", ["a", "%c"]), [0, 3, 5]),
        (c.expect_column_values_to_not_match_like_pattern_list("s", ["a", ""]), [1, 3]),
        (c.expect_column_values_to_match_json_schema("s", {"type": "string"}), []),
    ],
    ids=lambda value: value.name if isinstance(value, Expectation) else "",
)
def test_patterns_of_sql_and_schemas_of_json(
    expectation: Expectation, holds: list[int], tmp_path: Path
) -> None:
    if "json_schema" in expectation.type:
        pytest.importorskip("jsonschema")
    check(ROWS, [expectation], rejects=tmp_path / "rows.parquet")

    bad = set(pl.read_parquet(tmp_path / "rows.parquet")["_row"])
    assert sorted({0, 1, 3, 4, 5} - bad) == holds


@pytest.mark.parametrize("kind", ["int", "Int64", "int64", "float"])
def test_types_by_several_names(kind: str) -> None:
    report = check(
        ROWS,
        [
            c.expect_column_type_to_be("n", kind),
            c.expect_column_values_to_be_of_type("n", kind),
            c.expect_column_values_to_be_in_type_list("n", ["str", kind]),
        ],
    )

    assert [r.success for r in report.results] == [kind != "float"] * 3


# What fresh eyes broke


_AT = datetime(2024, 1, 1, 12, tzinfo=UTC)
_ODD = pl.DataFrame(
    {
        "f": [1.0, 2.5, None, 0.1],
        "i": [1, 2, 3, None],
        "small": [100, 1, None, 3],
        "tiny": [100, 1, 5, 7],
        "berlin": [_AT, None, _AT + timedelta(hours=1), _AT],
        "naive": [_AT.replace(tzinfo=None)] * 4,
        "day": [date(2024, 1, 1)] * 4,
        "list": [[1], None, [2], [3]],
        "long": [timedelta(1)] * 4,
    },
    schema_overrides={"small": pl.Int8, "tiny": pl.Int8, "berlin": pl.Datetime("us", "UTC")},
).with_columns(pl.col("berlin").dt.convert_time_zone("Europe/Berlin"))


@pytest.mark.parametrize(
    ("expectation", "broken"),
    [
        (c.expect_column_values_to_be_in_set("f", [1, 2]), 2),
        (c.expect_column_values_to_be_in_set("i", [1.0, 2.5]), 2),
        (c.expect_column_values_to_be_in_set("i", [1, 2, None]), 1),
        (c.expect_column_values_to_be_in_set("berlin", [_AT]), 1),
        (c.expect_column_values_to_be_in_set("i", [*range(2, 200)]), 1),
        (c.expect_column_values_to_be_between("berlin", _AT, _AT + timedelta(minutes=1)), 1),
        (c.expect_column_values_to_be_between("berlin", datetime(2024, 1, 1, 12)), 0),
        (c.expect_column_values_to_be_between("naive", _AT + timedelta(seconds=1)), 4),
        (c.expect_column_values_to_be_between("day", date(2024, 1, 2)), 4),
        (c.expect_multicolumn_sum_to_equal(["small", "tiny"], 200), 2),
        (c.expect_column_values_to_not_be_null("i", row_condition="1 = 1"), 1),
        (c.expect_column_values_to_not_be_null("i", row_condition="f > 1"), 0),
        (c.expect_column_values_to_be_null("list"), 3),
        (c.expect_column_values_to_be_null("long"), 4),
    ],
    ids=lambda value: value.name if isinstance(value, Expectation) else "",
)
def test_values_of_any_type_are_compared_and_written(
    expectation: Expectation, broken: int, tmp_path: Path
) -> None:
    (result,) = check(_ODD, [expectation], rejects=tmp_path / "rows.parquet").results

    assert result.broken == broken
    assert result.looked_at >= broken
    assert pl.read_parquet(tmp_path / "rows.parquet").height == broken


def test_nan_is_missing_in_row_conditions_too() -> None:
    rows = pl.DataFrame({"x": [1.0, float("nan"), 20.0, None], "y": [1, -1, -1, -1]})

    (result,) = check(
        rows, [c.expect_column_values_to_be_between("y", 0, row_condition="x > 5")]
    ).results

    assert (result.looked_at, result.broken) == (1, 1)


@pytest.mark.parametrize("name", ["0:broken", "raw:x", "_place", "x:looked", "a b", "ä'", '"q"'])
def test_columns_may_have_any_name(name: str, tmp_path: Path) -> None:
    rows = pl.DataFrame({name: [1, 200, 3], "x": [1.0, float("nan"), 2.0]})
    wanted = [
        c.expect_column_values_to_be_between(name, 0, 10),
        c.expect_column_values_to_be_between("x", 0),
        c.expect_compound_columns_to_be_unique([name]),
    ]

    report = check(rows, wanted, rejects=tmp_path / "rows.parquet")

    assert [r.broken for r in report.results] == [1, 0, 0]
    bad = pl.read_parquet(tmp_path / "rows.parquet")
    assert (bad[name].to_list(), bad["_row"].to_list()) == ([200], [1])


@pytest.mark.parametrize("name", ["*", "^x.*$", "_row"])
def test_names_that_stand_for_something_else_are_refused(name: str, tmp_path: Path) -> None:
    rows = pl.DataFrame({name: [1], "x": [1]})

    with pytest.raises(ContractError):
        check(rows, [c.expect_column_values_to_be_null(name)], rejects=tmp_path / "rows.parquet")
    assert not [*tmp_path.iterdir()]


def test_columns_that_are_personal_tell_no_value() -> None:
    contract = c.Contract(
        "shop/rows",
        (c.Column("who", "string", personal=True), c.Column("at", "timestamp")),
        event_time="at",
        expectations=(
            c.expect_column_values_to_be_increasing("who"),
            c.expect_column_max_to_be_between("who", max_value="a"),
            c.expect_column_most_common_value_to_be_in_set("who", ["x"]),
            c.expect_column_distinct_values_to_be_in_set("who", ["x"]),
            c.expect_column_unique_value_count_to_be_between("who", 1, 2),
        ),
    )
    frame = pl.DataFrame({"who": ["zed", "bob", "zed"]}).with_columns(
        at=pl.lit(0).cast(pl.Datetime("us", "UTC"))
    )

    report = check(frame, contract)

    told = json.dumps(report.to_json()) + str(report)
    assert "zed" not in told
    assert "bob" not in told
    assert report.results[-1].observed == 2


@pytest.mark.parametrize("where", [".", "in", "in/rows.parquet", "in/sub/rows.parquet", "f/x"])
def test_rejects_are_not_written_over_or_into_what_is_checked(tmp_path: Path, where: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "f").touch()
    ROWS.write_parquet(tmp_path / "in" / "rows.parquet")
    data = tmp_path / "in" / "rows.parquet" if where == "in/rows.parquet" else tmp_path / "in"

    with pytest.raises(ContractError, match="rejects"):
        check(data, [c.expect_column_values_to_be_null("n")], rejects=tmp_path / where)
    assert pl.read_parquet(tmp_path / "in" / "rows.parquet").equals(ROWS)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["f", "in", "rows.parquet"]


@pytest.mark.parametrize(
    ("expectation", "says"),
    [
        (c.expect_column_stdev_to_be_between("s", 0, 1), "can't be asked of s String"),
        (c.expect_column_values_to_be_null("n", row_condition="x >"), "not SQL of one row"),
        (c.expect_column_values_to_be_null("n", row_condition="max(n) = n"), "has an aggregate"),
        (c.expect_column_values_to_be_null("n", row_condition="count(*) > 1"), "has an aggregate"),
        (c.expect_column_values_to_be_null("n", row_condition="nosuch > 1"), "no column nosuch"),
        (c.expect_column_values_to_be_null("n", row_condition="s"), "can't be asked of"),
        (c.expect_multicolumn_sum_to_equal(["n", "s"], 1), "can't be asked of n Int64, s String"),
    ],
)
def test_what_polars_cannot_do_is_told_as_what_it_is(expectation: Expectation, says: str) -> None:
    with pytest.raises(ContractError, match=says):
        check(ROWS, [expectation])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "late.csv").write_text("a\n" + "1\n" * 20_000 + "x\n")
    for name in ("late.csv", "none.csv"):
        with pytest.raises(SourceError, match=rf"{name}: can't be read"):
            check(tmp_path / name, [c.expect_column_values_to_be_between("a", 0)])


def test_a_contract_that_cannot_be_asked_is_told_before_anything_is_validated(shop: Shop) -> None:
    odd = c.expect_column_values_to_not_be_null("units", row_condition="product")
    shop = with_expectation(shop, odd)
    shop.write("a.csv", order(1))
    ingest(shop.lake, shop.source)

    with pytest.raises(ContractError, match="can't be asked of"):
        validate(shop.lake, shop.source)


# In contracts


def with_expectation(shop: Shop, expectation: Expectation) -> Shop:
    """The shop with one more expectation."""
    from dataclasses import replace

    contract = shop.source.contract
    more = replace(contract, expectations=(*contract.expectations, expectation))
    return shop.with_source(contract=more)


def test_a_column_that_breaks_is_reported_and_commits(shop: Shop) -> None:
    shop = with_expectation(shop, c.expect_column_mean_to_be_between("units", 5, 9))
    shop.write("a.csv", order(1), order(2, units=0))  # the second is rejected, and doesn't count
    ingest(shop.lake, shop.source)

    run = validate(shop.lake, shop.source)

    assert run.rows_accepted == 1
    (mean,) = [r for r in run.results if r.expectation.type.endswith("mean_to_be_between")]
    assert (mean.success, mean.observed) == (False, 2.0)


def test_a_column_that_may_not_break_commits_nothing(shop: Shop) -> None:
    unique = c.expect_column_values_to_be_unique("product", severity="fail")
    shop = with_expectation(shop, unique)
    shop.write("a.csv", order(1), order(8))
    ingest(shop.lake, shop.source)

    with pytest.raises(ContractError, match="2 of 2 rows .* may not commit"):
        validate(shop.lake, shop.source)
    assert shop.rows("shop/orders").is_empty()
    folder = Path(shop.lake.table_uri("shop/orders"))
    assert not [*folder.glob("*.parquet")]
