"""Resume at step 10 and at step 10,000,000 beside a first batch; and memory while streaming.

    python -m benchmarks.feed_resume                 resume, of a manifest of 82 billion rows
    python -m benchmarks.feed_resume --stream 20     peak memory while streaming so many GB

The large manifest names the same few blocks over and over, so that it needs no large disk.
"""

from __future__ import annotations

import argparse
import resource
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
from penstock.lake import dataset_key
from penstock.shards import Packing, move_tag, open_manifest, write_dataset
from penstock.shards.manifest import INDEX, MANIFEST, read_index

FINGERPRINT, BATCH, WIDTH = "c" * 32, 8192, 32
STEPS = 10_000_010


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stream", type=float, default=0, help="GB to stream instead")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lake = _published(Path(folder), 4_000_000)
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


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _published(folder: Path, rows: int) -> Lake:
    names = tuple(f"f{place:02d}" for place in range(WIDTH))

    def tables() -> Iterator[pa.Table]:
        random = np.random.default_rng(0)
        for start in range(0, rows, 65_536):
            count = min(65_536, rows - start)
            values = random.standard_normal((WIDTH, count), np.float32)
            columns: dict[str, Any] = dict(zip(names, values, strict=True))
            yield pa.table({**columns, "label": np.arange(start, start + count)})

    lake = Lake(folder / "lake")
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
