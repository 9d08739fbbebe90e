"""The generated sample: the same each time, and dirty in the proportions of the real files."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from pipelines import retail_sample
from pipelines.retail_sample import write_sample


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """The whole sample, as text."""
    files = write_sample(tmp_path_factory.mktemp("raw"))
    return pl.concat(pl.read_csv(path, infer_schema=False) for path in files)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    one = write_sample(tmp_path / "one", rows=2000, days=10)
    other = write_sample(tmp_path / "other", rows=2000, days=10)

    assert [path.name for path in one] == [path.name for path in other]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_saturdays_have_no_file(tmp_path: Path) -> None:
    names = [path.stem for path in write_sample(tmp_path, rows=2000, days=10)]

    assert names[:3] == ["2010-12-01", "2010-12-02", "2010-12-03"]
    assert "2010-12-04" not in names


def test_it_has_about_as_many_rows_as_it_says(sample: pl.DataFrame) -> None:
    assert 98_000 < sample.height < 102_000


@pytest.mark.parametrize(
    ("dirt", "share"),
    [
        (pl.col("CustomerID").is_null(), retail_sample.NO_CUSTOMER),
        (pl.col("InvoiceNo").str.starts_with("C"), retail_sample.CANCELLED),
        (
            pl.col("Quantity").cast(int).lt(0) & ~pl.col("InvoiceNo").str.starts_with("C"),
            retail_sample.ADJUSTED,
        ),
        (pl.col("UnitPrice").cast(float) <= 0, retail_sample.UNPRICED),
        (pl.col("Description").is_null(), retail_sample.NO_DESCRIPTION),
        (~pl.col("StockCode").str.contains(r"^\d{5}[A-Za-z]{0,2}$"), retail_sample.NO_PRODUCT),
    ],
    ids=["no customer", "cancelled", "adjusted", "unpriced", "no description", "no product"],
)
def test_its_dirt_has_the_shares_of_the_real_files(
    sample: pl.DataFrame, dirt: pl.Expr, share: float
) -> None:
    found = sample.select(dirt.fill_null(value=False).mean()).item()

    assert found == pytest.approx(share, rel=0.15)


def test_repeated_rows_have_the_share_of_the_real_files(sample: pl.DataFrame) -> None:
    repeated = 1 - sample.n_unique() / sample.height

    assert repeated == pytest.approx(retail_sample.REPEATED, rel=0.15)
    assert sample["CustomerID"].drop_nulls().str.ends_with(".0").all()
