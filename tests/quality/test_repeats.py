"""Rows that repeat earlier ones of their file: found as they come, and looked at ahead."""

from __future__ import annotations

from unittest import mock

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.ingest import ingest
from penstock.quality import repeats as repeats_module
from penstock.quality import validate
from penstock.quality import validation as validation_module
from penstock.quality.repeats import Repeats
from tests.conftest import Shop

_CELL = st.tuples(st.integers(0, 3), st.none() | st.integers(0, 2))


@settings(deadline=None)
@given(
    files=st.lists(st.lists(_CELL, max_size=30), max_size=4),
    cuts=st.lists(st.integers(1, 20), min_size=1, max_size=10),
    held=st.sampled_from([1, 7, 1000]),
    slot_bits=st.sampled_from([0, 2, 20]),
)
def test_both_ways_mark_all_but_the_first_of_equal_rows(
    files: list[list[tuple[int, int | None]]], cuts: list[int], held: int, slot_bits: int
) -> None:
    cells = [(f"{number}.csv", *cell) for number, file in enumerate(files) for cell in file]
    rows = pl.DataFrame(
        cells, schema={"_source_file": pl.String, "x": pl.Int64, "y": pl.Int64}, orient="row"
    )
    chunks, begin = list[pl.DataFrame](), 0
    while begin < rows.height:
        count = cuts[len(chunks) % len(cuts)]
        chunks.append(rows[begin : begin + count])
        begin += count
    expected, seen = list[bool](), set[tuple[object, ...]]()
    for row in rows.rows():
        expected.append(row in seen)
        seen.add(row)

    as_they_come, ahead = Repeats(["x", "y"]), Repeats(["x", "y"])
    with mock.patch.multiple(repeats_module, _HELD=held, _SLOT_BITS=slot_bits):
        for chunk in chunks:
            ahead.look_ahead(ahead.keys(chunk))
        for way in (as_they_come, ahead):
            marks = [way.mark(way.prepared(chunk)) for chunk in chunks]
            assert [mark for each in marks for mark in each] == expected


def test_a_long_file_is_told_apart_as_a_short_one_is(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation_module, "PASS_ROWS", 7)
    monkeypatch.setattr(validation_module, "LONG", 10)
    monkeypatch.setattr(repeats_module, "_HELD", 16)
    shop.write_orders("a.csv", 40)
    text = (shop.raw / "a.csv").read_text().splitlines()
    (shop.raw / "b.csv").write_text("\n".join([*text, *text[5:9], text[20]]) + "\n")
    ingest(shop.lake, shop.source)

    look = mock.patch.object(Repeats, "look_ahead", autospec=True, side_effect=Repeats.look_ahead)
    with look as looked:
        done = validate(shop.lake, shop.source)

    assert looked.called
    assert (done.rows_accepted, done.rows_rejected) == (80, 5)
    rejected = shop.rows(f"{shop.source.contract.table}__rejected")
    assert rejected.select("_source_file", "_source_row").sort("_source_row").rows() == [
        ("b.csv", 41 + at) for at in range(5)
    ]
