"""What is suspicious about a training set: before a model learns it, not after.

Rows of each split are counted in one streaming pass; leakage, and rows that a test split shares
with the train split, are looked for in a sample that hashes pick, so that memory has a bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.errors import ContractError
from penstock.quality.near import (
    difference_hashes,
    signatures,
    similar_images,
    similar_texts,
)

Kind = Literal[
    "mostly_null",
    "constant",
    "nulls_differ",
    "leakage",
    "tells_time",
    "label_balance",
    "group_overlap",
    "duplicates",
    "near_duplicates",
]
SAMPLE = 200_000
"""Rows in which leakage is looked for."""
NEAR = 20_000
"""Rows in which near-duplicates are looked for."""
_TRAIN = "train"
_MOSTLY = 0.9
_DIFFER = 0.2
"""Of shares of nulls, or of a class, between train and another split."""
_TELLING = 0.95
"""Of the label's variance, the share that one feature tells by itself."""
_SHARED = 0.01
"""Of another split's rows, those that train has too."""
_CLASSES = 50
_BINS = 64
_IMAGES_AT_ONCE = 1024
_ROW = "__penstock_row"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to look at."""

    kind: Kind
    column: str
    split: str
    value: float
    """A share, from 0 to 1."""
    message: str

    def to_json(self) -> dict[str, Any]:
        """As the manifest keeps it."""
        return asdict(self)


def inspect(
    frame: pl.LazyFrame | pl.DataFrame,
    *,
    features: Sequence[str],
    label: str,
    split: str = "split",
    time: str = "",
    groups: Sequence[str] = (),
    texts: Sequence[str] = (),
    images: Sequence[str] = (),
    sample: int = SAMPLE,
    near: int = NEAR,
) -> list[Finding]:
    """What is suspicious about the rows of a training set.

    Parameters
    ----------
    frame: a row a sample, with its split; the one called `train` is what others are held against.
    features: numeric columns.
    label: a number, or text.
    time: when each row was; features that tell it are looked for.
    groups: keys that no two splits may share.
    texts, images: columns in which near-duplicates across splits are looked for; images are bytes.
    sample: rows in which leakage and duplicates are looked for.
    near: those of them in which near-duplicates are.

    Raises
    ------
    ContractError: a column isn't there.
    """
    features, frame = list(dict.fromkeys(features)), frame.lazy()
    _check_types(frame.collect_schema(), features, label, split, time, groups, texts, images)
    frame = frame.with_columns(pl.col(split).cast(pl.String)).filter(pl.col(split).is_not_null())
    if frame.collect_schema()[label].is_float():
        frame = frame.with_columns(pl.col(label).fill_nan(None))
    schema = frame.collect_schema()
    counts = _counts(frame, features, label, split)
    found = [*_of_nulls(counts, features), *_balance(frame, counts, label, split, schema)]
    if _TRAIN not in counts:
        raise ContractError(
            f"no row has the {split} {_TRAIN!r}, beside which others are looked at; there are "
            f"{', '.join(sorted(counts)) or 'none'}"
        )
    total = sum(count["rows"] for count in counts.values())
    few = _sampled(frame, total, sample)
    whens = [time] if time else []
    values = few.select(_ROW, *dict.fromkeys([split, label, *whens, *features, *texts]))
    # Train first: of many equal rows each is held beside the first one.
    rows = values.collect(engine="streaming").sort(pl.col(split) != _TRAIN, maintain_order=True)
    found += _leakage(rows.filter(pl.col(split) == _TRAIN), features, label, schema)
    if time:
        found += _tells_time(rows, features, time)
    for group in groups:
        found += _shared_groups(frame, group, split)
    found += _duplicates(rows, [*features, *texts], split)
    if rows.height > near:
        is_near = pl.col(_ROW).hash(seed=11) < _below(near / rows.height)
        rows, few = rows.filter(is_near), few.filter(is_near)
    for column in texts:
        pairs = similar_texts(signatures(rows[column].cast(pl.String)))
        found += _near(rows.select(_ROW, split), pairs, column, split)
    for column in images:
        held, hashes = list[pl.DataFrame](), list[NDArray[np.uint64]]()
        for batch in few.select(_ROW, split, column).collect_batches(
            chunk_size=_IMAGES_AT_ONCE, maintain_order=True
        ):
            held.append(batch.select(_ROW, split))
            hashes.append(difference_hashes(batch[column].to_list()))
        if held:
            order = pl.concat(held).select((pl.col(split) != _TRAIN).arg_sort()).to_series()
            pairs = similar_images(np.concatenate(hashes)[order.to_numpy()])
            found += _near(pl.concat(held)[order], pairs, column, split)
    return found


def _check_types(
    schema: pl.Schema,
    features: Sequence[str],
    label: str,
    split: str,
    time: str,
    groups: Sequence[str],
    texts: Sequence[str],
    images: Sequence[str],
) -> None:
    """Raise `ContractError` where a column isn't there, or not what it is to be."""
    whens = [time] if time else []
    wanted = [*features, label, split, *whens, *groups, *texts, *images]
    if missing := [name for name in wanted if name not in schema]:
        raise ContractError(f"no column {', '.join(missing)}; there are {', '.join(schema)}"[:2000])
    for names, what, is_one in (
        (features, "a number", lambda kind: kind.is_numeric() or kind == pl.Boolean),
        (texts, "text", lambda kind: kind in (pl.String, pl.Categorical, pl.Enum)),
        (images, "bytes", lambda kind: kind == pl.Binary),
        (whens, "a time", lambda kind: kind in (pl.Datetime, pl.Date)),
        ([label], "a number or text", lambda kind: not kind.is_nested() and kind != pl.Binary),
        ([split], "text", lambda kind: not kind.is_nested() and kind != pl.Binary),
    ):
        if odd := [name for name in names if not is_one(schema[name])]:
            raise ContractError(f"column {odd[0]} is {schema[odd[0]]}, not {what}")


def _counts(
    frame: pl.LazyFrame, features: Sequence[str], label: str, split: str
) -> dict[str, dict[str, Any]]:
    """Of each split: rows, and each feature's nulls, least and greatest value."""
    asked = [pl.len().alias("rows"), pl.col(label).null_count().alias("label_nulls")]
    for place, name in enumerate(features):
        value = pl.col(name).cast(pl.Float64).fill_nan(None)
        asked += [
            value.null_count().alias(f"nulls{place}"),
            value.min().alias(f"low{place}"),
            value.max().alias(f"high{place}"),
        ]
    rows = frame.group_by(split).agg(asked).collect(engine="streaming")
    return {str(row[split]): row for row in rows.to_dicts() if row[split] is not None}


def _of_nulls(counts: dict[str, dict[str, Any]], features: Sequence[str]) -> Iterator[Finding]:
    train = counts.get(_TRAIN)
    for place, name in enumerate(features):
        if train is None or not train["rows"]:
            return
        nulls = train[f"nulls{place}"] / train["rows"]
        if nulls >= _MOSTLY:
            yield Finding(
                "mostly_null", name, _TRAIN, nulls, f"{name} is null in {nulls:.1%} of train"
            )
        elif train[f"low{place}"] == train[f"high{place}"]:
            value = train[f"low{place}"]
            yield Finding("constant", name, _TRAIN, 1.0, f"{name} is {value:g} throughout train")
        for other, count in counts.items():
            if other == _TRAIN or not count["rows"]:
                continue
            share = count[f"nulls{place}"] / count["rows"]
            if abs(share - nulls) > _DIFFER:
                yield Finding(
                    "nulls_differ",
                    name,
                    other,
                    share,
                    f"{name} is null in {share:.1%} of {other}, and in {nulls:.1%} of train",
                )


def _balance(
    frame: pl.LazyFrame,
    counts: dict[str, dict[str, Any]],
    label: str,
    split: str,
    schema: pl.Schema,
) -> Iterator[Finding]:
    """Of a label with few values: classes that a split lacks, or has at another rate."""
    if schema[label].is_float():
        whole = frame.select(
            (pl.col(label).drop_nulls().drop_nans() % 1 == 0).all().alias("whole"),
            pl.col(label).approx_n_unique().alias("values"),
        )
    else:
        values = pl.col(label).approx_n_unique().alias("values")
        whole = frame.select(pl.lit(value=True).alias("whole"), values)
    is_whole, values = whole.collect(engine="streaming").row(0)
    if not is_whole or values > _CLASSES or _TRAIN not in counts:
        return
    rows = frame.group_by(split, label).agg(pl.len().alias("rows")).collect(engine="streaming")
    shares = {
        name: {row[label]: row["rows"] / counts[name]["rows"] for row in part.to_dicts()}
        for name, part in (
            (name, rows.filter(pl.col(split) == name)) for name in counts if counts[name]["rows"]
        )
    }
    classes = dict.fromkeys(each for share in shares.values() for each in share)
    for other, share in shares.items():
        for each in classes:
            here, there = share.get(each, 0.0), shares[_TRAIN].get(each, 0.0)
            if other != _TRAIN and abs(here - there) > _DIFFER:
                yield Finding(
                    "label_balance",
                    label,
                    other,
                    here,
                    f"{label} is {each} in {here:.1%} of {other}, and in {there:.1%} of train",
                )
            elif other != _TRAIN and here and not there:
                yield Finding(
                    "label_balance", label, other, here, f"{label} is never {each} in train"
                )


def _sampled(frame: pl.LazyFrame, total: int, sample: int) -> pl.LazyFrame:
    """Some rows, by the hash of their place: the same ones each time, of every split."""
    numbered = frame.with_row_index(_ROW)
    if total <= sample:
        return numbered
    return numbered.filter(pl.col(_ROW).hash(seed=7) < _below(sample / total))


def _below(share: float) -> pl.Expr:
    """What so large a share of hashes is below."""
    return pl.lit(int(share * (1 << 64)), pl.UInt64)


def _leakage(
    rows: pl.DataFrame, features: Sequence[str], label: str, schema: pl.Schema
) -> Iterator[Finding]:
    """Features that tell nearly all of the label by themselves.

    By the correlation ratio: the share of the label's variance that lies between bins of the
    feature (Pearson, 1905), of values where there are few, else of quantiles. It finds what is no
    straight line too.
    """
    if schema[label].is_numeric() or schema[label] == pl.Boolean:
        target = rows[label].cast(pl.Float64).to_numpy()
    else:  # of classes, the commonest against the rest
        top = rows[label].drop_nulls().mode()
        if not len(top):
            return
        target = (rows[label] == top[0]).cast(pl.Float64).to_numpy()
    for name in features:
        value = rows[name].cast(pl.Float64).to_numpy()
        told = correlation_ratio(value, target)
        if told >= _TELLING:
            yield Finding(
                "leakage",
                name,
                _TRAIN,
                told,
                f"{name} alone tells {told:.1%} of {label}: is it known at that time?",
            )


def _tells_time(rows: pl.DataFrame, features: Sequence[str], time: str) -> Iterator[Finding]:
    """Features such as counters and dates: what they say of the past says nothing of the future."""
    when = rows[time].cast(pl.Datetime("us")).to_physical().cast(pl.Float64).to_numpy()
    for name in features:
        told = correlation_ratio(rows[name].cast(pl.Float64).to_numpy(), when)
        if told >= _TELLING:
            yield Finding(
                "tells_time",
                name,
                _TRAIN,
                told,
                f"{name} alone tells {told:.1%} of {time}: in the future it has values that no "
                "model has seen",
            )


def correlation_ratio(feature: NDArray[np.float64], label: NDArray[np.float64]) -> float:
    """Of the label's variance, the share between bins of the feature; 0 where nothing can be said.

    Bins that hold few rows tell much by chance: with less than ten rows a bin there are fewer bins.
    """
    there = np.isfinite(feature) & np.isfinite(label)
    x, y = feature[there], label[there]
    if len(x) < 100 or np.ptp(y) == 0 or np.ptp(x) == 0:
        return 0.0
    values, bins = np.unique(x, return_inverse=True)
    if len(values) > _BINS:
        edges = np.quantile(x, np.linspace(0, 1, min(_BINS, len(x) // 10) + 1)[1:-1])
        bins = np.searchsorted(edges, x, side="right")
    count = np.bincount(bins)
    filled = count > 0
    means = np.bincount(bins, y)[filled] / count[filled]
    between = float((count[filled] * (means - y.mean()) ** 2).sum())
    return between / float(((y - y.mean()) ** 2).sum())


def _shared_groups(frame: pl.LazyFrame, group: str, split: str) -> Iterator[Finding]:
    pairs = frame.select(group, split).drop_nulls().unique()
    found = (
        pairs.filter(pl.col(split) != _TRAIN)
        .join(pairs.filter(pl.col(split) == _TRAIN).select(group, in_train=True), group, "left")
        .group_by(split)
        .agg(pl.len().alias("groups"), pl.col("in_train").is_not_null().sum().alias("shared"))
        .collect(engine="streaming")
    )
    for row in found.sort(split).to_dicts():
        if row["shared"]:
            share = row["shared"] / row["groups"]
            yield Finding(
                "group_overlap",
                group,
                row[split],
                share,
                f"{row['shared']:,} of {row['groups']:,} values of {group} in {row[split]} are in "
                "train too",
            )


def _duplicates(rows: pl.DataFrame, columns: Sequence[str], split: str) -> Iterator[Finding]:
    """Rows of another split that are in train, value for value."""
    if not columns:
        return
    hashed = rows.select(split, hash=rows.select(columns).hash_rows(11))
    train = hashed.filter(pl.col(split) == _TRAIN)["hash"].unique()
    others = hashed.filter(pl.col(split) != _TRAIN).with_columns(
        shared=pl.col("hash").is_in(train.implode())
    )
    for row in others.group_by(split).agg(pl.col("shared").mean()).sort(split).to_dicts():
        if row["shared"] > _SHARED:
            yield Finding(
                "duplicates",
                "",
                row[split],
                row["shared"],
                f"{row['shared']:.1%} of {row[split]} has the same features as a row of train",
            )


def _near(
    rows: pl.DataFrame, pairs: NDArray[np.int64], column: str, split: str
) -> Iterator[Finding]:
    if not len(pairs):
        return
    splits = rows[split].to_numpy()
    one, other = splits[pairs[:, 0]], splits[pairs[:, 1]]
    for name in sorted({str(each) for each in np.unique(splits)} - {_TRAIN}):
        mixed = ((one == name) & (other == _TRAIN)) | ((other == name) & (one == _TRAIN))
        if not mixed.any():
            continue
        met = pairs[mixed]
        held = np.unique(np.where(splits[met[:, 0]] == name, met[:, 0], met[:, 1]))
        share = len(held) / max(1, int((splits == name).sum()))
        first = rows[_ROW].to_numpy()[met[0]]
        yield Finding(
            "near_duplicates",
            column,
            name,
            share,
            f"{len(held):,} rows of {name} ({share:.1%}) have nearly the {column} of a row of "
            f"train, such as rows {first[0]:,} and {first[1]:,}",
        )
