"""Raw files to ingest: of retail's layout, made from a seed, each day's rows a file."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"


def write_files(folder: Path, files: int, rows: int) -> None:
    """Write `files` CSV files of `rows` rows, once; numbers, quotes and nulls as in real ones."""
    marker = folder / ".complete"
    if marker.exists() and marker.read_text() == f"{files} {rows}":
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    at_once = max(1, 200_000 // rows)
    for first in range(0, files, at_once):
        some = min(at_once, files - first)
        table = made_rows(some * rows, first * rows)
        for number in range(some):
            table[number * rows : (number + 1) * rows].write_csv(
                folder / f"{first + number:06}.csv"
            )
    marker.write_text(f"{files} {rows}")


def write_large(path: Path, size_bytes: int) -> None:
    """Write one CSV file of about this size, once."""
    if path.exists() and path.stat().st_size >= size_bytes:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    block = made_rows(1_000_000, 0).write_csv(include_header=False).encode()
    with path.open("wb") as file:
        file.write(HEADER.encode() + b"\n")
        while file.tell() < size_bytes:
            file.write(block)


def made_rows(count: int, first: int) -> pl.DataFrame:
    """Rows `first` to `first + count`."""
    rng = np.random.default_rng([7, first])
    number = np.arange(first, first + count)
    product = rng.integers(0, 4000, count)
    when = np.datetime64("2011-01-01T08:00:00", "ms") + 1000 * number
    customer = rng.integers(12_000, 18_300, count)
    return pl.DataFrame(
        {
            "InvoiceNo": (536_365 + number // 20).astype(str),
            "StockCode": (10_000 + product).astype(str),
            "Description": pl.Series(product).map_elements(
                lambda n: f'SET {n} OF 6 "RED" T-LIGHTS, BOXED', pl.String
            ),
            "Quantity": rng.integers(1, 50, count),
            "InvoiceDate": pl.Series(when).dt.strftime("%Y-%m-%d %H:%M:%S"),
            "UnitPrice": np.round(rng.gamma(2, 2, count) + 0.01, 2),
            "CustomerID": pl.select(
                pl.when(pl.Series(rng.random(count) > 0.25)).then(pl.Series(customer).cast(float))
            ).to_series(),
            "Country": rng.choice(["United Kingdom", "France", "EIRE"], count),
        }
    )
