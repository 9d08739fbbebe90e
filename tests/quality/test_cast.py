"""Text to values: each text by itself, whatever stands around it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts import Column
from penstock.contracts.contract import Kind
from penstock.quality.cast import typed

_AT = datetime(2024, 3, 1, 10, 30, tzinfo=UTC)
_KNOWN: dict[Kind, dict[str, Any]] = {
    "int64": {
        "5": 5, " 5 ": 5, "5.0": 5, "5.": 5, " -5.000 ": -5, "+5": 5, "05": 5, ".0": None,
        "5.5": None, "5e1": None, "": None, "five": None, "9223372036854775808": None,
        "5.0.0": None,
    },
    "int32": {"2147483647.0": 2147483647, "2147483648": None, "1_000": None},
    "float64": {
        "1.5": 1.5, " 1.5 ": 1.5, "5e1": 50.0, "nan": None, "inf": None, "-inf": None,
        "1e400": None, "1,5": None, "": None, "-0.0": -0.0,
    },
    "timestamp": {
        "2024-03-01 10:30:00": _AT, " 2024-03-01T10:30:00 ": _AT, "2024-03-01 10:30": _AT,
        "2024-03-01T11:30:00+01:00": _AT, "2024-03-01 10:30:00Z": _AT,
        "2024-03-01": datetime(2024, 3, 1, tzinfo=UTC), "30.02.2024": None, "": None,
        "2024-03-01 10:30:00.000": _AT, "--024-01-02 03:04:05": None, "2024-02-30 10:30:00": None,
        "-0001-01-01": None, "+10000-01-01T00:00:00Z": None, "0000-12-31 23:59:59": None,
        "2024-03-01T10:30": _AT, "2024-03-01T11:30+01:00": _AT, "2024-03-01T10:30Z": _AT,
        "0001-01-01": datetime(1, 1, 1, tzinfo=UTC),
        "9999-12-31 23:59:59.999999": datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
        "9999-12-31T23:30:00-01:00": None, "0001-01-01T00:30:00+01:00": None,
    },
    "date": {
        "2024-03-01": date(2024, 3, 1), " 2024-03-01 ": date(2024, 3, 1), "2024-02-30": None,
        "0001-01-01": date(1, 1, 1), "9999-12-31": date(9999, 12, 31), "": None,
        "0000-12-31": None, "-0001-01-01": None, "+10000-01-01": None,
        "2024-03-01 00:00:00": date(2024, 3, 1), "2024-03-01T00:00": date(2024, 3, 1),
        " 2024-03-01 00:00:00.000000+00:00 ": date(2024, 3, 1),
        "2024-03-01T00:00:00Z": date(2024, 3, 1), "2024-03-01 00:00:01": None,
        "2024-03-01 10:30:00": None, "2024-03-01 00:00:00.5": None,
        "2024-03-01 00:00:00+01:00": None, "2024-02-30 00:00:00": None, "00:00:00": None,
    },
}  # fmt: skip


def _values(kind: Kind, texts: list[str | None]) -> list[Any]:
    frame = pl.DataFrame({"raw": texts}, schema={"raw": pl.String})
    return frame.select(typed(Column("value", kind, source_name="raw"))).to_series().to_list()


@pytest.mark.parametrize("kind", [*_KNOWN])
def test_what_texts_are_worth(kind: Kind) -> None:
    assert _values(kind, [*_KNOWN[kind]]) == [*_KNOWN[kind].values()]


@given(st.data(), st.sampled_from([*_KNOWN]))
def test_a_texts_value_is_its_own(data: st.DataObject, kind: Kind) -> None:
    texts = data.draw(st.lists(st.sampled_from([*_KNOWN[kind], None]), max_size=8))
    assert _values(kind, texts) == [_KNOWN[kind].get(text or "") for text in texts]
