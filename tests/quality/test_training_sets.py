from __future__ import annotations

import io

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ContractError
from penstock.quality import inspect
from penstock.quality.near import (
    difference_hashes,
    signatures,
    similar_images,
    similar_texts,
)
from penstock.quality.training_sets import Finding, correlation_ratio

_RNG = np.random.default_rng(5)
_ROWS = 3000


def _frame(**columns: object) -> pl.DataFrame:
    split = np.where(np.arange(_ROWS) < 2000, "train", "test")
    label = _RNG.normal(size=_ROWS)
    return pl.DataFrame({"split": split, "label": label, **columns})


def _found(frame: pl.DataFrame, *features: str, **more: list[str]) -> dict[str, Finding]:
    found = inspect(frame.lazy(), features=features, label="label", **more)  # type: ignore[arg-type]
    return {f"{each.kind}:{each.column}:{each.split}": each for each in found}


def test_a_sound_training_set_has_no_findings() -> None:
    frame = _frame(x=_RNG.normal(size=_ROWS), n=_RNG.integers(0, 9, _ROWS))
    weak = frame.with_columns(weak=pl.col("label") + pl.col("x"))

    assert _found(weak, "x", "n", "weak") == {}


def test_features_that_say_nothing() -> None:
    frame = _frame(
        none=pl.Series([None] * _ROWS, dtype=pl.Float64),
        nan=np.full(_ROWS, np.nan),
        one=np.ones(_ROWS),
        late=pl.Series([None] * 2000 + [1.0] * 500 + [2.0] * 500),
        gone=pl.Series([*_RNG.normal(size=2000)] + [None] * 1000),
    )

    assert _found(frame, "none", "nan", "one", "late", "gone").keys() == {
        "mostly_null:none:train",
        "mostly_null:nan:train",
        "constant:one:train",
        "mostly_null:late:train",
        "nulls_differ:late:test",
        "nulls_differ:gone:test",
    }


def test_leaks_are_found_whatever_their_form() -> None:
    frame = _frame(noise=_RNG.normal(size=_ROWS))
    frame = frame.with_columns(
        copy=pl.col("label"),
        scaled=-3 * pl.col("label") + 0.05 * pl.col("noise"),
        bent=pl.col("label") ** 3,
        some=0.5 * pl.col("label") + pl.col("noise"),
    )

    assert _found(frame, "noise", "copy", "scaled", "bent", "some").keys() == {
        "leakage:copy:train",
        "leakage:scaled:train",
        "leakage:bent:train",
    }


def test_features_that_tell_the_time() -> None:
    days = np.arange(_ROWS) // 10
    frame = _frame(
        noise=_RNG.normal(size=_ROWS), counter=np.arange(_ROWS) * 1.0, weekday=days % 7 * 1.0
    ).with_columns(at=pl.Series(np.datetime64("2024-01-01T00:00:00", "us") + days * 86_400_000_000))

    names = ("noise", "counter", "weekday")

    assert _found(frame, *names, time="at").keys() == {"tells_time:counter:train"}
    assert _found(frame.with_columns(pl.col("at").dt.date()), *names, time="at").keys() == {
        "tells_time:counter:train"
    }
    assert _found(frame, *names) == {}
    with pytest.raises(ContractError, match="column noise is Float64, not a time"):
        _found(frame, time="noise")


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_chance_tells_little(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert correlation_ratio(rng.normal(size=200), rng.normal(size=200)) < 0.5
    assert correlation_ratio(rng.normal(size=50), rng.normal(size=50)) == 0
    x = rng.normal(size=500)
    assert correlation_ratio(x, np.abs(x)) > 0.9


def test_classes_out_of_balance() -> None:
    train = ["a"] * 1000 + ["b"] * 1000
    frame = _frame().with_columns(label=pl.Series(train + ["a"] * 950 + ["c"] * 50))

    found = _found(frame)

    assert found["label_balance:label:test"].split == "test"
    messages = " ".join(each.message for each in inspect(frame.lazy(), features=[], label="label"))
    assert "label is a in 95.0% of test, and in 50.0% of train" in messages
    assert "label is never c in train" in messages


def test_groups_and_rows_that_splits_share() -> None:
    frame = _frame(
        person=np.where(np.arange(_ROWS) < 2900, np.arange(_ROWS), np.arange(_ROWS) - 2900),
        x=np.where(np.arange(_ROWS) < 2800, np.arange(_ROWS), np.arange(_ROWS) - 2800) * 1.0,
    )

    found = _found(frame, "x", groups=["person"])

    assert found["group_overlap:person:test"].value == 0.1
    assert found["duplicates::test"].value == 0.2


_WORDS = np.array([f"word{number}" for number in range(4000)])


def _text(seed: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(_WORDS, 60))


def test_near_texts_across_splits() -> None:
    texts = [_text(seed) for seed in range(_ROWS)]
    texts[2500] = texts[3].replace(" word", "  WORD", 5) + " and one more"
    texts[2600] = texts[2601]  # within a split: no finding

    found = _found(_frame(text=texts), texts=["text"])

    assert list(found) == ["near_duplicates:text:test"]
    assert found["near_duplicates:text:test"].value == 1 / 1000
    assert "rows 3 and 2,500" in found["near_duplicates:text:test"].message


@given(st.lists(st.text(max_size=30).filter(str.strip), min_size=1, max_size=12))
@settings(deadline=None)
def test_a_signature_depends_on_its_text_alone(texts: list[str]) -> None:
    together = signatures(pl.Series(texts))
    alone = np.concatenate([signatures(pl.Series([text])) for text in texts])

    assert (together == alone).all()
    twins = similar_texts(np.concatenate([together, together]))
    pairs = {tuple(pair) for pair in twins.tolist()}
    assert pairs >= {(place, place + len(texts)) for place in range(len(texts))}


def test_what_says_nothing_is_near_nothing() -> None:
    assert not len(similar_texts(signatures(pl.Series(["", None, "  ", ""]))))
    image_module = pytest.importorskip("PIL.Image")
    flat = list[bytes | None]()
    for colour in (0, 255):
        file = io.BytesIO()
        image_module.new("L", (32, 32), colour).save(file, "PNG")
        flat.append(file.getvalue())
    assert not len(similar_images(difference_hashes(flat)))


def test_one_text_in_very_many_rows() -> None:
    texts = [_text(seed) for seed in range(_ROWS)]
    for place in (*range(1500, 1900), *range(2500, 2550)):
        texts[place] = texts[0]

    found = _found(_frame(text=texts), texts=["text"])

    assert found["near_duplicates:text:test"].value == 0.05


@pytest.mark.parametrize(
    ("frame", "columns", "told"),
    [
        (pl.DataFrame({"split": ["a"], "label": [1]}), {}, "no row has the split 'train'"),
        (pl.DataFrame({"split": [None], "label": [1]}), {}, "there are none"),
        (pl.DataFrame({"split": ["train"], "label": [[1]]}), {}, "not a number or text"),
        (
            pl.DataFrame({"split": ["train"], "label": [1], "s": ["x"]}),
            {"features": ["s"]},
            "column s is String, not a number",
        ),
    ],
)
def test_what_cant_be_looked_over_is_told(
    frame: pl.DataFrame, columns: dict[str, list[str]], told: str
) -> None:
    with pytest.raises(ContractError, match=told):
        inspect(frame.lazy(), **{"features": [], "label": "label", **columns})  # type: ignore[arg-type]


def test_odd_labels_and_splits() -> None:
    for label in ([True, False, None], [1, 1, 2], ["a", None, "b"], [np.nan, 1.0, 2.0]):
        frame = pl.DataFrame({"split": [1, 2, None], "label": label, "x": [1.0, 2.0, 3.0]})
        frame = frame.with_columns(split=pl.col("split").replace_strict({1: "train", 2: "test"}))
        inspect(frame.lazy(), features=["x", "x"], label="label")


def test_signatures_agree_as_often_as_texts_overlap() -> None:
    words = [f"{number:05d}" for number in range(2000)]
    one, other = " ".join(words[:1000]), " ".join(words[200:1200])

    first, second = signatures(pl.Series([one, other]))

    assert np.mean(first == second) == pytest.approx(2 / 3, abs=0.2)


def test_near_images() -> None:
    image_module = pytest.importorskip("PIL.Image")
    pictures = list[bytes | None]()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        small = image_module.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8))
        for quality in (95, 40):
            file = io.BytesIO()
            small.resize((96, 96), image_module.Resampling.BICUBIC).save(
                file, "JPEG", quality=quality
            )
            pictures.append(file.getvalue())
    pictures += [None, b"no image", b"nor this"]

    pairs = similar_images(difference_hashes(pictures))

    assert [tuple(pair) for pair in pairs.tolist()] == [(2 * n, 2 * n + 1) for n in range(12)]


def test_a_sample_is_the_same_each_time_and_bounded() -> None:
    frame = _frame(x=_RNG.normal(size=_ROWS)).with_columns(copy=pl.col("label"))
    lazy = frame.lazy()

    found = [inspect(lazy, features=["copy"], label="label", sample=500) for _ in range(2)]

    assert found[0] == found[1]
    assert [each.kind for each in found[0]] == ["leakage"]


def test_a_column_that_isnt_there_is_told() -> None:
    with pytest.raises(ContractError, match="no column y"):
        inspect(_frame().lazy(), features=["y"], label="label")
