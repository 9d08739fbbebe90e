"""Messages in the place of a listing, and listings that begin where the last one ended."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlsplit

import pytest

from penstock.errors import SourceError
from penstock.ingest import ingest, waiting_files
from penstock.storage.sources import SourceFolder
from tests.conftest import HEADER, S3Server, Shop, order


def event(path: Path, kind: str = "ObjectCreated:Put", at: str = "10:00:00") -> dict[str, Any]:
    """S3's record of a file; on disk a bucket is a folder."""
    bucket, _, key = str(path).strip("/").partition("/")
    return {
        "eventName": kind,
        "eventTime": f"2024-03-01T{at}.000Z",
        "s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(key, safe="/")}},
    }


class Mail:
    """A folder of messages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def send(self, *records: dict[str, Any], name: str = "") -> None:
        name = name or f"{len(list(self.folder.iterdir())):04d}"
        (self.folder / f"{name}.json").write_text(json.dumps({"Records": records}))

    @property
    def left(self) -> int:
        return len(list(self.folder.iterdir()))


@pytest.fixture
def mail(tmp_path: Path) -> Mail:
    return Mail(tmp_path / "mail")


@pytest.fixture
def told(shop: Shop, mail: Mail) -> Shop:
    return shop.with_source(notifications=str(mail.folder))


def files_in(shop: Shop) -> list[str]:
    return sorted(shop.rows("shop/orders_raw")["_source_file"].unique())


def test_what_messages_name_comes_in_once(
    told: Shop, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, odd = told.write_orders("a.csv", 3), told.write_orders("sub/b c+é.csv", 2, first=10)
    told.write_orders("unnamed.csv", 1, first=20)
    mail.send(event(first), event(odd))
    mail.send(event(first))  # delivered twice
    (mail.folder / "test.json").write_text('{"Service": "S3", "Event": "s3:TestEvent"}')
    mail.send(event(told.raw.parent / "elsewhere.csv"))
    monkeypatch.setattr(SourceFolder, "list", _only_mail(SourceFolder.list, mail))

    assert waiting_files(told.lake, told.source).height == 2
    assert mail.left == 4
    report = ingest(told.lake, told.source)

    assert (report.files_loaded, report.rows_read, mail.left) == (2, 5, 0)
    assert files_in(told) == ["a.csv", "sub/b c+é.csv"]
    assert ingest(told.lake, told.source).files_loaded == 0


def test_a_hidden_file_that_a_message_names_is_left_alone(told: Shop, mail: Mail) -> None:
    mail.send(event(told.write_orders("a.csv", 3)))
    mail.send(event(told.write_orders("_temporary/b.csv", 2, first=10)))

    assert ingest(told.lake, told.source).rows_read == 3
    assert mail.left == 0


def _only_mail(list_files: Any, mail: Mail) -> Any:
    def listed(self: SourceFolder, *arguments: Any, **settings: Any) -> Any:
        assert self.uri == str(mail.folder), "the source was listed"
        return list_files(self, *arguments, **settings)

    return listed


def test_a_full_listing_finds_what_no_message_named(told: Shop, mail: Mail) -> None:
    mail.send(event(told.write_orders("a.csv", 3)))
    told.write_orders("lost.csv", 2, first=10)

    ingest(told.lake, told.source)
    report = ingest(told.lake, told.source, full=True)

    assert report.rows_read == 2
    assert files_in(told) == ["a.csv", "lost.csv"]


def test_the_newest_event_of_a_file_counts(told: Shop, mail: Mail) -> None:
    told = told.with_source(on_delete="remove")
    path = told.write_orders("a.csv", 3)
    other = told.write_orders("b.csv", 1, first=10)
    mail.send(event(path, at="10:00:01"), event(other))
    ingest(told.lake, told.source)
    path.unlink()
    mail.send(event(path, "ObjectRemoved:Delete", at="10:00:03"), name="1-gone")
    mail.send(event(path, at="10:00:02"), name="2-late")

    report = ingest(told.lake, told.source)

    assert (report.files_removed, mail.left) == (1, 0)
    assert files_in(told) == ["b.csv"]


def test_a_message_stays_until_its_files_are_in(
    told: Shop, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = told.write_orders("a.csv", 3), told.write_orders("b.csv", 2, first=10)
    mail.send(event(first), name="first")
    mail.send(event(second), name="second")

    ingest(told.lake, told.source, max_files=1, max_batches=1)
    assert mail.left == 1
    ingest(told.lake, told.source)

    assert mail.left == 0
    assert files_in(told) == ["a.csv", "b.csv"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"Records": [{"s3": 1}]}',
        b"no JSON",
        b"[]",
        b'{"else": 1}',
        b"[" * 100_000,
        json.dumps({"Records": [{"s3": {"bucket": {"name": "b"}, "object": {"key": 7}}}]}).encode(),
    ],
)
def test_a_message_that_is_none_stops_no_other(
    told: Shop, mail: Mail, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (mail.folder / "odd.json").write_bytes(body)
    mail.send(event(told.write_orders("a.csv", 3)))

    assert ingest(told.lake, told.source).rows_read == 3

    assert mail.left == 1
    assert "odd.json is no event notification" in caplog.text


@pytest.mark.parametrize(
    "key", ["../secret.csv", "./a.csv", "sub//a.csv", "x" * 5000, "a.csv/b", "nul\0"]
)
def test_a_key_that_is_no_file_of_the_folder_is_passed_over(
    told: Shop, mail: Mail, key: str
) -> None:
    told.write_orders("a.csv", 3)
    (told.raw.parent / "secret.csv").write_text(f"{HEADER}{order(1)}\n")
    (told.raw / "linked").symlink_to(told.raw.parent)
    bucket, _, folder = str(told.raw).strip("/").partition("/")
    for each in (key, "linked/secret.csv"):
        found = {"bucket": {"name": bucket}, "object": {"key": quote_plus(f"{folder}/{each}", "/")}}
        mail.send({"eventName": "ObjectCreated:Put", "s3": found})

    report = ingest(told.lake, told.source)

    assert (report.batches, report.failed, mail.left) == ((), {}, 0)


def test_a_removal_that_came_late_takes_nothing_out(told: Shop, mail: Mail) -> None:
    told = told.with_source(on_delete="remove")
    path = told.write_orders("a.csv", 3)
    mail.send(event(path))
    ingest(told.lake, told.source)
    mail.send(event(path, "ObjectRemoved:Delete", at="09:00:00"))

    report = ingest(told.lake, told.source)

    assert (report.files_removed, mail.left) == (0, 0)
    assert files_in(told) == ["a.csv"]


def test_eventbridge_and_sns_are_understood(told: Shop, mail: Mail) -> None:
    first, second = told.write_orders("a.csv", 3), told.write_orders("b.csv", 2, first=10)
    plain = event(second)
    bucket, key = str(first).strip("/").split("/", 1)
    bridged = {
        "detail-type": "Object Created",
        "time": "2024-03-01T10:00:00Z",
        "detail": {"bucket": {"name": bucket}, "object": {"key": key}},
    }
    wrapped = {"Type": "Notification", "Message": json.dumps({"Records": [plain]})}
    (mail.folder / "1.json").write_text(json.dumps(bridged))
    (mail.folder / "2.json").write_text(json.dumps(wrapped))

    assert ingest(told.lake, told.source).rows_read == 5


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch, s3_server: S3Server) -> Iterator[tuple[Any, str]]:
    """An SQS queue on moto's server: a client, and its URL."""
    import boto3

    from tests.conftest import moto

    with moto() as server:
        for name, value in server.environment.items():
            if name != "AWS_ENDPOINT_URL":
                monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
        client = boto3.client("sqs", endpoint_url=server.endpoint, region_name="us-east-1")
        url = client.create_queue(QueueName="arrivals")["QueueUrl"]
        path = urlsplit(url).path
        yield client, f"sqs://{urlsplit(server.endpoint).netloc}{path}"


def test_a_queue_gives_the_files_of_a_bucket(
    shop: Shop, s3_server: S3Server, queue: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    client, url = queue
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = s3_server.new_bucket()
    s3 = boto3.client("s3", endpoint_url=s3_server.endpoint)
    source = dataclasses.replace(shop.source, uri=f"s3://{bucket}/raw", notifications=url)
    for number in range(12):
        body = f"{HEADER}{order(number)}\n".encode()
        put = s3.put_object(Bucket=bucket, Key=f"raw/{number}.csv", Body=body)
        found = {"key": f"raw/{number}.csv", "size": len(body), "eTag": put["ETag"].strip('"')}
        record = {
            "eventName": "ObjectCreated:Put",
            "eventTime": "2024-03-01T10:00:00Z",
            "s3": {"bucket": {"name": bucket}, "object": found},
        }
        client.send_message(
            QueueUrl=client.get_queue_url(QueueName="arrivals")["QueueUrl"],
            MessageBody=json.dumps({"Records": [record]}),
        )

    assert waiting_files(shop.lake, source).height > 0  # and hides none of them
    report = ingest(shop.lake, source)
    by_listing = ingest(shop.lake, source, full=True)

    assert (report.files_loaded, report.failed) == (12, {})
    assert (by_listing.files_loaded, by_listing.files_unchanged) == (0, 0)
    attributes = client.get_queue_attributes(
        QueueUrl=client.get_queue_url(QueueName="arrivals")["QueueUrl"], AttributeNames=["All"]
    )["Attributes"]
    assert attributes["ApproximateNumberOfMessages"] == "0"
    assert attributes["ApproximateNumberOfMessagesNotVisible"] == "0"


# Listings that begin where the last one ended


@pytest.mark.parametrize(
    "form", ["day={0}-{1}-{2}/x.csv", "{0}/{1}/{2}/x.csv", "sales_{0}{1}{2}.csv"]
)
def test_a_lookback_lists_from_some_days_before_the_newest(
    shop: Shop, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = shop.with_source(lookback=timedelta(days=2))
    for day in ("08", "09", "10"):
        shop.write_orders(form.format("2024", "03", day), 1, first=int(day))
    ingest(shop.lake, shop.source)
    shop.write_orders(form.format("2024", "03", "07"), 1, first=7)  # too late
    shop.write_orders(form.format("2024", "03", "08").replace("x", "y"), 1, first=108)  # late
    shop.write_orders(form.format("2024", "03", "11"), 1, first=11)

    report = ingest(shop.lake, shop.source)

    assert not report.failed
    names = files_in(shop)
    assert form.format("2024", "03", "07") not in names
    assert form.format("2024", "03", "11") in names
    assert form.format("2024", "03", "08").replace("x", "y") in names
    assert ingest(shop.lake, shop.source, full=True).files_loaded == 1


def test_without_a_date_a_lookback_lists_what_sorts_behind(shop: Shop) -> None:
    shop = shop.with_source(lookback=timedelta(0))
    shop.write_orders("batch-5.csv", 1)
    ingest(shop.lake, shop.source)
    shop.write_orders("batch-4.csv", 1, first=4)
    shop.write_orders("batch-6.csv", 1, first=6)

    ingest(shop.lake, shop.source)

    assert files_in(shop) == ["batch-5.csv", "batch-6.csv"]


def test_a_lookback_is_not_led_astray(shop: Shop) -> None:
    shop = shop.with_source(lookback=timedelta(days=1))
    shop.write_orders("2026/03/10/a.csv", 1)
    shop.write_orders("2062/03/10/typo.csv", 1, first=2)
    shop.write_orders("stores.csv", 1, first=3)
    ingest(shop.lake, shop.source)
    shop.write_orders("2026/03/11/b.csv", 1, first=4)
    assert ingest(shop.lake, shop.source).files_loaded == 1
    shop.write_orders("eu/2026/03/11/c.csv", 1, first=5)
    assert ingest(shop.lake, shop.source).files_loaded == 1
    shop.write_orders("2026/03/12/d.csv", 1, first=6)
    assert ingest(shop.lake, shop.source).files_loaded == 1  # two prefixes: all is listed
    with pytest.raises(SourceError, match="lookback can't be negative"):
        shop.with_source(lookback=timedelta(days=-1))


def test_a_lookback_and_removals_do_not_go_together(shop: Shop) -> None:
    with pytest.raises(SourceError, match="lookback is for listings"):
        shop.with_source(lookback=timedelta(days=1), on_delete="remove")
