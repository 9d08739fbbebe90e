"""Promise 6: the order is a function of (fingerprint, seed, epoch, batch, shuffle) alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from penstock.errors import OrderError
from penstock.feed.order import Full, Order, Sequential, Shuffle, Windowed
from penstock.feed.permutation import permuted, permuted_within

_UNWINDOWED = st.one_of(st.just(Sequential()), st.integers(0, 99).map(Full))
_SHUFFLES = st.one_of(
    _UNWINDOWED,
    st.tuples(st.integers(0, 99), st.integers(1, 5)).map(lambda pair: Windowed(*pair)),
)
_BLOCKS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def _order(blocks: list[int], shuffle: Shuffle, batch: int, epoch: int = 0) -> Order:
    return Order("f" * 32, np.array(blocks), shuffle, epoch, batch)


def _epoch(order: Order) -> np.ndarray:
    return np.concatenate([order.rows_at(step) for step in range(order.steps)])


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_a_permutation_hits_every_row_once(size: int, key: int) -> None:
    assert np.array_equal(np.sort(permuted(np.arange(size), size, key)), np.arange(size))


@settings(max_examples=150, deadline=None)
@given(blocks=_BLOCKS, shuffle=_SHUFFLES, batch=st.integers(1, 50), epoch=st.integers(0, 3))
def test_an_epoch_has_every_row_once(
    blocks: list[int], shuffle: Shuffle, batch: int, epoch: int
) -> None:
    rows = _epoch(_order(blocks, shuffle, batch, epoch))

    assert np.array_equal(np.sort(rows), np.arange(sum(blocks)))


@settings(max_examples=100, deadline=None)
@given(blocks=_BLOCKS, shuffle=_UNWINDOWED, one=st.integers(1, 50), other=st.integers(1, 50))
def test_the_batch_size_cuts_the_order_and_does_not_change_it(
    blocks: list[int], shuffle: Shuffle, one: int, other: int
) -> None:
    assert np.array_equal(
        _epoch(_order(blocks, shuffle, one)), _epoch(_order(blocks, shuffle, other))
    )


@settings(max_examples=150, deadline=None)
@given(
    blocks=_BLOCKS,
    seed=st.integers(0, 9),
    window=st.integers(1, 6),
    batch=st.sampled_from([1, 4, 7, 16]),
)
def test_no_more_blocks_are_open_at_once_than_the_window(
    blocks: list[int], seed: int, window: int, batch: int
) -> None:
    order = _order(blocks, Windowed(seed, window), batch)
    block_of = np.repeat(np.arange(len(blocks)), blocks)[_epoch(order)]

    places = [np.flatnonzero(block_of == block) for block in range(len(blocks))]
    is_open = np.zeros(len(block_of) + 1, int)
    for place in places:  # a block is open from its first row to its last
        is_open[place[0]] += 1
        is_open[place[-1] + 1] -= 1
    # A block in which two lanes meet is open in both.
    assert is_open.cumsum().max() <= window + (2 * order.lanes if order.lanes > 1 else 0)


@settings(max_examples=100, deadline=None)
@given(
    blocks=st.lists(st.integers(1, 40), min_size=8, max_size=30),
    batch=st.sampled_from([8, 16, 64]),
    ranks=st.sampled_from([2, 4, 8]),
)
def test_a_rank_reads_the_blocks_of_its_own_lanes_in_the_order_foretold(
    blocks: list[int], batch: int, ranks: int
) -> None:
    order = _order(blocks, Windowed(1, 8), batch)
    ends = np.cumsum(blocks)
    whole_steps = order._lane_rows // (batch // order.lanes)
    for rank in range(ranks):
        foretold = order.sequence(0, (rank, ranks)).tolist()
        assert len(foretold) == len(set(foretold))
        for step in range(whole_steps):
            part = order.rows_at(step)[rank * batch // ranks : (rank + 1) * batch // ranks]
            assert set(np.searchsorted(ends, part, side="right").tolist()) <= set(foretold)


def test_steps_are_computed_without_those_before() -> None:
    order = Order("f" * 32, np.full(200_000, 50_000), Full(1), 0, 8192)

    rows = order.rows_at(1_000_000)

    assert order.rows == 10_000_000_000
    assert len(np.unique(rows)) == 8192
    assert rows.max() < order.rows


def test_seed_epoch_and_fingerprint_each_give_another_order() -> None:
    blocks = np.array([500, 500])
    orders = [
        Order("a" * 32, blocks, Full(1), 0, 1000),
        Order("a" * 32, blocks, Full(2), 0, 1000),
        Order("a" * 32, blocks, Full(1), 1, 1000),
        Order("b" * 32, blocks, Full(1), 0, 1000),
    ]

    assert len({order.rows_at(0).tobytes() for order in orders}) == 4


def test_the_order_is_the_same_in_every_release() -> None:
    # Written down: whoever changes these numbers breaks the resume of every running job.
    assert permuted(np.arange(8), 8, 42).tolist() == _KNOWN
    order = Order("0" * 32, np.array([4, 4, 4]), Windowed(7, 2), 3, 12)
    assert order.rows_at(0).tolist() == _KNOWN_WINDOWED


_KNOWN = [3, 5, 2, 1, 0, 4, 7, 6]
_KNOWN_WINDOWED = [11, 9, 8, 10, 1, 0, 3, 2, 7, 4, 5, 6]


def test_a_shuffle_leaves_no_trace_of_the_stored_order() -> None:
    rows = _order([1000] * 20, Full(3), 20_000).rows_at(0)

    correlation = np.corrcoef(rows, np.arange(len(rows)))[0, 1]
    assert abs(correlation) < 5 / np.sqrt(len(rows))
    # Every tenth of the epoch draws evenly from every tenth of the rows.
    counts = np.histogram2d(np.arange(len(rows)), rows, bins=10)[0]
    assert abs(counts - 200).max() < 5 * np.sqrt(200)


def test_a_step_past_the_end_is_refused() -> None:
    order = _order([10], Sequential(), 4)

    assert [len(order.rows_at(step)) for step in range(order.steps)] == [4, 4, 2]
    with pytest.raises(OrderError, match="step 3 is outside the epoch's 3 steps"):
        order.rows_at(3)


@pytest.mark.parametrize(("batch", "window"), [(0, 1), (1, 0)])
def test_impossible_settings_are_refused(batch: int, window: int) -> None:
    with pytest.raises(OrderError):
        Order("f" * 32, np.array([1]), Windowed(0, window), 0, batch)


@given(
    st.lists(st.one_of(st.integers(1, 40), st.integers(300, 900)), min_size=1, max_size=60),
    st.integers(0, 2**64 - 1),
    st.integers(0, 5000),
)
@settings(max_examples=60, deadline=None)
def test_windows_are_permuted_alike_one_by_one_and_together(
    sizes: list[int], key: int, skipped: int
) -> None:
    lengths = np.array(sizes)
    of = np.repeat(np.arange(len(sizes)), lengths)[skipped % sum(sizes) :]
    within = np.concatenate([np.arange(size) for size in sizes])[skipped % sum(sizes) :]
    keys = np.array([(key + 977 * n) % 2**64 for n in range(len(sizes))], np.uint64)

    together = permuted_within(within, of, lengths, keys)

    alone = [permuted(within[of == n], size, int(keys[n])) for n, size in enumerate(sizes)]
    assert np.array_equal(together, np.concatenate(alone))


@settings(max_examples=200, deadline=None)
@given(
    blocks=_BLOCKS,
    shuffle=_SHUFFLES,
    batch=st.sampled_from([1, 4, 6, 8, 16, 24]),
    ranks=st.sampled_from([1, 2, 3, 4, 8]),
    data=st.data(),
)
def test_a_ranks_part_of_steps_is_what_their_positions_say(
    blocks: list[int], shuffle: Shuffle, batch: int, ranks: int, data: st.DataObject
) -> None:
    order = _order(blocks, shuffle, batch)
    assume(batch % ranks == 0 and order.rows >= batch)
    whole, each = order.rows // batch, batch // ranks
    first = data.draw(st.integers(0, whole - 1))
    steps = range(first, data.draw(st.integers(first, whole)), data.draw(st.integers(1, 3)))

    for rank in range(ranks):
        positions = [batch * n + rank * each + np.arange(each) for n in steps]
        expected = order.rows_of(np.concatenate([np.zeros(0, np.int64), *positions]))
        assert np.array_equal(order.rows_of_steps(steps, (rank, ranks)), expected)
