"""Objects of the lake, by key under one root URI, through obstore (the Rust object_store).

Every failure comes out as a `StorageError` that names the URI and the key.
"""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

import obstore
from obstore import exceptions as obstore_errors
from obstore.store import LocalStore, S3Store, from_url

from penstock.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Buffer  # pyright: ignore[reportAttributeAccessIssue]

    from penstock.storage.forked import StorageProcess

T = TypeVar("T")

_SOON_SECONDS = 5.0
_S3_SCHEMES = ("s3", "s3a")
_S3_CONFIG = {
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "aws_region",
    "aws_endpoint_url",
    "aws_skip_signature",
    "aws_virtual_hosted_style_request",
    "aws_container_credentials_relative_uri",
    "aws_container_credentials_full_uri",
    "aws_web_identity_token_file",
    "aws_role_arn",
}
# Any one of these is a way to find credentials; without them only the metadata service is left.
_S3_CREDENTIAL_SOURCES = (
    "aws_access_key_id",
    "aws_profile",
    "aws_web_identity_token_file",
    "aws_container_credentials_relative_uri",
    "aws_container_credentials_full_uri",
    "aws_skip_signature",
)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as a listing shows it."""

    key: str
    """Path under the store's root."""
    size_bytes: int
    etag: str | None


class ObjectStore:
    """Objects under one root URI: a local folder, or a bucket with a prefix.

    Parameters
    ----------
    uri: a path, `file://`, `s3://`, `gs://` or `az://`.
    options: storage options as `resolve_options` returns them.
    """

    def __init__(self, uri: str, options: Mapping[str, str]) -> None:
        self.uri = uri.rstrip("/")
        self._root = local_root(uri)
        self._options = options
        self._opened: Any = None
        self._opened_impatient: Any = None
        self._forked: StorageProcess | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_opened_impatient": None, "_forked": None}

    @property
    def _impatient(self) -> Any:
        """The store, for a caller who retries by himself."""
        if self._opened_impatient is None:
            self._opened_impatient = open_store(self.uri, self._root, self._options, retries=0)
        return self._opened_impatient

    @property
    def _store(self) -> Any:
        """The store, opened when first used; reading makes no folder.

        Raises
        ------
        FileNotFoundError: a lake on this machine's disk that nothing was ever written to.
        """
        if _is_fork():
            raise StorageError(
                f"{self.uri}: this process was forked from one that used storage, and can only "
                "read; start processes that write with spawn"
            )
        if self._opened is None:
            if self._root is not None and not self._root.is_dir():
                raise FileNotFoundError(f"{self.uri}: there is no lake here")
            self._opened = open_store(self.uri, self._root, self._options)
        return self._opened

    def _writable(self) -> Any:
        """The store, after making its folder where that is on this machine's disk."""
        if self._root is not None:
            self._root.mkdir(parents=True, exist_ok=True)
        return self._store

    def local_path(self, key: str) -> Path | None:
        """Where the object lies on this machine's disk; None when it is remote."""
        return None if self._root is None else self._root / key

    @property
    def _helper(self) -> StorageProcess | None:
        """Who reads in place of this process, where it is a fork of one that has read."""
        if not _is_fork():
            return None
        from penstock.storage.forked import StorageProcess

        if self._forked is None or self._forked.owner != os.getpid():
            self._forked = StorageProcess(self.uri, dict(self._options))
        return self._forked

    def get(self, key: str) -> bytes:
        """The whole object.

        Raises
        ------
        StorageError: it is absent, or could not be read.
        """
        if (helper := self._helper) is not None:
            return bytes(helper.call("get", key).result())
        return persistently(lambda: self._get(key))

    def _get(self, key: str) -> bytes:
        with translated(self.uri, key):
            return bytes(obstore.get(self._store, key).bytes())

    def get_or_none(self, key: str) -> bytes | None:
        """The whole object; None when there is none of that key."""
        try:
            return self.get(key)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def get_range(self, key: str, start: int, length_bytes: int) -> Buffer:
        """Bytes [start, start + length_bytes) of the object, without a copy."""
        if (helper := self._helper) is not None:
            return helper.call("get_range", key, start, length_bytes).result()
        with translated(self.uri, key):
            return cast(
                "Buffer", obstore.get_range(self._store, key, start=start, length=length_bytes)
            )

    async def get_range_async(self, key: str, start: int, length_bytes: int) -> Buffer:
        """`get_range` for an event loop; asked once, without retries."""
        if (helper := self._helper) is not None:
            import asyncio

            return await asyncio.wrap_future(helper.call("get_range", key, start, length_bytes))
        with translated(self.uri, key):
            got = await obstore.get_range_async(
                self._impatient, key, start=start, length=length_bytes
            )
        return cast("Buffer", got)

    def put(self, key: str, data: bytes) -> None:
        """Write the whole object; a reader sees all of it or none."""
        with translated(self.uri, key):
            obstore.put(self._writable(), key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write the object unless one of that key exists; whether it was written.

        Of any number of writers at once, exactly one gets True.
        """
        with translated(self.uri, key):
            try:
                obstore.put(self._writable(), key, data, mode="create")
            except (FileExistsError, obstore_errors.AlreadyExistsError):
                return False
        return True

    def size(self, key: str) -> int:
        """The object's size in bytes."""
        if (helper := self._helper) is not None:
            return helper.call("size", key).result()
        with translated(self.uri, key):
            return obstore.head(self._store, key)["size"]

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object under `prefix`, in no promised order."""
        if (helper := self._helper) is not None:
            yield from helper.call("listed", prefix).result()
            return
        with translated(self.uri, prefix):
            for chunk in obstore.list(self._store, prefix=prefix):
                for item in chunk:
                    yield ObjectInfo(item["path"], item["size"], item["e_tag"])

    def listed(self, prefix: str) -> list[ObjectInfo]:
        """`list`, all of it."""
        return persistently(lambda: [*self.list(prefix)])

    def list_folder(self) -> list[ObjectInfo]:
        """The objects right under the root, those of folders in it left out."""
        if (helper := self._helper) is not None:
            return helper.call("list_folder").result()
        with translated(self.uri, ""):
            found = obstore.list_with_delimiter(self._store)["objects"]
        return [ObjectInfo(item["path"], item["size"], item["e_tag"]) for item in found]

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders right under `prefix`, sorted."""
        if (helper := self._helper) is not None:
            return helper.call("folders", prefix).result()
        with translated(self.uri, prefix):
            listing = obstore.list_with_delimiter(self._store, prefix=prefix)
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in listing["common_prefixes"])

    def delete(self, keys: Iterable[str]) -> None:
        """Delete the objects; one that is already gone is no error."""
        for key in keys:
            with translated(self.uri, key):
                try:
                    obstore.delete(self._store, key)
                except FileNotFoundError:
                    continue

    def exists(self, key: str) -> bool:
        """Whether there is an object of that key."""
        try:
            self.size(key)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False
            raise
        return True

    def copy(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Copy objects from a key to another, in object storage without fetching them."""

        def one(pair: tuple[str, str]) -> None:
            with translated(self.uri, pair[0]):
                obstore.copy(store, *pair)

        store = self._writable()
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(one, pairs):
                pass

    def open_writer(self, key: str) -> ObjectWriter:
        """A file to stream a new object into; it exists only once it is closed."""
        with translated(self.uri, key):
            return ObjectWriter(self._writable(), self.uri, key)


class ObjectWriter(io.RawIOBase):
    """A write-only file over obstore's multipart upload; memory is a few parts, not the object."""

    def __init__(self, store: Any, uri: str, key: str) -> None:
        super().__init__()
        self._uri, self._key = uri, key
        with translated(uri, key):
            self._upload = obstore.open_writer(store, key)
        self.written_bytes = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.written_bytes

    def write(self, data: Any, /) -> int:
        view = memoryview(data)
        with translated(self._uri, self._key):
            self._upload.write(bytes(view))
        self.written_bytes += view.nbytes
        return view.nbytes

    def close(self) -> None:
        if not self.closed:
            super().close()
            with translated(self._uri, self._key):
                self._upload.close()


def local_root(uri: str) -> Path | None:
    """The folder that `uri` names on this machine; None when it is remote."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(parts.path)
    return None if "://" in uri else Path(uri).expanduser().absolute()


def resolve_options(uri: str, given: Mapping[str, str] | None) -> dict[str, str]:
    """Storage options of a URI: those given, then what the environment says.

    Keys come back in lower case (`aws_region`), as obstore, deltalake and polars all take them.

    Raises
    ------
    StorageError: an S3 URI, and no way is left to find credentials.
    """
    if urlsplit(uri).scheme not in _S3_SCHEMES:
        return {key.lower(): value for key, value in (given or {}).items()}
    options = {key.lower(): value for key, value in os.environ.items() if key.startswith("AWS_")}
    options |= {key.lower(): value for key, value in (given or {}).items()}
    options.setdefault("aws_region", options.get("aws_default_region", "us-east-1"))
    if options.get("aws_endpoint_url", "").startswith("http://"):
        options.setdefault("aws_allow_http", "true")
    # Commits are made safe by conditional PUT, so no lock table is needed.
    options["aws_conditional_put"] = "etag"
    has_source = any(options.get(name) for name in _S3_CREDENTIAL_SOURCES)
    if not has_source and options.get("aws_ec2_metadata_disabled", "").lower() == "true":
        raise StorageError(
            f"{uri}: no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and "
            "AWS_ENDPOINT_URL for a server of your own), or give them in storage_options"
        )
    return options


_used_by = list[int]()
"""The process that opened a store first, if any did: its threads are not there in its forks."""


def _is_fork() -> bool:
    return bool(_used_by) and _used_by[0] != os.getpid()


def open_store(uri: str, root: Path | None, options: Mapping[str, str], retries: int = 5) -> Any:
    """obstore's store of a URI.

    root: the folder, where it is one of this machine's.
    """
    if not _used_by:
        _used_by.append(os.getpid())
    if root is not None:
        return LocalStore(str(root))
    parts = urlsplit(uri)
    if parts.scheme in _S3_SCHEMES:
        config: Any = {key: value for key, value in options.items() if key in _S3_CONFIG}
        client: Any = {"allow_http": options.get("aws_allow_http", "false") == "true"}
        retry: Any = {"max_retries": retries}
        prefix = parts.path.strip("/") or None
        return S3Store(
            parts.netloc, prefix=prefix, config=config, client_options=client, retry_config=retry
        )
    return from_url(uri, config=cast("Any", dict(options)), retry_config={"max_retries": retries})


def persistently(read: Callable[[], T], attempts: int = 4) -> T:
    """What a read gives, tried again where it broke off soon.

    Stores' clients ask again for what was refused, but not for the rest of an answer that was cut.
    """
    for attempt in range(attempts):
        began = time.monotonic()
        try:
            return read()
        except StorageError as error:
            is_late = time.monotonic() - began > _SOON_SECONDS
            if not error.is_transient or is_late or attempt == attempts - 1:
                raise
            time.sleep(random.uniform(0, 0.1 * 2**attempt))
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def translated(uri: str, key: str) -> Generator[None]:
    """Turn obstore's errors into ours; the debug tail of theirs repeats the whole request."""
    where = f"{uri}/{key}" if key else uri
    try:
        yield
    except FileNotFoundError as error:
        _refuse_missing_bucket(uri, error)
        if "there is no lake here" in str(error):
            raise StorageError(str(error)) from error
        raise StorageError(f"{where}: not found") from error
    except (PermissionError, obstore_errors.BaseError, OSError, ValueError) as error:
        _refuse_missing_bucket(uri, error)
        first_line = str(error).split("\n", 1)[0].split("Debug source")[0]
        hint = ". Check the credentials and the bucket's policy" if _denied(error) else ""
        message = f"{where}: {first_line[:400]}{hint}"
        raise StorageError(message, is_transient=_is_transient(error)) from error


def _refuse_missing_bucket(uri: str, error: Exception) -> None:
    if "NoSuchBucket" in str(error):
        bucket = urlsplit(uri).netloc
        raise StorageError(f"{uri}: there is no bucket {bucket}; create it") from error


def _is_transient(error: BaseException) -> bool:
    """Whether to ask again may help: the server or the way to it failed, and not the question."""
    text = str(error)
    if _denied(error) or isinstance(error, ValueError) or " 4" in text.split("status")[-1][:6]:
        return False
    return isinstance(error, obstore_errors.GenericError | OSError)


def _denied(error: BaseException) -> bool:
    kinds = (
        PermissionError,
        obstore_errors.PermissionDeniedError,
        obstore_errors.UnauthenticatedError,
    )
    return isinstance(error, kinds) or "InvalidAccessKeyId" in str(error)
