"""Raw files in object storage, through obstore."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import IO, Any, cast

import obstore
import polars as pl

from penstock.errors import SourceError, StorageError
from penstock.storage.listing import LISTING, Fetched, FileState, without_credentials
from penstock.storage.objects import open_store, resolve_options, translated

_IN_FLIGHT = 32
"""Objects asked for at once, of one fetch."""
_ODD_KEY = "object with invalid path"
"""What obstore says of a key that it can't name."""
_CONTROL = r"[\x00-\x1f\x7f]"
_PROBLEM = (
    "its key has a control character, such as a line's end, by which no object can be asked for; "
    "give it another key"
)


class Objects:
    """A prefix of a bucket, through obstore."""

    def __init__(self, uri: str) -> None:
        try:
            options = resolve_options(uri, None)
        except StorageError as error:
            raise SourceError(str(error)) from error
        self.identity, self._uri = without_credentials(uri), uri
        self._store = open_store(uri, None, options)

    def list(self, after: str) -> Iterator[pl.DataFrame]:
        for page in self._every_page(after):
            is_odd = pl.col("problem").is_null() & pl.col("path").str.contains(_CONTROL)
            problem = pl.when(is_odd).then(pl.lit(_PROBLEM)).otherwise("problem")
            yield page.with_columns(problem.alias("problem"))

    def _every_page(self, after: str) -> Iterator[pl.DataFrame]:
        try:
            for page in self._pages(after):
                yield page
                after = str(page["path"][-1]) if page.height else after
        except StorageError as error:
            if _ODD_KEY not in str(error):
                raise
            from penstock.storage.odd_keys import listed

            yield from listed(self._uri, after)

    def _pages(self, after: str) -> Iterator[pl.DataFrame]:
        with translated(self.identity, ""):
            for page in obstore.list(self._store, offset=after or None, chunk_size=5000):
                yield pl.DataFrame(
                    {
                        "path": [found["path"] for found in page],
                        "size_bytes": [found["size"] for found in page],
                        "tag": [_object_tag(found) for found in page],
                        "changed_at": [found["last_modified"] for found in page],
                        "problem": [None] * len(page),
                    },
                    schema=LISTING,
                )

    def state(self, path: str) -> FileState:
        with translated(self.identity, path):
            found = obstore.head(self._store, path)
        return FileState(found["size"], _object_tag(found))

    def look(self, path: str) -> pl.DataFrame:
        if re.search(_CONTROL, path):
            row = (path, 0, "", None, _PROBLEM)
            return pl.DataFrame([row], schema=LISTING, orient="row")
        try:
            with translated(self.identity, path):
                found = obstore.head(self._store, path)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return pl.DataFrame(schema=LISTING)
            raise
        row = (path, found["size"], _object_tag(found), found["last_modified"], None)
        return pl.DataFrame([row], schema=LISTING, orient="row")

    def delete(self, paths: Sequence[str]) -> None:
        if paths:
            with translated(self.identity, ""):
                obstore.delete(self._store, list(paths))

    def fetch(self, paths: Sequence[str]) -> Iterator[Fetched | OSError]:
        import asyncio

        yield from asyncio.run(self._fetched(paths))

    async def _fetched(self, paths: Sequence[str]) -> list[Fetched | OSError]:
        import asyncio

        gate = asyncio.Semaphore(_IN_FLIGHT)

        async def one(path: str) -> Fetched | OSError:
            async with gate:
                try:
                    with translated(self.identity, path):
                        got = await obstore.get_async(self._store, path)
                        data = bytes(await got.bytes_async())
                except StorageError as error:
                    if isinstance(error.__cause__, FileNotFoundError):
                        return error.__cause__
                    return OSError(str(error))
                return Fetched(data, FileState(got.meta["size"], _object_tag(got.meta)))

        return await asyncio.gather(*(one(path) for path in paths))

    def open(self, path: str) -> IO[bytes]:
        with translated(self.identity, path):
            file = obstore.open_reader(self._store, path, buffer_size=8 << 20)
        return cast("IO[bytes]", _Reading(file))


class _Reading:
    """obstore's reader, with bytes where it gives buffers of its own."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return bytes(self._file.read(None if size < 0 else size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _object_tag(found: Any) -> str:
    tag = found["e_tag"]
    return tag.strip('"') if tag else found["last_modified"].isoformat()
