"""The lake: one root URI that holds every table and dataset, and the options to reach it.

<lake>/tables/<domain>/<table>/                    a Delta table
<lake>/sources/<domain>/<table>/plans/00000042.json    ingest plans (put-if-absent)
<lake>/contracts/<domain>/<table>/<fingerprint>.json   what batches were validated by
<lake>/datasets/<domain>/<name>/<fingerprint>/     manifest.json, index.arrow, shards
<lake>/datasets/<domain>/<name>/tags/<tag>/        where a tag points, a file a move
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from penstock.errors import LakeError
from penstock.storage.objects import ObjectStore, local_root, resolve_options

DEFAULT_URI = "data/lake"
_NAME = re.compile(r"[a-z][a-z0-9_]*/[a-z][a-z0-9_]*")
_TIME = r"\d{4}-\d\d-\d\d(?:T[\d:.]+(?:Z|[+-]\d\d:\d\d)?)?"
_IN_SQL = re.compile(
    rf"""("?)\b([a-z][a-z0-9_]*)\.([a-z][a-z0-9_]*)\1(?:@({_TIME}|[A-Za-z0-9_.-]+))?"""
)


class Lake:
    """A root URI holding tables and datasets.

    Parameters
    ----------
    uri: a folder, `s3://bucket/prefix`, `gs://...` or `az://...`; by default `PENSTOCK_LAKE` from
        the environment, then `data/lake`.
    storage_options: as deltalake and polars take them (`AWS_ENDPOINT_URL`, `aws_region`, ...);
        what is not given comes from the environment. Never written anywhere.

    Raises
    ------
    StorageError: no credentials are to be found.
    """

    def __init__(
        self, uri: str | Path | None = None, *, storage_options: Mapping[str, str] | None = None
    ) -> None:
        given = str(uri or os.environ.get("PENSTOCK_LAKE") or DEFAULT_URI)
        root = local_root(given)
        self.uri = str(root) if root is not None else given.rstrip("/")
        self.storage_options = resolve_options(self.uri, storage_options)

    def __repr__(self) -> str:
        return f"Lake({self.uri!r})"  # the options may hold a secret

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.uri, self.storage_options)

    @property
    def is_local(self) -> bool:
        """Whether the lake lies on this machine's disk."""
        return local_root(self.uri) is not None

    @cached_property
    def objects(self) -> ObjectStore:
        """The lake's objects, by key under its root."""
        return ObjectStore(self.uri, self.storage_options)

    def table_uri(self, name: str) -> str:
        """Where the Delta table `domain/table` lies."""
        return f"{self.uri}/{table_key(name)}"

    def table_names(self) -> list[str]:
        """Every table of the lake, as `domain/table`, sorted."""
        return self._names("tables")

    def dataset_names(self) -> list[str]:
        """Every published dataset of the lake, as `domain/name`, sorted."""
        return self._names("datasets")

    def _names(self, kind: str) -> list[str]:
        return [
            f"{domain}/{name}"
            for domain in self.objects.folders(kind)
            for name in self.objects.folders(f"{kind}/{domain}")
        ]


def table_key(name: str) -> str:
    """The key of a table's folder under the lake's root."""
    return f"tables/{checked_name(name)}"


def dataset_key(name: str) -> str:
    """The key of a dataset's folder under the lake's root."""
    return f"datasets/{checked_name(name)}"


def checked_name(name: str) -> str:
    """`name`, if it is of the form `domain/name`.

    Raises
    ------
    LakeError: it isn't.
    """
    if not _NAME.fullmatch(name):
        raise LakeError(
            f"{name!r} is not a name: write domain/name, in lower case letters, digits and _, "
            "such as retail/sales"
        )
    return name


def _reopen(uri: str, options: dict[str, str]) -> Lake:
    return Lake(uri, storage_options=options)


def with_tables(text: str, named: Callable[[str, str | None], str | None]) -> str:
    """SQL with what stands in for tables that it calls `domain.table` or `domain.table@version`.

    Parameters
    ----------
    named: given `domain/table` and the version, tag or time behind the @, if there is one, what
        stands in its place; None where it is to stay, such as a column behind an alias.
    """

    def one(match: re.Match[str]) -> str:
        found = named(f"{match[2]}/{match[3]}", match[4])
        return match[0] if found is None else found

    parts = re.split(r"('(?:[^']|'')*')", text)  # what is in quotes stays as it is
    parts[::2] = [_IN_SQL.sub(one, part) for part in parts[::2]]
    return "".join(parts)
