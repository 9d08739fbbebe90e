"""What a sample can be: a filtered row, a window, a packed sequence, a decoded image."""

from __future__ import annotations

import importlib.util
import pickle
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import Dataset, Lake, load_dataset
from penstock.errors import OrderError, SampleError, ShardError, StateError
from penstock.shards import Packing, write_dataset
from tests.shards.test_shards import publish


@pytest.fixture
def numbers(lake: Lake) -> Dataset:
    """A published dataset whose `features[:, 0]` is the row's number."""
    publish(lake)
    return load_dataset("shop/numbers", lake=lake)


def numbers_in(dataset: Dataset) -> list[int]:
    """The row numbers of an epoch, in its order."""
    return [int(n) for batch in dataset for n in batch["features"][:, 0]]


# filter


@pytest.mark.parametrize(
    "expression",
    [
        pc.field("x") < 150,
        pl.col("x") < 150,
        (pc.field("label") > -150) & (pc.field("key") != "no such key"),
    ],
    ids=["pyarrow", "polars", "two columns"],
)
def test_a_filter_keeps_the_rows_it_is_true_for(numbers: Dataset, expression: object) -> None:
    kept = numbers.filter(expression).shuffle(seed=3).batch(16)  # pyright: ignore

    rows = numbers_in(kept)

    assert sorted(rows) == list(range(150))
    assert rows != sorted(rows)
    assert len(numbers.filter(expression)) == 150  # pyright: ignore


def test_a_filter_does_not_read_blocks_that_their_ranges_rule_out(numbers: Dataset) -> None:
    kept = numbers.filter(pc.field("x") >= 900)

    assert len(kept) == 100
    assert kept.engine().samples.blocks_read <= 2 < len(numbers._opened.source.rows)


def test_a_null_is_not_true(numbers: Dataset) -> None:
    kept = numbers.filter(pc.field("y") >= 0)  # null in every seventh row

    assert len(kept) == 1000 - len(range(0, 1000, 7))


def test_a_second_filter_narrows_the_first(numbers: Dataset) -> None:
    kept = numbers.filter(pc.field("x") < 100).filter(pc.field("x") >= 90)

    assert numbers_in(kept.batch(4)) == list(range(90, 100))


def test_a_filter_by_what_is_no_column_says_which_there_are(numbers: Dataset) -> None:
    with pytest.raises(OrderError, match="There are x, y, key, at, label"):
        len(numbers.filter(pl.col("prize") > 3))


def test_a_filtered_run_resumes_where_it_was(numbers: Dataset) -> None:
    kept = numbers.filter(pc.field("x") < 500).shuffle(seed=1).batch(20)
    epoch = [batch["label"].tolist() for batch in kept]
    kept.set_epoch(0)
    batches = iter(kept)
    for _ in range(7):
        next(batches)
    state = kept.state_dict()

    again = numbers.filter(pc.field("x") < 500).shuffle(seed=1).batch(20)
    again.load_state_dict(state)

    assert [batch["label"].tolist() for batch in again] == epoch[7:]
    with pytest.raises(StateError, match="samples"):
        numbers.filter(pc.field("x") < 400).shuffle(seed=1).batch(20).load_state_dict(state)


# map


def test_a_map_changes_batches(numbers: Dataset) -> None:
    doubled = numbers.map(lambda batch: {"twice": batch["label"] * 2}).batch(100)

    twice = np.concatenate([batch["twice"] for batch in doubled])

    assert twice.tolist() == [-2.0 * n for n in range(1000)]


@pytest.mark.parametrize("workers", [1, 3])
def test_random_numbers_of_a_map_depend_on_seed_epoch_and_row_alone(
    numbers: Dataset, workers: int
) -> None:
    def noisy(batch: dict, random: object) -> dict:
        noise = random.normal(shape=(2,))  # type: ignore[attr-defined]
        return {"row": batch["features"][:, 0], "noise": noise}

    def noise_of(dataset: Dataset) -> dict[int, tuple[float, ...]]:
        return {
            int(row): tuple(noise)
            for batch in dataset
            for row, noise in zip(batch["row"], batch["noise"], strict=True)
        }

    by_hundreds = noise_of(numbers.shuffle(1).map(noisy, seed=5, workers=workers).batch(100))
    by_sevens = noise_of(numbers.shuffle(9).map(noisy, seed=5).batch(7))
    other_seed = noise_of(numbers.map(noisy, seed=6).batch(100))
    next_epoch = numbers.map(noisy, seed=5).batch(100)
    next_epoch.set_epoch(1)

    assert by_hundreds == by_sevens
    assert len(set(by_hundreds.values())) == 1000
    assert not set(by_hundreds.values()) & set(other_seed.values())
    assert not set(by_hundreds.values()) & set(noise_of(next_epoch).values())
    drawn = np.array([*by_hundreds.values()])
    assert abs(drawn.mean()) < 0.1 and abs(drawn.std() - 1) < 0.1


def test_a_map_over_samples_gets_one_at_a_time(numbers: Dataset) -> None:
    def one(sample: dict, random: np.random.Generator) -> dict:
        return {"key": sample["key"] + "!", "draw": random.random()}

    batches = [*numbers.map(one, batched=False, seed=1).batch(250)]
    again = [*numbers.map(one, batched=False, seed=1).batch(50)]

    assert [key for batch in batches for key in batch["key"]][:2] == ["key-0!", "key-1!"]
    draws = np.concatenate([batch["draw"] for batch in batches])
    assert np.array_equal(draws, np.concatenate([batch["draw"] for batch in again]))


def test_an_error_in_a_map_comes_out_of_the_loop(numbers: Dataset) -> None:
    def fail(batch: dict) -> dict:
        raise ZeroDivisionError("as it happens")

    with pytest.raises(ZeroDivisionError, match="as it happens"):
        list(numbers.map(fail).batch(10))
    with pytest.raises(OrderError, match="differing length"):
        list(numbers.map(lambda batch: {"a": [1], "b": [1, 2]}).batch(10))


# windows


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 12), stride=st.integers(1, 9))
def test_windows_are_all_stretches_and_cross_no_series(
    tmp_path_factory: pytest.TempPathFactory, length: int, stride: int
) -> None:
    folder = tmp_path_factory.mktemp("series")
    sizes = [5, 1, 30, 12, 2]
    series = np.repeat(np.arange(len(sizes)), sizes)
    table = pa.table({"series": series, "value": np.arange(len(series), dtype=np.float32)})
    pq.write_table(table, folder / "a.parquet", row_group_size=7)
    cache = folder / "cache"

    feed = load_dataset(str(folder / "a.parquet"), cache=cache).windows(
        length, stride=stride, by="series"
    )
    starts = sorted(int(w[0]) for b in feed.shuffle(seed=1).batch(3) for w in b["value"])

    expected = list[int]()
    for first, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
        expected += range(int(first), int(first) + size - length + 1, stride)
    assert starts == sorted(expected)
    assert len(feed) == len(expected)
    for batch in feed.batch(4):
        assert (np.diff(batch["value"], axis=1) == 1).all()
        assert (batch["series"] == batch["series"][:, :1]).all()
    feed.close()


def test_windows_of_strings_are_refused(numbers: Dataset) -> None:
    with pytest.raises(OrderError, match=r"key is string: leave it out with select_columns"):
        list(numbers.windows(3).batch(2))


# pack


def _tokens(folder: Path, lengths: list[int], row_group: int = 50) -> str:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = np.arange(offsets[-1], dtype=np.int32)
    table = pa.table({"tokens": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)})
    path = folder / "tokens.parquet"
    pq.write_table(table, path, row_group_size=row_group)
    return str(path)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=120),
    seq_len=st.integers(1, 40),
    epoch=st.integers(0, 3),
)
def test_packed_sequences_have_each_token_at_most_once_and_lose_less_than_one_a_block(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], seq_len: int, epoch: int
) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    uri = _tokens(folder, lengths, row_group=40)
    blocks = [sum(lengths[at : at + 40]) for at in range(0, len(lengths), 40)]

    feed = load_dataset(uri, cache=folder / "cache").pack(seq_len, pad=-1, segments=True)
    feed = feed.shuffle(seed=2).batch(3)
    feed.set_epoch(epoch)
    batches = [*feed]
    feed.close()

    seen = [n for batch in batches for n in batch["tokens"].ravel().tolist() if n >= 0]
    assert len(seen) == len(set(seen))
    # A block of less than one sequence is padded; of others less than a sequence is left over.
    kept = [count if count < seq_len else count // seq_len * seq_len for count in blocks]
    assert len(seen) == sum(kept)
    of_list = np.repeat(np.arange(len(lengths)), lengths)
    for batch in batches:
        for tokens, segments in zip(batch["tokens"], batch["tokens_segments"], strict=True):
            real = tokens[tokens >= 0]
            changed = np.diff(of_list[real]) != 0
            assert np.array_equal(np.diff(segments[: len(real)]) != 0, changed)


def test_sequences_are_cut_elsewhere_each_epoch(tmp_path: Path) -> None:
    feed = load_dataset(_tokens(tmp_path, [20] * 200), cache=tmp_path / "c").pack(64).batch(4)

    # Where an epoch cuts is drawn from 64 places, and six epochs don't all draw the same.
    cuts: set[int] = set()
    for epoch in range(6):
        feed.set_epoch(epoch)
        cuts.add(int(next(iter(feed))["tokens"][0][0]) % 64)

    assert len(cuts) > 1


def test_only_lists_of_numbers_are_packed(numbers: Dataset) -> None:
    with pytest.raises(OrderError, match="say which column is packed"):
        numbers.pack(8)
    with pytest.raises(OrderError, match="only lists of numbers are packed, and key is string"):
        len(numbers.pack(8, column="key"))


# ragged


def test_lists_and_strings_come_without_an_object_a_row(tmp_path: Path) -> None:
    feed = load_dataset(_tokens(tmp_path, [3, 0, 2]), cache=tmp_path / "cache").batch(3)

    (batch,) = feed
    tokens = batch["tokens"]

    assert tokens.values.tolist() == [0, 1, 2, 3, 4]
    assert tokens.offsets.tolist() == [0, 3, 3, 5]
    assert tokens.padded(fill=-1).tolist() == [[0, 1, 2], [-1, -1, -1], [3, 4, -1]]
    assert tokens.padded(2).tolist() == [[0, 1], [0, 0], [3, 4]]
    assert tokens[2].tolist() == [3, 4]
    assert [len(row) for row in tokens] == [3, 0, 2]
    torch_batch = next(iter(feed.to("torch")))
    assert torch_batch["tokens"].padded().shape == (3, 3)


# images

needs_decoder = pytest.mark.skipif(
    not (importlib.util.find_spec("cv2") or importlib.util.find_spec("PIL")),
    reason="no image decoder is installed",
)


def _images(folder: Path, count: int = 40) -> str:
    from io import BytesIO

    from PIL import Image

    files = list[bytes]()
    for number in range(count):
        buffer = BytesIO()
        shade = np.full((60 + number, 90, 3), number * 5, np.uint8)
        Image.fromarray(shade).save(buffer, "PNG" if number % 2 else "JPEG")
        files.append(buffer.getvalue())
    path = folder / "images.parquet"
    pq.write_table(pa.table({"id": np.arange(count), "image": files}), path, row_group_size=8)
    return str(path)


@needs_decoder
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_images_are_decoded_resized_and_kept(tmp_path: Path, cached: bool, fit: str) -> None:
    feed = load_dataset(_images(tmp_path), cache=tmp_path / "cache")
    feed = feed.decode_image(32, fit=fit, cached=cached).shuffle(seed=1).batch(8)  # pyright: ignore

    for _ in range(2):
        seen = list[int]()
        for batch in feed:
            assert batch["image"].shape == (8, 32, 32, 3)
            assert abs(batch["image"].astype(int) - 5 * batch["id"][:, None, None, None]).max() < 4
            seen += batch["id"].tolist()
        assert sorted(seen) == list(range(40))
    feed.close()


@needs_decoder
def test_images_kept_decoded_are_not_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = load_dataset(_images(tmp_path), cache=tmp_path / "cache").decode_image(16, cached=True)
    first = next(iter(feed.batch(40)))

    def broken(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("penstock.feed.images.Images._decode_into", broken)
    second = next(iter(feed.batch(40)))

    assert np.array_equal(first["image"], second["image"])


@needs_decoder
def test_what_is_no_image_is_told_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table({"image": [b"not an image"]}), path)

    with pytest.raises(SampleError, match=r"row 0: image is no image that can be decoded"):
        list(load_dataset(str(path), cache=tmp_path / "c").decode_image(8).batch(1))


# where it lies


def test_columns_with_nulls_keep_them_in_arrow_and_polars(tmp_path: Path) -> None:
    path = tmp_path / "nulls.parquet"
    given = {
        "n": [1, None, 3],
        "x": [None, 0.5, 1.5],
        "b": [True, None, False],
        "s": ["a", None, ""],
    }
    pq.write_table(pa.table(given), path)
    feed = load_dataset(str(path), cache=tmp_path / "cache").batch(3)

    (frame,) = feed.to("polars")
    (batch,) = feed

    assert frame.to_dict(as_series=False) == given
    assert batch["n"].tolist() == [1, 0, 3]
    assert np.isnan(batch["x"][0])
    assert batch["b"].tolist() == [True, False, False]


def test_a_delta_table_is_read_at_a_version(tmp_path: Path) -> None:
    from deltalake import write_deltalake

    uri = str(tmp_path / "table")
    rows = pa.table({"day": ["mon", "tue"] * 50, "n": np.arange(100), "x": np.arange(100.0)})
    write_deltalake(uri, rows, partition_by=["day"])
    write_deltalake(uri, rows, mode="append")
    cache = tmp_path / "cache"

    newest = load_dataset(uri, cache=cache)
    first = load_dataset(uri, version="0", cache=cache)

    assert (len(newest), len(first)) == (200, 100)
    assert newest.fingerprint != first.fingerprint
    by_number = {
        int(n): day
        for b in first.shuffle(1).batch(9)
        for n, day in zip(b["n"], b["day"], strict=True)
    }
    assert by_number == {n: ("mon", "tue")[n % 2] for n in range(100)}


def test_files_that_differ_or_are_damaged_are_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": ["x"]}), tmp_path / "2.parquet")

    with pytest.raises(ShardError, match=r"2.parquet has other columns than 1.parquet: a int64, a"):
        load_dataset(str(tmp_path))
    (tmp_path / "2.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(ShardError, match="2.parquet: no Parquet file"):
        load_dataset(str(tmp_path))


def test_a_file_that_changed_is_another_dataset(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": [1, 2]}), path)
    before = load_dataset(str(path), cache=tmp_path / "c")
    assert before[:]["a"].tolist() == [1, 2]
    pq.write_table(pa.table({"a": [3, 4]}), path)

    after = load_dataset(str(path), cache=tmp_path / "c")

    assert after.fingerprint != before.fingerprint
    assert after[:]["a"].tolist() == [3, 4]


def test_a_delta_tables_older_files_have_nulls_in_a_column_added_later(tmp_path: Path) -> None:
    from deltalake import write_deltalake

    uri = str(tmp_path / "table")
    write_deltalake(uri, pa.table({"n": [1, 2]}))
    write_deltalake(uri, pa.table({"n": [3], "x": [0.5]}), mode="append", schema_mode="merge")

    (frame,) = load_dataset(uri, cache=tmp_path / "cache").batch(3).to("polars")

    assert sorted(frame.rows()) == [(1, None), (2, None), (3, 0.5)]


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (lambda ds: ds.windows(2).filter(pc.field("x") > 1), "can't be combined"),
        (lambda ds: ds.decode_image(8), "say which column holds the images"),
        (lambda ds: ds.decode_image(8, column="key"), "key is no column of encoded images"),
        (lambda ds: ds.filter("x > 3"), "can't filter by a str"),
        (lambda ds: ds.windows(0), "at least 1 row"),
        (lambda ds: ds.map(len, workers=0), "at least 1 worker"),
        (lambda ds: ds.to("pandas"), "is no form of batches"),
        (lambda ds: ds.to("arrow", device="cuda"), "lie in this machine's memory"),
        (lambda ds: ds.repeat(0), "at least 1 epoch"),
        (lambda ds: ds.batch(10).shard(0, 3).replicate(2).batch(9)._world, "groups of 2"),
    ],
)
def test_what_cannot_be_is_refused_in_words(numbers: Dataset, build: object, what: str) -> None:
    with pytest.raises(OrderError, match=what):
        build(numbers)  # type: ignore[operator]


def _files(tmp_path: Path, files: list[bytes | None]) -> Dataset:
    lake = Lake(tmp_path / "lake")
    table = pa.table({"file": pa.array(files, pa.binary())})
    blocks = (table[start : start + 10] for start in range(0, len(files), 10))
    write_dataset(
        lake,
        "some/files",
        "a" * 32,
        {"train": blocks},
        table.schema,
        Packing(()),
        inputs={},
        details={},
    )
    return load_dataset("some/files", version="a" * 32, lake=lake)


def test_files_are_shown_where_they_lie(tmp_path: Path) -> None:
    files = [bytes([n]) * (n * 7 % 50) for n in range(100)]
    feed = _files(tmp_path, files)

    batches = [*feed.shuffle(1, mode="full").batch(7)]
    feed.close()
    shutil.rmtree(tmp_path / "lake")  # what was mapped stays as long as somebody looks at it

    shown = [bytes(buffer) for batch in batches for buffer in batch["file"].buffers()]
    assert sorted(shown) == sorted(files)
    assert shown != files
    for batch in batches:
        column = batch["file"]
        expected = [bytes(buffer) for buffer in column.buffers()]
        assert [*column] == column.tolist() == expected
        sent = pickle.dumps(column)
        assert len(sent) < 7 * 50 + 2000
        assert pickle.loads(sent).tolist() == expected
        assert bytes(column.values) == b"".join(expected)
        assert np.diff(column.offsets).tolist() == [len(file) for file in expected]
        assert [bytes(buffer) for buffer in column.buffers()] == expected


def test_files_that_are_missing_stay_missing(tmp_path: Path) -> None:
    files = [None if n % 3 == 0 else bytes([n]) * 40 for n in range(30)]
    (batch,) = _files(tmp_path, files).batch(30)

    assert batch["file"].tolist() == files
