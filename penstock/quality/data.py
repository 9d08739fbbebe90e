"""What can be checked and profiled: frames, Arrow tables, files, tables of the lake."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import polars as pl

from penstock.errors import ContractError

if TYPE_CHECKING:  # each takes as long to import as a small table to check
    import pyarrow as pa

    from penstock.tables import Snapshot, Table

    Data = pl.DataFrame | pl.LazyFrame | pa.Table | Table | Snapshot | str | Path


def scanned(data: Data) -> pl.LazyFrame:
    """Its rows, read when collected; a CSV file's types are inferred.

    Raises
    ------
    ContractError: there is no such file.
    """
    if isinstance(data, pl.LazyFrame | pl.DataFrame):
        return data.lazy()
    if isinstance(data, str | Path):
        return _opened(str(data))
    if hasattr(data, "column_names"):
        return pl.DataFrame(pl.from_arrow(cast("pa.Table", data))).lazy()
    if hasattr(data, "snapshot"):
        return cast("Table", data).snapshot().scan()
    return cast("Snapshot", data).scan()


def _opened(uri: str) -> pl.LazyFrame:
    path = Path(uri)
    if uri.lower().endswith((".csv", ".csv.gz", ".tsv")):
        separator = "\t" if uri.lower().endswith(".tsv") else ","
        return pl.scan_csv(uri, separator=separator, infer_schema_length=10_000)
    if uri.lower().endswith((".jsonl", ".ndjson")):
        return pl.scan_ndjson(uri)
    if (path / "_delta_log").is_dir() or ("://" in uri and not uri.endswith(".parquet")):
        _refuse_hidden_rows(uri)
        return pl.scan_delta(uri)
    if "://" not in uri and "*" not in uri and not path.exists():
        raise ContractError(f"{uri}: there is no such file, folder or table to check")
    return pl.scan_parquet(f"{uri.rstrip('/')}/**/*.parquet" if path.is_dir() else uri)


def _refuse_hidden_rows(uri: str) -> None:
    """Raise `ContractError` for a table of which polars would show rows that are gone."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        table = DeltaTable(uri)
    except (DeltaError, OSError):
        return  # polars says what is wrong
    if "deletionVectors" not in (table.protocol().reader_features or []):
        return
    if any("%" in path for path in table.file_uris()):
        raise ContractError(
            f"{uri}: polars overlooks deletion vectors of files whose names are quoted; check it "
            "as a table of its lake, or have its engine write it without them"
        )


def named(data: Data) -> str:
    """What to call it in a report."""
    if isinstance(data, str | Path):
        return str(data)
    table = getattr(data, "table", data)
    return str(getattr(table, "name", "rows"))
