"""Each kind of bad input: one clear error or one recorded reject, nothing lost, nothing half in."""

from __future__ import annotations

import dataclasses
import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest

from penstock import Column, Contract, Lake, validate
from penstock.errors import LakeError, SourceError, StorageError
from penstock.ingest import delimited as delimited_module
from penstock.ingest import ingest
from penstock.ingest import read as read_module
from penstock.ingest import run as run_module
from penstock.ingest import work as work_module
from penstock.ingest.ledger import read_ledger, unread_files
from penstock.storage.sources import SourceFolder
from tests.conftest import HEADER, ORDERS, Shop, order


def _only_error(shop: Shop) -> str:
    """The one file that was not read, while `good.csv` was."""
    shop.write_orders("good.csv", 2, first=900)
    report = ingest(shop.lake, shop.source)
    assert report.files_loaded == 1
    assert shop.rows("shop/orders_raw")["_source_file"].unique().to_list() == ["good.csv"]
    ledger = read_ledger(shop.lake, shop.source).filter(pl.col("status") != "loaded")
    assert ledger["rows_read"].to_list() == [0]
    (error,) = report.failed.values()
    assert ledger["error"].to_list() == [error]
    return error


READ_AS = pytest.mark.parametrize(
    "small_bytes", [1 << 20, 0], ids=["with others", "by itself in pieces"]
)


def _when_read(patch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Do something just before files are read."""
    opened, fetched = SourceFolder.open, SourceFolder.fetch

    def open_after(folder: SourceFolder, path: str) -> object:
        do()
        return opened(folder, path)

    def fetch_after(folder: SourceFolder, paths: Sequence[str]) -> object:
        do()
        return fetched(folder, paths)

    patch.setattr(SourceFolder, "open", open_after)
    patch.setattr(SourceFolder, "fetch", fetch_after)


def test_a_missing_folder_is_named(shop: Shop, tmp_path: Path) -> None:
    shop = shop.with_source(uri=str(tmp_path / "nowhere"))

    with pytest.raises(SourceError, match="nowhere: no such folder"):
        ingest(shop.lake, shop.source)


def test_an_empty_file_is_recorded(shop: Shop) -> None:
    (shop.raw / "bad.csv").write_bytes(b"")

    assert _only_error(shop) == "bad.csv: the file is empty (0 bytes)"


def test_a_header_alone_has_no_rows_and_is_no_error(shop: Shop) -> None:
    shop.write("only.csv")

    report = ingest(shop.lake, shop.source)

    assert (report.files_loaded, report.rows_read, report.failed) == (1, 0, {})
    assert validate(shop.lake, shop.source).rows_accepted == 0


@READ_AS
def test_blank_lines_before_a_header_are_passed_over(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, small_bytes: int
) -> None:
    monkeypatch.setattr(work_module, "SMALL_BYTES", small_bytes)
    shop.write("a.csv", order(1), order(2), header=f"\n{HEADER}")
    shop.write("b.csv", order(3), header=f"\r\n \t\r\n{HEADER}")
    shop.write("open.csv", '"o1', header=f"\n\n{HEADER}")
    shop.write("blank.csv", header="\n\n")

    report = ingest(shop.lake, shop.source)

    raw = shop.rows("shop/orders_raw").sort("_source_file", "_source_row")
    assert raw["id"].to_list() == ["o1", "o2", "o3"]
    assert raw["_source_row"].to_list() == [1, 2, 1]
    assert sorted(report.failed) == ["blank.csv", "open.csv"]
    assert report.failed["blank.csv"] == "blank.csv: its first 2 lines are blank; take them out"
    assert "about line 4" in report.failed["open.csv"]


def test_a_wrong_delimiter_is_guessed_at(shop: Shop) -> None:
    shop = shop.with_source(delimiter=",")
    shop.write("bad.csv", order(1).replace(",", ";"), header=HEADER.replace(",", ";"))

    assert "is its delimiter ';', not ','?" in _only_error(shop)


def test_a_missing_column_that_must_have_values_is_named(shop: Shop) -> None:
    shop.write("bad.csv", "o1,p1,3", header="id,product,units\n")

    assert "columns missing: at; it has id, product, units" in _only_error(shop)


def test_a_missing_column_that_may_be_null_is_null(shop: Shop) -> None:
    shop.write("a.csv", "o1,p1,3,2024-03-01", header="id,product,units,at\n")

    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    assert shop.rows("shop/orders").select("units", "price", "email").rows() == [(3, None, None)]


def test_an_extra_column_is_kept_as_json(shop: Shop) -> None:
    shop.write("a.csv", order(1) + ",gift", header=HEADER.strip() + ",note\n")

    ingest(shop.lake, shop.source)

    assert shop.rows("shop/orders_raw")["_rescued"].to_list() == ['{"note":"gift"}']


def test_an_extra_column_is_refused_where_the_contract_says_so(shop: Shop) -> None:
    strict = Contract("shop/orders", ORDERS.columns, "at", unknown_columns="fail")
    shop = shop.with_source(contract=strict)
    shop.write("bad.csv", order(1) + ",gift", header=HEADER.strip() + ",note\n")

    assert _only_error(shop) == "bad.csv: columns not in the contract: note"


def test_a_column_there_twice_is_refused(shop: Shop) -> None:
    shop.write("bad.csv", order(1) + ",9", header=HEADER.strip() + ",units\n")

    assert _only_error(shop) == "bad.csv: columns there twice: units"


def test_a_gzip_cut_short_is_recorded_and_none_of_its_rows_is_in(shop: Shop) -> None:
    text = HEADER + "".join(f"{order(n)}\n" for n in range(50_000))
    whole = gzip.compress(text.encode())
    (shop.raw / "bad.csv.gz").write_bytes(whole[: len(whole) // 2])

    assert "damaged archive, perhaps cut short" in _only_error(shop)


@pytest.mark.parametrize("limit", ["SMALL_BYTES", "_PLAIN_BYTES"])
def test_a_large_file_that_is_damaged_leaves_nothing_staged(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    module = work_module if limit == "SMALL_BYTES" else read_module
    monkeypatch.setattr(module, limit, 1000)
    monkeypatch.setattr(delimited_module, "PIECE_BYTES", 1 << 16)
    text = HEADER + "".join(f"{order(n)}\n" for n in range(20_000))
    (shop.raw / "bad.csv.gz").write_bytes(gzip.compress(text.encode())[:-20])

    _only_error(shop)

    committed = shop.rows("shop/orders_raw").height
    files = list((Path(shop.lake.uri) / "tables/shop/orders_raw").glob("*.parquet"))
    assert (committed, len(files)) == (2, 1)


def test_text_in_a_numbers_place_rejects_its_row_alone(shop: Shop) -> None:
    shop.write("a.csv", order(1), order(2, units="three"), order(3))

    ingest(shop.lake, shop.source)
    run = validate(shop.lake, shop.source)

    assert (run.rows_accepted, run.rows_rejected, run.reasons) == (2, 1, {"units_is_int32": 1})
    (row,) = shop.rows("shop/orders__rejected").to_dicts()
    assert row["units"] == "three"
    assert (row["_source_file"], row["_source_row"]) == ("a.csv", 2)
    assert row["_reasons"] == [
        {"expectation": "units_is_int32", "column": "units", "observed": "three"}
    ]


def test_rows_with_too_few_or_too_many_fields_are_rejected_with_their_text(shop: Shop) -> None:
    shop.write("a.csv", order(1), "o2,p2", order(3), order(4) + ",x,y", order(5))

    ingest(shop.lake, shop.source)
    run = validate(shop.lake, shop.source)

    rejected = shop.rows("shop/orders__rejected").sort("_source_row")
    assert run.rows_accepted == 3
    assert rejected["_source_row"].to_list() == [2, 4]
    assert rejected["_rescued"].to_list()[0] == "o2,p2"
    assert shop.rows("shop/orders").sort("_source_row")["_source_row"].to_list() == [1, 3, 5]


def test_numbers_of_malformed_rows_hold_across_blocks(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_module, "SMALL_BYTES", 0)
    monkeypatch.setattr(delimited_module, "PIECE_BYTES", 4096)
    rows = [order(n) if n % 97 else f"o{n},bad" for n in range(1, 3001)]
    shop.write("a.csv", *rows)

    ingest(shop.lake, shop.source)

    raw = shop.rows("shop/orders_raw").sort("_source_row")
    assert raw["_source_row"].to_list() == list(range(1, 3001))
    good = raw.filter(pl.col("_error").is_null())
    assert good["id"].to_list() == [f"o{n}" for n in good["_source_row"]]
    assert raw.height - good.height == 3000 // 97


def test_bytes_that_are_no_text_are_recorded(shop: Shop) -> None:
    (shop.raw / "bad.csv").write_bytes(HEADER.encode() + b"o1,\xff\xfe,1,1.0,2024-03-01,x\n")

    error = _only_error(shop)

    assert error.startswith("bad.csv: line 2 holds byte 0xff, which is no UTF-8; set the source's")


def test_latin_1_is_read_where_the_source_says_so(shop: Shop) -> None:
    shop = shop.with_source(encoding="latin-1")
    (shop.raw / "a.csv").write_bytes(
        HEADER.encode() + "o1,Käse,1,1.0,2024-03-01,x\n".encode("latin-1")
    )

    ingest(shop.lake, shop.source)

    assert shop.rows("shop/orders_raw")["product"].to_list() == ["Käse"]


def test_a_damaged_new_state_leaves_the_old_rows(shop: Shop) -> None:
    shop.write_orders("a.csv", 10)
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)
    (shop.raw / "a.csv").write_bytes(b"")

    report = ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    assert list(report.failed) == ["a.csv"]
    assert shop.rows("shop/orders_raw").height == shop.rows("shop/orders").height == 10
    shop.write_orders("a.csv", 4, first=50)
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)
    assert sorted(shop.rows("shop/orders")["order_id"]) == ["o50", "o51", "o52", "o53"]


@READ_AS
def test_a_file_that_vanishes_after_it_was_listed_is_recorded(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, small_bytes: int
) -> None:
    doomed = shop.write_orders("bad.csv", 3)
    _when_read(monkeypatch, lambda: doomed.unlink(missing_ok=True))
    monkeypatch.setattr(work_module, "SMALL_BYTES", small_bytes)

    assert _only_error(shop) == "bad.csv: it vanished after it was listed"


@READ_AS
def test_a_file_whose_store_failed_is_tried_again_as_it_is(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, small_bytes: int
) -> None:
    shop.write_orders("a.csv", 3)
    monkeypatch.setattr(work_module, "SMALL_BYTES", small_bytes)
    reset = ConnectionResetError("connection reset by peer")

    def failing(*_: object) -> object:
        raise reset

    with monkeypatch.context() as patch:
        patch.setattr(SourceFolder, "open", failing)
        patch.setattr(SourceFolder, "fetch", lambda _, paths: iter([reset for _ in paths]))
        first = ingest(shop.lake, shop.source)

    assert first.failed == {"a.csv": "a.csv: connection reset by peer"}
    assert ingest(shop.lake, shop.source).rows_read == 3


def test_a_file_that_its_store_never_gives_is_set_aside_and_named(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = shop.with_source(tries=3)
    shop.write_orders("a.csv", 3)
    reset = ConnectionResetError("connection reset by peer")

    with monkeypatch.context() as patch:
        patch.setattr(SourceFolder, "fetch", lambda _, paths: iter([reset for _ in paths]))
        batches = [ingest(shop.lake, shop.source).batches for _ in range(5)]

    assert batches == [(1,), (2,), (3,), (), ()]
    assert list(unread_files(read_ledger(shop.lake, shop.source))) == ["a.csv"]
    assert ingest(shop.lake, shop.source).batches == ()
    assert ingest(shop.lake, shop.source, retry=True).rows_read == 3


@pytest.mark.parametrize("policy", ["ignore", "error"])
def test_a_mended_file_is_read_whatever_the_policy_on_changes(shop: Shop, policy: str) -> None:
    shop = shop.with_source(on_change=policy)
    (shop.raw / "a.csv").write_bytes(b"")
    ingest(shop.lake, shop.source)
    shop.write_orders("a.csv", 3)

    assert ingest(shop.lake, shop.source).rows_read == 3


@READ_AS
def test_a_file_that_grows_while_it_is_read_comes_in_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, small_bytes: int
) -> None:
    shop = shop.with_source(on_change="append")
    path = shop.write_orders("a.csv", 3)
    monkeypatch.setattr(work_module, "SMALL_BYTES", small_bytes)

    def grow() -> None:
        with path.open("a") as file:
            file.write(order(99) + "\n")

    with monkeypatch.context() as patch:
        _when_read(patch, grow)
        assert "it changed after it was listed" in ingest(shop.lake, shop.source).failed["a.csv"]
    ingest(shop.lake, shop.source)

    rows = shop.rows("shop/orders_raw")
    assert rows.height == rows["id"].n_unique() == 4


def test_a_plan_over_another_folder_is_not_taken_for_this_one(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.write_orders("a.csv", 3)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "read_all", killed)
        with pytest.raises(KeyboardInterrupt):
            ingest(shop.lake, shop.source)
    (tmp_path / "other").mkdir()
    other = shop.with_source(uri=str(tmp_path / "other"))

    with pytest.raises(SourceError, match="batch 1 was planned over"):
        ingest(other.lake, other.source)
    assert ingest(shop.lake, shop.source).rows_read == 3


def test_unknown_keys_are_refused_where_the_contract_says_so(shop: Shop) -> None:
    strict = Contract("shop/orders", ORDERS.columns, "at", unknown_columns="fail")
    shop = shop.with_source(contract=strict)
    (shop.raw / "bad.jsonl").write_text('{"id": "o1", "colour": "red"}\n')

    assert _only_error(shop) == "bad.jsonl: keys not in the contract: colour"


def test_a_column_added_to_the_contract_is_added_to_the_tables(shop: Shop) -> None:
    shop.write_orders("a.csv", 2)
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)
    wider = Contract("shop/orders", (*ORDERS.columns, Column("colour", "string")), "at")
    shop = shop.with_source(contract=wider)
    shop.write("b.csv", order(9) + ",red", header=HEADER.strip() + ",colour\n")

    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    rows = shop.rows("shop/orders").sort("order_id")
    assert rows["colour"].to_list() == [None, None, "red"]


def test_a_kind_that_widens_in_the_contract_widens_in_the_table(shop: Shop) -> None:
    shop.write("a.csv", order(1), order(2, units=2**40))
    ingest(shop.lake, shop.source)
    assert validate(shop.lake, shop.source).rows_rejected == 1
    columns = tuple(
        dataclasses.replace(column, kind="int64") if column.name == "units" else column
        for column in ORDERS.columns
    )
    shop = shop.with_source(contract=Contract("shop/orders", columns, "at"))
    shop.write("b.csv", order(3, units=2**40))

    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    rows = shop.rows("shop/orders").sort("order_id")
    assert rows["units"].to_list() == [2, 2**40]
    narrow = shop.with_source(contract=ORDERS)
    with pytest.raises(LakeError, match="units is int64 in the table and int32"):
        validate(narrow.lake, narrow.source)


def test_a_folder_with_brackets_and_spaces_in_its_name(shop: Shop, tmp_path: Path) -> None:
    folder = tmp_path / "raw [1] of mine"
    folder.mkdir()
    shop.write_orders("a.csv", 3).rename(folder / "a.csv")
    shop = dataclasses.replace(shop, lake=Lake(tmp_path / "my [new] lake"))
    shop = shop.with_source(uri=str(folder))

    ingest(shop.lake, shop.source)
    run = validate(shop.lake, shop.source)

    assert run.rows_accepted == shop.rows("shop/orders").height == 3


def test_a_file_that_could_not_be_read_is_tried_again_once_it_changes(shop: Shop) -> None:
    (shop.raw / "a.csv").write_bytes(b"")
    ingest(shop.lake, shop.source)
    assert ingest(shop.lake, shop.source).batches == ()
    shop.write_orders("a.csv", 3)

    report = ingest(shop.lake, shop.source)

    assert (report.files_loaded, report.rows_read) == (1, 3)


def test_a_changed_file_is_an_error_where_the_source_says_so(shop: Shop) -> None:
    shop = shop.with_source(on_change="error")
    shop.write_orders("a.csv", 3)
    ingest(shop.lake, shop.source)
    shop.write_orders("a.csv", 4)
    shop.write_orders("b.csv", 2, first=50)

    report = ingest(shop.lake, shop.source)

    assert "a.csv: its content changed since it was ingested" in report.failed["a.csv"]
    assert report.files_loaded == 1
    assert shop.rows("shop/orders_raw").height == 5


def test_a_lake_in_s3_without_credentials_says_what_to_set() -> None:
    with pytest.raises(StorageError, match="no credentials. Set AWS_ACCESS_KEY_ID"):
        Lake("s3://bucket/lake")


def test_a_source_in_s3_without_credentials_says_what_to_set(shop: Shop) -> None:
    shop = shop.with_source(uri="s3://bucket/raw")

    with pytest.raises(SourceError, match="no credentials. Set AWS_ACCESS_KEY_ID"):
        ingest(shop.lake, shop.source)
