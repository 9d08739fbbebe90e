from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from penstock import contracts as c
from penstock.errors import ContractError
from penstock.ingest import ingest
from penstock.quality import validate
from penstock.quality.report import report
from penstock.tables import Table, append
from tests.conftest import ORDERS, Shop, order


class _Tags(HTMLParser):
    """Every tag closed that was opened, and no script nor anything from elsewhere."""

    _EMPTY = frozenset({"meta", "rect", "circle", "polyline"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not {"src", "href"} & {name for name, _ in attrs}
        if tag not in self._EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _filled(shop: Shop) -> Shop:
    for number in range(3):
        bad = order(900 + number).replace("p", "<b>&p", 1).replace("2024", "never")
        rows = [order(n) for n in range(100 * number, 100 * number + 20)]
        shop.write(f"{number}.csv", *rows, *[bad] * (number + 1))
        ingest(shop.lake, shop.source)
        validate(shop.lake, shop.source)
    return shop


def test_the_page_tells_batches_reasons_and_columns(shop: Shop) -> None:
    page = report(_filled(shop).lake, "shop/orders")

    parsed = _Tags()
    parsed.feed(page)
    assert parsed.open == []
    assert "script" not in parsed.seen
    assert "3 batches, oldest first: 60 rows accepted, 6 rejected" in parsed.text
    assert "at_is_timestamp" in parsed.text
    assert "shop/orders@" in parsed.text  # what moved
    columns = ("order_id", "units", "email")
    assert all(f"<h3>{name}" in page for name in columns)
    assert page.count('class="histogram"') >= 2


def test_no_persons_values_are_on_the_page(shop: Shop) -> None:
    page = report(_filled(shop).lake, "shop/orders")

    assert "example.com" not in page
    assert "values are not shown" in page


def test_what_becomes_personal_is_masked_from_then_on(shop: Shop) -> None:
    columns = [replace(column, personal=False) for column in ORDERS.columns]
    unmasked = shop.with_source(contract=replace(ORDERS, columns=tuple(columns)))
    _filled(unmasked)
    assert "example.com" in report(shop.lake, "shop/orders")

    shop.write("9.csv", order(9000))
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    assert "example.com" not in report(shop.lake, "shop/orders")


def test_what_was_never_validated_has_no_page(shop: Shop) -> None:
    shop.write_orders("a.csv", 2)
    ingest(shop.lake, shop.source)

    with pytest.raises(ContractError, match="nothing was validated yet"):
        report(shop.lake, "shop/orders_raw")


def _command(shop: Shop, *words: str, cwd: Path) -> tuple[int, str]:
    run = subprocess.run(
        [
            str(Path(sys.executable).parent / "penstock"),
            *words[:1],
            "--lake",
            shop.lake.uri,
            *words[1:],
        ],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    return run.returncode, run.stdout + run.stderr


def test_the_commands(shop: Shop, tmp_path: Path) -> None:
    _filled(shop)
    served = tmp_path / "served.parquet"
    pl.DataFrame({"units": [900] * 500, "price": [1.0] * 500}).write_parquet(served)

    code, told = _command(shop, "report", "shop/orders", "--out", "x/orders.html", cwd=tmp_path)
    assert code == 0, told
    assert "<h1>shop/orders</h1>" in (tmp_path / "x/orders.html").read_text()
    code, told = _command(shop, "profile", "shop/orders", "--json", cwd=tmp_path)
    found: dict[str, Any] = json.loads(told)
    assert (code, found["rows"], found["columns"]["email"]["is_masked"]) == (0, 60, True)
    code, told = _command(shop, "drift", "shop/orders", str(served), cwd=tmp_path)
    assert code == 1
    assert re.search(r"units +MOVED", told)
    code, told = _command(shop, "drift", "shop/orders", "shop/orders", cwd=tmp_path)
    assert code == 0, told
    (tmp_path / "own" / "files").mkdir(parents=True)
    served.rename(tmp_path / "own" / "files" / "a.parquet")
    code, told = _command(shop, "profile", "own/files", "--lake", "nowhere", cwd=tmp_path)
    assert (code, "units" in told) == (0, True), told
    code, told = _command(shop, "profile", "shop/ordres", cwd=tmp_path)
    assert (code, "Did you mean shop/orders" in told) == (1, True)


def test_great_expectations_renders_its_own_pages(shop: Shop, tmp_path: Path) -> None:
    pytest.importorskip("great_expectations")
    from penstock.quality.data_docs import write_data_docs

    index = write_data_docs(_filled(shop).lake, "shop/orders", tmp_path / "docs")

    pages = re.findall(r'href="(\d+\.html)"', index.read_text())
    assert len(pages) == 3
    page = (tmp_path / "docs" / pages[0]).read_text()
    assert "Unsuccessful Expectations" in page
    assert "order_id" in page
    assert "An unexpected Exception occurred" not in page


def test_great_expectations_pages_show_what_it_lacks_in_words(shop: Shop, tmp_path: Path) -> None:
    pytest.importorskip("great_expectations")
    from penstock.quality.data_docs import write_data_docs

    contract = replace(
        ORDERS,
        freshness="2d",
        expectations=(
            *ORDERS.expectations,
            c.expect_column_values_to_have_no_gaps("at", "1h"),
            c.expect_table_row_count_to_be_near_previous(),
            c.expect_table_columns_to_be_known(),
            c.expect_column_distribution_to_be_stable("units"),
            c.expect_column_distinct_values_to_equal_set("product", ["p0"]),
            c.expect_column_values_to_be_between(
                "price", 5, severity="warn", row_condition="units>1"
            ),
            c.expect_column_pair_values_to_be_equal(
                "product", "email", ignore_row_if="all_values_are_missing", severity="warn"
            ),
            c.expect_multicolumn_values_to_be_unique(["product", "email"], severity="warn"),
            c.unexpected_rows_expectation("SELECT * FROM {batch} WHERE units > 3"),
            c.expect_table_row_count_to_equal_other_table("shop/copy"),
            c.expect_query_results_to_match_comparison(
                "SELECT units FROM {batch}", "SELECT units + 100 FROM shop.copy"
            ),
        ),
    )
    append(Table(shop.lake, "shop/copy"), pl.DataFrame({"units": [1]}).to_arrow())
    shop = replace(shop, source=replace(shop.source, contract=contract))
    _filled(shop)

    index = write_data_docs(shop.lake, "shop/orders", tmp_path / "docs")

    page = (index.parent / re.findall(r'href="(\d+\.html)"', index.read_text())[0]).read_text()
    assert "expect_column_values_to_have_no_gaps(at, every=" in page
    assert "where units&gt;1" in page or "where units>1" in page
    assert "An unexpected Exception occurred" not in page
    assert "some parts of Data Docs" not in page
