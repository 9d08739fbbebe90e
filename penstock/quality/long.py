"""What is measured of columns too long to hold: batch by batch, and exactly.

distinct values, the most frequent   by 64 bits of hash with how often each came, in files by their
                                     highest bits where they are many
quantiles                            values counted by their highest 16 bits, then those that the
                                     quantiles lie among by the next 16, until they are few

Memory doesn't grow with the table. Of two values that differ, the hashes are equal with odds of 1
to 10,000 at 50 million distinct ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.contracts import Expectation
from penstock.quality.breaking import OWN
from penstock.quality.compiled import in_set
from penstock.quality.passing import Spilled

_Hashes = NDArray[np.uint64]
HELD = 1 << 21
"""Hashes held in memory, and values that are sorted at once."""
_SHOWN = 20
_BITS = 16
"""Of a value's 64, by which it is counted at once."""
_PAIR = np.dtype([("hash", "<u8"), ("count", "<u8")])
_SIGN = np.uint64(1 << 63)
_KNOWN, _TIMES = f"{OWN}known", f"{OWN}times"


@dataclass(frozen=True, slots=True)
class Quantile:
    """A share of the values, and which of the two beside it is meant: `lower`, `higher` or, as a
    float between them, `linear`; as polars' `quantile` has them.
    """

    share: float
    how: str

    def places(self, count: int) -> tuple[int, int]:
        """Those of both, of so many values in order."""
        place = self.share * (count - 1)
        return math.floor(place), math.ceil(place)

    def value(self, low: float, high: float, count: int) -> float:
        """What it is, of those two."""
        if self.how != "linear":
            return float(low if self.how == "lower" else high)
        first, last = self.places(count)
        if first == last:
            return float(low)  # beside an infinity there is nothing to go by
        return float(low) + (float(high) - float(low)) * (self.share * (count - 1) - first)


def quantiles(expectation: Expectation, kind: pl.DataType) -> dict[str, Quantile]:
    """Those that are measured for it, of numbers, by the name of the measure."""
    if not (kind.is_integer() or kind.is_float()) or kind == pl.Int128:
        return {}
    match expectation.type.removeprefix("expect_column_"):
        case "median_to_be_between":
            return {"observed": Quantile(0.5, "linear")}
        case "quantile_values_to_be_between":
            shares = expectation.arguments["quantile_ranges"]["quantiles"]
            low = {f"low{n}": Quantile(share, "lower") for n, share in enumerate(shares)}
            high = {f"high{n}": Quantile(share, "higher") for n, share in enumerate(shares)}
            return low | high
        case "values_to_not_be_outliers" if expectation.arguments.get("method", "iqr") == "iqr":
            return {"low": Quantile(0.25, "linear"), "high": Quantile(0.75, "linear")}
        case _:
            return {}


def counts_values(expectation: Expectation, kind: pl.DataType) -> bool:
    """Whether what it measures are the distinct values, and can be told by their hashes."""
    name = expectation.type.removeprefix("expect_column_")
    return not kind.is_nested() and name.startswith(
        ("unique_value_count", "proportion_of_unique", "most_common_value", "distinct_values")
    )


Batches = Callable[[str], Iterable[pl.DataFrame]]
"""The rows of a column, some at a time."""


def measured_quantiles(
    batches: Batches, column: str, kind: pl.DataType, wanted: Mapping[str, Quantile]
) -> dict[str, Any]:
    """Quantiles of numbers, exactly; nulls are left out, and of none they are None."""

    def keys() -> Iterator[_Hashes]:
        for batch in batches(column):
            values: pl.Series = batch.get_column(column)
            yield _keys(values.filter(values.is_not_null()))

    whole = _counted(keys(), 0, np.zeros(1, np.uint64))[0]
    count = int(whole.sum())
    if not count:
        return dict.fromkeys(wanted)
    places = sorted({place for each in wanted.values() for place in each.places(count)})
    found = dict(zip(places, _at(keys, whole, places), strict=True))
    values = {place: _value(key, kind) for place, key in found.items()}
    measured = dict[str, Any]()
    for name, each in wanted.items():
        low, high = each.places(count)
        measured[name] = each.value(values[low], values[high], count)
    return measured


def _at(
    keys: Callable[[], Iterator[_Hashes]], whole: NDArray[np.int64], places: Sequence[int]
) -> list[int]:
    """The keys at some places of all of them in order."""
    steps = [_within(whole, place) for place in places]
    prefixes = np.array([step.group for step in steps], np.uint64)
    done = _BITS
    while done < 64:
        groups, first, which = np.unique(prefixes, return_index=True, return_inverse=True)
        shift = np.uint64(64 - done)
        if sum(steps[place].size for place in first) <= HELD:
            those = [part[np.isin(part >> shift, groups)] for part in keys()]
            ordered = np.sort(np.concatenate(those))
            begins = np.searchsorted(ordered >> shift, groups)
            return [int(ordered[begins[w] + s.place]) for w, s in zip(which, steps, strict=True)]
        tables = _counted(keys(), done, groups)
        steps = [_within(tables[w], s.place) for w, s in zip(which, steps, strict=True)]
        more = np.array([step.group for step in steps], np.uint64)
        prefixes = (prefixes << np.uint64(_BITS)) | more
        done += _BITS
    return [int(prefix) for prefix in prefixes]


class _Step(NamedTuple):
    """Where a place in order is: in which group of values, of what size, and where in it."""

    group: int
    size: int
    place: int


def _within(counts: NDArray[np.int64], place: int) -> _Step:
    ends = np.cumsum(counts)
    group = int(np.searchsorted(ends, place, side="right"))
    size = int(counts[group])
    return _Step(group, size, place - (int(ends[group]) - size))


def _counted(keys: Iterable[_Hashes], done: int, groups: _Hashes) -> list[NDArray[np.int64]]:
    """Of the keys that begin with each group's bits, how many go on with which 16 bits."""
    tables = [np.zeros(1 << _BITS, np.int64) for _ in groups]
    for part in keys:
        for group, table in zip(groups, tables, strict=True):
            mine = part[part >> np.uint64(64 - done) == group] if done else part
            next_bits = (mine >> np.uint64(64 - done - _BITS)) & np.uint64((1 << _BITS) - 1)
            table += np.bincount(next_bits.astype(np.int64), minlength=1 << _BITS)
    return tables


def _keys(values: pl.Series) -> _Hashes:
    """Numbers of 64 bits in the order of the values."""
    if values.dtype.is_unsigned_integer():
        return values.cast(pl.UInt64).to_numpy()
    if values.dtype.is_integer():
        return values.cast(pl.Int64).to_numpy().view(np.uint64) ^ _SIGN
    bits = (values.cast(pl.Float64).to_numpy() + 0.0).view(np.uint64)  # -0.0 is 0.0
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _value(key: int, kind: pl.DataType) -> int | float:
    """What `_keys` made a key of."""
    if kind.is_unsigned_integer():
        return key
    sign = 1 << 63
    if kind.is_integer():
        return key - sign
    bits = key ^ sign if key & sign else key ^ ((1 << 64) - 1)
    return float(np.array([bits], np.uint64).view(np.float64)[0])


def measured_values(
    batches: Batches, column: str, expectations: Mapping[int, Expectation]
) -> dict[str, Any]:
    """What is asked of a column's distinct values, by the expectation's number and the measure."""
    sets = {n: _Set(column, e) for n, e in expectations.items() if "distinct_values" in e.type}
    modes = {n: e for n, e in expectations.items() if "most_common" in e.type}
    found = dict[str, Any]()
    with _Occurrences() as all_values:
        for batch in batches(column):
            values = batch.filter(pl.col(column).is_not_null())
            for each in sets.values():
                each.add(values)
            if len(sets) < len(expectations):
                all_values.add(_hashed(values.get_column(column)))
        total = all_values.total()
    for number, expectation in expectations.items():
        if number in sets:
            found |= {f"{number}:{what}": v for what, v in sets[number].measured().items()}
        elif number in modes:
            found[f"{number}:observed"] = _modes(batches, column, expectation, total)
        else:
            found[f"{number}:observed"] = total.distinct
    return found


def _hashed(values: pl.Series) -> _Hashes:
    return values.hash(7).to_numpy()


class _Set:
    """Which values of a set are there, and how many others are."""

    def __init__(self, column: str, expectation: Expectation) -> None:
        self._column = column
        self._is_known = in_set(pl.col(column), expectation.arguments["value_set"])
        self._present: pl.Series | None = None
        self._shown: pl.Series | None = None
        self._others = _Occurrences()

    def add(self, rows: pl.DataFrame) -> None:
        marked = rows.with_columns(self._is_known.alias(_KNOWN))
        known = marked.filter(_KNOWN).get_column(self._column).unique()
        self._present = known if self._present is None else _both(self._present, known)
        others = marked.filter(~pl.col(_KNOWN)).get_column(self._column)
        if self._shown is None or len(self._shown) < _SHOWN:
            some = others.unique(maintain_order=True).head(_SHOWN)
            self._shown = (some if self._shown is None else _both(self._shown, some)).head(_SHOWN)
        self._others.add(_hashed(others))

    def measured(self) -> dict[str, Any]:
        with self._others as others:
            count = others.total().distinct
        present, shown = self._present, self._shown
        return {
            "present": [] if present is None else present.to_list(),
            "others": count,
            "shown": [] if shown is None else shown.to_list(),
        }


def _both(one: pl.Series, other: pl.Series) -> pl.Series:
    return pl.concat([one, other]).unique(maintain_order=True)


@dataclass(frozen=True, slots=True)
class _Total:
    """What came of hashes."""

    distinct: int
    most: int
    """Times that the most frequent came."""
    tied: _Hashes
    """Some that came so often."""


def _modes(batches: Batches, column: str, expectation: Expectation, total: _Total) -> list[Any]:
    """The most frequent values: those of its set, and some others."""
    if not total.distinct:
        return []
    is_known = in_set(pl.col(column), expectation.arguments["value_set"])
    found, counts = dict[Any, None](), Counter[Any]()
    for batch in batches(column):
        values = batch.filter(pl.col(column).is_not_null())
        is_tied = pl.Series(np.isin(_hashed(values.get_column(column)), total.tied))
        found |= dict.fromkeys(values.filter(is_tied).get_column(column).unique().to_list())
        known = values.filter(is_known).get_column(column).value_counts(name=_TIMES)
        counts.update(dict(known.rows()))
    found |= dict.fromkeys(value for value, count in counts.items() if count == total.most)
    return [*found]


class _Occurrences:
    """How often each hash came. A context manager: leaving it deletes the files."""

    def __init__(self) -> None:
        self._held, self._count = list[_Hashes](), 0
        self._pairs = np.zeros(0, _PAIR)
        self._spilled = Spilled()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._spilled.delete()

    def add(self, hashes: _Hashes) -> None:
        """Some more."""
        self._held.append(hashes)
        self._count += len(hashes)
        if self._count >= HELD:
            self._fold()
            if len(self._pairs) >= HELD // 2:
                self._spill()

    def total(self) -> _Total:
        """What came of all."""
        self._fold()
        distinct, most, tied = 0, 0, np.zeros(0, np.uint64)
        for pairs in self._parts():
            distinct += len(pairs)
            highest = int(pairs["count"].max(initial=0))
            if highest < most or not highest:
                continue
            those = pairs["hash"][pairs["count"] == highest]
            tied = those if highest > most else np.concatenate([tied, those])
            most, tied = highest, tied[:_SHOWN]
        return _Total(distinct, most, tied)

    def _fold(self) -> None:
        """What is held, as pairs."""
        hashes, counts = np.unique(np.concatenate([*self._held, _NONE]), return_counts=True)
        pairs = np.empty(len(hashes), _PAIR)
        pairs["hash"], pairs["count"] = hashes, counts
        self._pairs = _summed(np.concatenate([self._pairs, pairs]))
        self._held, self._count = [], 0

    def _spill(self) -> None:
        self._spilled.put(self._pairs, self._pairs["hash"])
        self._pairs = np.zeros(0, _PAIR)

    def _parts(self) -> Iterator[NDArray[Any]]:
        if not self._spilled.is_there:
            yield self._pairs
            return
        self._spill()
        yield from map(_summed, self._spilled.parts(_PAIR))


_NONE = np.zeros(0, np.uint64)


def _summed(pairs: NDArray[Any]) -> NDArray[Any]:
    """Pairs in order, one a hash."""
    pairs = pairs[np.argsort(pairs["hash"], kind="stable")]
    hashes = pairs["hash"]
    begins = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]])[: len(hashes)])
    summed = np.empty(len(begins), _PAIR)
    summed["hash"] = hashes[begins]
    summed["count"] = np.add.reduceat(pairs["count"], begins) if len(begins) else 0
    return summed
