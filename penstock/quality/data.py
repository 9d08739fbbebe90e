"""What can be checked and profiled: frames, Arrow tables, files, tables of the lake."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import polars as pl

from penstock.errors import ContractError, TableNotFound

if TYPE_CHECKING:  # each takes as long to import as a small table to check
    import pyarrow as pa
    from deltalake import DeltaTable

    from penstock.tables import Snapshot, Table

    Data = pl.DataFrame | pl.LazyFrame | pa.Table | Table | Snapshot | str | Path


_DELIMITED = (".csv", ".csv.gz", ".tsv")
_LINES = (".jsonl", ".ndjson")
_TEXTS = (*_DELIMITED, *_LINES)


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
    if uri.lower().endswith(_DELIMITED):
        separator = "\t" if uri.lower().endswith(".tsv") else ","
        return pl.scan_csv(uri, separator=separator, infer_schema_length=10_000)
    if uri.lower().endswith(_LINES):
        return pl.scan_ndjson(uri)
    if _is_delta(uri):
        _refuse_hidden_rows(uri)
        return pl.scan_delta(uri)
    if "://" not in uri and "*" not in uri and not path.exists():
        raise ContractError(f"{uri}: there is no such file, folder or table to check")
    return pl.scan_parquet(f"{uri.rstrip('/')}/**/*.parquet" if path.is_dir() else uri)


def _is_delta(uri: str) -> bool:
    is_remote = "://" in uri and not uri.lower().endswith((*_TEXTS, ".parquet"))
    return is_remote or (Path(uri) / "_delta_log").is_dir()


def _delta_table(uri: str) -> DeltaTable | None:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        return DeltaTable(uri)
    except (DeltaError, OSError):
        return None  # polars says what is wrong


def _refuse_hidden_rows(uri: str) -> None:
    """Raise `ContractError` for a table of which polars would show rows that are gone."""
    table = _delta_table(uri)
    if table is None or "deletionVectors" not in (table.protocol().reader_features or []):
        return
    if any("%" in path for path in table.file_uris()):
        raise ContractError(
            f"{uri}: polars overlooks deletion vectors of files whose names are quoted; check it "
            "as a table of its lake, or have its engine write it without them"
        )


def personal_in(data: Data) -> set[str]:
    """Columns that its schema, or its newest contract, says are about a person: of a table, of
    the lake or by its path, and of an Arrow table.
    """
    if isinstance(data, pl.LazyFrame | pl.DataFrame):
        return set()
    if isinstance(data, str | Path):
        table = _delta_table(str(data)) if _is_delta(str(data)) else None
        fields = table.schema().fields if table else ()
        return {f.name for f in fields if f.metadata.get("personal") == "true"}
    if hasattr(data, "column_names"):
        return _marked(cast("pa.Table", data).schema)
    if hasattr(data, "snapshot"):
        return personal_of(cast("Table", data).snapshot())
    return personal_of(cast("Snapshot", data))


def personal_of(snapshot: Snapshot) -> set[str]:
    """The columns of a table that are about a person, by its schema or its newest contract."""
    from penstock.quality.history import contract_of

    found, table = _marked(snapshot.schema), snapshot.table
    try:
        contract = contract_of(table.lake, table.name)
    except (ContractError, TableNotFound):
        return found
    return found | {column.name for column in contract.columns if column.personal}


def _marked(schema: pa.Schema) -> set[str]:
    return {f.name for f in schema if (f.metadata or {}).get(b"personal") == b"true"}


def named(data: Data) -> str:
    """What to call it in a report."""
    if isinstance(data, str | Path):
        return str(data)
    table = getattr(data, "table", data)
    return str(getattr(table, "name", "rows"))
