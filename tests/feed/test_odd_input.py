"""What people hand in by mistake or by bad luck: NaN, odd types, wrong arguments, damaged files."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from penstock import CacheOptions, Dataset, Lake, MemoryOptions, interleave, load_dataset
from penstock.errors import OrderError, PenstockError, ShardError, StateError
from tests.shards.test_shards import publish


def opened(folder: Path, table: pa.Table, rows_a_block: int = 100, **options: Any) -> Dataset:
    """The table as a Parquet file, opened where it lies."""
    pq.write_table(table, folder / "table.parquet", row_group_size=rows_a_block)
    return load_dataset(folder / "table.parquet", cache=folder / "cache", **options)


@pytest.fixture
def numbers(tmp_path: Path) -> Dataset:
    """Rows 0 to 99 in blocks of 10."""
    return opened(tmp_path, pa.table({"n": np.arange(100)}), 10)


# NaN is neither less nor more than anything, and no range has it.

_X = np.where(np.arange(1000) % 7 == 0, np.nan, np.arange(1000) % 90)
_FILTERS: dict[str, tuple[Any, np.ndarray]] = {
    "is_nan": (pc.is_nan(pc.field("x")), np.isnan(_X)),
    "not less": (~(pc.field("x") < 100), ~(_X < 100)),
    "not equal": (pc.field("x") != 5, _X != 5),
    "less": (pc.field("x") < 5, _X < 5),
    "more than any": (pc.field("x") > 95, _X > 95),
    "polars is_nan": (pl.col("x").is_nan(), np.isnan(_X)),
}


@pytest.mark.parametrize("beside", [True, False], ids=["packed", "alone"])
@pytest.mark.parametrize(("expression", "true"), _FILTERS.values(), ids=_FILTERS)
def test_filters_see_nan(tmp_path: Path, expression: Any, true: np.ndarray, beside: bool) -> None:
    columns = {"n": np.arange(1000), "x": _X} | ({"y": np.arange(1000.0)} if beside else {})
    feed = opened(tmp_path, pa.table(columns))

    found = feed.filter(expression)[:]["n"]

    assert found.tolist() == np.flatnonzero(true).tolist()


def test_blocks_are_still_ruled_out_by_comparisons_of_floats(tmp_path: Path) -> None:
    feed = opened(tmp_path, pa.table({"x": np.arange(1000.0)})).filter(pc.field("x") >= 900)

    assert len(feed) == 100
    assert feed.engine().samples.blocks_read == 1  # type: ignore[attr-defined]


def test_a_column_name_may_have_any_character(tmp_path: Path) -> None:
    feed = opened(tmp_path, pa.table({"a,b": np.arange(10), 'c"': np.arange(10)}))

    assert feed.filter(pc.field("a,b") > 7)[:]['c"'].tolist() == [8, 9]


def test_states_of_filters_that_print_alike_are_told_apart(numbers: Dataset) -> None:
    some, others = np.arange(1000), np.arange(1000)
    others[500] = -1
    for isin in (lambda n: pc.field("n").isin(pa.array(n)), lambda n: pl.col("n").is_in(n)):
        state = numbers.filter(isin(some)).batch(4).state_dict()
        numbers.filter(isin(some)).batch(4).load_state_dict(state)
        with pytest.raises(StateError, match="samples"):
            numbers.filter(isin(others)).batch(4).load_state_dict(state)


def test_a_polars_filter_has_to_be_a_condition(numbers: Dataset) -> None:
    with pytest.raises(OrderError, match="no condition"):
        len(numbers.filter(pl.col("n") + 3))


# Types


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 2, 1001], pa.timestamp("ns")),
        pa.array([1, 2, 1001], pa.time64("ns")),
        pa.array([0, 1, 2**31 - 1], pa.date32()),
        pa.array([0, 1, 2**62], pa.timestamp("us")),
        pa.array([-(2**62), 1, 2], pa.timestamp("us", "UTC")),
    ],
    ids=lambda values: str(values.type),
)
def test_times_that_python_cannot_say_are_read(tmp_path: Path, values: pa.Array) -> None:
    feed = opened(tmp_path, pa.table({"at": values}))

    assert (
        feed[:]["at"].tolist()
        == values.cast(pa.int32() if values.type == pa.date32() else pa.int64()).to_pylist()
    )


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([["a", "b"], [], ["c"]], pa.list_(pa.string())),
        ([[True], [False, True], []], pa.list_(pa.bool_())),
        ([[1, None], [2], []], pa.list_(pa.int32())),
        ([[[1], []], [[2, 3]], []], pa.list_(pa.list_(pa.int64()))),
    ],
    ids=["strings", "bools", "nulls", "lists"],
)
def test_a_row_of_lists_without_an_array_is_a_python_list(
    tmp_path: Path, values: list[Any], kind: pa.DataType
) -> None:
    feed = opened(tmp_path, pa.table({"v": pa.array(values, kind)}))

    assert [*feed[:]["v"]] == values
    same = feed.map(lambda sample: sample, batched=False).batch(3)
    assert [row for batch in same for row in batch["v"].tolist()] == values


def test_an_empty_batch_has_the_types_of_a_full_one(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    publish(lake)
    feed = load_dataset("shop/numbers", lake=lake)
    for form in ("arrow", "polars"):
        assert feed.to(form)[5:5].schema == feed.to(form)[5:6].schema
        assert len(feed.to(form)[[]]) == 0


@pytest.mark.parametrize("value", ["a b", "é", "a:b", "a%b", "a/b", "a=b", "x+y", "plain"])
def test_a_partition_may_have_any_value(tmp_path: Path, value: str) -> None:
    table = pa.table({"n": [1, 2], "p": [value, value]})
    write_deltalake(tmp_path / "table", table, partition_by=["p"])

    feed = load_dataset(str(tmp_path / "table"), cache=tmp_path / "cache")

    assert feed[:]["p"].tolist() == [value, value]


def test_windows_by_a_column_join_nulls_over_blocks(tmp_path: Path) -> None:
    table = pa.table({"n": np.arange(6), "by": pa.nulls(6, pa.string())})
    for rows in (1, 2, 3, 6):
        feed = opened(tmp_path, table, rows).select_columns(["n"])
        assert len(feed.windows(2, by="by")) == 5


def test_a_file_that_was_harmed_after_it_was_opened_is_named(tmp_path: Path) -> None:
    feed = opened(tmp_path, pa.table({"n": np.arange(1000)}))
    (tmp_path / "table.parquet").write_bytes(b"PAR1" + bytes(5000))

    with pytest.raises(ShardError, match=r"table\.parquet, row group 0: can't be read"):
        feed[0]


# Iterating in unusual ways


def test_two_iterations_at_once_under_pressure(tmp_path: Path) -> None:
    text = [str(n) * 20 for n in range(4000)]
    pq.write_table(
        pa.table({"n": np.arange(4000), "s": text}), tmp_path / "t.parquet", row_group_size=20
    )
    for seed in range(4):
        feed = load_dataset(
            tmp_path / "t.parquet",
            cache=CacheOptions(tmp_path / str(seed), budget_bytes=65_536),
            memory=MemoryOptions(held_bytes=1),
        )
        feed = feed.shuffle(seed, mode="full").batch(256)
        for one, other in zip(feed, feed, strict=True):
            assert (one["n"] == other["n"]).all()
            assert one["s"].tolist() == [text[n] for n in one["n"]]
        feed.close()


def test_packed_sequences_of_two_epochs_at_once_are_each_epochs_own(tmp_path: Path) -> None:
    tokens = pa.array(np.arange(4000).reshape(200, 20).tolist(), pa.list_(pa.int32()))
    feed = opened(tmp_path, pa.table({"tokens": tokens})).pack(64).batch(1)
    expected = [batch["tokens"].tolist() for batch in feed]
    feed.set_epoch(0)
    first = iter(feed)
    got = [next(first)["tokens"].tolist()]
    feed.set_epoch(5)
    next(iter(feed))
    got += [batch["tokens"].tolist() for batch in first]

    assert got == expected


def test_a_child_is_told_that_its_parents_iteration_stayed_behind(numbers: Dataset) -> None:
    batches = iter(numbers.batch(4))
    next(batches)
    child = os.fork()
    if not child:
        try:
            while True:
                next(batches)
        except OrderError:
            os._exit(0)
        finally:
            os._exit(1)

    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 0
    assert len([*batches]) == 24


def test_an_epoch_without_a_batch_is_not_repeated_for_ever(numbers: Dataset) -> None:
    with pytest.raises(OrderError, match="no batch to repeat"):
        next(iter(numbers.filter(pc.field("n") > 1000).batch(4).repeat()))
    with pytest.raises(OrderError, match="no batch to repeat"):
        next(iter(numbers.batch(200, drop_last=True).repeat()))


@pytest.mark.slow
@pytest.mark.parametrize("taken", [3, 8, 9, 10, 11, 13])
@pytest.mark.parametrize("workers", [2, 3])
def test_a_dataloader_resumes_over_repeated_epochs(
    tmp_path: Path, workers: int, taken: int
) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    feed = opened(tmp_path, pa.table({"n": np.arange(90)}), 10)

    def loader() -> Any:
        repeated = feed.shuffle(3).batch(10).to("torch").repeat(2)
        return stateful.StatefulDataLoader(repeated, batch_size=None, num_workers=workers)

    whole = [batch["n"].tolist() for batch in loader()]
    first = loader()
    batches = iter(first)
    got = [next(batches)["n"].tolist() for _ in range(taken)]
    state = first.state_dict()
    del batches
    second = loader()
    second.load_state_dict(state)
    got += [batch["n"].tolist() for batch in second]

    assert len(whole) == 18
    assert all(one != other for one, other in pairwise(whole))
    assert got == whole


# Arguments

_MISTAKES: dict[str, tuple[Callable[[Dataset], Any], str]] = {
    "a mode": (lambda d: d.shuffle(1, mode="ful"), "auto, full or windowed"),  # type: ignore[arg-type]
    "a seed": (lambda d: d.shuffle(None), "a seed is a whole number"),  # type: ignore[arg-type]
    "a batch": (lambda d: d.batch("8"), "a batch is a whole number"),  # type: ignore[arg-type]
    "no batch": (lambda d: d.batch(0), "at least 1"),
    "a limit": (lambda d: d.limit("3"), "a limit is a whole number"),  # type: ignore[arg-type]
    "a column": (lambda d: d["n"], "select_columns"),  # type: ignore[index]
    "a fraction": (lambda d: d[[1.7]], "whole numbers"),  # type: ignore[list-item]
    "None": (lambda d: d[None], "whole numbers"),  # type: ignore[index]
    "a mask": (lambda d: d[[True, False]], "100 booleans"),
    "a dtype": (lambda d: d.to("torch", dtype="nonsense"), "float16"),
    "a stop": (lambda d: interleave([d, d], stop="zz"), "first_exhausted"),  # type: ignore[arg-type]
    "a stop below 1": (lambda d: interleave([d, d], stop=-1), "number of steps"),
    "a part": (lambda d: interleave([d, 5]), "mixes datasets"),  # type: ignore[list-item]
    "an empty part": (
        lambda d: interleave([d, d.filter(pc.field("n") > 1000)], stop=5),
        "is empty",
    ),
    "a state": (lambda d: d.batch(4).load_state_dict(None), "not a state"),  # type: ignore[arg-type]
    "a step": (
        lambda d: d.batch(4).load_state_dict(d.batch(4).state_dict() | {"step": -3}),
        "not a state",
    ),
    "a cache": (lambda d: load_dataset(d.name, cache=5), "a folder or CacheOptions"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("mistake", "said"), _MISTAKES.values(), ids=_MISTAKES)
def test_a_mistake_is_told(numbers: Dataset, mistake: Callable[[Dataset], Any], said: str) -> None:
    with pytest.raises(PenstockError, match=said):
        mistake(numbers)


def test_rows_are_taken_by_a_mask(numbers: Dataset) -> None:
    mask = np.arange(100) % 10 == 3

    assert numbers[mask]["n"].tolist() == np.flatnonzero(mask).tolist()
    assert numbers[mask.tolist()]["n"].tolist() == np.flatnonzero(mask).tolist()
    assert numbers[np.zeros(100, bool)]["n"].tolist() == []


def test_a_rank_that_is_no_number_is_named(
    numbers: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "a")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OrderError, match="RANK=a"):
        len(numbers.batch(4))


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_an_arrow_file_in_object_storage_is_read_batch_by_batch(
    s3_lake: Lake, tmp_path: Path, compression: str | None
) -> None:
    rows = 3000
    table = pa.table(
        {
            "n": pa.array(range(rows), pa.int64()),
            "tags": pa.array([[i, None] if i % 3 else None for i in range(rows)]),
            "word": pa.array([f"w{i % 7}" for i in range(rows)]).dictionary_encode(),
            "half": pa.array([i / 2 for i in range(rows)], pa.float32()),
        }
    )
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=700)
    s3_lake.objects.put("files/some.arrow", sink.getvalue().to_pybytes())

    opened = load_dataset(
        f"{s3_lake.uri}/files/some.arrow",
        storage_options=s3_lake.storage_options,
        cache=tmp_path / "cache",
    )
    batches = list(opened.shuffle(seed=1).batch(256).to("polars"))

    frame = pl.concat(batches).sort("n")
    assert len(opened) == rows
    assert frame["n"].to_list() == list(range(rows))
    assert frame["word"].cast(pl.String).to_list() == table["word"].cast(pa.string()).to_pylist()
    assert frame["tags"].to_list() == table["tags"].to_pylist()
    assert frame["half"].to_list() == table["half"].to_pylist()


def test_an_arrow_stream_in_object_storage_says_what_to_do(s3_lake: Lake) -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"n": [1, 2, 3]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    s3_lake.objects.put("files/some.arrow", sink.getvalue().to_pybytes())

    with pytest.raises(ShardError, match=r"some\.arrow: no Arrow file: it has no footer"):
        load_dataset(f"{s3_lake.uri}/files", storage_options=s3_lake.storage_options)
