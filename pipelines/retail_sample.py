"""A generated sample of raw retail files, dirty in the ways and proportions of the real ones.

The shares are those counted in UCI's Online Retail (431,673 rows, D. Chen, 2015). Demand has a
weekly rhythm, a trend a product and a long tail, so that there is something to forecast.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl

FIRST_DAY = date(2010, 12, 1)
DAYS = 60
ROWS = 101_300
"""About 1.3 % of them turn out equal by chance and are dropped."""
_SATURDAY = 5
_PRODUCTS = 3_000

# Shares of all rows, as counted in the real files.
NO_CUSTOMER = 108_103 / 431_673
CANCELLED = 7_852 / 431_673
ADJUSTED = (9_021 - 7_852) / 431_673
"""Negative quantity without a cancellation: stock counts, at no price and for no customer."""
UNPRICED = 2_197 / 431_673
NO_DESCRIPTION = 1_364 / 431_673
REPEATED = 3_621 / 431_673
NO_PRODUCT = 2_558 / 431_673

_WORDS = [
    "RED",
    "WHITE",
    "BLUE",
    "RETRO",
    "VINTAGE",
    "HEART",
    "STAR",
    "SPOT",
    "CHRISTMAS",
    "LUNCH",
    "TEA",
    "CAKE",
    "GARDEN",
    "METAL",
    "WOOD",
    "GLASS",
    "PAPER",
    "BAG",
    "BOX",
    "SIGN",
    "LANTERN",
    "HOLDER",
    "MUG",
    "TIN",
    "CLOCK",
    "FRAME",
    "HOOK",
    "BUNTING",
    "CANDLE",
    "APRON",
]


def write_sample(folder: Path, *, rows: int = ROWS, days: int = DAYS, seed: int = 7) -> list[Path]:
    """Write a CSV a day of trade into `folder`; the same seed writes the same bytes.

    Returns
    -------
    The files, in order. Saturdays have none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for day, frame in sample_days(rows=rows, days=days, seed=seed):
        path = folder / f"{day.isoformat()}.csv"
        frame.write_csv(path)
        files.append(path)
    return files


def sample_days(*, rows: int, days: int, seed: int) -> list[tuple[date, pl.DataFrame]]:
    """A frame of raw rows for each day of trade."""
    random = np.random.default_rng(seed)
    catalogue = _Catalogue(random)
    calendar = [FIRST_DAY + timedelta(days=n) for n in range(days)]
    open_days = [day for day in calendar if day.weekday() != _SATURDAY]
    rhythm = np.array([1.0, 1.15, 1.1, 1.3, 1.05, 0.0, 0.7])
    weight = np.array([rhythm[day.weekday()] for day in open_days])
    counts = np.round(rows * weight / weight.sum()).astype(int)
    invoice = 536_365
    frames: list[tuple[date, pl.DataFrame]] = []
    for day, count in zip(open_days, counts.tolist(), strict=True):
        frames.append((day, _day(random, catalogue, day, count, invoice)))
        invoice += count
    return frames


class _Catalogue:
    """Products: code, name, price, popularity and its trend a day."""

    def __init__(self, random: np.random.Generator) -> None:
        codes = 20_000 + random.choice(70_000, _PRODUCTS, replace=False)
        letters = random.choice(["", "", "", "A", "B", "C"], _PRODUCTS)
        self.codes = np.char.add(codes.astype(str), letters)
        words = random.choice(_WORDS, (_PRODUCTS, 3))
        self.names = np.array([" ".join(name) for name in words])
        self.prices = np.round(np.clip(random.lognormal(0.8, 0.9, _PRODUCTS), 0.12, 300), 2)
        self.popularity = 1 / np.arange(1, _PRODUCTS + 1) ** 0.75
        self.trend = random.normal(0, 0.02, _PRODUCTS)
        self.pack = random.choice([1, 1, 2, 4, 6, 12, 24], _PRODUCTS)


def _day(
    random: np.random.Generator, catalogue: _Catalogue, day: date, count: int, first_invoice: int
) -> pl.DataFrame:
    """Invoices of about 20 rows, at times of trade, then the dirt."""
    fresh = count - round(count * REPEATED)
    popularity = catalogue.popularity * np.exp(catalogue.trend * (day - FIRST_DAY).days)
    product = random.choice(_PRODUCTS, fresh, p=popularity / popularity.sum())
    invoices = max(1, fresh // 20)
    invoice_of = np.sort(random.integers(0, invoices, fresh))
    minute = np.sort(random.integers(8 * 60, 18 * 60, invoices))[invoice_of]
    quantity = catalogue.pack[product] * random.geometric(0.45, fresh)
    price = catalogue.prices[product].copy()
    customer = np.char.add(random.integers(12_346, 18_287, invoices)[invoice_of].astype(str), ".0")
    country = random.choice(
        ["United Kingdom", "Germany", "EIRE", "France", "Spain"],
        invoices,
        p=[0.92, 0.025, 0.02, 0.02, 0.015],
    )[invoice_of]
    number = (first_invoice + invoice_of).astype(str)
    code = catalogue.codes[product].astype("U16")
    name = catalogue.names[product]

    # Each way to be dirty takes rows of its own, so that the shares add up.
    free = random.permutation(fresh)
    cancelled, free = np.split(free, [round(fresh * CANCELLED)])
    adjusted, free = np.split(free, [round(fresh * ADJUSTED)])
    unpriced, free = np.split(free, [round(fresh * (UNPRICED - ADJUSTED))])
    odd, free = np.split(free, [round(fresh * NO_PRODUCT)])
    number[cancelled] = np.char.add("C", number[cancelled])
    quantity[cancelled] = -quantity[cancelled]
    quantity[adjusted] = -quantity[adjusted]
    price[adjusted] = price[unpriced] = 0.0
    code[odd] = random.choice(["POST", "DOT", "M", "BANK CHARGES"], len(odd))
    nameless = np.zeros(fresh, bool)
    nameless[adjusted] = True
    nameless[free[: max(0, round(fresh * NO_DESCRIPTION) - len(adjusted))]] = True
    # Whole invoices lack their customer.
    unknown = random.random(invoices)[invoice_of] < NO_CUSTOMER

    frame = pl.DataFrame(
        {
            "InvoiceNo": number,
            "StockCode": code,
            "Description": name,
            "Quantity": quantity,
            "InvoiceDate": minute,
            "UnitPrice": price,
            "CustomerID": customer,
            "Country": country,
        }
    )
    midnight = pl.lit(day).cast(pl.Datetime("us"))
    time = (midnight + pl.duration(minutes=pl.col("InvoiceDate"))).dt.strftime("%Y-%m-%d %H:%M:%S")
    frame = frame.with_columns(
        time.alias("InvoiceDate"),
        pl.when(~pl.Series(nameless)).then("Description").alias("Description"),
        pl.when(~pl.Series(unknown)).then("CustomerID").alias("CustomerID"),
    )
    frame = frame.unique(maintain_order=True)  # rows equal by chance are not meant
    again = random.choice(frame.height, count - fresh, replace=False)
    return frame[np.sort(np.concatenate([np.arange(frame.height), again]))]
