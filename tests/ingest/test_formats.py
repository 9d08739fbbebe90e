"""The same rows from every format."""

from __future__ import annotations

import dataclasses
import gzip
import json
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from penstock import validate
from penstock.contracts import Column, Contract
from penstock.errors import ContractError
from penstock.ingest import formats as formats_module
from penstock.ingest import ingest
from penstock.ingest import work as work_module
from tests.conftest import ORDERS, Shop, order, utc

_ROWS = pl.DataFrame(
    {
        "id": ["o1", "o2", "o3"],
        "product": ["a, b", 'say "hi"', "line\nbreak"],
        "units": [1, 2, 3],
        "price": [0.5, 1.25, None],
        "at": [utc("2024-03-01T10:00:00"), utc("2024-03-01T10:00:00.5"), utc("2024-03-02")],
        "email": ["x@example.com", None, "ü@example.com"],
    }
)


def _csv(path: Path) -> None:
    _ROWS.write_csv(path.with_suffix(".csv"), datetime_format="%Y-%m-%d %H:%M:%S%.f")


def _csv_gz(path: Path) -> None:
    text = _ROWS.write_csv(datetime_format="%Y-%m-%dT%H:%M:%S%.fZ")
    path.with_suffix(".csv.gz").write_bytes(gzip.compress(text.encode()))


def _jsonl(path: Path) -> None:
    lines = (json.dumps({**row, "at": row["at"].isoformat()}) for row in _ROWS.to_dicts())
    path.with_suffix(".jsonl").write_text("\n\n".join(lines) + "\n")


def _parquet(path: Path) -> None:
    _ROWS.write_parquet(path.with_suffix(".parquet"))


def _arrow_file(path: Path) -> None:
    _ROWS.write_ipc(path.with_suffix(".arrow"))


def _arrow_stream(path: Path) -> None:
    table = _ROWS.to_arrow()
    with pa.ipc.new_stream(path.with_suffix(".arrow"), table.schema) as writer:
        writer.write_table(table)


def _tsv_zst(path: Path) -> None:
    text = _ROWS.write_csv(separator="\t").encode()
    path.with_suffix(".tsv.zst").write_bytes(pa.compress(text, codec="zstd", asbytes=True))


def _json(path: Path) -> None:
    rows = [{**row, "at": row["at"].isoformat()} for row in _ROWS.to_dicts()]
    path.with_suffix(".json").write_text(json.dumps(rows, indent=1))


def _orc(path: Path) -> None:
    orc.write_table(
        pa.table(_ROWS.to_arrow(compat_level=pl.CompatLevel.oldest())), path.with_suffix(".orc")
    )


def _avro(path: Path) -> None:
    _ROWS.with_columns(pl.col("at").dt.strftime("%Y-%m-%d %H:%M:%S%.f")).write_avro(
        path.with_suffix(".avro")
    )


def _excel(path: Path) -> None:
    pytest.importorskip("fastexcel")
    pytest.importorskip("xlsxwriter")
    _ROWS.with_columns(pl.col("at").dt.strftime("%Y-%m-%d %H:%M:%S")).write_excel(
        path.with_suffix(".xlsx")
    )


_FORMATS = [
    _csv,
    _csv_gz,
    _tsv_zst,
    _jsonl,
    _json,
    _parquet,
    _arrow_file,
    _arrow_stream,
    _orc,
    _avro,
    _excel,
]


@pytest.mark.parametrize("write", _FORMATS, ids=lambda f: f.__name__)
def test_the_same_rows_come_from_every_format(shop: Shop, write: Callable[[Path], None]) -> None:
    write(shop.raw / "orders")

    report = ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    assert (report.files_loaded, report.failed) == (1, {})
    read = shop.rows("shop/orders").sort("order_id")
    columns = ("order_id", "product", "units", "price", "at", "email")
    assert read.select(columns).rows() == _ROWS.rows()
    lines = [1, 3, 5] if write is _jsonl else [1, 2, 3]
    assert read["_source_row"].to_list() == lines


def test_a_json_line_that_is_none_is_rejected_and_unknown_keys_are_kept(shop: Shop) -> None:
    good = '{"id": "o1", "product": "a", "units": 2, "at": "2024-03-01", "tags": ["x", {"y": 1}]}'
    (shop.raw / "a.jsonl").write_text(f"{good}\n{{broken\n[1, 2]\n{good.replace('o1', 'o4')}\n")

    ingest(shop.lake, shop.source)
    run = validate(shop.lake, shop.source)

    assert (run.rows_accepted, run.rows_rejected, run.reasons) == (2, 2, {"malformed_row": 2})
    raw = shop.rows("shop/orders_raw").sort("_source_row")
    assert raw["_source_row"].to_list() == [1, 2, 3, 4]
    assert json.loads(raw["_rescued"][0]) == {"tags": ["x", {"y": 1}]}
    assert raw["_rescued"].to_list()[1:3] == ["{broken", "[1, 2]"]


def test_files_of_other_formats_are_left_alone(shop: Shop) -> None:
    shop.write_orders("a.csv", 1)
    (shop.raw / "README.md").write_text("# not data")

    assert ingest(shop.lake, shop.source).files_loaded == 1


def test_one_json_object_is_a_row_and_what_is_none_is_told(shop: Shop) -> None:
    (shop.raw / "a.json").write_text(
        '{"id": "o1", "product": {"x": [1]}, "units": 1, "at": "2024"}'
    )
    (shop.raw / "b.json").write_text('[{"id": "o2"}, 7]')
    (shop.raw / "c.json").write_text('[{"id": "o3"},')

    failed = ingest(shop.lake, shop.source).failed

    raw = shop.rows("shop/orders_raw").sort("_source_file", "_source_row")
    assert raw["id"].to_list() == ["o1", "o2", None]
    assert json.loads(raw["product"][0]) == {"x": [1]}
    assert raw["_error"].to_list() == [None, None, "not a JSON object"]
    assert failed["c.json"].startswith("c.json: no JSON document: ")


def test_json_lines_are_read_whatever_they_are_called(shop: Shop) -> None:
    lines = [json.dumps({"id": f"o{n}", "product": "p", "units": n}) for n in range(3)]
    (shop.raw / "a.json").write_text("\n" + "\n\n".join(lines) + "\n{broken\n")

    report = ingest(shop.lake, shop.source)

    assert (report.rows_read, report.failed) == (4, {})
    raw = shop.rows("shop/orders_raw").sort("_source_row")
    assert raw["units"].to_list() == ["0", "1", "2", None]
    assert raw["_error"].to_list() == [None, None, None, "not a JSON object"]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".jsonl", ".json", ".orc", ".avro"])
def test_a_damaged_file_of_any_format_is_recorded(shop: Shop, suffix: str) -> None:
    (shop.raw / f"bad{suffix}").write_bytes(b"\x00\xff damaged" * 20)
    shop.write_orders("good.csv", 1)

    report = ingest(shop.lake, shop.source)

    assert report.files_loaded == 1
    assert list(report.failed) == [f"bad{suffix}"]


def test_a_large_parquet_file_comes_in_batches(shop: Shop, tmp_path: Path) -> None:
    count = 150_000
    table = pa.table(
        {
            "id": [f"o{n}" for n in range(count)],
            "product": ["a"] * count,
            "units": [1] * count,
            "at": pa.array([utc("2024-03-01")] * count, pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(table, shop.raw / "a.parquet")

    assert ingest(shop.lake, shop.source).rows_read == count


@pytest.mark.parametrize("small_bytes", [1 << 20, 0])
def test_new_columns_are_added_where_the_contract_says_so(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, small_bytes: int
) -> None:
    monkeypatch.setattr("penstock.ingest.work.SMALL_BYTES", small_bytes)
    shop = shop.with_source(contract=dataclasses.replace(ORDERS, unknown_columns="add"))
    shop.write_orders("a.csv", 2)
    ingest(shop.lake, shop.source)
    header = "id,product,units,price,at,email"
    shop.write("b.csv", order(5) + ",red,x,1,y", header=f"{header},colour,_batch,UNITS,a b\n")
    shop.write("c.csv", order(6) + ",7", header=f"{header},size\n")
    line = '{"id": "o7", "product": "a", "units": 1, "at": "2024-03-01", "size": {"x": 1}}'
    (shop.raw / "d.jsonl").write_text(line + "\nbroken\n")

    assert ingest(shop.lake, shop.source).failed == {}
    run = validate(shop.lake, shop.source)

    rows = shop.rows("shop/orders_raw").sort("_source_file", "_source_row")
    assert rows["colour"].to_list() == [None, None, "red", None, None, None]
    assert rows["size"].to_list() == [None, None, None, "7", '{"x":1}', None]
    assert json.loads(rows["_rescued"][2]) == {"_batch": "x", "UNITS": "1", "a b": "y"}
    assert (run.rows_accepted, run.rows_rejected) == (5, 1)
    shop.write_orders("a.csv", 3)
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)
    assert shop.rows("shop/orders").height == 6


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_each_new_column_has_its_own_policy(shop: Shop, name: str) -> None:
    policies = {"promo_*": "add", "promo_secret": "fail", "note": "rescue"}
    shop = shop.with_source(contract=dataclasses.replace(ORDERS, unknown_columns=policies))

    def write(name: str, column: str) -> None:
        header = f"id,product,units,price,at,email,promo_a,note,{column}"
        values = f"{order(5)},red,x,y"
        if name.endswith("jsonl"):
            values = json.dumps(dict(zip(header.split(","), values.split(","), strict=True)))
        shop.write(name, values, header="" if name.endswith("jsonl") else header + "\n")

    write(name, "other")
    write("b" + name, "promo_secret")

    failed = ingest(shop.lake, shop.source).failed

    assert list(failed) == ["b" + name]
    assert "not in the contract: promo_secret" in failed["b" + name]
    rows = shop.rows("shop/orders_raw")
    assert rows["promo_a"].to_list() == ["red"]
    assert json.loads(rows["_rescued"][0]) == {"note": "x", "other": "y"}


@pytest.mark.parametrize("form", ["jsonl", "text"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_text_however_large_the_file(
    shop: Shop, form: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = '{"id": "ü1", "product": "p", "units": 1, "at": "2024-03-01"}'
    contract = ORDERS
    if form == "text":
        contract = Contract(
            "shop/orders", (Column("line", "string"), Column("at", "timestamp")), "at"
        )
    shop = shop.with_source(format=form, contract=contract)
    for number, size in enumerate((8 << 20, 0)):
        monkeypatch.setattr(work_module, "SMALL_BYTES", size)
        (shop.raw / f"{number}.{form}").write_text(line, encoding=encoding)
        assert ingest(shop.lake, shop.source).failed == {}
    with zipfile.ZipFile(shop.raw / "all.zip", "w") as archive:
        archive.writestr(f"a.{form}", line.encode(encoding))
    assert ingest(shop.lake, shop.source).failed == {}

    rows = shop.rows("shop/orders_raw")
    assert (
        rows["line" if form == "text" else "id"].to_list() == [line if form == "text" else "ü1"] * 3
    )
    assert rows["_error"].null_count() == 3


def test_bytes_and_nested_values_become_text(shop: Shop) -> None:
    row = {"id": "o1", "product": "p", "units": 1, "at": utc("2024-03-01T10:00:00")}
    odd = {"raw": b"\xff\x00", "list": [1, None], "struct": {"x": 1.5}, "spent": timedelta(hours=1)}
    pl.DataFrame([row | odd]).write_parquet(shop.raw / "a.parquet")

    report = ingest(shop.lake, shop.source)

    assert report.failed == {}
    (found,) = shop.rows("shop/orders_raw").rows(named=True)
    assert json.loads(found["_rescued"]) == {
        "raw": "ff00",
        "list": "[1,null]",
        "struct": '{"x":1.5}',
        "spent": "PT1H",
    }


def test_a_document_nested_too_deep_is_recorded(shop: Shop) -> None:
    (shop.raw / "deep.json").write_text("[" * 100_000 + "]" * 100_000)
    (shop.raw / "odd.json").write_text('[{"id": "\\ud800"}]')
    shop.write_orders("good.csv", 2)

    report = ingest(shop.lake, shop.source)

    assert "deep.json" in report.failed
    assert shop.rows("shop/orders_raw").filter(_source_file="good.csv").height == 2


def test_a_json_document_has_a_limit(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats_module, "_JSON_BYTES", 100)
    (shop.raw / "a.json").write_text(json.dumps([{"id": "x" * 200}]))

    assert "write it as JSON Lines" in ingest(shop.lake, shop.source).failed["a.json"]


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ((Column("_batch", "int64"),), "_batch: names that Penstock gives"),
        ((Column("x", "int64", source_name="_Source_File"),), "_source_file: names that Penstock"),
        ((Column("a", "int64"), Column("A", "int64")), "there twice: A, a"),
        (
            (Column("a", "int64", source_name="c"), Column("b", "int64", source_name="c")),
            "twice: c",
        ),
    ],
)
def test_columns_that_clash_are_refused(columns: tuple[Column, ...], why: str) -> None:
    with pytest.raises(ContractError, match=why):
        Contract("shop/orders", (*columns, Column("at", "timestamp")), "at")
