"""Retail sales: what the raw files hold, and what the table of sales promises.

The layout is that of UCI's Online Retail (D. Chen, 2015): a row for each product on an invoice.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

from penstock.contracts import (
    Column,
    Contract,
    expect_column_value_lengths_to_be_between,
    expect_column_values_to_be_between,
    expect_column_values_to_match_regex,
    expect_column_values_to_not_be_null,
    expect_compound_columns_to_be_unique,
    expect_table_row_count_to_be_between,
)
from penstock.ingest import Source

FIRST_DAY = os.environ.get("PENSTOCK_RETAIL_FIRST_DAY", "2010-12-01")
"""The first daily partition; older rows are rejected."""
EVERY_DAY = bool(os.environ.get("PENSTOCK_RETAIL_EVERY_DAY"))
"""Whether partitions run up to today even if the newest sale is months old."""

SALES = Contract(
    table="retail/sales",
    description="A row for each product on an invoice, returns with a negative quantity.",
    owner="retail-data@example.com",
    event_time="invoice_time",
    key=("invoice", "stock_code", "invoice_time", "quantity", "unit_price", "customer_id"),
    columns=(
        Column("invoice", "string", "Number; C before it marks a cancellation", "InvoiceNo", False),
        Column("stock_code", "string", "Product; five digits, often a letter", "StockCode", False),
        Column("description", "string", "Product's name at the time of sale", "Description"),
        Column("quantity", "int32", "Sold, or below zero returned", "Quantity", False, "units"),
        Column("invoice_time", "timestamp", "When it was sold, as UTC", "InvoiceDate", False),
        Column("unit_price", "float64", "Price of one", "UnitPrice", False, "GBP"),
        Column("customer_id", "int64", "Who bought", "CustomerID", personal=True),
        Column("country", "string", "Where the customer lives", "Country", False),
    ),
    expectations=(
        # Orders of magnitude past any real sale: a slip of the keyboard or of a column.
        expect_column_values_to_be_between("quantity", -100_000, 100_000),
        expect_column_values_to_be_between(
            "quantity", 1, mostly=0.99, row_condition="NOT starts_with(invoice, 'C')"
        ),
        expect_column_values_to_be_between("unit_price", 0, strict_min=True, mostly=0.99),
        expect_column_values_to_be_between(
            "invoice_time", datetime.fromisoformat(FIRST_DAY).replace(tzinfo=UTC)
        ),
        expect_compound_columns_to_be_unique(
            (
                "invoice",
                "stock_code",
                "description",
                "quantity",
                "invoice_time",
                "unit_price",
                "customer_id",
                "country",
            ),
            mostly=0.98,
        ),
        # Postage, fees and gift vouchers: real money, and no product to forecast.
        expect_column_values_to_match_regex(
            "stock_code", r"^\d{5}[A-Za-z]{0,2}$", severity="warn", mostly=0.99
        ),
        expect_column_values_to_not_be_null("customer_id", severity="warn", mostly=0.70),
        expect_column_values_to_not_be_null("description", severity="warn", mostly=0.99),
        expect_column_value_lengths_to_be_between("description", 2, severity="warn", mostly=0.99),
        expect_table_row_count_to_be_between(1),
    ),
)

SOURCE = Source(
    table="retail/sales_raw",
    uri=os.environ.get("PENSTOCK_RETAIL_RAW", "data/raw/retail"),
    contract=SALES,
)
