"""Keyed permutations that no release may change, computed for any positions alone.

Rounds of add, multiply by an odd number and fold the upper half down are each a bijection of k-bit
numbers; what falls outside of the wanted size walks on until it falls inside (Kensler, "Correlated
Multi-Jittered Sampling", Pixar 2013, has such a hash; Black and Rogaway, CT-RSA 2002, the walk).
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ODD = (
    0x9E3779B97F4A7C15,
    0xBF58476D1CE4E5B9,
    0x94D049BB133111EB,
    0xD6E8FEB86659FD93,
    0xA0761D6478BD642F,
    0xE7037ED1A0B428DB,
)
"""Multipliers, one a round: those of SplitMix64 and of wyhash. 32-bit ones are their upper half."""
_FEWEST_IN_A_ROW = 128
"""Positions of one range from which on range by range is quicker than all at once."""


def permuted(positions: NDArray[Any], size: int, key: int) -> NDArray[np.int64]:
    """Where a keyed permutation of [0, size) sends each position.

    Returns
    -------
    int64, the shape of `positions`.
    """
    if size < 2:
        return positions.astype(np.int64)
    bits = int(size - 1).bit_length()
    kind: Any = np.uint32 if bits <= 32 else np.uint64
    fold = max(1, (bits + 1) // 2)
    mask = kind((1 << bits) - 1)
    adds = [kind(int(add) & int(mask)) for add in _round_keys(np.array([key], np.uint64))[:, 0]]
    values = _rounds(positions.astype(kind), adds, mask, kind(fold))
    outside = np.flatnonzero(values >= kind(size))
    while len(outside):
        walked = _rounds(values[outside], adds, mask, kind(fold))
        values[outside] = walked
        outside = outside[walked >= kind(size)]
    return values.astype(np.int64)


def permuted_within(
    positions: NDArray[np.int64],
    of: NDArray[np.int64],
    sizes: NDArray[np.int64],
    keys: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """`permuted` for positions in several ranges, each with a size and a key of its own.

    Parameters
    ----------
    of: the range of each position.
    """
    out = np.empty(len(positions), np.int64)
    cuts = np.concatenate([[0], np.flatnonzero(of[1:] != of[:-1]) + 1, [len(of)]])
    if len(positions) and len(cuts) * _FEWEST_IN_A_ROW <= len(positions):
        # Runs of one range each: those of a range together.
        runs: dict[int, list[NDArray[np.int64]]] = {}
        for start, stop in itertools.pairwise(cuts.tolist()):
            runs.setdefault(int(of[start]), []).append(np.arange(start, stop))
        for number, places in runs.items():
            at = np.concatenate(places)
            out[at] = permuted(positions[at], int(sizes[number]), int(keys[number]))
        return out
    # Of the ranges that there are, positions are in few.
    which, of = np.unique(of, return_inverse=True)
    sizes, keys = sizes[which], keys[which]
    is_wide = sizes[of] > 1 << 32
    for kind, places in (
        (np.uint32, np.flatnonzero(~is_wide)),
        (np.uint64, np.flatnonzero(is_wide)),
    ):
        out[places] = _permuted_each(positions[places], of[places], sizes, keys, kind)
    return out


def _permuted_each(
    positions: NDArray[np.int64],
    of: NDArray[np.int64],
    sizes: NDArray[np.int64],
    keys: NDArray[np.uint64],
    kind: Any,
) -> NDArray[np.int64]:
    """`permuted`, with what differs between ranges looked up for each position."""
    bits = np.frexp(np.maximum(sizes - 1, 1).astype(np.float64))[1].astype(np.int64)
    masks = ((np.uint64(1) << bits.astype(np.uint64)) - np.uint64(1)).astype(kind)[of]
    folds = np.maximum(1, (bits + 1) // 2).astype(kind)[of]
    adds = _round_keys(keys).astype(kind)[:, of]
    values = _rounds(positions.astype(kind), list(adds), masks, folds)
    wanted = np.maximum(sizes, 1).astype(kind)[of]
    outside = np.flatnonzero(values >= wanted)
    while len(outside):
        walked = _rounds(values[outside], list(adds[:, outside]), masks[outside], folds[outside])
        values[outside] = walked
        outside = outside[walked >= wanted[outside]]
    return values.astype(np.int64)


def shuffled(size: int, key: int) -> NDArray[np.int64]:
    """The numbers below `size`, sorted by a keyed hash of each: for few, such as blocks."""
    numbers = np.arange(size, dtype=np.uint64)
    return np.argsort(mixed(numbers + mixed(np.array([key], np.uint64))), kind="stable")


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014); wraps around by design."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_ODD[1])
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_ODD[2])
    return values ^ (values >> np.uint64(31))


def _round_keys(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """What each round adds, a row a round."""
    rounds = np.arange(1, len(_ODD) + 1, dtype=np.uint64)[:, None] * np.uint64(_ODD[0])
    return mixed(keys[None, :] + rounds)


def _rounds(values: NDArray[Any], adds: list[Any], mask: Any, fold: Any) -> NDArray[Any]:
    """The rounds, in place."""
    wide = values.dtype == np.uint64
    spare = np.empty_like(values)
    for add, odd in zip(adds, _ODD, strict=True):
        np.add(values, add, out=values)
        np.multiply(values, values.dtype.type(odd if wide else odd >> 32 | 1), out=values)
        np.bitwise_and(values, mask, out=values)
        np.right_shift(values, fold, out=spare)
        np.bitwise_xor(values, spare, out=values)
    return values
