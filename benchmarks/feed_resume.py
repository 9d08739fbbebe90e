"""What weeks of training rest on: resuming anywhere, flat memory, each byte fetched once.

    python -m benchmarks.feed_resume                 resume, of a manifest of 82 billion rows
    python -m benchmarks.feed_resume --stream 20     peak memory while streaming so many GB
    python -m benchmarks.feed_resume --order         any step of an epoch of 10 billion rows
    python -m benchmarks.feed_resume --shared 4 --s3 s3://bucket/prefix
                                                     processes of a node that share a cold cache

The large manifest names the same few blocks over and over, so that it needs no large disk.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch  # noqa: F401 - its memory is there before ours is counted
import xxhash

from penstock import Dataset, Lake, load_dataset
from penstock.feed.order import Full, Order, Windowed
from penstock.lake import dataset_key
from penstock.shards import Packing, move_tag, open_manifest, write_dataset
from penstock.shards.manifest import INDEX, MANIFEST, read_index

FINGERPRINT, BATCH, WIDTH = "c" * 32, 8192, 32
STEPS = 10_000_010


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stream", type=float, default=0, help="GB to stream instead")
    parser.add_argument("--order", action="store_true", help="the order alone")
    parser.add_argument("--shared", type=int, default=0, help="processes of one node instead")
    parser.add_argument("--s3", default=None, help="where the dataset of --shared lies")
    parser.add_argument("--rank", nargs=3, default=None, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.rank:
        _as_rank(told.s3, Path(told.rank[0]), int(told.rank[1]), int(told.rank[2]))
        return
    if told.order:
        _order()
        return
    if told.shared:
        _shared(told.s3, told.shared)
        return
    with tempfile.TemporaryDirectory() as folder:
        lake = _published(Lake(Path(folder) / "lake"), 4_000_000)
        if told.stream:
            _stream(lake, told.stream)
        else:
            _repeated(lake)
            _resume(lake)


def _resume(lake: Lake) -> None:
    for mode in ("full", "windowed"):
        _first_batch(lake, mode, 0)
        first = min(_first_batch(lake, mode, 0) for _ in range(5))
        print(f"{mode:9} first batch of an epoch      {first * 1e3:8.1f} ms")
        for step in (10, 10_000, 10_000_000):
            seconds = min(_first_batch(lake, mode, step) for _ in range(5))
            times = f"{seconds * 1e3:8.1f} ms  {seconds / first:.2f} x"
            print(f"{mode:9} resumed at step {step:>12,}  {times}")


def _first_batch(lake: Lake, mode: Any, step: int) -> float:
    """Seconds from an opened dataset to its first batch, after loading a state at a step."""
    feed = load_dataset("bench/resume", lake=lake).shuffle(seed=1, mode=mode).batch(BATCH)
    if step:
        feed.load_state_dict({**feed.state_dict(), "step": step})
    began = time.perf_counter()
    batches = iter(feed)
    next(batches)
    seconds = time.perf_counter() - began
    batches.close()  # type: ignore[attr-defined]
    feed.close()
    return seconds


def _stream(lake: Lake, gigabytes: float) -> None:
    feed = load_dataset("bench/resume", lake=lake).shuffle(seed=1, mode="windowed").batch(BATCH)
    feed = feed.repeat().to("torch")
    before, streamed, told = _peak_mb(), 0, 0.0
    for batch in feed:
        streamed += sum(tensor.nbytes for tensor in batch.values())
        if streamed > told:
            print(
                f"{streamed / 1e9:6.1f} GB streamed, {_peak_mb() - before:7.1f} MB above the start"
            )
            told += gigabytes * 1e8
        if streamed > gigabytes * 1e9:
            return


def _order() -> None:
    """Steps taken at random from an epoch of 10 billion rows in blocks of 30,000."""
    before = _peak_mb()
    for shuffle in (Full(1), Windowed(1)):
        blocks = np.full(333_333, 30_000, np.int64)
        order = Order(
            fingerprint=FINGERPRINT, block_rows=blocks, shuffle=shuffle, epoch=3, global_batch=BATCH
        )
        began = time.perf_counter()
        order.rows_at(0)
        first, taken = time.perf_counter() - began, list[float]()
        for step in np.random.default_rng(0).integers(0, order.steps, 200).tolist():
            began = time.perf_counter()
            order.rows_at(step)
            taken.append(time.perf_counter() - began)
        times = f"{np.median(taken) * 1e3:.2f} ms a step, at most {max(taken) * 1e3:.2f}"
        memory = f"{_peak_mb() - before:.0f} MB above the start"
        print(f"{type(shuffle).__name__:9} first {first * 1e3:6.1f} ms, then {times}; {memory}")


def _shared(uri: str, world: int) -> None:
    """Let the ranks of a node read one dataset at once through one cache that is empty."""
    lake = _published(Lake(f"{uri.rstrip('/')}/shared"), 4_000_000)
    opened = load_dataset("bench/resume", lake=lake)
    stored = sum(shard.size_bytes for shard in opened.manifest.shards)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.feed_resume", "--s3", lake.uri, "--rank"]
        began = time.perf_counter()
        ranks = [
            subprocess.Popen([*command, folder, str(rank), str(world)], stdout=subprocess.PIPE)
            for rank in range(world)
        ]
        told = [json.loads(rank.communicate()[0]) for rank in ranks]
        seconds = time.perf_counter() - began
    fetched, rows = (sum(rank[of] for rank in told) for of in ("fetched", "rows"))
    print(f"{world} processes, {rows:,} rows in {seconds:.1f} s, with their start")
    for rank, counts in enumerate(told):
        print(f"  rank {rank}: {counts['fetched'] / 1e6:8.1f} MB fetched, {counts['rows']:,} rows")
    print(f"{fetched:,} bytes fetched of {stored:,} in the shards: {fetched / stored:.3f} x")


def _as_rank(uri: str, cache: Path, rank: int, world: int) -> None:
    feed = load_dataset("bench/resume", lake=uri, cache=cache)
    feed = feed.shuffle(seed=1, mode="windowed").shard(rank, world).batch(BATCH)
    rows = sum(len(batch["label"]) for batch in feed)
    feed.close()  # what was being brought for the next epoch is here then, and counted
    print(json.dumps({"fetched": int(feed.metrics()["bytes_from_storage"]), "rows": rows}))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _published(lake: Lake, rows: int) -> Lake:
    names = tuple(f"f{place:02d}" for place in range(WIDTH))

    def tables() -> Iterator[pa.Table]:
        random = np.random.default_rng(0)
        for start in range(0, rows, 65_536):
            count = min(65_536, rows - start)
            values = random.standard_normal((WIDTH, count), np.float32)
            columns: dict[str, Any] = dict(zip(names, values, strict=True))
            yield pa.table({**columns, "label": np.arange(start, start + count)})

    schema = pa.schema([*((name, pa.float32()) for name in names), ("label", pa.int64())])
    write_dataset(
        lake,
        "bench/resume",
        FINGERPRINT,
        {"train": tables()},
        schema,
        Packing(names),
        inputs={},
        details={},
    )
    move_tag(lake, "bench/resume", "latest", FINGERPRINT)
    return lake


def _repeated(lake: Lake) -> Dataset:
    """Make the manifest name its blocks so often that an epoch has ten million steps."""
    manifest = open_manifest(lake, "bench/resume", FINGERPRINT)
    folder = f"{dataset_key('bench/resume')}/{FINGERPRINT}"
    index = read_index(manifest, lake.objects.get(f"{folder}/{INDEX}"))
    index = index.select(["shard", "offset", "length", "rows", "checksum"])
    times = -(-STEPS * BATCH // manifest.splits["train"])
    sink = pa.BufferOutputStream()
    whole = pa.concat_tables([index] * times).combine_chunks()
    with pa.ipc.new_file(sink, whole.schema) as writer:
        writer.write_table(whole)
    data = sink.getvalue().to_pybytes()
    lake.objects.put(f"{folder}/{INDEX}", data)
    rows = manifest.splits["train"] * times
    changed = replace(
        manifest, index_checksum=xxhash.xxh3_64_hexdigest(data), splits={"train": rows}
    )
    lake.objects.put(f"{folder}/{MANIFEST}", changed.to_json())
    print(f"{rows:,} rows in {whole.num_rows:,} blocks, {STEPS:,} steps of {BATCH:,}")
    return load_dataset("bench/resume", lake=lake)


if __name__ == "__main__":
    main()
