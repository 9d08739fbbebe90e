"""Messages that say which files came, in the place of a listing.

They are S3's event notifications, as S3, MinIO and Ceph send them, through SNS or EventBridge or
not: JSON files in a folder, or an SQS queue. A message is deleted once the ledger has its files, so
that one which is delivered twice, or again after a crash, does no harm.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote_plus, urlsplit

import polars as pl

from penstock.errors import MissingExtra, SourceError
from penstock.storage.sources import SourceFolder

log = logging.getLogger(__name__)

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
    SourceError: the messages can't be had, or the source can't be reached.
    """
    mailbox: _Mailbox = _Queue(uri) if _is_queue(uri) else _Folder(uri)
    named = list[tuple[Message, frozenset[str]]]()
    for message in mailbox.receive(only_looks=only_looks):
        try:
            paths = {folder.path_of(bucket, key) for bucket, key in _objects(message)}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            log.warning(
                "%s: message %s is no event notification of S3 (%r) and stays where it is: %r",
                uri,
                message.id[:200],
                error,
                message.body[:200],
            )
            continue
        named.append((message, frozenset(path for path in paths if path is not None)))
    paths = frozenset(path for _, some in named for path in some)
    # Events come late, twice and in any order: what is there now counts, and not what they say.
    listing = folder.look(sorted(paths))
    gone = paths - set(listing["path"])
    wanted = listing.filter(folder.matches(pattern))
    return Arrivals(wanted, frozenset(gone), tuple(named), mailbox)


def _objects(message: Message) -> Iterator[tuple[str, str]]:
    """Bucket and key of what a message is about."""
    said = json.loads(message.body)
    if said.get("Type") == "Notification":  # through SNS
        said = json.loads(said["Message"])
    if "detail" in said:  # EventBridge
        yield said["detail"]["bucket"]["name"], said["detail"]["object"]["key"]
        return
    if said.get("Event") == "s3:TestEvent":
        return
    for record in said["Records"]:
        found = record["s3"]
        yield found["bucket"]["name"], unquote_plus(found["object"]["key"])


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
