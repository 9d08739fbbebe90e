"""Which split a row is in: by time, by a group's hash, or as a column says.

Every policy is a function of the row alone (and of what was settled by the first freeze and is kept
in the lake), so that rows that come later move no other to another split.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl
import xxhash

from penstock.errors import CommitConflict, FeatureError
from penstock.features.hashing import shares_of
from penstock.lake import Lake

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """Shares of the time that the rows span, the newest for test.

    Cuts are moments, made from the shares once, when a training set is first frozen, and kept in
    the lake: later rows fall after them. The embargo between two splits is the label's horizon, or
    longer if so asked: rows of the earlier one whose labels reach past the cut belong to none.
    """

    test: float
    validation: float = 0.0
    embargo: str | None = None
    """Such as `14d`; never less than the label's horizon."""

    def __post_init__(self) -> None:
        _check_shares(self.test, self.validation)


@dataclass(frozen=True, slots=True)
class GroupSplit:
    """Shares of groups, by a hash of their keys: no group is ever in two splits, whatever comes.

    With `stratify`, each of that column's values has the shares, as far as its groups divide: a
    group is dealt to the split that its stratum is shortest of when it is first seen, and stays
    there (the lake keeps who is where).
    """

    by: tuple[str, ...]
    """Columns of the rows; null counts as a value."""
    test: float
    validation: float = 0.0
    stratify: str | None = None
    """A column; of a group with several values of it, the most frequent counts."""
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "by", (self.by,) if isinstance(self.by, str) else tuple(self.by))
        if not self.by:
            raise FeatureError("a split by group needs by=, the columns that tell groups apart")
        _check_shares(self.test, self.validation)


@dataclass(frozen=True, slots=True)
class ColumnSplit:
    """As a column says: `train`, `validation` or `test`; null for none of them."""

    column: str


Split = TimeSplit | GroupSplit | ColumnSplit


def _check_shares(test: float, validation: float) -> None:
    if not (0 < test < 1 and 0 <= validation < 1 - test):
        raise FeatureError(f"test ({test}) and validation ({validation}) must leave some for train")


@dataclass(frozen=True, slots=True)
class TimeCuts:
    """The moments between splits, in microseconds (UTC)."""

    validation_from_us: int
    test_from_us: int
    embargo_us: int

    def of(self, time: pl.Expr) -> pl.Expr:
        """The split of rows by their time; null where they belong to none."""
        t = time.dt.epoch("us")
        return (
            pl.when(t >= self.test_from_us)
            .then(pl.lit("test"))
            .when(t > self.test_from_us - self.embargo_us)
            .then(None)
            .when(t >= self.validation_from_us)
            .then(pl.lit("validation"))
            .when(t > self.validation_from_us - self.embargo_us)
            .then(None)
            .otherwise(pl.lit("train"))
        )

    def describe(self) -> str:
        """For a reader: where test begins."""
        begins = datetime.fromtimestamp(self.test_from_us / 1e6, UTC)
        return f"test from {begins:%Y-%m-%d}, embargo {self.embargo_us // 86_400_000_000} d"


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups dealt to splits by a hash, or by their stratum as the lake keeps it."""

    split: GroupSplit
    dealt: pl.DataFrame | None = None
    """Of a stratified split: `by` as text, `stratum`, `split`."""
    present: pl.DataFrame | None = None
    """Those of them that the rows have."""
    number: int = 0
    """How often groups were dealt before."""

    def of(self, rows: pl.DataFrame) -> pl.Series:
        """The split of each row."""
        if self.dealt is not None:
            named = rows.select(_as_text(self.split.by))
            return named.join(
                self.dealt, on=named.columns, how="left", nulls_equal=True, maintain_order="left"
            )["split"]
        share = shares_of(rows.select(self.split.by), self.split.seed)
        test, validation = self.split.test, self.split.test + self.split.validation
        return rows.select(
            pl.when(share < test)
            .then(pl.lit("test"))
            .when(share < validation)
            .then(pl.lit("validation"))
            .otherwise(pl.lit("train"))
        ).to_series()

    def describe(self) -> str:
        """For a reader: by what, and how much."""
        split = self.split
        told = f"{split.test:.0%} of {', '.join(split.by)} for test"
        told += f", {split.validation:.0%} for validation" if split.validation else ""
        return told + (f", in each {split.stratify}" if split.stratify else "")

    def fingerprint(self) -> str:
        """16 hex digits that change when a group of the rows is dealt otherwise."""
        if self.dealt is None or self.present is None:
            return ""
        own = self.dealt.join(self.present, on=self.present.columns, nulls_equal=True, how="semi")
        text = own.sort(own.columns).write_csv()
        return xxhash.xxh3_64_hexdigest(text.encode())


def _as_text(columns: Sequence[str]) -> list[pl.Expr]:
    return [pl.col(name).cast(pl.String) for name in columns]


def dealt_groups(lake: Lake, name: str, split: GroupSplit, rows: pl.DataFrame) -> Groups:
    """Who is where: as the lake keeps it, and new groups to the split that is shortest of them.

    Parameters
    ----------
    rows: every row's `by` and `stratify` columns.
    """
    assert split.stratify is not None
    by = list(split.by)
    number, known = _dealt(lake, name, split)
    groups = (
        rows.select(*_as_text(by), pl.col(split.stratify).cast(pl.String).alias("stratum"))
        .group_by(*by, "stratum")
        .len("rows")
        .sort("rows", "stratum", descending=[True, False])
        .unique(by, keep="first", maintain_order=True)
    )
    new = groups
    if known is not None:
        new = groups.join(known, on=by, how="anti", nulls_equal=True)
    # In order of the hash, the first new groups of a stratum go to the splits that lack them.
    new = new.with_columns(shares_of(new.select(by), split.seed).alias("share")).sort(
        "stratum", "share", *by
    )
    before = {} if known is None else _counts(known)
    dealt = pl.concat(
        [
            _dealt_stratum(part, split, before.get(stratum, {}))
            for (stratum,), part in new.partition_by(
                "stratum", as_dict=True, maintain_order=True
            ).items()
        ]
        or [new.with_columns(pl.lit("").alias("split"))]
    ).select(*by, "stratum", "split")
    if known is not None:
        dealt = pl.concat([known, dealt])
    return Groups(split, dealt, groups.select(by), number)


def _counts(known: pl.DataFrame) -> dict[Any, dict[str, int]]:
    found = dict[Any, dict[str, int]]()
    for stratum, split, number in known.group_by("stratum", "split").len().iter_rows():
        found.setdefault(stratum, {})[split] = number
    return found


def _dealt_stratum(part: pl.DataFrame, split: GroupSplit, before: dict[str, int]) -> pl.DataFrame:
    """New groups of a stratum: as many to each split as it lacks of its share of them all."""
    whole = part.height + sum(before.values())
    lacks = {
        name: round(share * whole) - before.get(name, 0)
        for name, share in (("test", split.test), ("validation", split.validation))
    }
    number = pl.int_range(pl.len())
    test = min(max(0, lacks["test"]), part.height)
    validation = min(max(0, lacks["validation"]), part.height - test)
    return part.with_columns(
        pl.when(number < test)
        .then(pl.lit("test"))
        .when(number < test + validation)
        .then(pl.lit("validation"))
        .otherwise(pl.lit("train"))
        .alias("split")
    )


def keep_groups(lake: Lake, name: str, groups: Groups) -> None:
    """Keep who is where for later freezes.

    Raises
    ------
    CommitConflict: another run dealt groups meanwhile; deal again.
    """
    if groups.dealt is None:
        return
    number, known = _dealt(lake, name, groups.split)
    if number == groups.number and known is not None and known.equals(groups.dealt):
        return
    written = io.BytesIO()
    groups.dealt.write_parquet(written)
    key = f"{_groups_folder(name, groups.split)}/{groups.number + 1:08d}.parquet"
    if number != groups.number or not lake.objects.put_if_absent(key, written.getvalue()):
        raise CommitConflict(f"{name}: another run dealt groups to splits first")


def _dealt(lake: Lake, name: str, split: GroupSplit) -> tuple[int, pl.DataFrame | None]:
    """Who is where, and how often that was settled: a file a time, the last one counts."""
    keys = sorted(entry.key for entry in lake.objects.list(_groups_folder(name, split)))
    if not keys:
        return 0, None
    number = int(keys[-1].rsplit("/", 1)[-1].removesuffix(".parquet"))
    return number, pl.read_parquet(io.BytesIO(lake.objects.get(keys[-1])))


def _groups_folder(name: str, split: GroupSplit) -> str:
    return f"training/{name}/groups-{_policy(asdict(split))}"


def found_cuts(
    lake: Lake, name: str, split: TimeSplit, embargo_us: int, first_us: int, last_us: int
) -> TimeCuts:
    """The cuts of a training set: those kept in the lake, else made now from the shares.

    Parameters
    ----------
    first_us, last_us: the first and last row's time, both included.
    """
    key = _cuts_key(name, split, embargo_us)
    if (found := lake.objects.get_or_none(key)) is not None:
        return TimeCuts(**json.loads(found))
    span = last_us - first_us
    test_from = first_us + round(span * (1 - split.test))
    validation_from = first_us + round(span * (1 - split.test - split.validation))
    if not split.validation:
        validation_from = test_from
    return TimeCuts(validation_from, test_from, embargo_us)


def keep_cuts(lake: Lake, name: str, split: TimeSplit, cuts: TimeCuts) -> TimeCuts:
    """Keep the cuts of a training set that has rows to train on; those that count from now on.

    They are others than those given when another run kept its own first.
    """
    key = _cuts_key(name, split, cuts.embargo_us)
    if lake.objects.put_if_absent(key, json.dumps(asdict(cuts)).encode()):
        return cuts
    return TimeCuts(**json.loads(lake.objects.get(key)))


def _cuts_key(name: str, split: TimeSplit, embargo_us: int) -> str:
    return f"training/{name}/cuts-{_policy([asdict(split), embargo_us])}.json"


def _policy(said: Any) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(said).encode())
