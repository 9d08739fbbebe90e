"""The rows that are validated, and what is expected of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

PIECE = 1_000_000


def write_rows(path: Path, rows: int, extra: int = 0, *, are_noise: bool = False) -> None:
    """Rows with some that break something, a file each million; `extra` more columns, of the kinds
    of the first, or of noise: random doubles, which nothing packs.
    """
    if path.exists():
        return
    part = path.with_name(f"{path.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    for first in range(0, rows, PIECE):
        frame = made(min(PIECE, rows - first), first, extra, are_noise=are_noise)
        frame.write_parquet(part / f"{first:012d}.parquet", statistics=True)
    part.rename(path)


def made(count: int, first: int, extra: int, *, are_noise: bool = False) -> pl.DataFrame:
    """Rows `first` to `first + count`; about one in 200 breaks something."""
    random = np.random.default_rng([3, first])
    number = np.arange(first, first + count)
    price = np.round(random.gamma(2.0, 5.0, count), 2)
    price[random.random(count) < 0.001] = -1
    paid = price * random.uniform(0.8, 1.0, count)
    code = pl.Series(number % 90_000 + 10_000).cast(pl.String)
    columns = {
        "id": number,
        "code": code + pl.Series(np.where(random.random(count) < 0.001, "!", "")),
        "country": random.choice(["GB", "FR", "DE", "XX"], count, p=[0.6, 0.2, 0.199, 0.001]),
        "quantity": random.integers(0, 1000, count),
        "price": price,
        "paid": paid,
        "rate": np.where(random.random(count) < 0.01, np.nan, random.random(count)),
        "note": pl.Series(random.choice(["", "gift", "return"], count)),
        "day": pl.Series(np.datetime64("2020-01-01") + (number % 2000)).cast(pl.Date),
        "at": pl.Series(np.datetime64("2020-01-01T00:00:00", "us") + number * 1_000_000),
        "a": random.integers(0, 10, count),
        "b": random.integers(5, 20, count),
    }
    more = {
        f"x{n:02d}": random.random(count) if are_noise else _like(n, random, number)
        for n in range(extra)
    }
    return pl.DataFrame({**columns, **more}).with_columns(
        pl.when(pl.col("rate").is_not_nan()).then("rate").alias("rate")
    )


def _like(n: int, random: np.random.Generator, number: NDArray[np.int64]) -> Any:
    """A column of one of the kinds of the first ones."""
    count = len(number)
    match n % 6:
        case 0:
            return random.integers(0, 1000, count)
        case 1:
            return np.round(random.gamma(2.0, 5.0, count), 2)
        case 2:
            return pl.Series((number + n) % 90_000 + 10_000).cast(pl.String)
        case 3:
            return random.choice(["GB", "FR", "DE"], count)
        case 4:
            return pl.Series(np.datetime64("2020-01-01") + ((number + n) % 2000)).cast(pl.Date)
        case _:
            return random.random(count)
