"""Messages that say which files came, in the place of a listing.

They are S3's event notifications, as S3, MinIO and Ceph send them, through SNS or EventBridge or
not: JSON files in a folder, or an SQS queue. A message is deleted once the ledger has its files, so
that one which is delivered twice, or again after a crash, does no harm.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import unquote_plus, urlsplit

import polars as pl

from penstock.errors import MissingExtra, SourceError
from penstock.storage.sources import LISTING, SourceFolder

_MOST = 100_000
"""Messages taken at a time; the rest is for the next run."""
_HIDDEN_SECONDS = 900
"""How long a queue keeps a message that was taken from others, and then gives it again."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message: what it is deleted by, and what it says."""

    id: str
    body: str


class _Mailbox(Protocol):
    def receive(self, *, only_looks: bool) -> list[Message]: ...
    def delete(self, messages: Sequence[Message]) -> None: ...


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What the messages say."""

    listing: pl.DataFrame
    """Files that came or changed, as `SourceFolder.list` gives them."""
    gone: frozenset[str]
    """Files that were deleted."""
    messages: tuple[tuple[Message, frozenset[str]], ...]
    """Each with the files that it names in this source."""
    mailbox: _Mailbox

    def acknowledge(self, waiting: Collection[str]) -> int:
        """Delete the messages whose files are all in the ledger; how many those are.

        Parameters
        ----------
        waiting: files that are not.
        """
        left = set(waiting)
        done = [message for message, paths in self.messages if not paths & left]
        self.mailbox.delete(done)
        return len(done)


def receive(uri: str, folder: SourceFolder, pattern: str, *, only_looks: bool = False) -> Arrivals:
    """Take the messages that are there.

    Parameters
    ----------
    uri: a folder of JSON files, or a queue's `https://sqs...` or `sqs://host:port/account/name`.
    folder: of the source; files outside of it, or that don't match the pattern, are left out.
    only_looks: a queue's messages stay there for others: some of them, not all, are seen.

    Raises
    ------
    SourceError: the messages can't be had, or one can't be understood; it stays where it is.
    """
    mailbox: _Mailbox = _Queue(uri) if _is_queue(uri) else _Folder(uri)
    messages = mailbox.receive(only_looks=only_looks)
    newest: dict[str, tuple[str, Any]] = {}
    named = list[tuple[Message, frozenset[str]]]()
    for message in messages:
        paths = set[str]()
        for event in _events(message, uri):
            path = folder.path_of(event.bucket, event.key)
            if path is None:
                continue
            paths.add(path)
            if path not in newest or newest[path][0] <= event.order:
                newest[path] = (event.order, event)
        named.append((message, frozenset(paths)))
    rows = [_row(folder, path, event) for path, (_, event) in newest.items() if event.is_there]
    listing = pl.DataFrame([row for row in rows if row], schema=LISTING, orient="row")
    gone = frozenset(path for path, (_, event) in newest.items() if not event.is_there)
    wanted = listing.filter(folder.matches(pattern)).sort("path")
    return Arrivals(wanted, gone, tuple(named), mailbox)


@dataclass(frozen=True, slots=True)
class _Event:
    """That an object came or went."""

    bucket: str
    key: str
    is_there: bool
    order: str
    """Later events of a key have a greater one."""
    at: datetime | None
    size_bytes: int | None
    tag: str


def _events(message: Message, uri: str) -> Iterator[_Event]:
    try:
        said = json.loads(message.body)
        if said.get("Type") == "Notification":  # through SNS
            said = json.loads(said["Message"])
        if "detail" in said:  # EventBridge
            yield _of_bridge(said)
            return
        for record in said.get("Records") or []:  # S3's test message has none
            yield _of_record(record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"{uri}: message {message.id} is no event notification of S3 ({error!r}): "
            f"{message.body[:200]!r}; delete it, or send other messages elsewhere"
        ) from error


def _of_record(record: dict[str, Any]) -> _Event:
    found, at = record["s3"]["object"], record.get("eventTime", "")
    return _Event(
        bucket=record["s3"]["bucket"]["name"],
        key=unquote_plus(found["key"]),
        is_there="ObjectRemoved" not in record["eventName"],
        order=f"{at}/{found.get('sequencer', ''):0>32}",
        at=_time(at),
        size_bytes=found.get("size"),
        tag=(found.get("eTag") or "").strip('"'),
    )


def _of_bridge(said: dict[str, Any]) -> _Event:
    detail, at = said["detail"], said.get("time", "")
    found = detail["object"]
    return _Event(
        bucket=detail["bucket"]["name"],
        key=found["key"],
        is_there=said["detail-type"] != "Object Deleted",
        order=f"{at}/{found.get('sequencer', ''):0>32}",
        at=_time(at),
        size_bytes=found.get("size"),
        tag=(found.get("etag") or "").strip('"'),
    )


def _time(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _row(folder: SourceFolder, path: str, event: _Event) -> tuple[Any, ...] | None:
    """A file's row of the listing; None if it is gone again."""
    size, tag = event.size_bytes, event.tag
    if size is None or not tag or folder.is_local:
        try:
            state = folder.state(path)
        except FileNotFoundError:
            return None
        size, tag = state.size_bytes, state.tag
    return path, size, tag, event.at, None


class _Folder:
    """JSON files, one message each."""

    def __init__(self, uri: str) -> None:
        self._folder = SourceFolder(uri)

    def receive(self, *, only_looks: bool) -> list[Message]:
        paths = self._folder.list("**/*.json").head(_MOST)["path"].to_list()
        found = list[Message]()
        for path, got in zip(paths, self._folder.fetch(paths), strict=True):
            if isinstance(got, FileNotFoundError):
                continue  # another run took and deleted it
            if isinstance(got, OSError):
                raise SourceError(f"{self._folder.identity}/{path}: can't be read: {got}") from got
            found.append(Message(path, got.data.decode(errors="replace")))
        return found

    def delete(self, messages: Sequence[Message]) -> None:
        self._folder.delete([message.id for message in messages])


class _Queue:
    """An SQS queue, or one that speaks its protocol."""

    def __init__(self, uri: str) -> None:
        try:
            import botocore.session
            from botocore.exceptions import BotoCoreError, ClientError
        except ModuleNotFoundError as error:
            raise MissingExtra("botocore", "s3") from error
        self._errors = (BotoCoreError, ClientError)
        scheme, host = urlsplit(uri).scheme, urlsplit(uri).netloc
        self._url = uri if scheme == "https" else uri.replace("sqs://", "http://", 1)
        settings: dict[str, Any] = {"region_name": os.environ.get("AWS_REGION")}
        if scheme == "sqs":
            settings["endpoint_url"] = f"http://{host}"
        elif host.startswith("sqs.") and host.endswith(".amazonaws.com"):
            settings["region_name"] = host.split(".")[1]
        session: Any = botocore.session.get_session()
        try:
            self._client: Any = session.create_client("sqs", **settings)
        except self._errors as error:
            raise SourceError(f"{self._url}: {error}") from error

    def receive(self, *, only_looks: bool) -> list[Message]:
        found = list[Message]()
        while len(found) < _MOST:
            try:
                answer = self._client.receive_message(
                    QueueUrl=self._url,
                    MaxNumberOfMessages=10,
                    VisibilityTimeout=0 if only_looks else _HIDDEN_SECONDS,
                    WaitTimeSeconds=1 if not found else 0,
                )
            except self._errors as error:
                raise SourceError(f"{self._url}: {error}") from error
            messages = answer.get("Messages") or []
            found += [Message(each["ReceiptHandle"], each["Body"]) for each in messages]
            if not messages or only_looks:
                break
        return found

    def delete(self, messages: Sequence[Message]) -> None:
        for start in range(0, len(messages), 10):
            entries = [
                {"Id": str(place), "ReceiptHandle": message.id}
                for place, message in enumerate(messages[start : start + 10])
            ]
            try:
                self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)
            except self._errors as error:
                raise SourceError(f"{self._url}: {error}") from error


def _is_queue(uri: str) -> bool:
    return uri.startswith(("https://", "sqs://"))
