"""Why people leave the loaders that they have: each complaint, by name, as a test."""

from __future__ import annotations

import gc
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from penstock import Dataset, Lake, interleave, load_dataset
from penstock.errors import OrderError, StateError
from penstock.feed.turns import Turns
from tests.shards.test_shards import publish

SHUFFLES = ["none", "full", "windowed"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with shop/numbers (1,000 rows) and shop/others (300)."""
    lake = Lake(tmp_path_factory.mktemp("shop") / "lake")
    publish(lake)
    publish(lake, rows=300, name="shop/others", fingerprint="e" * 32)
    return lake


def numbers(shop: Lake, how: str = "full") -> Dataset:
    """The thousand rows in one of the orders."""
    feed = load_dataset("shop/numbers", lake=shop)
    return feed if how == "none" else feed.shuffle(seed=4, mode=how, window=3)  # pyright: ignore


def labels(feed: object) -> list[list[float]]:
    """The labels of each batch of an epoch."""
    return [batch["label"].tolist() for batch in feed]  # type: ignore[attr-defined]


def joined(parts: Iterable[list[float]]) -> list[float]:
    """Lists one after another."""
    return [*chain.from_iterable(parts)]


# "Resume silently repeats or skips rows, or replays the whole stream"


@settings(max_examples=60, deadline=None)
@given(
    how=st.sampled_from(SHUFFLES),
    ranks=st.sampled_from([1, 2, 3, 8]),
    others=st.sampled_from([1, 2, 3, 8]),
    stop=st.integers(0, 10),
    epoch=st.integers(0, 2),
)
def test_resume_repeats_and_skips_nothing_on_any_number_of_ranks(
    shop: Lake, how: str, ranks: int, others: int, stop: int, epoch: int
) -> None:
    whole = numbers(shop, how).batch(96).shard(0, 1)
    whole.set_epoch(epoch)
    expected = labels(whole)
    feed = numbers(shop, how).batch(96).shard(0, ranks)
    feed.set_epoch(epoch)
    batches = iter(feed)
    for _ in range(stop):
        next(batches)
    state = json.loads(json.dumps(feed.state_dict()))
    batches.close()  # type: ignore[attr-defined]

    resumed = list[list[list[float]]]()
    for rank in range(others):
        part = numbers(shop, how).batch(96).shard(rank, others)
        part.load_state_dict(state)
        resumed.append(labels(part))

    assert len({len(part) for part in resumed}) == 1
    merged = [joined(part[step] for part in resumed) for step in range(len(resumed[0]))]
    # What does not divide among the ranks is dropped from an epoch's last step alone.
    assert merged[:-1] == expected[stop:-1]
    assert set(merged[-1]) <= set(expected[-1])
    assert len(merged[-1]) == len(expected[-1]) // others * others


def test_resume_in_a_new_process(shop: Lake) -> None:
    feed = numbers(shop, "windowed").batch(50)
    expected = labels(feed)
    feed.set_epoch(0)
    batches = iter(feed)
    for _ in range(6):
        next(batches)
    script = (
        "import json, sys; from penstock import load_dataset\n"
        f"feed = load_dataset('shop/numbers', lake={shop.uri!r})\n"
        "feed = feed.shuffle(seed=4, mode='windowed', window=3).batch(50)\n"
        "feed.load_state_dict(json.load(sys.stdin))\n"
        "json.dump([batch['label'].tolist() for batch in feed], sys.stdout)"
    )

    told = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(feed.state_dict()).encode(),
        capture_output=True,
        check=True,
        timeout=60,
    )

    assert json.loads(told.stdout) == expected[6:]


# "State lost at worker or prefetch boundaries"


@pytest.mark.parametrize("taken", [1, 2, 3, 7, 8, 9])
def test_a_state_counts_what_was_received_and_not_what_was_prefetched(
    shop: Lake, taken: int
) -> None:
    feed = numbers(shop).batch(10)
    expected = labels(feed)
    feed.set_epoch(0)
    batches = iter(feed)
    for _ in range(taken):
        next(batches)
    state = feed.state_dict()

    again = numbers(shop).batch(10)
    again.load_state_dict(state)

    assert labels(again) == expected[taken:]
    assert len(json.dumps(state)) < 1000


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("taken", [1, 4, 5])
def test_torchdatas_stateful_dataloader_resumes(shop: Lake, workers: int, taken: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    feed = numbers(shop).batch(50).to("torch")
    expected = labels(feed)

    def loader() -> object:
        return stateful(numbers(shop).batch(50).to("torch"), batch_size=None, num_workers=workers)

    first = loader()
    batches = iter(first)  # type: ignore[call-overload]
    got = [next(batches)["label"].tolist() for _ in range(taken)]
    state = first.state_dict()  # type: ignore[attr-defined]
    del batches
    second = loader()
    second.load_state_dict(state)  # type: ignore[attr-defined]

    assert got + labels(second) == expected


# "No resume after the number of GPUs or workers changed": see the first test. What must match:


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda feed: feed.batch(48), "global_batch"),
        (lambda feed: feed.shuffle(seed=5).batch(96), "shuffle"),
        (lambda feed: feed.limit(500), "limit"),
    ],
    ids=["batch", "seed", "limit"],
)
def test_a_state_of_other_settings_is_refused(shop: Lake, change: object, what: str) -> None:
    state = numbers(shop).batch(96).state_dict()

    with pytest.raises(StateError, match=f"taken with {what} = "):
        change(numbers(shop).batch(96)).load_state_dict(state)  # type: ignore[operator]


# "A killed run leaves shared memory, locks or a cache that break the next start"


@pytest.mark.slow
def test_a_killed_run_leaves_no_shared_memory_and_no_lock(shop: Lake, tmp_path: Path) -> None:
    script = (
        "import sys; from penstock import load_dataset\n"
        f"feed = load_dataset('shop/numbers', lake={shop.uri!r}).batch(10).repeat()\n"
        "for n, batch in enumerate(feed):\n"
        "    if n == 5: print('running', flush=True)\n"
    )
    before = set(Path("/dev/shm").iterdir())
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert run.stdout is not None and run.stdout.readline() == b"running\n"
    run.kill()
    run.wait()

    assert set(Path("/dev/shm").iterdir()) <= before
    assert sorted(joined(labels(numbers(shop).batch(100)))) == sorted(-np.arange(1000.0))


# "Ranks get unequal batches and the job hangs"


@settings(max_examples=60, deadline=None)
@given(
    how=st.sampled_from(SHUFFLES),
    ranks=st.integers(1, 8),
    each=st.integers(1, 40),
    drop_last=st.booleans(),
    limit=st.one_of(st.none(), st.integers(1, 1000)),
)
def test_every_rank_gets_as_many_batches_and_rows(
    shop: Lake, how: str, ranks: int, each: int, drop_last: bool, limit: int | None
) -> None:
    feed = numbers(shop, how).batch(each * ranks, drop_last=drop_last)
    feed = feed if limit is None else feed.limit(limit)
    parts = [[len(b) for b in labels(feed.shard(rank, ranks))] for rank in range(ranks)]

    assert all(part == parts[0] for part in parts)
    assert len(parts[0]) == len(feed.shard(0, ranks))


def test_replicas_get_the_same(shop: Lake) -> None:
    parts = [labels(numbers(shop).batch(40).shard(rank, 8).replicate(4)) for rank in range(8)]

    assert all(part == parts[0] for part in parts[:4])
    assert all(part == parts[4] for part in parts[4:])
    assert parts[0] != parts[4]


# "Memory grows until OOM"


@pytest.mark.slow
def test_memory_is_flat_over_many_epochs(shop: Lake) -> None:
    script = (
        "import resource; from penstock import load_dataset\n"
        f"feed = load_dataset('shop/numbers', lake={shop.uri!r}).shuffle(seed=1).batch(10)\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for _ in range(5): list(feed)\n"
        "before = peak()\n"
        "for _ in range(150):\n"
        "    for batch in feed: pass\n"
        "print(peak() - before)"
    )

    told = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)

    assert int(told.stdout) < 8_000  # kB


# "Mixing several datasets cannot resume"


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.integers(1, 20), min_size=2, max_size=2),
    stop=st.integers(0, 5),
    ranks=st.sampled_from([1, 2, 5]),
)
def test_a_mixture_resumes_on_any_number_of_ranks(
    shop: Lake, weights: list[int], stop: int, ranks: int
) -> None:
    def mixed() -> object:
        parts = [numbers(shop), load_dataset("shop/others", lake=shop).shuffle(seed=1)]
        return interleave(parts, weights=weights, stop=12).batch(30)

    expected = labels(mixed())
    feed = mixed()
    batches = iter(feed)  # type: ignore[call-overload]
    for _ in range(stop):
        next(batches)
    state = json.loads(json.dumps(feed.state_dict()))  # type: ignore[attr-defined]
    batches.close()

    resumed = list[list[list[float]]]()
    for rank in range(ranks):
        part = mixed().shard(rank, ranks)  # type: ignore[attr-defined]
        part.load_state_dict(state)
        resumed.append(labels(part))

    merged = [joined(part[step] for part in resumed) for step in range(len(resumed[0]))]
    assert merged == expected[stop:]
    assert len(json.dumps(state)) < 1000


@settings(max_examples=100, deadline=None)
@given(shares=st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_a_mixture_is_never_a_whole_turn_off_its_proportions(shares: list[int]) -> None:
    turns = Turns(tuple(shares))
    period = sum(shares)

    assert np.bincount(turns.source, minlength=len(shares)).tolist() == shares
    for source, share in enumerate(shares):
        due = np.arange(period + 1) * share / period
        assert abs(turns.before[source] - due).max() < 1
        for had in range(1, 2 * share + 1):
            position = turns.positions_to(source, had)
            assert turns.had(source, position) == had > turns.had(source, position - 1)


def test_weights_change_between_epochs(shop: Lake) -> None:
    parts = [numbers(shop), load_dataset("shop/others", lake=shop)]
    feed = interleave(parts, weights=[1, 1], stop=4).batch(50)
    list(feed)
    feed.set_weights([9, 1])
    state = feed.state_dict()
    expected = labels(feed)

    again = interleave(parts, weights=[1, 1], stop=4).batch(50)
    again.load_state_dict(state)

    assert labels(again) == expected
    batches = iter(feed)
    next(batches)
    with pytest.raises(OrderError, match="weights change between epochs"):
        feed.set_weights([1, 1])


# "Not fork-safe under DataLoader"; "pickles small"


@pytest.mark.slow
def test_a_fork_after_use_feeds_the_same(shop: Lake) -> None:
    feed = numbers(shop).batch(50).to("torch")
    expected = labels(feed)  # threads and maps are open now
    feed.set_epoch(0)

    loader = DataLoader(feed, batch_size=None, num_workers=2, multiprocessing_context="fork")

    assert labels(loader) == expected
    assert len(pickle.dumps(feed)) < 20_000


# Lifecycle


def threads() -> set[str]:
    """Names of our threads that run."""
    return {t.name for t in threading.enumerate() if t.name.startswith("penstock-feed")}


def test_threads_end_when_the_loop_fails(shop: Lake) -> None:
    feed = numbers(shop).batch(10)
    with pytest.raises(RuntimeError, match="loss is NaN"):
        for _ in feed:
            raise RuntimeError("loss is NaN")
    gc.collect()

    assert not threads()


@pytest.mark.slow
def test_ctrl_c_ends_a_run_at_once(shop: Lake) -> None:
    import signal

    script = (
        "import time; from penstock import load_dataset\n"
        f"feed = load_dataset('shop/numbers', lake={shop.uri!r}).batch(10).repeat()\n"
        "for n, batch in enumerate(feed):\n"
        "    if n == 5: print('running', flush=True)\n"
        "    time.sleep(0.01)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert run.stdout is not None and run.stdout.readline() == b"running\n"
    run.send_signal(signal.SIGINT)
    _, told = run.communicate(timeout=10)

    assert run.returncode == -signal.SIGINT or b"KeyboardInterrupt" in told


def test_repeat_goes_on_into_the_next_epochs(shop: Lake) -> None:
    feed = numbers(shop).batch(100)
    apart = labels(feed) + labels(feed)

    together = numbers(shop).batch(100).repeat(2)

    assert labels(together) == apart
    assert apart[:10] != apart[10:]


# "Shuffle quality nobody can see"


def test_shuffle_quality_tells_a_good_order_from_a_bad_one(shop: Lake) -> None:
    quality = {how: numbers(shop, how).batch(50).shuffle_quality() for how in SHUFFLES}

    assert quality["none"].correlation > 0.999 and quality["none"].spread < 0.01
    assert abs(quality["full"].correlation) < 0.15 and quality["full"].spread > 0.9
    assert quality["none"].blocks_a_batch < quality["windowed"].blocks_a_batch
    assert quality["windowed"].blocks_a_batch < quality["full"].blocks_a_batch
    assert quality["full"].blocks_a_batch > 0.95 * quality["full"].perfect_blocks_a_batch
    assert "perfect" in str(quality["full"])
    assert quality["full"].plot().axes[0].get_xlabel() == "position in the epoch"


def test_explain_tells_the_plan(shop: Lake) -> None:
    told = str(numbers(shop, "windowed").batch(50).shard(1, 5).explain())

    assert "windowed: 3 blocks open at once" in told
    assert "20 steps of 50 samples" in told
    assert "1 of 5: 10 samples of each step" in told


def test_metrics_tell_what_was_fed_and_where_it_came_from(shop: Lake) -> None:
    feed = numbers(shop).batch(100)
    list(feed)

    told = feed.metrics()

    assert (told["samples"], told["batches"]) == (1000, 10)
    assert told["bytes_from_disk"] > 0 == told["bytes_from_storage"]
    assert told["starved_seconds"] >= 0


def test_prometheus_reads_the_metrics(shop: Lake) -> None:
    pytest.importorskip("prometheus_client")
    import socket
    from urllib.request import urlopen

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    feed = numbers(shop).batch(100)
    list(feed)
    server = feed.serve_metrics(port)
    try:
        text = urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    finally:
        server.shutdown()

    assert 'penstock_feed_samples_total{dataset="shop/numbers",split="train"} 1000.0' in text


def test_a_progress_line_tells_how_far_and_how_fast(
    shop: Lake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("penstock.feed.progress._SECONDS_BETWEEN", 0)
    list(numbers(shop).batch(250).progress())

    told = capsys.readouterr().err
    assert "shop/numbers epoch 0: 100% 4/4 steps" in told
    assert "starved" in told


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_torch_batches_have_the_dtype_asked_for(shop: Lake, dtype: str) -> None:
    batch = next(iter(numbers(shop).batch(10).to("torch", dtype=dtype)))

    assert batch["features"].dtype == batch["label"].dtype == getattr(torch, dtype)
    assert batch["at"].dtype == torch.int64


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_ranks_that_share_get_the_same(shop: Lake, context: str) -> None:
    def parts(workers: int) -> list[list[list[float]]]:
        feeds = [
            numbers(shop).batch(40).shard(rank, 4).replicate(2).to("torch") for rank in (0, 1, 3)
        ]
        spread = context if workers else None
        return [
            labels(
                DataLoader(f, batch_size=None, num_workers=workers, multiprocessing_context=spread)
            )
            for f in feeds
        ]

    assert parts(2) == parts(0)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_keep_the_order_over_epochs_that_repeat(shop: Lake, workers: int) -> None:
    feed = numbers(shop).batch(90).repeat(3).to("torch")
    expected = labels(feed)
    feed.set_epoch(0)

    assert labels(DataLoader(feed, batch_size=None, num_workers=workers)) == expected
    assert len(expected) == 36


def test_repeat_goes_through_as_many_epochs_each_time_and_when_resumed(shop: Lake) -> None:
    feed = numbers(shop).batch(500).repeat(2)
    first, second = labels(feed), labels(feed)
    assert len(first) == len(second) == 4
    assert first != second

    state = {**numbers(shop).batch(500).repeat(2).state_dict(), "epoch": 1, "step": 1}
    feed.load_state_dict(state)
    assert labels(feed) == first[3:]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_mixture_goes_into_a_dataloader(shop: Lake, workers: int) -> None:
    parts = [numbers(shop), load_dataset("shop/others", lake=shop)]
    mixed = interleave(parts, weights=[3, 1], stop=9).batch(40).to("torch")
    expected = labels(mixed)
    mixed.set_epoch(0)

    assert labels(DataLoader(mixed, batch_size=None, num_workers=workers)) == expected


def test_parts_of_a_mixture_have_no_batches_of_their_own(shop: Lake) -> None:
    with pytest.raises(OrderError, match="give it to what interleave returns instead"):
        interleave([numbers(shop).batch(10), numbers(shop)])


def test_a_mixtures_state_belongs_to_its_parts_limits(shop: Lake) -> None:
    def mixed(limit: int) -> object:
        return interleave([numbers(shop).limit(limit), numbers(shop)], stop=4).batch(20)

    with pytest.raises(StateError, match="another mixture"):
        mixed(200).load_state_dict(mixed(300).state_dict())  # type: ignore[attr-defined]
