"""What counts as new: by content, not by time alone; and which files make a batch."""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from penstock import validate
from penstock.errors import SourceError
from penstock.ingest import ingest, waiting_files
from penstock.ingest.ledger import read_ledger
from penstock.storage.sources import SourceFolder
from tests.conftest import HEADER, S3Server, Shop, order


def test_a_touched_file_is_not_loaded_again(shop: Shop) -> None:
    path = shop.write_orders("a.csv", 3)
    ingest(shop.lake, shop.source)
    before = shop.rows("shop/orders_raw")
    os.utime(path, (1, 1))

    report = ingest(shop.lake, shop.source)

    assert (report.files_unchanged, report.rows_read) == (1, 0)
    assert shop.rows("shop/orders_raw").equals(before)
    assert waiting_files(shop.lake, shop.source).is_empty()
    validate(shop.lake, shop.source)
    assert shop.rows("shop/orders").height == 3


@pytest.mark.parametrize("policy", ["append", "error"])
def test_a_touched_file_is_no_change_whatever_the_policy(shop: Shop, policy: str) -> None:
    shop = shop.with_source(on_change=policy)
    path = shop.write_orders("a.csv", 3)
    ingest(shop.lake, shop.source)
    os.utime(path, (1, 1))

    assert ingest(shop.lake, shop.source).failed == {}
    assert shop.rows("shop/orders_raw").height == 3


def test_a_file_overwritten_with_its_old_time_and_size_is_loaded(shop: Shop) -> None:
    path = shop.write_orders("a.csv", 3)
    ingest(shop.lake, shop.source)
    state = path.stat()
    path.write_text(path.read_text().replace("o1,", "o9,"))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_size == state.st_size

    ingest(shop.lake, shop.source)

    assert sorted(shop.rows("shop/orders_raw")["id"]) == ["o0", "o2", "o9"]


def test_a_file_older_than_what_was_ingested_is_loaded(shop: Shop) -> None:
    shop.write_orders("b.csv", 3)
    ingest(shop.lake, shop.source)
    late = shop.write_orders("a.csv", 2, first=10)
    os.utime(late, (1, 1))

    assert ingest(shop.lake, shop.source).rows_read == 2


def test_a_ragged_row_and_an_empty_file_stop_no_other(shop: Shop) -> None:
    shop.write("a.csv", order(1), order(2) + ",too,many")
    (shop.raw / "b.csv").write_bytes(b"")
    shop.write_orders("c.csv", 3, first=10)

    report = ingest(shop.lake, shop.source)

    assert (report.files_loaded, report.rows_read, [*report.failed]) == (2, 5, ["b.csv"])
    assert validate(shop.lake, shop.source).rows_accepted == 4


def test_rows_of_a_file_that_is_gone_stay_or_go(shop: Shop) -> None:
    shop.write_orders("a.csv", 3)
    gone = shop.write_orders("b.csv", 2, first=10)
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)
    gone.unlink()

    assert ingest(shop.lake, shop.source).batches == ()
    removing = shop.with_source(on_delete="remove")
    report = ingest(removing.lake, removing.source)
    validate(removing.lake, removing.source)

    assert (report.files_removed, report.batches) == (1, (2,))
    assert shop.rows("shop/orders_raw").height == shop.rows("shop/orders").height == 3
    assert ingest(removing.lake, removing.source).batches == ()
    shop.write_orders("b.csv", 2, first=10)
    assert ingest(removing.lake, removing.source).rows_read == 2
    validate(removing.lake, removing.source)
    assert shop.rows("shop/orders").height == 5


def test_a_listing_too_long_to_be_held_is_left_with_what_may_be_new(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.storage.sources._HELD", 2)
    monkeypatch.setattr("penstock.storage.disk._LISTED", 1)
    for number in range(6):
        shop.write_orders(f"d{number}/f.csv", 3, first=10 * number)
    assert ingest(shop.lake, shop.source).rows_read == 18
    assert ingest(shop.lake, shop.source).batches == ()
    shop.write_orders("d1/f.csv", 4, first=10)
    new = shop.write_orders("d6/f.csv", 2, first=60)

    assert waiting_files(shop.lake, shop.source)["path"].to_list() == ["d1/f.csv", "d6/f.csv"]
    assert ingest(shop.lake, shop.source).rows_read == 6
    assert shop.rows("shop/orders_raw").height == 21
    new.unlink()
    removing = shop.with_source(on_delete="remove")
    assert ingest(removing.lake, removing.source).files_removed == 1


def test_an_empty_folder_takes_no_rows_out(shop: Shop) -> None:
    shop = shop.with_source(on_delete="remove")
    path = shop.write_orders("a.csv", 3)
    ingest(shop.lake, shop.source)
    path.unlink()

    with pytest.raises(SourceError, match="If a disk is not mounted"):
        ingest(shop.lake, shop.source)
    assert shop.rows("shop/orders_raw").height == 3


def test_batches_keep_to_their_bytes_and_order(shop: Shop) -> None:
    for place, name in enumerate(["c.csv", "b.csv", "a.csv", "z.csv"]):
        path = shop.write_orders(name, 100 if name == "z.csv" else 10, first=100 * place)
        os.utime(path, (place + 1, place + 1))
    limit = (shop.raw / "a.csv").stat().st_size * 2 + 50
    shop = shop.with_source(max_bytes=limit, order="time")

    report = ingest(shop.lake, shop.source)

    ledger = read_ledger(shop.lake, shop.source).select("batch", "file").rows()
    assert report.batches == (1, 2, 3)
    assert ledger == [(1, "b.csv"), (1, "c.csv"), (2, "a.csv"), (3, "z.csv")]


def test_files_past_the_maximum_age_are_left_alone(shop: Shop) -> None:
    shop = shop.with_source(max_age=timedelta(days=30))
    shop.write_orders("new.csv", 1)
    old = shop.write_orders("old.csv", 1, first=5)
    os.utime(old, (time.time() - 40 * 86_400,) * 2)

    ingest(shop.lake, shop.source)

    assert shop.rows("shop/orders_raw")["_source_file"].to_list() == ["new.csv"]


def test_links_out_of_the_folder_are_not_followed(shop: Shop, tmp_path: Path) -> None:
    inside = shop.write_orders("a.csv", 1)
    outside = tmp_path / "secret.csv"
    outside.write_text(inside.read_text().replace("o0", "o666"))
    (shop.raw / "link.csv").symlink_to(outside)
    (shop.raw / "folder").symlink_to(tmp_path)
    (shop.raw / "same.csv").symlink_to(inside)
    (shop.raw / "broken.csv").symlink_to(tmp_path / "nowhere.csv")

    report = ingest(shop.lake, shop.source)

    assert sorted(report.failed) == ["broken.csv", "link.csv"]
    error = report.failed["link.csv"]
    assert error.startswith(f"link.csv: it is a link out of the folder, to {outside}")
    assert shop.rows("shop/orders_raw")["_source_file"].to_list() == ["a.csv", "same.csv"]


@pytest.mark.parametrize(
    "name",
    ["with space.csv", "100%25.csv", "ünïcode 中.csv", "new\nline.csv", "a[1]{b}*.csv", "'.csv"],
)
def test_names_of_every_kind(shop: Shop, name: str) -> None:
    shop.write_orders(f"dt=2024-03-01/{name}", 2)
    ingest(shop.lake, shop.source)
    shop.write_orders(f"dt=2024-03-01/{name}", 3)

    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)

    rows = shop.rows("shop/orders")
    assert rows["_source_file"].to_list() == [f"dt=2024-03-01/{name}"] * 3


def test_a_name_that_is_no_text_is_told(shop: Shop) -> None:
    shop.write_orders("a.csv", 1)
    (Path(os.fsdecode(os.fsencode(str(shop.raw)) + b"/caf\xe9.csv"))).write_text("x")

    report = ingest(shop.lake, shop.source)

    assert report.failed == {"caf\\xe9.csv": "caf\\xe9.csv: its name is no UTF-8; rename it"}
    assert report.files_loaded == 1


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("**/*", ["a.csv", "dt=1/b.csv", "dt=1/x/c.csv", "dt=2/b.jsonl"]),
        ("*", ["a.csv"]),
        ("*.csv", ["a.csv"]),
        ("**/*.csv", ["a.csv", "dt=1/b.csv", "dt=1/x/c.csv"]),
        ("dt=*/*", ["dt=1/b.csv", "dt=2/b.jsonl"]),
        ("dt=[!1]/**", ["dt=2/b.jsonl"]),
        ("**/?.{csv,parquet}", ["a.csv", "dt=1/b.csv", "dt=1/x/c.csv"]),
        ("dt=1/**", ["dt=1/b.csv", "dt=1/x/c.csv"]),
        ("A.csv", []),
    ],
)
def test_globs(tmp_path: Path, pattern: str, matched: list[str]) -> None:
    for name in ["a.csv", "dt=1/b.csv", "dt=1/x/c.csv", "dt=2/b.jsonl"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")

    assert SourceFolder(str(tmp_path)).list(pattern)["path"].to_list() == matched


_HIDDEN = [
    "_SUCCESS",
    "a/_tmp.csv",
    "_temporary/0/b.csv",
    ".hidden.csv",
    ".x=1/b.csv",
    "..x/b.csv",
    "_x=1",
]


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("**/*", ["_day=1/b.csv", "a/b_.c.csv"]),
        ("**/*{.csv,.json}", ["_day=1/b.csv", "a/b_.c.csv"]),
        ("**/_*", ["_SUCCESS", "_x=1", "a/_tmp.csv"]),
        ("_temporary/**/*.csv", ["_temporary/0/b.csv"]),
        ("a/[_]tmp.csv", ["a/_tmp.csv"]),
        ("{a,.x=1}/*", [".x=1/b.csv", "a/_tmp.csv", "a/b_.c.csv"]),
    ],
)
def test_hidden_files_are_left_alone_unless_the_pattern_names_them(
    tmp_path: Path, pattern: str, matched: list[str]
) -> None:
    for name in [*_HIDDEN, "a/b_.c.csv", "_day=1/b.csv"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")

    assert SourceFolder(str(tmp_path)).list(pattern)["path"].to_list() == matched


def _bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty bucket, whose server the environment names."""
    import boto3

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return boto3.resource("s3", endpoint_url=s3_server.endpoint).Bucket(s3_server.new_bucket())


def test_a_bucket_is_a_folder_as_any(
    shop: Shop, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = _bucket(s3_server, monkeypatch)
    for number in range(3):
        body = shop.write_orders("x.csv", 4, first=10 * number).read_bytes()
        bucket.put_object(Key=f"raw/dt=2024-03-0{number + 1}/a b%.csv", Body=body)
    shop = shop.with_source(uri=f"s3://{bucket.name}/raw", pattern="dt=*/*.csv")

    assert ingest(shop.lake, shop.source).rows_read == 12
    assert ingest(shop.lake, shop.source).batches == ()
    bucket.put_object(Key="raw/dt=2024-03-01/a b%.csv", Body=body)
    assert ingest(shop.lake, shop.source).rows_read == 4
    listed = SourceFolder(shop.source.uri).list(after="dt=2024-03-01/a b%.csv")
    assert listed["path"].to_list() == ["dt=2024-03-02/a b%.csv", "dt=2024-03-03/a b%.csv"]
    assert shop.rows("shop/orders_raw").group_by("_source_file").len()["len"].to_list() == [4] * 3
    missing = shop.with_source(uri="s3://no-such-bucket-here/raw")
    with pytest.raises(SourceError, match="there is no bucket no-such-bucket-here"):
        ingest(missing.lake, missing.source)


def test_a_key_that_is_no_path_stops_no_other(
    shop: Shop, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = _bucket(s3_server, monkeypatch)
    body = shop.write_orders("x.csv", 4).read_bytes()
    odd = ["/b.csv", "c//d.csv", "e/../f.csv"]
    for key in ["a.csv", *odd, "x/y.csv"]:
        bucket.put_object(Key=f"raw/{key}", Body=body)
    shop = shop.with_source(uri=f"s3://{bucket.name}/raw", pattern="**/*.csv")

    report = ingest(shop.lake, shop.source)

    assert report.rows_read == 8
    assert sorted(report.failed) == odd
    assert all("give it another key" in error for error in report.failed.values())
    assert set(shop.rows("shop/orders_raw")["_source_file"]) == {"a.csv", "x/y.csv"}


def test_a_key_with_a_control_character_is_recorded_once_and_stops_no_other(
    shop: Shop, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = _bucket(s3_server, monkeypatch)
    body = shop.write_orders("x.csv", 4).read_bytes()
    odd = ["ctl\x01.csv", "del\x7f.csv"]
    for key in ["a.csv", 'b*"<|>^[`é.csv', *odd]:
        bucket.put_object(Key=f"raw/{key}", Body=body)
    shop = shop.with_source(uri=f"s3://{bucket.name}/raw", pattern="**/*.csv")

    report = ingest(shop.lake, shop.source)

    assert report.rows_read == 8
    assert sorted(report.failed) == odd
    assert all("give it another key" in error for error in report.failed.values())
    assert ingest(shop.lake, shop.source).batches == ()
    looked = SourceFolder(shop.source.uri).look(["a.csv", *odd])
    assert looked.filter(pl.col("problem").is_null())["path"].to_list() == ["a.csv"]
    assert looked["path"].to_list() == ["a.csv", *odd]


def test_a_change_shows_where_a_store_tells_when_files_were_made(shop: Shop) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    place = f"/{uuid.uuid4().hex}"
    shop = shop.with_source(uri=f"memory:/{place}")
    for number in (1, 2):
        memory.pipe(f"{place}/a.csv", (HEADER + order(number)).encode())
        ingest(shop.lake, shop.source)

    assert shop.rows("shop/orders_raw")["id"].to_list() == ["o2"]
    assert ingest(shop.lake, shop.source).batches == ()


def test_known_files_are_told_apart_by_their_last_state() -> None:
    from penstock.ingest.discovery import new_files
    from tests.ingest.test_delimited import _SOURCE

    listing = pl.DataFrame(
        {
            "path": ["a.csv", "b.csv", "c.txt"],
            "size_bytes": [1, 2, 3],
            "tag": ["x", "y", "z"],
            "changed_at": [None] * 3,
            "problem": [None] * 3,
        },
        schema_overrides={"changed_at": pl.Datetime("us", "UTC"), "problem": pl.String},
    )
    ledger = pl.DataFrame(
        [
            (1, "a.csv", 1, "x", "loaded", "h1"),
            (2, "a.csv", 1, "new", "loaded", "h2"),
            (1, "b.csv", 2, "old", "loaded", "h3"),
            (2, "b.csv", 2, "y", "failed", None),
        ],
        schema=["batch", "file", "size_bytes", "tag", "status", "checksum"],
        orient="row",
    )

    found = new_files(_SOURCE, listing, ledger)

    assert found.select("path", "action", "known").rows() == [("a.csv", "replace", "h2")]
    again = new_files(_SOURCE, listing, ledger, is_retry=True)
    assert again.select("path", "known").rows() == [("a.csv", "h2"), ("b.csv", "h3")]
