"""Power transformers: hourly loads and oil temperature, a file a transformer.

The layout is that of ETT (Zhou et al., "Informer", AAAI 2021): useful (UL) and useless (LL) load at
high, middle and low voltage, and the oil's temperature.
"""

from __future__ import annotations

import os

from penstock.contracts import (
    Column,
    Contract,
    expect_column_values_to_be_between,
    expect_table_row_count_to_be_between,
)
from penstock.ingest import Source

FIRST_DAY = os.environ.get("PENSTOCK_POWER_FIRST_DAY", "2016-07-01")

LOADS = Contract(
    table="power/loads",
    description="An hour of a transformer: its loads, and the temperature of its oil.",
    owner="power-data@example.com",
    event_time="at",
    columns=(
        Column("at", "timestamp", "The hour, as UTC", "date", False),
        Column("high_useful", "float64", "Useful load at high voltage", "HUFL"),
        Column("high_useless", "float64", "Useless load at high voltage", "HULL"),
        Column("middle_useful", "float64", "Useful load at middle voltage", "MUFL"),
        Column("middle_useless", "float64", "Useless load at middle voltage", "MULL"),
        Column("low_useful", "float64", "Useful load at low voltage", "LUFL"),
        Column("low_useless", "float64", "Useless load at low voltage", "LULL"),
        Column("oil", "float64", "Oil temperature", "OT", False, "°C"),
    ),
    expectations=(
        expect_column_values_to_be_between("oil", -40, 120),
        *(
            expect_column_values_to_be_between(name, -200, 200, severity="warn", mostly=0.99)
            for name in ("high_useful", "middle_useful", "low_useful")
        ),
        expect_table_row_count_to_be_between(1),
    ),
)

SOURCE = Source(
    table="power/loads_raw",
    uri=os.environ.get("PENSTOCK_POWER_RAW", "data/raw/power"),
    contract=LOADS,
)
