"""Everything Penstock raises on purpose.

    PenstockError
    ├── LakeError          the lake can't be reached, or a name in it is wrong
    │   ├── StorageError       object storage refused, failed or lacks credentials
    │   ├── TableNotFound      no such table; names the near ones
    │   ├── DatasetNotFound    no such dataset, version or split; names the near ones
    │   └── CommitConflict     another writer committed the same batch first
    ├── ContractError      a contract is wrong in itself
    │   └── BatchRefused       a batch breaks its contract so that nothing of it commits
    ├── SourceError        a source can't be listed or its settings are wrong
    ├── UnreadableFile     one source file can't be read; recorded in the ledger, stops no other
    ├── FeatureError       a feature view, label or training set is wrong in itself
    ├── ShardError         a shard or manifest is damaged or of an unknown format
    ├── OrderError         a shuffle, batch size or step that can't be
    ├── SampleError        one sample can't be made of its row; names the row
    ├── StateError         a loader state that belongs to another dataset, seed or batch size
    ├── ProjectError       the project folder lacks what a command asks for
    └── MissingExtra       an optional dependency is not installed; names the extra

Messages say what was wrong, where, and what to do. None ever holds a credential.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


class PenstockError(Exception):
    """Any error that Penstock raises on purpose."""


class LakeError(PenstockError):
    """The lake can't be reached, or a name in it is wrong."""


class StorageError(LakeError):
    """Object storage refused, failed, or lacks credentials.

    Parameters
    ----------
    is_transient: whether to ask again may help.
    """

    def __init__(self, message: str, *, is_transient: bool = False) -> None:
        super().__init__(message)
        self.is_transient = is_transient


class TableNotFound(LakeError):  # noqa: N818 - reads as what happened
    """No such table."""


class DatasetNotFound(LakeError):  # noqa: N818
    """No such dataset, version or split."""


class CommitConflict(LakeError):  # noqa: N818
    """Another writer committed the same batch first; nothing of this one is in the table."""


class ConstraintBroken(LakeError):  # noqa: N818
    """A row that was to be written breaks a constraint of its table."""


class ContractError(PenstockError):
    """A contract is wrong in itself, or a batch breaks it so that nothing may commit."""


class BatchRefused(ContractError):  # noqa: N818
    """A batch breaks its contract so that nothing of it may commit.

    Attributes
    ----------
    results: what was expected came to, as far as it was asked (`penstock.quality.Result`).
    """

    def __init__(self, message: str, results: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.results = results


class SourceError(PenstockError):
    """A source can't be listed, or its settings are wrong."""


class UnreadableFile(PenstockError):  # noqa: N818
    """One source file can't be read.

    Attributes
    ----------
    is_transient: it may be readable later as it is (it vanished, the store failed), and is tried
        again by every run; else it is tried again once it changes.
    """

    def __init__(self, message: str, *, is_transient: bool = False) -> None:
        # Bytes of a file that is no text must not reach a terminal.
        super().__init__("".join(c if c.isprintable() else "?" for c in message)[:500])
        self.is_transient = is_transient


class FeatureError(PenstockError):
    """A feature view, label or training set is wrong in itself."""


class ShardError(PenstockError):
    """A shard or manifest is damaged, or of a format this version doesn't know."""


class OrderError(PenstockError):
    """A shuffle, batch size or step that can't be."""


class SampleError(PenstockError):
    """One sample can't be made of its row, such as an image that is none."""


class StateError(PenstockError):
    """A loader state that belongs to another dataset, seed or batch size."""


class ProjectError(PenstockError):
    """The project folder lacks what a command asks for."""


class MissingExtra(PenstockError, ImportError):  # noqa: N818
    """An optional dependency is not installed."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f'{module} is not installed: pip install "penstock[{extra}]"')


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A closing clause that names the near ones, or all when they are few; empty for none.

    >>> did_you_mean("retail/demnad", ["retail/demand", "news/topics"])
    ' Did you mean retail/demand?'
    """
    import difflib  # seldom needed, as is what else is imported within functions

    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f" Did you mean {' or '.join(near)}?"
    if not names:
        return " There are none yet."
    return f" There are: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}."
