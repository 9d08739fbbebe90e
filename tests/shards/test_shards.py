"""The shard format: plain Arrow, checked, immutable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import Lake, load_dataset
from penstock.errors import DatasetNotFound, ShardError
from penstock.shards import (
    Manifest,
    Packing,
    WriteOptions,
    move_tag,
    open_manifest,
    read_tag,
    write_dataset,
)
from penstock.shards.manifest import blocks_of, read_index
from penstock.shards.statistics import FeatureStatistics

FINGERPRINT = "0123456789abcdef" * 2
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
        ("x", pa.float32()),
        ("y", pa.float32()),
        ("label", pa.float32()),
    ]
)


def table(rows: int, first: int = 0) -> pa.Table:
    """Rows whose values tell their number; `y` is null in every seventh."""
    numbers = np.arange(first, first + rows)
    return pa.table(
        {
            "key": pa.array([f"key-{n}" for n in numbers]),
            "at": pa.array(numbers * 1_000_000, pa.timestamp("us", "UTC")),
            "x": pa.array(numbers, pa.float32()),
            "y": pa.array([None if n % 7 == 0 else n / 2 for n in numbers], pa.float32()),
            "label": pa.array(-numbers, pa.float32()),
        },
        schema=SCHEMA,
    )


def publish(
    lake: Lake,
    rows: int = 1000,
    *,
    block_bytes: int = 4096,
    shard_bytes: int = 16_384,
    fingerprint: str = FINGERPRINT,
    name: str = "shop/numbers",
) -> Manifest:
    """A small dataset of several blocks and shards, tagged latest."""
    manifest = write_dataset(
        lake,
        name,
        fingerprint,
        {"train": [table(rows)], "test": [table(50, first=rows)]},
        SCHEMA,
        Packing(("x", "y")),
        inputs={},
        details={},
        options=WriteOptions(block_bytes, shard_bytes),
    )
    move_tag(lake, name, "latest", fingerprint)
    return manifest


def test_shards_are_arrow_files_that_others_open(lake: Lake) -> None:
    manifest = publish(lake)
    folder = Path(lake.uri) / "datasets/shop/numbers" / FINGERPRINT

    train = [folder / shard.file for shard in manifest.shards if shard.split == "train"]
    read = pl.concat(pl.read_ipc(path) for path in train)

    assert len(train) > 1
    assert read["key"].to_list() == [f"key-{n}" for n in range(1000)]
    assert read["label"].to_list() == [-float(n) for n in range(1000)]
    with pa.ipc.open_file(str(train[0])) as file:
        field = file.schema.field("features")
    assert field.metadata[b"names"] == b"x,y"
    assert field.type == pa.fixed_shape_tensor(pa.float32(), [2])


def test_the_manifest_names_every_byte(lake: Lake) -> None:
    manifest = publish(lake)
    folder = f"datasets/shop/numbers/{FINGERPRINT}"
    index = read_index(manifest, lake.objects.get(f"{folder}/index.arrow"))
    blocks = blocks_of(index).of_split(manifest, "train")

    for shard in manifest.shards:
        data = lake.objects.get(f"{folder}/{shard.file}")
        assert len(data) == shard.size_bytes
        assert xxhash.xxh3_64_hexdigest(data) == shard.checksum
    assert len(blocks) > len(manifest.shards)
    assert int(blocks.rows.sum()) == manifest.splits["train"] == 1000
    data = {n: lake.objects.get(f"{folder}/{s.file}") for n, s in enumerate(manifest.shards)}
    for n in range(len(blocks)):
        start, end = blocks.offset[n], blocks.offset[n] + blocks.length[n]
        message = data[int(blocks.shard[n])][start:end]
        assert xxhash.xxh3_64_intdigest(message) == int(blocks.checksum[n])
        batch = pa.ipc.read_record_batch(pa.ipc.read_message(message), manifest.schema)
        assert batch.num_rows == blocks.rows[n]


def test_statistics_are_of_the_train_split_alone(lake: Lake) -> None:
    statistics = publish(lake).statistics

    y = np.array([n / 2 for n in range(1000) if n % 7])
    assert statistics["names"] == ["x", "y"]
    assert statistics["mean"] == pytest.approx([499.5, y.mean()])
    assert statistics["std"] == pytest.approx([np.arange(1000).std(), y.std()])
    assert statistics["max"] == [999, 499.5]
    assert statistics["nulls"] == [0, 1000 - len(y)]


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(
        st.lists(
            st.one_of(st.floats(-1e6, 1e6, width=32), st.just(float("nan"))),
            min_size=1,
            max_size=30,
        ),
        min_size=1,
        max_size=6,
    )
)
def test_statistics_over_parts_equal_those_over_the_whole(parts: list[list[float]]) -> None:
    streamed = FeatureStatistics(("v",))
    for part in parts:
        streamed.add(np.array(part, np.float32)[:, None])

    whole = np.array([v for part in parts for v in part], np.float32).astype(float)
    known = whole[~np.isnan(whole)]
    result = streamed.to_json()
    assert result["nulls"] == [len(whole) - len(known)]
    if len(known):
        assert result["mean"] == pytest.approx([known.mean()], rel=1e-9, abs=1e-6)
        assert result["std"] == pytest.approx([known.std()], rel=1e-6, abs=1e-3)
        assert result["min"] == [known.min()]
    else:
        assert result["mean"] == [None]


def test_a_manifest_of_another_format_says_so(lake: Lake) -> None:
    publish(lake)
    key = f"datasets/shop/numbers/{FINGERPRINT}/manifest.json"
    value = json.loads(lake.objects.get(key))
    lake.objects.put(key, json.dumps({**value, "format": 99}).encode())

    with pytest.raises(ShardError, match="format 99; this version of Penstock reads 1"):
        open_manifest(lake, "shop/numbers", FINGERPRINT)


def test_a_damaged_manifest_says_so(lake: Lake) -> None:
    publish(lake)
    lake.objects.put(f"datasets/shop/numbers/{FINGERPRINT}/manifest.json", b'{"format": 1, "na')

    with pytest.raises(ShardError, match="damaged manifest"):
        load_dataset("shop/numbers", lake=lake)


def test_a_dataset_without_a_manifest_was_not_published(lake: Lake) -> None:
    publish(lake)
    lake.objects.delete([f"datasets/shop/numbers/{FINGERPRINT}/manifest.json"])

    with pytest.raises(DatasetNotFound, match="has no version"):
        load_dataset("shop/numbers", version=FINGERPRINT, lake=lake)


def test_a_tag_that_was_moved_by_a_writer_who_died_is_read(lake: Lake) -> None:
    publish(lake)
    move_tag(lake, "shop/numbers", "latest", "f" * 32)
    folder = lake.objects.local_path("datasets/shop/numbers/tags/latest")
    assert folder is not None
    (folder / f"00000002.{'f' * 32}").unlink()  # what is put after the move itself
    (folder / f"00000003.{'a' * 32}").touch()  # and of a move that never was

    assert read_tag(lake, "shop/numbers", "latest") == "f" * 32


def test_a_tag_moves_and_keeps_its_history(lake: Lake) -> None:
    publish(lake)

    assert not move_tag(lake, "shop/numbers", "latest", FINGERPRINT)
    assert move_tag(lake, "shop/numbers", "latest", "f" * 32)
    assert read_tag(lake, "shop/numbers", "latest") == "f" * 32
    kept = [info.key for info in lake.objects.list("datasets/shop/numbers/tags/latest")]
    assert len([key for key in kept if key.endswith(".json")]) == 2
