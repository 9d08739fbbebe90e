"""DuckDB connections as the engine uses them: bounded memory, spilling, and no network."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

MEMORY = os.environ.get("PENSTOCK_SQL_MEMORY", "4GB")


def connect(memory: str = MEMORY) -> duckdb.DuckDBPyConnection:
    """An in-memory database that spills past `memory` (such as `4GB`) to the temporary folder.

    Extensions are never fetched: tables come in as Arrow, through the lake's own storage.
    """
    import duckdb  # 0.1 s that reading a table doesn't need

    spill = Path(tempfile.gettempdir()) / f"penstock-spill-{os.getpid()}"
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": memory,
        "temp_directory": str(spill),
        "autoinstall_known_extensions": False,
        "preserve_insertion_order": False,
        "TimeZone": "UTC",
        # Rows of an Arrow table are not counted beforehand, which read as "few" makes an ASOF join
        # a nested loop: minutes where the sorted one takes a second.
        "asof_loop_join_threshold": 0,
    }
    connection = duckdb.connect(":memory:", config=settings)
    connection.execute("SET enable_progress_bar = false")  # else there is one after two seconds
    return connection
