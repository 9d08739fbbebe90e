"""Each format's rows, taken apart and put into the columns of the bronze table.

A reader takes a source, a stream of plain bytes and the file's name for messages, and gives tables:
the contract's columns as text, `_rescued`, `_error`, `_source_row`.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any
from urllib.parse import unquote

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.contracts import Column
from penstock.errors import MissingExtra, UnreadableFile
from penstock.ingest.delimited import check_columns, check_text
from penstock.ingest.source import TEXT_COLUMN, Source
from penstock.ingest.typed import texts_of
from penstock.tables import sql

_LINES_BYTES = 8 << 20
_NAMED = pa.dictionary(pa.int32(), pa.string())
_JSON_BYTES = 128 << 20
"""Of a document, which takes some times as much memory."""
_MOST_ADDED = 500
"""Columns that one file adds to a table; more are kept as JSON."""
_ADDABLE = re.compile(r"[^ ,;{}()\n\t=\0]+")
"""Names that a Delta table takes."""


def raw_schema(source: Source) -> pa.Schema:
    """Columns of the bronze table: the contract's, as text, then where each row came from."""
    provenance = [
        pa.field("_rescued", pa.string(), metadata={"comment": "what did not fit, as JSON"}),
        pa.field("_error", pa.string(), metadata={"comment": "why the row can't be taken apart"}),
        pa.field("_source_file", pa.string()),
        pa.field("_source_row", pa.int64(), metadata={"comment": "1 is the first after a header"}),
        pa.field("_ingested_at", pa.timestamp("us", "UTC")),
        pa.field("_batch", pa.int64()),
    ]
    columns = [
        pa.field(c.raw_name, raw_type(c), metadata={"personal": "true"} if c.personal else None)
        for c in source.contract.columns
    ]
    return pa.schema([*columns, *provenance])


def raw_type(column: Column) -> pa.DataType:
    """The type of a column as it came: text, but bytes stay bytes."""
    return pa.binary() if column.kind == "binary" else pa.string()


def missing(source: Source, rows: int) -> dict[str, pa.Array]:
    """Nulls for each of the contract's columns."""
    return {c.raw_name: pa.nulls(rows, raw_type(c)) for c in source.contract.columns}


def _jsonl(source: Source, stream: IO[bytes], path: str) -> Iterator[pa.Table]:
    """Lines taken apart by DuckDB, which tells a bad one from the rest."""
    with sql.connect() as connection:
        for lines in _lines(stream, path):
            text = lines.with_columns(pl.col("line").str.strip_chars())
            filled = text.filter(pl.col("line") != "").to_arrow()
            yield _objects(connection, source, filled, path)


def _json(source: Source, stream: IO[bytes], path: str) -> Iterator[pa.Table]:
    """One document: an array of objects, or an object; or JSON Lines by this name."""
    data = stream.read(_JSON_BYTES + 1)
    while len(data) <= _JSON_BYTES and (more := stream.read(_JSON_BYTES + 1 - len(data))):
        data += more
    if len(data) > _JSON_BYTES:
        raise UnreadableFile(
            f"{path}: a JSON document of more than {_JSON_BYTES >> 20} MiB, which has to be held "
            "whole; write it as JSON Lines, an object a line, or if it is, set the source's format "
            "to jsonl"
        )
    text = data.decode().strip()
    if is_json_lines(text):
        yield from _jsonl(source, io.BytesIO(data), path)
        return
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(f"{path}: no JSON document: {error}") from error
    with sql.connect() as connection:
        document = pa.table({"text": [text]})
        connection.register("document", document)
        rows = connection.sql(
            "SELECT line, row_number() OVER () AS _source_row FROM (SELECT unnest(CASE "
            "WHEN json_type(doc) = 'ARRAY' THEN from_json(doc, '[\"JSON\"]') ELSE [doc] END)"
            "::VARCHAR AS line FROM (SELECT text::JSON AS doc FROM document))"
        ).to_arrow_table()
        yield _objects(connection, source, rows, path)


def is_json_lines(text: str) -> bool:
    """Whether there are several lines, and the first is an object by itself."""
    first, _, rest = text.strip().partition("\n")
    try:
        return bool(rest) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _objects(connection: Any, source: Source, lines: pa.Table, path: str) -> pa.Table:
    """Rows of JSON objects, a text each: the contract's keys, and what else there is."""
    connection.register("lines", lines)
    new = _keys(connection, source)
    _refuse(source, new, f"{path}: keys")
    names = [*source.contract.raw_names, *_addable(source, new)]
    former = {c.raw_name: c.former_names for c in source.contract.columns if c.former_names}
    picked = ", ".join(f"{_picked(name, former)} AS {_quoted(name)}" for name in names)
    known = json.dumps(dict.fromkeys(names)).replace("'", "''")
    return connection.sql(f"""
        SELECT {picked}, CASE WHEN doc IS NULL THEN line
                    WHEN rest <> '{{}}' THEN rest END AS _rescued,
               CASE WHEN doc IS NULL THEN 'not a JSON object' END AS _error, _source_row
        FROM (SELECT line, _source_row, doc, {_rest(known, former)}::VARCHAR AS rest
              FROM (SELECT line, _source_row,
                           CASE WHEN json_valid(line) AND json_type(line) = 'OBJECT'
                                THEN line::JSON END AS doc
                    FROM lines))
        ORDER BY _source_row""").to_arrow_table()


def _picked(name: str, former: Mapping[str, Sequence[str]]) -> str:
    """A key's value as text, in SQL; where it is not there, the first former one's that is."""
    if name not in former:
        return f"doc ->> {_path(name)}"
    ways = (
        f"WHEN json_exists(doc, {_path(each)}) THEN doc ->> {_path(each)}"
        for each in (name, *former[name])
    )
    return f"CASE {' '.join(ways)} END"


def _rest(known: str, former: Mapping[str, Sequence[str]]) -> str:
    """An object without the keys that are known, in SQL; a former one is where it is taken."""
    rest = f"json_merge_patch(doc, '{known}')"
    for name, others in former.items():
        taken = [(name, "{}"), *((other, json.dumps({other: None})) for other in others)]
        ways = " ".join(
            "WHEN json_exists(doc, {}) THEN '{}'".format(_path(each), gone.replace("'", "''"))
            for each, gone in taken
        )
        rest = f"json_merge_patch({rest}, CASE {ways} ELSE '{{}}' END)"
    return rest


def _refuse(source: Source, unknown: Sequence[str], what: str) -> None:
    """Raise `UnreadableFile` where a column that the contract doesn't know may not be."""
    refused = [name for name in unknown if source.contract.policy_of(name) == "fail"]
    if refused:
        raise UnreadableFile(f"{what} not in the contract: {', '.join(refused)[:1000]}")


def _keys(connection: Any, source: Source) -> list[str]:
    """The keys of the objects in `lines` that the contract doesn't know, where it matters."""
    if source.contract.unknown_columns == "rescue":
        return []
    found = connection.sql(
        "SELECT DISTINCT unnest(json_keys(line)) AS key FROM lines "
        "WHERE json_valid(line) AND json_type(line) = 'OBJECT' ORDER BY key"
    ).fetchall()
    known = {*source.contract.raw_names}
    for column in source.contract.columns:
        ahead = [column.raw_name]
        for name in column.former_names:  # a row has it in the place of those ahead, or beside them
            there = " OR ".join(f"json_exists(line, {_path(each)})" for each in ahead)
            beside = connection.sql(
                "SELECT count(*) FROM lines WHERE json_valid(line) AND "
                f"json_exists(line, {_path(name)}) AND ({there})"
            ).fetchall()[0][0]
            known |= set() if beside else {name}
            ahead.append(name)
    return [key for (key,) in found if key not in known]


def _text(source: Source, stream: IO[bytes], path: str) -> Iterator[pa.Table]:
    """A row a line, without the line's end."""
    for lines in _lines(stream, path):
        text = lines.select(pl.col("line").str.strip_suffix("\r").alias(TEXT_COLUMN))
        yield shaped(source, text.to_arrow(), lines["_source_row"].to_arrow())


def _lines(stream: IO[bytes], path: str) -> Iterator[pl.DataFrame]:
    """Lines with their 1-based numbers, a block of bytes at a time."""
    rest, seen = b"", 0
    while True:
        block = stream.read(_LINES_BYTES)
        *whole, rest = (rest + block).split(b"\n") if block else ([rest, b""] if rest else [b""])
        if len(rest) > 2 * _LINES_BYTES:
            raise UnreadableFile(
                f"{path}: line {seen + len(whole) + 1} is longer than {2 * _LINES_BYTES >> 20} MiB"
            )
        check_text(b"\n".join(whole), path, seen + 1)
        text = pl.DataFrame({"line": pa.array(whole, pa.binary()).cast(pa.string())})
        yield text.with_columns(pl.int_range(seen + 1, pl.len() + seen + 1).alias("_source_row"))
        seen += len(whole)
        if not block:
            return


def _parquet(source: Source, stream: Any, path: str) -> Iterator[pa.Table]:
    parquet = pq.ParquetFile(_seekable(stream))
    check_columns(source, parquet.schema_arrow.names, path)
    yield from typed_rows(source, parquet.iter_batches(1 << 16), path)


def _arrow(source: Source, stream: Any, path: str) -> Iterator[pa.Table]:
    whole = _seekable(stream)
    is_file = whole.read(6) == b"ARROW1"
    whole.seek(0)
    if is_file:
        opened: Any = pa.ipc.open_file(whole)
        batches = (opened.get_batch(i) for i in range(opened.num_record_batches))
    else:
        opened = pa.ipc.open_stream(whole)
        batches = iter(opened)
    check_columns(source, opened.schema.names, path)
    yield from typed_rows(source, batches, path)


def _orc(source: Source, stream: Any, path: str) -> Iterator[pa.Table]:
    from pyarrow import orc

    opened = orc.ORCFile(_seekable(stream))
    check_columns(source, opened.schema.names, path)
    stripes = (opened.read_stripe(number) for number in range(opened.nstripes))
    yield from typed_rows(source, stripes, path)


def _avro(source: Source, stream: Any, path: str) -> Iterator[pa.Table]:
    yield from _of_frame(source, pl.read_avro(io.BytesIO(stream.read())), path)


def _excel(source: Source, stream: Any, path: str) -> Iterator[pa.Table]:
    """The first sheet, its first row the columns."""
    try:
        frame = pl.read_excel(io.BytesIO(stream.read()), infer_schema_length=0)
    except ModuleNotFoundError as error:
        raise UnreadableFile(f"{path}: {MissingExtra('fastexcel', 'excel')}") from error
    except Exception as error:  # the reader's own, whatever it raises
        reason = str(error).splitlines()[0]
        raise UnreadableFile(f"{path}: no workbook that can be read: {reason}") from error
    yield from _of_frame(source, frame, path)


def _of_frame(source: Source, frame: pl.DataFrame, path: str) -> Iterator[pa.Table]:
    check_columns(source, frame.columns, path)
    yield from typed_rows(source, iter(frame.to_arrow().to_batches(1 << 16)), path)


def _seekable(stream: Any) -> Any:
    """The plain bytes as a file to seek in: the source's own where it is one."""
    if isinstance(stream, io.BytesIO):
        return pa.BufferReader(stream.getbuffer())
    if isinstance(stream, io.RawIOBase):
        return pa.PythonFile(stream, mode="r")
    return pa.BufferReader(stream.read())


def typed_rows(source: Source, batches: Iterator[pa.RecordBatch], path: str) -> Iterator[pa.Table]:
    """Batches of a format with types, as the text that a CSV of them would hold."""
    seen = 0
    kept = {c.raw_name for c in source.contract.columns if c.kind == "binary"}
    for batch in batches:
        try:
            batch = batch.rename_columns(source.contract.renamed(batch.schema.names))
            if not seen:
                check_columns(source, batch.schema.names, path)
            text = texts_of(batch, kept, seen + 1)
            rows = pa.array(np.arange(seen + 1, seen + batch.num_rows + 1))
            seen += batch.num_rows
            yield shaped(source, text, rows)
        except UnreadableFile as error:
            raise UnreadableFile(f"{path}: {error}") from error


def shaped(source: Source, table: pa.Table, rows: pa.Array) -> pa.Table:
    """The contract's columns by their raw names, the rest as JSON in `_rescued`."""
    known = source.contract.raw_names
    empty = pa.nulls(len(table), pa.string())
    columns: dict[str, Any] = missing(source, len(table))
    for name in known:
        if name in table.column_names:
            columns[name] = _as(table[name], columns[name].type)
    extra = [name for name in table.column_names if name not in set(known)]
    _refuse(source, extra, "columns")
    added = _addable(source, extra)
    columns |= {name: _as(table[name], pa.string()) for name in added}
    rescued: Any = empty
    if left := [name for name in extra if name not in set(added)]:
        frame = pl.DataFrame(pl.from_arrow(table.select(left)))
        text = frame.select(pl.struct(pl.all()).struct.json_encode()).to_series()
        rescued = text.to_arrow().cast(pa.string())
    return pa.table({**columns, "_rescued": rescued, "_error": empty, "_source_row": rows})


def _as(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return column if column.type == kind else column.cast(kind)


def with_partitions(source: Source, table: pa.Table) -> pa.Table:
    """Columns that a path names (`day=2026-11-21/`), where the file itself has no value."""
    named = _as(table["_source_file"], _NAMED).combine_chunks()
    paths = named.dictionary.to_pylist()
    if not any("=" in path for path in paths):
        return table
    import pyarrow.compute as pc  # 0.05 s that others don't need

    for column in source.contract.columns:
        names = "|".join(map(re.escape, (column.raw_name, *column.former_names)))
        segment = re.compile(rf"(?:^|/)(?:{names})=([^/]*)/")
        found = [segment.search(path) for path in paths]
        if any(found):
            values = [_partition_value(match[1]) if match else None for match in found]
            kind = table.schema.field(column.raw_name).type
            spread = pa.array(values, pa.string()).cast(kind).take(named.indices)
            own = table[column.raw_name]
            filled: Any = pc.if_else(  # pyright: ignore[reportAttributeAccessIssue]
                own.is_valid(), own, pa.chunked_array([spread])
            )
            place = table.schema.get_field_index(column.raw_name)
            table = table.set_column(place, column.raw_name, filled)
    return table


def _partition_value(text: str) -> str | None:
    return None if text == "__HIVE_DEFAULT_PARTITION__" else unquote(text)


def _addable(source: Source, names: Sequence[str]) -> list[str]:
    """Of columns that the contract doesn't know, those that become columns of the table."""
    taken = {name.lower() for name in raw_schema(source).names}
    added = list[str]()
    for name in names:
        if source.contract.policy_of(name) != "add":
            continue
        if _ADDABLE.fullmatch(name) and name.lower() not in taken and not name.startswith("_"):
            taken.add(name.lower())
            added.append(name)
    return added[:_MOST_ADDED]


def _path(name: str) -> str:
    return "'$.\"" + name.replace("'", "''").replace('"', '\\"') + "\"'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


READERS: dict[str, Callable[[Source, Any, str], Iterator[pa.Table]]] = {
    "jsonl": _jsonl,
    "text": _text,
    "json": _json,
    "orc": _orc,
    "avro": _avro,
    "excel": _excel,
    "parquet": _parquet,
    "arrow": _arrow,
}
