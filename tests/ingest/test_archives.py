"""Zip archives: members as rows, and archives that mean harm."""

from __future__ import annotations

import gzip
import io
import random
import zipfile
from pathlib import Path

import pytest

from penstock import validate
from penstock.ingest import archives, ingest
from penstock.ingest import read as read_module
from penstock.ingest import work as work_module
from penstock.ingest.plan import PlannedFile
from tests.conftest import HEADER, Shop, order


def archive(path: Path, **members: str | bytes) -> Path:
    """Write a zip; a member's dots are written as two underscores."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as written:
        for name, data in members.items():
            written.writestr(name.replace("__", "."), data)
    return path


def orders(first: int, count: int = 3) -> str:
    return HEADER + "".join(f"{order(number)}\n" for number in range(first, first + count))


@pytest.mark.parametrize("is_large", [False, True])
def test_members_are_read_and_rows_say_which(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    if is_large:
        monkeypatch.setattr(read_module, "_PLAIN_BYTES", 1)
    lines = '{"id": "j1", "product": "p", "units": 1, "at": "2024-03-01"}\n'
    archive(shop.raw / "all.zip", a__csv=orders(0), b__jsonl=lines, readme__md="not read")

    report = ingest(shop.lake, shop.source)
    validated = validate(shop.lake, shop.source)

    assert (report.rows_read, report.failed) == (4, {})
    assert validated.rows_accepted == 4
    rows = shop.rows("shop/orders").sort("order_id")
    assert rows["_source_file"].to_list() == ["all.zip//b.jsonl", *["all.zip//a.csv"] * 3]
    assert rows["_source_row"].to_list() == [1, 1, 2, 3]


def test_an_archive_that_changed_replaces_all_its_rows(shop: Shop) -> None:
    archive(shop.raw / "all.zip", a__csv=orders(0), b__csv=orders(10))
    shop.write_orders("all.zipper.csv", 1, first=50)
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)
    archive(shop.raw / "all.zip", a__csv=orders(0), c__csv=orders(20))

    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    expected = sorted(["o0", "o1", "o2", "o20", "o21", "o22", "o50"])
    assert sorted(shop.rows("shop/orders")["order_id"]) == expected
    assert sorted(shop.rows("shop/orders_raw")["id"]) == expected


@pytest.mark.parametrize("name", ["../../evil.csv", "/evil.csv", "a/../../evil.csv", "C:/evil.csv"])
def test_a_member_that_points_out_of_its_archive_is_refused(shop: Shop, name: str) -> None:
    with zipfile.ZipFile(shop.raw / "bad.zip", "w") as written:
        written.writestr("good.csv", orders(0))
        written.writestr(name, orders(10))
    shop.write_orders("good.csv", 2)

    report = ingest(shop.lake, shop.source)

    assert "points out of the archive" in report.failed["bad.zip"]
    assert sorted(shop.rows("shop/orders_raw")["_source_file"].unique()) == ["good.csv"]
    assert not list(shop.raw.parent.rglob("evil.csv"))


def test_a_zip_bomb_is_refused_by_its_directory(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "BOMB_BYTES", 1 << 20)
    archive(shop.raw / "bomb.zip", a__csv=HEADER + "," * (8 << 20))

    report = ingest(shop.lake, shop.source)

    assert "as a zip bomb does" in report.failed["bomb.zip"]


def test_a_member_that_unfolds_to_more_than_it_says_is_refused(shop: Shop) -> None:
    path = archive(shop.raw / "liar.zip", a__csv=orders(0, 500))
    data = path.read_bytes()
    size = len(orders(0, 500)).to_bytes(4, "little")
    path.write_bytes(data.replace(size, (100).to_bytes(4, "little")))

    report = ingest(shop.lake, shop.source)

    assert "no archive that can be read" in report.failed["liar.zip"]
    assert report.rows_read == 0


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"PK\x03\x04 and nothing more", "not a zip file"),
        (b"", "empty"),
        (None, "no member is of a format that is read; there are: picture.png"),
    ],
)
def test_an_archive_without_rows_says_why(shop: Shop, data: bytes | None, why: str) -> None:
    if data is None:
        archive(shop.raw / "odd.zip", picture__png="not really")
    else:
        (shop.raw / "odd.zip").write_bytes(data)

    assert why in ingest(shop.lake, shop.source).failed["odd.zip"]


def test_an_encrypted_member_is_named(shop: Shop) -> None:
    path = archive(shop.raw / "secret.zip", a__csv=orders(0))
    data = bytearray(path.read_bytes())
    for sign, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(sign) + at] |= 1  # the flag that says so
    path.write_bytes(data)

    assert "encrypted" in ingest(shop.lake, shop.source).failed["secret.zip"]


def test_a_damaged_member_leaves_none_of_its_archive(shop: Shop) -> None:
    path = archive(shop.raw / "torn.zip", a__csv=orders(0, 200), b__csv=orders(500, 200))
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as opened:
        at = opened.getinfo("b.csv").header_offset + 60
    data = bytearray(path.read_bytes())
    data[at : at + 40] = bytes(40)
    path.write_bytes(data)

    report = ingest(shop.lake, shop.source)

    assert list(report.failed) == ["torn.zip"]
    assert shop.rows("shop/orders_raw").is_empty()


@pytest.mark.parametrize("seed", range(16))
def test_a_damaged_archive_stops_no_other(shop: Shop, seed: int) -> None:
    rng = random.Random(seed)
    path = archive(shop.raw / "bad.zip", a__csv=orders(0, 50), b__jsonl="{}")
    if seed % 4 == 0:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as written:
            written.writestr("a.csv", orders(0, 500))
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)
    shop.write_orders("good.csv", 2, first=900)

    report = ingest(shop.lake, shop.source)

    rows = shop.rows("shop/orders_raw")
    assert rows.filter(_source_file="good.csv").height == 2
    assert rows.height == 2 or "bad.zip" not in report.failed


@pytest.mark.parametrize("name", [".", "", "a\\..\\b.csv"])
def test_a_member_without_a_name_is_refused(shop: Shop, name: str) -> None:
    with zipfile.ZipFile(shop.raw / "odd.zip", "w") as written:
        written.writestr(name or "/", orders(0))
    shop.write_orders("good.csv", 2)

    assert list(ingest(shop.lake, shop.source).failed) == ["odd.zip"]


def test_a_packed_member_is_streamed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()
    streamed = read_module.read_large

    def noted(source: object, folder: object, file: PlannedFile) -> object:
        asked.append(file.path)
        return streamed(source, folder, file)  # pyright: ignore

    monkeypatch.setattr(work_module, "read_large", noted)
    archive(shop.raw / "all.zip", a__csv__gz=gzip.compress(orders(0).encode()))

    assert ingest(shop.lake, shop.source).rows_read == 3
    assert asked == ["all.zip"]
