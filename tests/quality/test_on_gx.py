from __future__ import annotations

import polars as pl
import pytest

from penstock import contracts as c
from penstock.errors import ContractError
from penstock.quality import check

pytest.importorskip("great_expectations", reason="Great Expectations is not installed")
_CLASSES = {"values": ["a", "b"], "weights": [0.5, 0.5]}


@pytest.mark.parametrize(("texts", "holds"), [("abab", True), ("aaab", False), ("abc", False)])
def test_divergence_from_classes(texts: str, holds: bool) -> None:
    frame = pl.DataFrame({"x": [*texts, None]})

    kl = c.expect_column_kl_divergence_to_be_less_than("x", _CLASSES, 0.05)
    result = check(frame, [kl]).results[0]

    assert result.success is holds
    if texts == "aaab":
        assert result.observed == pytest.approx(0.1308, abs=1e-4)  # 0.75 ln 1.5 + 0.25 ln 0.5


def test_divergence_from_bins() -> None:
    frame = pl.DataFrame({"x": [0.5, 1.5, 1.6, 2.5]})
    bins = {"bins": [0.0, 1.0, 2.0, 3.0], "weights": [0.25, 0.5, 0.25]}

    kl = c.expect_column_kl_divergence_to_be_less_than("x", bins, 0.01)

    assert check(frame, [kl]).results[0].success


def test_what_is_no_distribution_is_refused() -> None:
    for odd in ({"values": ["a"], "weights": [0.5]}, {"weights": [1.0]}, {}):
        with pytest.raises(ContractError, match="partition_object"):
            c.expect_column_kl_divergence_to_be_less_than("x", odd, 0.1)
    with pytest.raises(ContractError, match="threshold"):
        c.expect_column_kl_divergence_to_be_less_than("x", _CLASSES, -1)
