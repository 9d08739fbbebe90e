from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ContractError, SourceError
from penstock.ingest import ingest
from penstock.quality import Limits, drift, profile, profile_of, validate
from penstock.quality import data as data_module
from penstock.quality.data import in_pieces
from penstock.quality.drifting import chi_square, jensen_shannon, population_stability
from penstock.quality.profiling import Profile, batch_profiles
from penstock.tables import Table
from tests.conftest import Shop

_RNG = np.random.default_rng(3)


def test_a_profile_counts_what_is_there() -> None:
    frame = pl.DataFrame(
        {
            "x": [1.0, 2.0, None, math.nan, math.inf, 0.0],
            "s": ["a", "it's", "a", None, "", "ünï"],
            "f": [True, False, True, None, True, True],
            "t": pl.Series(["2024-01-01"] * 5 + [None]).str.to_date(),
            "b": [b"", b"xyz", None, b"x", b"x", b"x"],
            "l": [[1], [], None, [1, 2], [1], [1]],
            "o": [{"a": 1}, None, {"a": 1}, {"a": 1}, {"a": 1}, {"a": 1}],
        }
    )

    found = profile(frame)

    assert found.rows == 6
    x = found.columns["x"]
    assert (x.nulls, x.nan, x.count(6), x.zeros, x.mean) == (1, 2, 3, 1, 1.0)
    assert (x.quantiles[0], x.quantiles[50], x.quantiles[-1]) == (0.0, 1.0, 2.0)
    s = found.columns["s"]
    assert (s.nulls, s.distinct, s.lengths) == (1, 4, (0, 9 / 5, 4))
    assert s.frequent == (("a", 2), ("", 1), ("it's", 1), ("ünï", 1))
    assert found.columns["f"].frequent == (("true", 4), ("false", 1))
    assert found.columns["t"].quantiles[0] == 1704067200.0
    assert found.columns["b"].lengths == (0, 6 / 5, 3)
    assert found.columns["l"].lengths == (0, 1.0, 2)
    assert (found.columns["o"].kind, found.columns["o"].nulls) == ("other", 1)
    assert Profile.from_json(found.to_json()) == found


def test_a_personal_column_keeps_no_values() -> None:
    frame = pl.DataFrame({"name": ["Ada", "Ada", None], "age": [3677, 3678, 3679]})

    found = profile(frame, personal={"name", "age"})

    assert "Ada" not in found.to_json() and "367" not in found.to_json()
    assert (found.columns["name"].nulls, found.columns["name"].distinct) == (1, 1)


@pytest.mark.parametrize("frame", [pl.DataFrame({"x": []}), pl.DataFrame({"x": [None, None]})])
def test_nothing_has_a_profile_too(frame: pl.DataFrame) -> None:
    found = profile(frame.cast(pl.Float64))

    assert found.rows == frame.height
    assert found.columns["x"].quantiles == ()
    assert not drift(found, found).has_drifted


def test_rows_are_picked_by_sql() -> None:
    frame = pl.DataFrame({"split": ["train", "test"], "x": [1, 2]})

    assert profile(frame, where="split = 'test'").columns["x"].mean == 2
    with pytest.raises(ContractError, match="is not SQL of these rows"):
        profile(frame, where="nosuch = 1")
    with pytest.raises(ContractError, match="of many rows"):
        profile(frame, where="x > AVG(x)")
    with pytest.raises(ContractError, match="no column y; there are split, x"):
        profile(frame, columns=["y"])


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.sampled_from(["normal", "lognormal", "integers"]))
def test_quantiles_are_near_the_true_ones(seed: int, how: str) -> None:
    rng = np.random.default_rng(seed)
    draw = {"normal": rng.normal, "lognormal": rng.lognormal}.get(how)
    values = draw(size=30_000) if draw else rng.integers(0, 1000, 30_000).astype(float)

    quantiles = np.array(profile(pl.DataFrame({"x": values})).columns["x"].quantiles)

    # By rank: of so many values at most each of them, the share is off by less than 1 %.
    shares = np.searchsorted(np.sort(values), quantiles, side="right") / len(values)
    assert np.abs(shares - np.linspace(0, 1, 101)).max() < 0.012


_SHARES = st.lists(st.floats(0, 1), min_size=2, max_size=8).filter(lambda s: sum(s) > 0.1)


@given(_SHARES, _SHARES)
def test_measures_are_distances(first: list[float], second: list[float]) -> None:
    size = min(len(first), len(second))
    p, q = (_normal(each[:size]) for each in (first, second))

    assert population_stability(p, q) >= 0
    assert population_stability(p, p) == pytest.approx(0)
    assert 0 <= jensen_shannon(p, q) <= 1 + 1e-9
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p))
    assert jensen_shannon(p, p) == pytest.approx(0, abs=1e-6)


def _normal(values: Sequence[float]) -> np.ndarray:
    array = np.array(values) + 1e-12
    return array / array.sum()


def test_the_measures_are_those_of_the_textbook() -> None:
    p, q = np.array([0.5, 0.5]), np.array([0.9, 0.1])

    assert population_stability(p, q) == pytest.approx(0.4 * math.log(1.8) - 0.4 * math.log(0.2))
    assert jensen_shannon(p, q) == pytest.approx(0.383136, abs=1e-6)  # as scipy's, base 2
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1
    statistic, chance = chi_square(p, q, (100, 100))
    assert statistic == pytest.approx(38.0952, abs=1e-3)  # as scipy.stats has it
    assert chance < 1e-6
    statistic, chance = chi_square(p, np.array([0.6, 0.4]), (100, 100))
    assert (statistic, chance) == (pytest.approx(2.0202, abs=1e-4), pytest.approx(0.1552, rel=0.05))


def test_what_moved_is_told_and_what_did_not_is_not() -> None:
    def rows(shift: float, null: float, names: list[str]) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "still": _RNG.normal(size=5000),
                "moved": _RNG.normal(shift, size=5000),
                "emptied": pl.Series(np.where(_RNG.random(5000) < null, np.nan, 1.0)).fill_nan(
                    None
                ),
                "name": _RNG.choice(names, 5000),
                "unit": pl.Series([1] * 5000),
            }
        )

    before, after = profile(rows(0, 0, ["a", "b"])), profile(rows(1, 0.5, ["b", "c"]))
    found = {column.column: column for column in drift(before, after).columns}

    assert {name for name, column in found.items() if column.has_drifted} == {
        "moved",
        "emptied",
        "name",
    }
    assert found["moved"].ks == pytest.approx(0.383, abs=0.04)  # of two normals one apart
    assert found["still"].psi < 0.02
    assert found["emptied"].nulls == (0.0, pytest.approx(0.5, abs=0.03))
    assert not drift(before, after, Limits(psi=1e9, js=None, ks=None)).has_drifted


def test_of_many_values_the_frequent_ones_may_differ_by_chance() -> None:
    names = np.array([f"n{number}" for number in range(3000)])
    one, other = (profile(pl.DataFrame({"x": _RNG.choice(names, 20_000)})) for _ in range(2))
    skewed = profile(pl.DataFrame({"x": _RNG.choice(names[:40], 20_000)}))

    assert not drift(one, other).has_drifted
    assert drift(one, skewed).has_drifted
    assert drift(skewed, one).has_drifted


@pytest.mark.parametrize("share", [0.0, 0.5, 0.92, 0.95, 1.0])
@pytest.mark.parametrize("other", [0.0, 0.5, 0.92, 1.0])
def test_a_value_that_nearly_all_have_may_move_either_way(share: float, other: float) -> None:
    before, after = (
        profile(pl.DataFrame({"x": [1] * int(10_000 * s) + [0] * int(10_000 * (1 - s))}))
        for s in (share, other)
    )

    found = drift(before, after)

    assert found.has_drifted is (share != other and not {share, other} <= {0.92, 0.95})
    assert {*before.columns["x"].quantiles, *after.columns["x"].quantiles} <= {0.0, 1.0}


def test_values_that_are_all_replaced_have_moved() -> None:
    before, after = (
        profile(pl.DataFrame({"x": [f"{first}{n}" for n in _RNG.integers(0, 60, 10_000)]}))
        for first in "ab"
    )

    assert drift(before, after).has_drifted


def test_lengths_of_lists_and_bytes_move() -> None:
    def rows(longest: int) -> pl.DataFrame:
        items = [list(range(n)) for n in _RNG.integers(1, longest, 3000)]
        return pl.DataFrame({"tokens": items, "image": [bytes(each) for each in items]})

    one, other, longer = profile(rows(20)), profile(rows(20)), profile(rows(60))

    assert one.columns["tokens"].quantiles[0] == 1.0
    assert not drift(one, other).has_drifted
    assert [c.has_drifted for c in drift(one, longer).columns] == [True, True]
    column = replace(one.columns["image"], quantiles=())  # as was kept before
    kept = replace(one, columns=one.columns | {"image": column})
    assert [c.has_drifted for c in drift(kept, other).columns] == [False, False]


@pytest.mark.parametrize("values", [["a", "b"], [True, False], [1.0, 2.0], [[1], []], [b"", b"x"]])
def test_a_column_that_is_masked_since_has_not_moved(values: list[object]) -> None:
    frame = pl.DataFrame({"c": values * 500})
    shown, masked = profile(frame), profile(frame, personal=["c"])

    assert not drift(shown, masked).has_drifted
    assert not drift(masked, shown).has_drifted


def test_names_and_types_that_are_odd() -> None:
    frame = pl.DataFrame(
        {
            "^.*$": [1, 2],
            "*": ["x", "y"],
            'a "b"': [1, 2],
            "A": [1, 2],
            "a": [3, 4],
            "array": pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int64, 2)),
            "late": pl.Series([2**60, 1]).cast(pl.Datetime("us")),
            "long": ["z" * 5000, "y"],
        }
    )

    found = profile(frame)

    assert (found.columns["A"].mean, found.columns["a"].mean) == (1.5, 3.5)
    assert found.columns["*"].frequent == (("x", 1), ("y", 1))
    assert max(len(text) for text, _ in found.columns["long"].frequent) == 200
    assert not drift(found, found).has_drifted
    assert profile(pl.DataFrame()).rows == 0


def test_very_many_columns() -> None:
    frame = pl.DataFrame({f"c{number}": ["a", "b"] for number in range(400)})

    assert len(profile(frame).columns) == 400


def test_few_rows_are_no_proof() -> None:
    one, other = (profile(pl.DataFrame({"x": _RNG.normal(size=12)})) for _ in range(2))

    assert not drift(one, other).has_drifted


def test_columns_that_came_went_or_changed_are_told() -> None:
    before = profile(pl.DataFrame({"a": [1], "b": [1], "c": [1]}))
    after = profile(pl.DataFrame({"a": [1], "b": ["x"], "d": [1]}))

    found = drift(before, after)

    assert (found.added, found.removed, found.changed) == (("d",), ("c",), ("b",))
    assert found.has_drifted


def test_limits_that_cant_be_are_refused() -> None:
    with pytest.raises(ContractError, match="one at least"):
        Limits(psi=None, js=None, ks=None)
    with pytest.raises(ContractError, match="from 0 on"):
        Limits(psi=-1)


def test_a_batchs_profile_is_of_its_own_rows_and_kept(shop: Shop) -> None:
    for number, rows in enumerate((5, 7)):
        shop.write_orders(f"{number}.csv", rows, first=100 * number)
        ingest(shop.lake, shop.source)
        validate(shop.lake, shop.source)

    profiles = batch_profiles(shop.lake, "shop/orders")
    whole = profile_of(shop.lake, "shop/orders")

    assert [each.rows for each in profiles] == [5, 7]
    assert whole.rows == 12
    assert whole.columns["email"].is_masked
    assert not whole.columns["email"].frequent
    shop.write_orders("0.csv", 2, first=500)  # the other file's rows are written anew
    ingest(shop.lake, shop.source)
    validate(shop.lake, shop.source)
    assert [each.rows for each in batch_profiles(shop.lake, "shop/orders")] == [5, 7, 2]
    assert profile_of(shop.lake, "shop/orders", whole.version) == whole
    key = f"profiles/shop/orders/{whole.version}.json"
    assert Profile.from_json(shop.lake.objects.get(key)) == whole
    shop.lake.objects.put(key, replace(whole, rows=99).to_json().encode())
    assert profile_of(shop.lake, "shop/orders", whole.version).rows == 99
    assert profile(Table(shop.lake, "shop/orders")).columns["email"].is_masked


def test_files_are_profiled_piece_by_piece_as_if_they_were_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_module, "PIECE_BYTES", 1)
    rng = np.random.default_rng(5)
    frame = pl.DataFrame(
        {
            "few": rng.integers(0, 9, 900),
            "text": [f"t{n % 13}" for n in range(900)],
        }
    )
    for number, part in enumerate(frame.iter_slices(100)):
        part.write_parquet(tmp_path / f"{number}.parquet")
    assert len(in_pieces(tmp_path, frame.schema)) == 9

    for where in (None, "few > 3 AND text <> 't5'"):
        found = profile(tmp_path, where=where)
        whole = profile(frame, where=where)
        for name, column in found.columns.items():  # sums of floats vary with their order
            assert replace(column, std=None) == replace(whole.columns[name], std=None)


@pytest.mark.parametrize("personal", [(), ("a",)])
def test_files_of_other_columns_are_a_source_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, personal: tuple[str, ...]
) -> None:
    monkeypatch.setattr(data_module, "PIECE_BYTES", 1)
    pl.DataFrame({"a": [1, 2], "b": [1, 2]}).write_parquet(tmp_path / "1.parquet")
    pl.DataFrame({"a": [4]}).write_parquet(tmp_path / "2.parquet")
    with pytest.raises(SourceError, match=r"can't be read$" if personal else "can't be read: .*b"):
        profile(tmp_path, personal=personal)
