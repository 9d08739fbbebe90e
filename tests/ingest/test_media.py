"""Files as rows: binary files, plain text, and columns that a path names."""

from __future__ import annotations

import io
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import xxhash
from PIL import Image

from penstock import validate
from penstock.contracts import Column, Contract, file_columns
from penstock.errors import SourceError
from penstock.ingest import Source, ingest, media
from penstock.ingest import read as read_module
from penstock.ingest import work as work_module
from penstock.lake import Lake
from penstock.tables import Table
from tests.conftest import Shop, order

PHOTOS = Contract("shop/photos", file_columns(), event_time="changed_at", key=("path",))


def png(path: Path, width: int, height: int) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    path.write_bytes(file.getvalue())
    return file.getvalue()


@pytest.mark.parametrize("is_large", [False, True])
def test_a_binary_file_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    if is_large:
        monkeypatch.setattr(work_module, "SMALL_BYTES", 0)
        monkeypatch.setattr(read_module, "SMALL_BYTES", 0)
    raw, lake = tmp_path / "raw", Lake(tmp_path / "lake")
    first = png(raw / "cats" / "1.png", 40, 30)
    png(raw / "2.bin", 7, 5)  # by its bytes and not its name
    (raw / "notes.pdf").write_bytes(b"%PDF-1.7 no picture")
    (raw / "odd name %41.mp3").write_bytes(b"\xff\xfe\x00 nothing known")
    source = Source("shop/photos_raw", str(raw), PHOTOS, format="binary")

    report = ingest(lake, source)
    validated = validate(lake, source)

    assert (report.files_loaded, report.rows_read, report.failed) == (4, 4, {})
    assert validated.rows_accepted == 4
    rows = Table(lake, "shop/photos").snapshot().scan().collect().sort("path")
    shown = rows.select("path", "media_type", "width", "height").rows()
    assert shown == [
        ("2.bin", "image/png", 7, 5),
        ("cats/1.png", "image/png", 40, 30),
        ("notes.pdf", "application/pdf", None, None),
        ("odd name %41.mp3", "audio/mpeg", None, None),
    ]
    cat = rows.row(1, named=True)
    assert cat["content"] == first
    assert cat["size_bytes"] == len(first)
    assert cat["checksum"] == xxhash.xxh3_128_hexdigest(first)
    assert cat["uri"] == f"file://{raw}/cats/1.png"


def test_without_a_content_column_the_bytes_stay_where_they_are(tmp_path: Path) -> None:
    raw, lake = tmp_path / "raw", Lake(tmp_path / "lake")
    png(raw / "1.png", 400, 300)
    contract = Contract("shop/photos", file_columns(content=False), event_time="changed_at")
    source = Source("shop/photos_raw", str(raw), contract, format="binary")

    ingest(lake, source)

    bronze = Table(lake, "shop/photos_raw").snapshot()
    assert "content" not in bronze.schema.names
    assert bronze.scan().collect()["width"].to_list() == ["400"]
    assert bronze.size_bytes < 20_000


def test_of_a_file_too_large_to_keep_there_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_module, "SMALL_BYTES", 100)
    monkeypatch.setattr(read_module, "CONTENT_BYTES", 1000)
    monkeypatch.setattr(media, "HEAD_BYTES", 500)
    raw, lake = tmp_path / "raw", Lake(tmp_path / "lake")
    data = png(raw / "1.png", 400, 300)
    source = Source("shop/photos_raw", str(raw), PHOTOS, format="binary")

    ingest(lake, source)

    (row,) = Table(lake, "shop/photos_raw").snapshot().scan().collect().rows(named=True)
    assert (row["content"], row["width"], row["size_bytes"]) == (None, "400", str(len(data)))
    assert row["checksum"] == xxhash.xxh3_128_hexdigest(data)


def test_plain_text_is_a_row_a_line(tmp_path: Path) -> None:
    raw, lake = tmp_path / "raw", Lake(tmp_path / "lake")
    raw.mkdir()
    (raw / "a.log").write_bytes('  ünïcode, "quoted"\r\n\n{}\nlast without end'.encode())
    columns = (Column("text", "string", source_name="line"), Column("at", "timestamp"))
    source = Source(
        "shop/lines_raw", str(raw), Contract("shop/lines", columns, "at"), format="text"
    )

    report = ingest(lake, source)

    assert report.rows_read == 4
    rows = Table(lake, "shop/lines_raw").snapshot().scan().collect().sort("_source_row")
    assert rows["line"].to_list() == ['  ünïcode, "quoted"', "", "{}", "last without end"]


def test_a_source_of_files_has_the_columns_of_files() -> None:
    contract = Contract("shop/x", (Column("shape", "string"), Column("at", "timestamp")), "at")
    with pytest.raises(SourceError, match=r"a binary file has no at, shape by itself; name some"):
        Source("shop/x_raw", "raw", contract, format="binary")
    with pytest.raises(SourceError, match="plain text has the column line"):
        Source("shop/x_raw", "raw", contract, format="text")


@pytest.mark.parametrize("is_large", [False, True])
def test_a_path_names_columns_of_binary_files_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    if is_large:
        monkeypatch.setattr(work_module, "SMALL_BYTES", 0)
    raw, lake = tmp_path / "raw", Lake(tmp_path / "lake")
    png(raw / "dt=2024-03-01" / "label=cat" / "1.png", 4, 3)
    png(raw / "label=dog" / "2.png", 4, 3)
    png(raw / "3.png", 4, 3)
    named = (Column("label", "string", nullable=False), Column("dt", "date"))
    contract = Contract("shop/photos", (*named, *file_columns()), event_time="changed_at")
    source = Source("shop/photos_raw", str(raw), contract, format="binary")

    report = ingest(lake, source)
    validate(lake, source)

    assert report.failed["3.png"].startswith("3.png: columns missing: label; it has path, uri")
    rows = Table(lake, "shop/photos").snapshot().scan().collect().sort("path")
    shown = rows.select("path", "label", "dt", "width").rows()
    assert shown == [
        ("dt=2024-03-01/label=cat/1.png", "cat", date(2024, 3, 1), 4),
        ("label=dog/2.png", "dog", None, 4),
    ]


def test_columns_that_a_path_names_are_filled_from_it(shop: Shop) -> None:
    lines = [order(number).rsplit(",", 2)[0] for number in range(3)]
    header = "id,product,units,price\n"
    shop.write("at=2024-03-01/email=a%40b.com/one.csv", *lines, header=header)
    shop.write("at=2024-03-02/two.csv", *lines[:1], header=header)
    shop.write("email=from%20path/own.csv", order(7))

    report = ingest(shop.lake, shop.source)

    assert report.failed == {}
    rows = shop.rows("shop/orders_raw").sort("_source_file", "_source_row")
    assert rows["at"].to_list() == ["2024-03-01"] * 3 + ["2024-03-02", "2024-03-01 10:00:00"]
    assert rows["email"].to_list() == ["a@b.com"] * 3 + [None, "a7@example.com"]
    assert validate(shop.lake, shop.source).rows_accepted == 5
