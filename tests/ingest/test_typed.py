"""Values of formats with types: each becomes text, and what can't be one stops at its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from penstock import Column, Contract, validate
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


_TOO_LATE = (1 << 63) - 1
_ODD_TIMES = {
    "timestamp[us]": (pa.timestamp("us"), _TOO_LATE, "9223372036854775807 us since 1970-01-01"),
    "timestamp[s]": (pa.timestamp("s"), _TOO_LATE, "9223372036854775807 s since 1970-01-01"),
    "timestamp[ms, UTC]": (
        pa.timestamp("ms", "UTC"),
        -(1 << 63),
        "-9223372036854775808 ms since 1970-01-01",
    ),
    "year 0": (pa.timestamp("s"), -62_135_596_801, "-62135596801 s since 1970-01-01"),
    "year 10000": (pa.timestamp("s"), 253_402_300_800, "253402300800 s since 1970-01-01"),
    "date32": (pa.date32(), (1 << 31) - 1, "2147483647 days since 1970-01-01"),
    "date64": (pa.date64(), 253_402_300_800_000, "253402300800000 ms since 1970-01-01"),
    "time64": (pa.time64("us"), 86_400_000_000, "86400000000 us since midnight"),
}


@pytest.mark.parametrize("name", [*_ODD_TIMES])
def test_a_time_that_no_calendar_has_rejects_its_row_alone(
    shop: Shop, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    kind, value, text = _ODD_TIMES[name]
    values = pa.array([1, value, None], f"int{kind.bit_width}").view(kind)
    wanted = "date" if pa.types.is_date(kind) and not pa.types.is_date64(kind) else "timestamp"
    columns = (Column("id", "string"), Column("at", "timestamp"), Column("odd", wanted))
    shop = shop.with_source(contract=Contract("shop/orders", columns, "at"))
    order = {"id": ["o1", "o2", "o3"], "at": ["2024-03-01"] * 3}
    nested: Any = pa.MapArray.from_arrays([0, 1, 2, 2], pa.array(["k", "k"]), values[:2])
    listed: Any = pa.ListArray.from_arrays(
        [0, 1, 2, 3], pa.StructArray.from_arrays([values], ["x"])
    )
    table = pa.table({**order, "odd": values, "map": nested, "list": listed})
    _arrow(table, shop.raw / "a")

    report = ingest(shop.lake, shop.source)
    run = validate(shop.lake, shop.source)

    assert report.failed == {}
    raw = shop.rows("shop/orders_raw").sort("id")
    assert raw["odd"][1] == text
    rescued = [json.loads(line) for line in raw["_rescued"]]
    assert json.loads(rescued[1]["map"]) == {"k": text}
    assert json.loads(rescued[1]["list"]) == [{"x": text}]
    of_time = not pa.types.is_time(kind)
    assert (run.rows_accepted, run.rows_rejected) == ((2, 1) if of_time else (1, 2))
    assert "panicked" not in capfd.readouterr().err


_UUID: Any = pa.ExtensionArray.from_storage(
    pa.uuid(), pa.array([b"0123456789abcdef"], pa.binary(16))
)
_DECIMAL: Any = pa.array([Decimal("1.5")], pa.decimal256(50, 2))
_TEXTS: dict[str, tuple[Any, str]] = {
    "bytes in a list": (pa.array([[b"\0\xff", None]]), '["00ff",null]'),
    "bytes in a struct": (pa.array([{"x": b"\1", "y": 1}]), '{"x":"01","y":1}'),
    "bytes in a map": (
        pa.array([[("k", b"\1")]], pa.map_(pa.string(), pa.large_binary())),
        '{"k":"01"}',
    ),
    "bytes of a fixed length in a list of one": (
        pa.array([[b"ab"]], pa.list_(pa.binary(2), 1)),
        '["6162"]',
    ),
    "bytes in a dictionary": (pa.array([b"\1"]).dictionary_encode(), "01"),
    "decimal256": (_DECIMAL, "1.50"),
    "decimal256 in a list": (pa.ListArray.from_arrays([0, 1], _DECIMAL), '["1.50"]'),
    "JSON": (pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a":1}'])), '{"a":1}'),
    "UUID": (_UUID, b"0123456789abcdef".hex()),
    "UUID in a struct": (
        pa.StructArray.from_arrays([_UUID], ["x"]),
        json.dumps({"x": b"0123456789abcdef".hex()}, separators=(",", ":")),
    ),
    "whole float": (pa.array([1e16]), "10000000000000000.0"),
    "whole float to the last digit": (pa.array([-(2.0**62)]), "-4611686018427387904.0"),
    "float past whole numbers": (pa.array([2.0**63]), "9.223372036854776e+18"),
    "float of four bytes": (pa.array([2.0**60], pa.float32()), "1152921504606846976.0"),
    "time": (pa.array([time(1, 2, 3, 456)]), "01:02:03.000456"),
}


@pytest.mark.parametrize("name", [*_TEXTS])
@pytest.mark.parametrize("column", ["product", "note"])
def test_values_of_every_type_have_a_text(
    shop: Shop, capfd: pytest.CaptureFixture[str], name: str, column: str
) -> None:
    values, text = _TEXTS[name]
    order = {"id": ["o1"], "product": ["p"], "units": [1], "at": ["2024-03-01"]}
    _arrow(pa.table({**order, column: values}), shop.raw / "a")

    report = ingest(shop.lake, shop.source)

    assert report.failed == {}
    (found,) = shop.rows("shop/orders_raw").rows(named=True)
    assert (found[column] if column in found else json.loads(found["_rescued"])[column]) == text
    assert "panicked" not in capfd.readouterr().err
