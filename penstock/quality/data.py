"""What can be checked and profiled: frames, Arrow tables, files, tables of the lake."""

from __future__ import annotations

import glob
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from penstock.errors import ContractError, TableNotFound

if TYPE_CHECKING:  # each takes as long to import as a small table to check
    import pyarrow as pa
    from deltalake import DeltaTable

    from penstock.tables import Snapshot, Table

    Data = pl.DataFrame | pl.LazyFrame | pa.Table | Table | Snapshot | str | Path


PIECE_BYTES = 32 << 20
"""As stored, up to which files are read together as one piece."""
LARGE_BYTES = 128 << 20
"""From which on a file is read in pieces of its own, by its row groups."""
_LONG_BYTES = 256 << 20
"""Of a table's pieces, from which on polars is held back: a short one ends before it matters."""
_AHEAD = "POLARS_ROW_GROUP_PREFETCH_SIZE"
_MOST_PARTED = 1000
"""Files of a partitioned table, each of which is a scan of its own in a piece."""
_DELIMITED = (".csv", ".csv.gz", ".tsv")
_LINES = (".jsonl", ".ndjson")
_TEXTS = (*_DELIMITED, *_LINES)


def scanned(data: Data) -> pl.LazyFrame:
    """Its rows, read when collected; a CSV file's types are inferred.

    Raises
    ------
    ContractError: there is no such file, or it is nothing that can be checked.
    """
    if isinstance(data, pl.LazyFrame | pl.DataFrame):
        return data.lazy()
    if isinstance(data, str | Path):
        return _opened(str(data))
    if hasattr(data, "column_names"):
        return pl.DataFrame(pl.from_arrow(cast("pa.Table", data))).lazy()
    if hasattr(data, "snapshot"):
        return cast("Table", data).snapshot().scan()
    if not hasattr(data, "scan"):
        raise ContractError(
            f"{type(data).__name__}: what is checked is a frame of polars or pandas, an Arrow "
            "table, a table of the lake, or the path of files"
        )
    return cast("Snapshot", data).scan()


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a table's rows."""

    rows: pl.LazyFrame
    size_bytes: int
    """As stored, about."""


def in_pieces(data: Data, schema: pl.Schema) -> list[Piece]:
    """The rows in parts, in order, that take little memory each, where they lie in Parquet files
    of this machine; else nothing.

    Parameters
    ----------
    schema: of `scanned(data)`.
    """
    if isinstance(data, str | Path):
        files = _parquet_files(str(data))
        sizes = [Path(file).stat().st_size for file in files]
        found = _pieces(files, sizes, schema)
    elif hasattr(data, "rows_of") and cast("Snapshot", data).table.lake.is_local:
        found = _pieces_of(cast("Snapshot", data))
    else:
        return []
    pieces = [Piece(each.rows.select(schema.names()), each.size_bytes) for each in found]
    return pieces if len(pieces) > 1 else []


@contextmanager
def little_read_ahead(pieces: Sequence[Piece]) -> Generator[None]:
    """While a long table is read piece by piece, polars reads as many row groups of one ahead as it
    has threads, and not the whole piece: no slower, and a tenth less memory, that no longer grows.

    polars is told such things by the environment alone, as `polars.Config` does. Other scans of
    the process heed it meanwhile; what is set there already stays.
    """
    if _AHEAD in os.environ or sum(piece.size_bytes for piece in pieces) < _LONG_BYTES:
        yield
        return
    os.environ[_AHEAD] = str(pl.thread_pool_size())
    try:
        yield
    finally:
        os.environ.pop(_AHEAD, None)


def _pieces(files: Sequence[str], sizes: Sequence[int], schema: pl.Schema) -> Iterator[Piece]:
    for group, size in _together(sizes, PIECE_BYTES):
        paths = [files[at] for at in group]
        rows = pl.scan_parquet(paths, schema=schema, glob=False)
        yield from _by_row_groups(Piece(rows, size), paths[0])


def _pieces_of(snapshot: Snapshot) -> Iterator[Piece]:
    files, is_parted = snapshot.files, bool(snapshot.partition_columns)
    if is_parted and len(files) > _MOST_PARTED:
        return
    for group, size in _together([file.size_bytes for file in files], PIECE_BYTES):
        some = [files[at] for at in group]
        rows = (
            pl.concat([snapshot.rows_of(file) for file in some])
            if is_parted
            else snapshot.read(some, snapshot.schema.names)
        )
        whole = Piece(rows, size)
        if some[0].deletion is None:  # else rows aren't where they are stored
            yield from _by_row_groups(whole, f"{snapshot.table.uri}/{some[0].path}")
        else:
            yield whole


def _together(sizes: Sequence[int], most: int) -> Iterator[tuple[list[int], int]]:
    """Places of neighbours that come to so much together, one at least, and to how much."""
    group, held = list[int](), 0
    for place, size in enumerate(sizes):
        if group and held + size > most:
            yield group, held
            group, held = [], 0
        group.append(place)
        held += size
    if group:
        yield group, held


def _by_row_groups(whole: Piece, path: str) -> Iterator[Piece]:
    """Pieces of one that is too large, which then is of one file."""
    if whole.size_bytes <= LARGE_BYTES:
        yield whole
        return
    import pyarrow as pa  # in the time of which 20 MB are checked
    import pyarrow.parquet as pq

    try:
        stored = pq.read_metadata(path)
    except (pa.ArrowException, OSError):
        yield whole  # whose reader says what is wrong
        return
    rows = [stored.row_group(number).num_rows for number in range(stored.num_row_groups)]
    sizes = [whole.size_bytes * each // max(1, stored.num_rows) for each in rows]
    begin = 0
    for group, size in _together(sizes, LARGE_BYTES):
        count = sum(rows[number] for number in group)
        yield Piece(whole.rows.slice(begin, count), size)
        begin += count


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
    if files := _parquet_files(uri):
        return pl.scan_parquet(files, glob=False)
    return pl.scan_parquet(f"{uri.rstrip('/')}/**/*.parquet" if path.is_dir() else uri)


def _parquet_files(uri: str) -> list[str]:
    """The files of this machine that it is or picks, in order, without hidden ones."""
    if "://" in uri or uri.lower().endswith(_TEXTS) or _is_delta(uri):
        return []
    if Path(uri).is_file():
        return [uri]
    is_folder = Path(uri).is_dir()
    pattern = str(Path(glob.escape(uri), "**", "*.parquet")) if is_folder else uri
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207 - a pattern may be absolute
    return sorted(file for file in found if _is_data(Path(file)))


def _is_data(path: Path) -> bool:
    """Not so a folder or an empty file; a link to nothing is, for its reader to tell of."""
    return not path.exists() or (path.is_file() and path.stat().st_size > 0)


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


def settled(data: Data) -> Data:
    """A table's newest version, in the place of the table; a frame of pandas as one of polars."""
    if type(data).__module__.partition(".")[0] == "pandas" and hasattr(data, "columns"):
        return pl.DataFrame(pl.from_pandas(cast("Any", data)))
    return cast("Table", data).snapshot() if hasattr(data, "snapshot") else data


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
