"""A contract drafted from data: each column's name and the narrowest kind that every value fits.

A draft is read once by a person and kept in `schemas/`; from then on it holds, whatever comes.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, get_args

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from penstock.contracts import Column, Contract
from penstock.contracts.contract import Kind
from penstock.contracts.exchange import from_arrow
from penstock.errors import ContractError, SourceError, did_you_mean
from penstock.ingest.formats import is_json_lines
from penstock.ingest.source import Format, format_of
from penstock.ingest.streams import unpacked
from penstock.lake import Lake
from penstock.quality.cast import typed
from penstock.quality.splitting import PROVENANCE
from penstock.storage.objects import resolve_options
from penstock.storage.sources import SourceFolder
from penstock.tables import Table

_DELIMITERS = ",;\t|"
_HEAD_BYTES = 4 << 20
"""Of a file, how much is looked at."""
_EVERY = "**/*"
_FILES = 5
"""Looked at: the first, the last, and some between."""
_TRIED: tuple[Kind, ...] = ("int64", "float64", "timestamp", "date", "bool")
_PERSONAL = re.compile(
    r"(?i)e_?mail|phone|mobile|address|birth|passport|ssn|iban|first_?name|last_?name|surname"
    r"|full_?name|customer_?id|user_?id|^ip$|ip_addr"
)


@dataclass(frozen=True, slots=True)
class Draft:
    """A contract, and what reading the files takes besides."""

    contract: Contract
    uri: str
    """The folder."""
    pattern: str
    files: int
    """Looked at."""

    def to_python(self) -> str:
        """A module for `schemas/` that defines the contract and its source."""
        columns = "\n".join(f"        {_call(column)}," for column in self.contract.columns)
        table = self.contract.table
        constant = table.split("/")[-1].upper()
        picked = "" if self.pattern == _EVERY else f", pattern={_quoted(self.pattern)}"
        return f'''"""{table}: drafted from {self.files} files; read it before it is relied on."""

from penstock.contracts import Column, Contract
from penstock.ingest import Source

{constant} = Contract(
    table={_quoted(table)},
    description="",
    owner="",
    event_time={_quoted(self.contract.event_time)},
    columns=(
{columns}
    ),
)

SOURCE = Source(
    table={_quoted(f"{table}_raw")}, uri={_quoted(self.uri)}, contract={constant}{picked}
)
'''


def infer_contract(
    uri: str,
    table: str,
    *,
    hints: Mapping[str, Kind] | None = None,
    event_time: str = "",
) -> Draft:
    """Draft the contract of the files in a folder, or of one file.

    Parameters
    ----------
    hints: kinds of columns that are known, by their name in the files.
    event_time: the column of when things happened; by default the first of times.

    Raises
    ------
    SourceError: no file that is read is there, or they can't be.
    ContractError: no column has times, or a hint names none.
    """
    folder, pattern = _folder(uri)
    listed = folder.list(pattern)["path"].to_list()
    paths = [path for path in listed if format_of(path)]
    if not paths:
        raise SourceError(f"{folder.identity}: no file of a format that is read")
    some = sorted({paths[place * (len(paths) - 1) // (_FILES - 1)] for place in range(_FILES)})
    frames = [_sample(folder, path) for path in some]
    frame = pl.concat(frames, how="diagonal_relaxed")
    given: dict[str, Kind] = dict(hints or {})
    for name, kind in given.items():
        if name not in frame.columns:
            raise ContractError(f"{table}: no column {name}.{did_you_mean(name, frame.columns)}")
        if kind not in get_args(Kind):
            raise ContractError(
                f"{table}: {kind} is no kind; there are {', '.join(get_args(Kind))}"
            )
    found: dict[str, Kind] = {n: _kind(frame[n]) for n in frame.columns if n not in given}
    kinds: dict[str, Kind] = {name: (given | found)[name] for name in frame.columns}
    when = event_time or next((n for n in kinds if kinds[n] == "timestamp"), "")
    when = when or next((n for n in kinds if kinds[n] == "date"), "")
    if not when or when not in kinds:
        raise ContractError(
            f"{table}: no column {event_time or 'of times'} among {', '.join(kinds)}; say which "
            "one tells when things happened (event_time)"
        )
    kinds[when] = "timestamp"
    names = _named(frame.columns)
    columns = tuple(
        Column(
            names[raw],
            kind,
            source_name="" if names[raw] == raw else raw,
            nullable=raw != when,
            personal=bool(_PERSONAL.search(names[raw])),
        )
        for raw, kind in kinds.items()
    )
    return Draft(Contract(table, columns, names[when]), folder.uri, pattern, len(some))


def schema_of_table(lake: Lake, uri: str) -> pa.Schema | None:
    """The columns of a table of the lake, at a version or tag too, or of a Delta table elsewhere;
    None where it is none.
    """
    name, _, version = uri.partition("@")
    if "://" not in uri and not Path(uri).exists():
        if name not in lake.table_names():
            return None
        at = int(version) if version.isdigit() else version or None
        return Table(lake, name).snapshot(at).schema
    try:
        return pa.schema(DeltaTable(uri, storage_options=resolve_options(uri, None)).schema())
    except DeltaError:
        return None


def table_contract(
    schema: pa.Schema,
    table: str,
    *,
    hints: Mapping[str, Kind] | None = None,
    event_time: str = "",
) -> Contract:
    """Draft the contract of a table with these columns, as they are.

    Raises
    ------
    ContractError: a column has a type that contracts don't, none is a timestamp, or a hint or the
        event time names none.
    """
    own = {*PROVENANCE, "_rescued", "_error"}
    schema = pa.schema([field for field in schema if field.name not in own])
    given = dict(hints or {})
    if unknown := sorted({*given, *filter(None, [event_time])} - {*schema.names}):
        near = did_you_mean(unknown[0], schema.names)
        raise ContractError(f"{table}: no column {', '.join(unknown)}.{near}")
    drafted = from_arrow(schema, table, event_time)
    columns = tuple(
        replace(
            column,
            kind=given.get(column.name, column.kind),
            personal=column.personal or bool(_PERSONAL.search(column.name)),
            nullable=column.nullable and column.name != drafted.event_time,
        )
        for column in drafted.columns
    )
    return replace(drafted, columns=columns)


def _folder(uri: str) -> tuple[SourceFolder, str]:
    """The folder, and a glob for what is meant in it."""
    parent, _, name = uri.rstrip("/").rpartition("/")
    if format_of(name) and "*" not in name:
        return SourceFolder(parent or "."), "".join(f"[{c}]" if c in "*?[{" else c for c in name)
    return SourceFolder(uri), _EVERY


def _sample(folder: SourceFolder, path: str) -> pl.DataFrame:
    """The first rows of a file, as text where its format has no types."""
    form = format_of(path)
    try:
        with folder.open(path) as raw:
            plain = unpacked(raw, path)
            if form == "csv":
                return _delimited(plain.read(_HEAD_BYTES))
            # What is seekable is asked for its footer alone.
            is_plain = plain is raw
            return _typed_sample(form, pa.PythonFile(raw, mode="r") if is_plain else plain)
    except (OSError, EOFError, pa.ArrowException, pl.exceptions.PolarsError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SourceError(f"{folder.identity}/{path}: can't be read: {reason}") from error


def _delimited(head: bytes) -> pl.DataFrame:
    text = head.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    if len(head) == _HEAD_BYTES:
        text = text[: text.rfind("\n") + 1]
    text = re.sub(r"\A(?:\s*\n)+", "", text)
    lines = text.split("\n", 50)[:50]

    def fields(delimiter: str) -> float:
        counts = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        return median(counts) if counts and counts[0] == median(counts) else 0

    delimiter = max(_DELIMITERS, key=fields)
    return pl.read_csv(
        io.BytesIO(text.encode()),
        separator=delimiter,
        infer_schema=False,
        truncate_ragged_lines=True,
    )


def _typed_sample(form: Format | None, plain: Any) -> pl.DataFrame:
    match form:
        case "jsonl":
            head = plain.read(_HEAD_BYTES)
            whole = head if len(head) < _HEAD_BYTES else head[: head.rfind(b"\n") + 1]
            return pl.read_ndjson(io.BytesIO(whole), infer_schema_length=None)
        case "json":
            data = plain.read()
            read = pl.read_ndjson if is_json_lines(data.decode("utf-8-sig")) else pl.read_json
            return read(io.BytesIO(data), infer_schema_length=None)
        case "parquet":
            schema = pq.ParquetFile(_seekable(plain)).schema_arrow
        case "arrow":
            schema = pl.read_ipc(io.BytesIO(plain.read())).head(0).to_arrow().schema
        case "orc":
            from pyarrow import orc

            schema = orc.ORCFile(_seekable(plain)).schema
        case "avro":
            return pl.read_avro(io.BytesIO(plain.read()))
        case _:
            return pl.read_excel(io.BytesIO(plain.read()), infer_schema_length=0)
    return pl.DataFrame(pl.from_arrow(schema.empty_table()))


def _seekable(plain: Any) -> Any:
    return plain if isinstance(plain, pa.NativeFile) else pa.BufferReader(plain.read())


def _kind(values: pl.Series) -> Kind:
    """The narrowest kind that fits all values; of text, by how validation would read it."""
    of = values.dtype
    if of.is_integer():
        return "int64"
    if of.is_numeric():
        return "float64"
    if of == pl.Boolean:
        return "bool"
    if of == pl.Date:
        return "date"
    if isinstance(of, pl.Datetime):
        return "timestamp"
    if of == pl.Binary:
        return "binary"
    if of != pl.String:
        return "string"
    there = values.drop_nulls().filter(values.drop_nulls().str.strip_chars() != "")
    # A number that begins with 0 is a code: 007 is not 7.
    if there.is_empty() or there.str.contains(r"^\s*0\d").all():
        return "string"
    frame = there.alias("value").to_frame()
    for kind in _TRIED:
        if kind == "int64" and there.str.contains(r"^\s*-?0\d").any():
            return "string"
        if frame.select(typed(Column("value", kind)).is_not_null().all()).item():
            if kind == "timestamp" and not there.str.contains(":").any():
                return "date"
            return kind
    return "string"


def _named(raw_names: list[str]) -> dict[str, str]:
    """Column names for the table, by those in the files: lower case, words joined by `_`."""
    found = dict[str, str]()
    for raw in raw_names:
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", raw)
        name = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_") or "column"
        name = f"c_{name}" if name[0].isdigit() else name
        taken = set(found.values())
        place = 2
        base = name
        while name in taken:
            name, place = f"{base}_{place}", place + 1
        found[raw] = name
    return found


def _call(column: Column) -> str:
    said = [_quoted(column.name), _quoted(column.kind)]
    if column.source_name:
        said.append(f"source_name={_quoted(column.source_name)}")
    if not column.nullable:
        said.append("nullable=False")
    if column.personal:
        said.append("personal=True")
    return f"Column({', '.join(said)})"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
