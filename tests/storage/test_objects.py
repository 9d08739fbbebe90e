"""The door to the lake's objects, on disk and on S3."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penstock import Lake
from penstock.errors import LakeError, StorageError
from penstock.lake import checked_name
from tests.conftest import S3Server


@pytest.fixture(params=["disk", "s3"])
def anywhere(request: pytest.FixtureRequest) -> Lake:
    """An empty lake on disk, then one in S3."""
    return request.getfixturevalue("lake" if request.param == "disk" else "s3_lake")


def test_of_many_writers_of_one_object_one_wins(anywhere: Lake) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: anywhere.objects.put_if_absent("a", b"%d" % n), range(16)))

    assert won.count(True) == 1
    assert anywhere.objects.get("a") == b"%d" % won.index(True)


def test_ranges_listing_and_deletion(anywhere: Lake) -> None:
    store = anywhere.objects
    store.put("x/a", b"0123456789")
    store.put("x/y/b", b"")

    assert bytes(store.get_range("x/a", 2, 3)) == b"234"
    assert sorted(info.key for info in store.list("x")) == ["x/a", "x/y/b"]
    assert store.folders("x") == ["y"]
    assert store.size("x/a") == 10
    store.delete(["x/a", "x/a", "never"])
    assert store.get_or_none("x/a") is None


def test_a_streamed_object_is_there_once_it_is_closed(anywhere: Lake) -> None:
    writer = anywhere.objects.open_writer("big")
    for _ in range(40):
        writer.write(os.urandom(1) * 500_000)
    assert anywhere.objects.get_or_none("big") is None
    writer.close()

    assert anywhere.objects.size("big") == 20_000_000


def test_reading_makes_no_folder(lake: Lake) -> None:
    with pytest.raises(StorageError, match="there is no lake here"):
        lake.table_names()
    assert lake.objects.get_or_none("x") is None
    assert not Path(lake.uri).exists()


def test_what_is_absent_is_named(anywhere: Lake) -> None:
    anywhere.objects.put("something", b"")
    with pytest.raises(StorageError, match="nothing/here: not found"):
        anywhere.objects.get("nothing/here")


def test_a_missing_bucket_is_named(s3_server: S3Server) -> None:
    lake = Lake("s3://penstock-no-such-bucket/lake", storage_options=s3_server.options)

    with pytest.raises(StorageError, match="there is no bucket penstock-no-such-bucket"):
        lake.objects.get("x")


def test_a_wrong_key_says_to_check_the_credentials(s3_server: S3Server) -> None:
    if s3_server.kind != "ceph":
        pytest.skip("moto accepts any key")
    options = {**s3_server.options, "aws_secret_access_key": "wrong-secret"}
    lake = Lake(f"s3://{s3_server.new_bucket()}/lake", storage_options=options)

    with pytest.raises(StorageError, match="Check the credentials") as caught:
        lake.objects.get("x")
    assert "wrong-secret" not in str(caught.value)


def test_a_lake_never_shows_its_secret(s3_server: S3Server) -> None:
    lake = Lake("s3://bucket/lake", storage_options=s3_server.options)

    assert s3_server.secret not in repr(lake)


@pytest.mark.slow
def test_a_server_that_crashes_and_comes_back_is_used_again(s3_server: S3Server) -> None:
    launcher = os.environ.get("PENSTOCK_S3SERVER", "")
    if s3_server.kind != "ceph":
        pytest.skip("only the real server can be crashed and restarted")
    lake = Lake(f"s3://{s3_server.new_bucket()}/lake", storage_options=s3_server.options)
    lake.objects.put("x", b"1")

    subprocess.run([launcher, "crash"], check=True, capture_output=True)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lake.objects.get, "x")
        subprocess.run([launcher, "restart"], check=True, capture_output=True)

        assert reading.result(timeout=60) == b"1"


@pytest.mark.parametrize("name", ["sales", "Retail/sales", "retail/sales/x", "retail/", "../x/y"])
def test_a_name_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(LakeError, match="write domain/name"):
        checked_name(name)
