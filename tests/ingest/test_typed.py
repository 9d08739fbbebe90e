"""Values of formats with types: each becomes text, and what can't be one stops at its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from penstock import validate
from penstock.ingest import ingest
from tests.conftest import Shop

_NOT_UTF8: Any = pa.Array.from_buffers(
    pa.string(),
    2,
    [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xff\xfe")],
)
"""Two texts, of which the second is none."""
_DICTIONARY: Any = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), _NOT_UTF8)
_LARGE: Any = pa.Array.from_buffers(
    pa.large_string(), 2, _NOT_UTF8.view(pa.binary()).cast(pa.large_binary()).buffers()
)
_VIEW: Any = _NOT_UTF8.view(pa.binary()).cast(pa.binary_view())
_ORDER = {"product": ["p", "p"], "units": [1, 1], "at": ["2024-03-01", "2024-03-01"]}


def _orders(**columns: Any) -> pa.Table:
    return pa.table({"id": ["o1", "o2"], **_ORDER, **columns})


def _parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path.with_suffix(".parquet"))


def _arrow(table: pa.Table, path: Path) -> None:
    feather.write_feather(table, str(path.with_suffix(".arrow")))


def _orc(table: pa.Table, path: Path) -> None:
    orc.write_table(table, path.with_suffix(".orc"))


@pytest.mark.parametrize("write", [_parquet, _arrow, _orc], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["id", "note"])
def test_text_that_is_no_utf8_stops_its_file_and_no_other(
    shop: Shop, write: Callable[[pa.Table, Path], None], name: str
) -> None:
    write(_orders(**{name: _NOT_UTF8}), shop.raw / "bad")
    shop.write_orders("good.csv", 2)

    report = ingest(shop.lake, shop.source)

    (error,) = report.failed.values()
    assert f": column {name}, row 2: text that is no UTF-8; write the file anew" in error
    assert validate(shop.lake, shop.source).rows_accepted == 2


@pytest.mark.parametrize(
    ("values", "where"),
    [
        pytest.param(_LARGE, "column note, row 2", id="large"),
        pytest.param(
            pa.Array.from_buffers(pa.string_view(), 2, _VIEW.buffers()),
            "column note, row 2",
            id="view",
        ),
        pytest.param(_DICTIONARY, "column note, row 2", id="dictionary"),
        pytest.param(
            pa.StructArray.from_arrays([_NOT_UTF8], names=["x"]), "column note", id="struct"
        ),
        pytest.param(pa.ListArray.from_arrays([0, 1, 2], _NOT_UTF8), "column note", id="list"),
        pytest.param(
            pa.MapArray.from_arrays([0, 1, 2], pa.array(["k", "k"]), _DICTIONARY),
            "column note",
            id="dictionary in a map",
        ),
    ],
)
def test_it_is_found_in_values_of_every_type(shop: Shop, values: Any, where: str) -> None:
    _arrow(_orders(note=values), shop.raw / "bad")

    report = ingest(shop.lake, shop.source)

    assert report.failed["bad.arrow"].startswith(f"bad.arrow: {where}: text that is no UTF-8")
