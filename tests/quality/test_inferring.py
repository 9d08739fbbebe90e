"""Contracts drafted from files: they take what they were drafted from."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

from penstock import Lake, validate
from penstock.cli import main
from penstock.errors import ContractError, SourceError
from penstock.ingest import ingest
from penstock.quality.inferring import infer_contract
from penstock.tables import Table
from pipelines.retail_sample import write_sample
from tests.conftest import ORDERS, Shop

_TEXT = (
    "Order ID;zip code;n;share;When;day;isOpen;note;e-mail\n"
    '7;00123;1;1,5;"2024-03-01 10:00:00";2024-03-01;true;"a;b";x@example.com\n'
    "8;12345;-20;2;2024-03-02T11:30:00.5;2024-03-02;FALSE;;\n"
    "9;99999;3;0;2024-03-03;2024-03-03;true;c\r\n"
)


def kinds(draft: Any) -> dict[str, str]:
    return {column.name: column.kind for column in draft.contract.columns}


def test_kinds_are_the_narrowest_that_fit(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(_TEXT)

    draft = infer_contract(str(tmp_path), "shop/orders", hints={"n": "float64"})

    assert kinds(draft) == {
        "order_id": "int64",
        "zip_code": "string",
        "n": "float64",
        "share": "string",
        "when": "timestamp",
        "day": "date",
        "is_open": "bool",
        "note": "string",
        "e_mail": "string",
    }
    assert draft.contract.event_time == "when"
    columns = {column.name: column for column in draft.contract.columns}
    assert columns["e_mail"].personal
    assert not columns["note"].personal
    assert columns["zip_code"].source_name == "zip code"


@pytest.mark.parametrize("is_one", [False, True], ids=["of a folder", "of one file"])
@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl", "json", "arrow", "csv.gz"])
def test_the_printed_module_takes_what_it_was_drafted_from(
    tmp_path: Path, form: str, is_one: bool
) -> None:
    raw, lake = tmp_path / "raw", Lake(tmp_path / "lake")
    raw.mkdir()
    rows = [(n, f"p{n}", n / 4, datetime(2024, 3, 1, n, tzinfo=UTC), n > 2) for n in range(5)]
    frame = pl.DataFrame(rows, schema=["id", "Product", "price", "at", "ok"], orient="row")
    path = raw / f"a[1].{form}"
    match form:
        case "csv" | "csv.gz":
            compression: Any = "gzip" if form == "csv.gz" else "uncompressed"
            frame.write_csv(path, datetime_format="%Y-%m-%d %H:%M:%S", compression=compression)
        case "parquet":
            frame.write_parquet(path)
        case "arrow":
            frame.write_ipc(path)
        case _:
            frame.with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S")).write_ndjson(path)

    command = [str(Path(sys.executable).parent / "penstock"), "contract", "infer"]
    command += [str(path if is_one else raw), "shop/orders"]
    if is_one:
        (raw / "b.csv").write_text("other\n1\n")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    module: dict[str, Any] = {}
    exec(done.stdout, module)
    ingest(lake, module["SOURCE"])
    run = validate(lake, module["SOURCE"])

    assert (run.rows_accepted, run.rows_rejected) == (5, 0)
    found = Table(lake, "shop/orders").snapshot().scan().sort("id").collect()
    assert found.select("id", "product", "price", "at", "ok").rows() == rows


def test_a_real_looking_source(tmp_path: Path) -> None:
    write_sample(tmp_path, rows=5_000, days=8)

    draft = infer_contract(str(tmp_path), "retail/sales")

    assert kinds(draft)["invoice_date"] == "timestamp"
    assert kinds(draft)["stock_code"] == "string"


def test_what_can_not_be_drafted_says_why(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no file of a format that is read"):
        infer_contract(str(tmp_path), "shop/orders")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ContractError, match="no column of times among a, b"):
        infer_contract(str(tmp_path), "shop/orders")
    with pytest.raises(ContractError, match=r"no column c\."):
        infer_contract(str(tmp_path), "shop/orders", hints={"c": "int64"})
    with pytest.raises(ContractError, match="money is no kind"):
        infer_contract(str(tmp_path), "shop/orders", hints={"a": "money"})  # pyright: ignore
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(SourceError, match=r"b\.parquet: can't be read"):
        infer_contract(str(tmp_path), "shop/orders")


def test_a_table_gives_its_columns(shop: Shop, tmp_path: Path) -> None:
    shop.write_orders("a.csv", 3)
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)
    outside = Table(shop.lake, "shop/orders").uri

    for uri in ("shop/orders", "shop/orders@1", outside):
        said = CliRunner().invoke(
            main, ["contract", "infer", uri, "shop/again", "--lake", shop.lake.uri]
        )
        assert said.exit_code == 0, said.output
        module: dict[str, Any] = {}
        exec(said.output, module)
        drafted = module["AGAIN"]
        assert [c.name for c in drafted.columns] == [c.name for c in ORDERS.columns]
        assert [c.kind for c in drafted.columns] == [c.kind for c in ORDERS.columns]
        assert drafted.column("email").personal
        assert drafted.event_time == "at"

    said = CliRunner().invoke(
        main,
        ["contract", "infer", "shop/orders", "a/b", "--event-time", "ta", "--lake", shop.lake.uri],
    )
    assert "no column ta" in said.output
