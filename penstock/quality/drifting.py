"""How far two profiles are apart: between versions, partitions, splits, training and serving.

Four measures of each column, over shares of bins. A number's bins are the ten between the
reference's deciles, a text's its frequent values and the rest; of bytes and lists the lengths are
compared, as numbers. Nulls are a bin of their own.

- PSI, the population stability index: sum of (q - p) ln(q / p). Below 0.1 is stable and above 0.2
  is a shift, by custom (Siddiqi, "Credit Risk Scorecards", 2006).
- Jensen-Shannon distance, with logarithms to base 2: 0 to 1 (Lin, 1991).
- Kolmogorov-Smirnov: the greatest difference of the two distribution functions, 0 to 1.
- Chi-square: whether the difference is more than chance; its p-value by Wilson and Hilferty's
  approximation (1931).

The first three say how far, the last whether to believe it: a column has drifted where a limit is
passed and chance would do so in one of a thousand cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ContractError
from penstock.quality.profiling import LEVELS, MOST_FREQUENT, ColumnProfile, Profile

_LEAST = 1e-4
"""Of a bin's share: an empty bin's logarithm is none."""
_CHANCE = 1e-3
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Limits:
    """From which on a column has drifted; None: that measure says nothing.

    Raises
    ------
    ContractError: a limit is negative, or there is none.
    """

    psi: float | None = 0.2
    js: float | None = 0.1
    ks: float | None = 0.1

    def __post_init__(self) -> None:
        given = [limit for limit in asdict(self).values() if limit is not None]
        if not given or not all(0 <= limit < math.inf for limit in given):
            raise ContractError(
                f"drift has limits of psi, js and ks from 0 on, one at least: {self}"
            )


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """How far one column has moved."""

    column: str
    kind: str
    psi: float
    js: float
    ks: float | None
    """Of numbers and times, and of lengths."""
    chi_square: float
    p_value: float
    nulls: tuple[float, float]
    """Shares before and after."""
    middle: tuple[str, str]
    """The median, or the most frequent value, before and after."""
    passed: tuple[str, ...] = ()
    """Which limits are passed."""

    @property
    def has_drifted(self) -> bool:
        """Whether a limit is passed, and not by chance."""
        return bool(self.passed)


@dataclass(frozen=True, slots=True)
class Drift:
    """What moved between two profiles."""

    before: str
    after: str
    rows: tuple[int, int]
    columns: list[ColumnDrift] = field(default_factory=list[ColumnDrift])
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """Columns of another type now, which can't be compared."""

    @property
    def has_drifted(self) -> bool:
        """Whether any column has, or is there no more, or is of another type."""
        return bool(self.removed or self.changed or any(c.has_drifted for c in self.columns))

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "has_drifted": self.has_drifted}


def drift(before: Profile, after: Profile, limits: Limits | None = None) -> Drift:
    """Compare two profiles, column by column; those with the greatest PSI come first.

    Columns of which no values are kept are compared by their nulls alone.
    """
    limits = limits or Limits()
    both = [name for name in before.columns if name in after.columns]
    kinds = {name: (before.columns[name].kind, after.columns[name].kind) for name in both}
    changed = tuple(name for name, (old, new) in kinds.items() if old != new)
    columns = [_column_drift(name, before, after, limits) for name in both if name not in changed]
    return Drift(
        before=_titled(before),
        after=_titled(after),
        rows=(before.rows, after.rows),
        columns=sorted(columns, key=lambda c: (-len(c.passed), -c.psi, c.column)),
        added=tuple(name for name in after.columns if name not in before.columns),
        removed=tuple(name for name in before.columns if name not in after.columns),
        changed=changed,
    )


def shares(before: Profile, after: Profile, column: str) -> tuple[Floats, Floats]:
    """(bins,) each: a column's shares in common bins, nulls (and NaN) the first of them."""
    old, new = before.columns[column], after.columns[column]
    found = list[Floats]()
    ends = ((old, before), (new, after))
    is_known = all(one.quantiles or not one.count(profile.rows) for one, profile in ends)
    if old.is_masked or new.is_masked:
        found += [np.ones(1), np.ones(1)]
    elif is_known and (old.quantiles or new.quantiles):
        reference = old if old.quantiles else new
        edges = _edges(np.array(reference.quantiles))
        for one in (old, new):
            below = distribution(one, edges) if one.quantiles else np.zeros(len(edges))
            whole = 1.0 if one.quantiles else 0.0
            found.append(np.diff(below, prepend=0.0, append=whole))
    else:
        values = list(dict.fromkeys(text for one in (old, new) for text, _ in one.frequent))
        each = [_frequencies(old, before.rows), _frequencies(new, after.rows)]
        for one, other in zip(each, each[::-1], strict=True):
            inner = one.of(values, other)
            found.append(np.append(inner, max(0.0, 1.0 - inner.sum())))
    result = list[Floats]()
    for (one, profile), inner in zip(ends, found, strict=True):
        none = 1 - one.count(profile.rows) / profile.rows if profile.rows else 0.0
        result.append(np.concatenate([[none], inner * (1 - none)]))
    return result[0], result[1]


def _edges(quantiles: Floats) -> Floats:
    """Between bins: the deciles, and on both sides of a value that many have."""
    deciles = quantiles[10:100:10]
    tied = quantiles[:-1][np.diff(quantiles) == 0]
    return np.unique(np.concatenate([deciles, tied, np.nextafter(tied, -np.inf)]))


@dataclass(frozen=True, slots=True)
class _Frequencies:
    """Shares of a column's frequent values."""

    shares: dict[str, float]
    unlisted: float
    """The most that a value can have that is not among them."""

    def of(self, values: Sequence[str], other: _Frequencies) -> Floats:
        """Values' shares; of those that aren't listed here, such as move them the least, and no
        more in all than those that aren't listed have.
        """
        least = [min(self.unlisted, other.shares.get(text, 0.0)) for text in values]
        here = np.array([self.shares.get(text, -1.0) for text in values])
        guessed = np.where(here < 0, least, 0.0)
        rest = max(0.0, 1.0 - sum(self.shares.values()))
        if guessed.sum() > rest:
            guessed *= rest / guessed.sum()
        return np.where(here < 0, guessed, here)


def _frequencies(column: ColumnProfile, rows: int) -> _Frequencies:
    there = max(1, column.count(rows))
    found = {text: count / there for text, count in column.frequent}
    is_cut = len(found) >= MOST_FREQUENT
    return _Frequencies(found, min(found.values()) if is_cut else 0.0)


def distribution(column: ColumnProfile, at: Floats) -> Floats:
    """(n,) The share of its values that are at most each of some, from its quantiles."""
    quantiles = np.array(column.quantiles)
    levels = np.array(LEVELS)
    right = np.searchsorted(quantiles, at, side="right")
    low = np.clip(right - 1, 0, len(levels) - 1)
    high = np.clip(right, 0, len(levels) - 1)
    width = quantiles[high] - quantiles[low]
    part = np.divide(at - quantiles[low], width, out=np.zeros(len(at)), where=width > 0)
    share = levels[low] + part * (levels[high] - levels[low])
    return np.where(at < quantiles[0], 0.0, np.where(at >= quantiles[-1], 1.0, share))


def population_stability(before: Floats, after: Floats) -> float:
    """PSI of two (bins,) of shares."""
    p, q = np.maximum(before, _LEAST), np.maximum(after, _LEAST)
    return float(((q - p) * np.log(q / p)).sum())


def jensen_shannon(before: Floats, after: Floats) -> float:
    """Jensen-Shannon distance of two (bins,) of shares: 0 the same, 1 nothing in common."""
    middle = (before + after) / 2

    def divergence(p: Floats) -> float:
        there = p > 0
        return float((p[there] * np.log2(p[there] / middle[there])).sum())

    return math.sqrt(max(0.0, (divergence(before) + divergence(after)) / 2))


def kolmogorov_smirnov(before: ColumnProfile, after: ColumnProfile) -> float:
    """The greatest difference of two distribution functions, at either's quantiles."""
    at = np.array([*before.quantiles, *after.quantiles])
    return float(np.abs(distribution(before, at) - distribution(after, at)).max())


def chi_square(before: Floats, after: Floats, rows: tuple[int, int]) -> tuple[float, float]:
    """The statistic of two (bins,) of shares of so many rows, and its p-value."""
    counts = np.stack([before * rows[0], after * rows[1]])
    counts = counts[:, counts.sum(axis=0) > 0]
    free = counts.shape[1] - 1
    if free < 1 or not all(rows):
        return 0.0, 1.0
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    statistic = float(((counts - expected) ** 2 / expected).sum())
    spread = 2 / (9 * free)
    z = ((statistic / free) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return statistic, 0.5 * math.erfc(z / math.sqrt(2))


def _column_drift(name: str, before: Profile, after: Profile, limits: Limits) -> ColumnDrift:
    old, new = before.columns[name], after.columns[name]
    p, q = shares(before, after, name)
    if not before.rows or not after.rows:
        p = q = np.ones(1)  # nothing can be said of no rows
    found: dict[str, float | None] = {
        "psi": population_stability(p, q),
        "js": jensen_shannon(p, q),
        "ks": kolmogorov_smirnov(old, new) if old.quantiles and new.quantiles else None,
    }
    statistic, chance = chi_square(p, q, (before.rows, after.rows))
    passed = tuple(
        what
        for what, limit in asdict(limits).items()
        if limit is not None and (value := found[what]) is not None and value > limit
    )
    return ColumnDrift(
        column=name,
        kind=new.kind,
        psi=found["psi"] or 0.0,
        js=found["js"] or 0.0,
        ks=found["ks"],
        chi_square=statistic,
        p_value=chance,
        nulls=(_share(old.nulls, before.rows), _share(new.nulls, after.rows)),
        middle=(_middle(old), _middle(new)),
        passed=passed if chance < _CHANCE else (),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _middle(column: ColumnProfile) -> str:
    if column.quantiles:
        return shown(column.quantiles[len(column.quantiles) // 2], column.kind)
    return column.frequent[0][0] if column.frequent else ""


def shown(value: float, kind: str) -> str:
    """A number of a profile as a reader sees it; a time as such."""
    if kind != "time":
        return f"{value:,.4g}"
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=value)
    except OverflowError:  # past the year 9999
        return f"{value:,.4g} s"
    return moment.strftime("%Y-%m-%d" if value % 86_400 == 0 else "%Y-%m-%d %H:%M")


def _titled(profile: Profile) -> str:
    return profile.name if profile.version is None else f"{profile.name}@{profile.version}"


def as_limits(given: Sequence[tuple[str, float]]) -> Limits:
    """Of what a command was told: the measures named, and no others."""
    return Limits(**{**dict.fromkeys(("psi", "js", "ks")), **dict(given)}) if given else Limits()
