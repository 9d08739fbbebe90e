"""The power domain: its sample, and features as of each hour."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from penstock import Lake, Table, freeze, validate
from penstock.ingest import Source, ingest
from pipelines.power import OIL
from pipelines.power_sample import write_sample
from schemas.power import LOADS


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    one, other = (write_sample(tmp_path / name, hours=50) for name in ("a", "b"))

    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert one[0].read_bytes() != one[1].read_bytes()


def test_features_and_labels_are_as_of_each_hour_of_each_transformer(tmp_path: Path) -> None:
    write_sample(tmp_path / "raw", hours=24 * 40)
    lake, source = Lake(tmp_path / "lake"), Source("power/loads_raw", str(tmp_path / "raw"), LOADS)
    ingest(lake, source)
    assert validate(lake, source).rows_rejected == 0

    freeze(lake, OIL)

    hours = Table(lake, "power/loads").snapshot().scan().collect()
    rows = Table(lake, OIL.table).snapshot().scan().collect()
    assert rows["_source_file"].n_unique() == 2
    assert len(OIL.feature_names) == 32
    for row in rows.sample(40, seed=2).iter_rows(named=True):
        mine = hours.filter(pl.col("_source_file") == row["_source_file"])
        t, day = row["event_time"], timedelta(hours=24)
        before = mine.filter(pl.col("at") > t - day, pl.col("at") <= t)
        ahead = mine.filter(pl.col("at") > t, pl.col("at") <= t + day)
        assert row["oil_24h"] == pytest.approx(before["oil"].mean(), rel=1e-5)
        assert row["oil_highest_24h"] == pytest.approx(before["oil"].max(), rel=1e-6)
        assert row["label"] == pytest.approx(ahead["oil"].mean(), rel=1e-5)
        assert ahead.height == 24
