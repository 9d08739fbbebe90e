"""Opening a Delta table, a Parquet folder or file, or an Arrow file by its URI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from penstock.errors import DatasetNotFound, ShardError, did_you_mean
from penstock.feed.arrow_file import ArrowFile, open_arrow_file
from penstock.feed.cache import CacheOptions
from penstock.feed.opened import Opened
from penstock.feed.transcoded import RowGroup, TranscodedSource, arrow_batches
from penstock.shards.ranges import Ranges, has_range
from penstock.storage.objects import ObjectInfo, ObjectStore, local_root, resolve_options

_FOOTER_GUESS = 64 << 10
_ARROW = (".arrow", ".ipc", ".feather")
_PARQUET = (".parquet", ".pq")
_READERS = 16


def open_where_it_lies(
    uri: str,
    *,
    split: str,
    version: str | None,
    columns: Sequence[str] | None,
    cache: CacheOptions,
    storage_options: Mapping[str, str] | None,
) -> Opened:
    """A dataset of what lies behind a URI; only footers, or the Delta log, are read.

    Raises
    ------
    DatasetNotFound: there is nothing that can be read, or no such split, version or column.
    ShardError: a file is damaged.
    """
    if split != "train":
        raise DatasetNotFound(f"{uri} has one split, train; only published datasets have more")
    options = resolve_options(uri, storage_options)
    root = ObjectStore(uri, options)
    if next(iter(_listed(root, "_delta_log")), None) is not None:
        source = _delta(root, uri, options, version, columns)
    elif version is not None:
        raise DatasetNotFound(f"{uri} is no Delta table, and has no version {version}")
    else:
        source = _files(*_found(root, uri, options), columns)
    return Opened(
        name=uri,
        uri=uri,
        source=source,
        split=split,
        splits={"train": int(source.rows.sum())},
        size_bytes=int(source.block_bytes.sum()),
        cache=cache,
    )


def _listed(root: ObjectStore, prefix: str) -> Sequence[ObjectInfo]:
    path = root.local_path(prefix)
    if path is not None and not path.is_dir():
        return []
    return sorted(root.list(prefix), key=lambda info: info.key)


def _found(
    root: ObjectStore, uri: str, options: Mapping[str, str]
) -> tuple[ObjectStore, list[ObjectInfo]]:
    """The data files behind a URI, and the root that their keys are under."""
    path = local_root(uri)
    is_file = path.is_file() if path is not None else PurePosixPath(uri).suffix != ""
    if is_file:
        parent, _, name = (str(path) if path is not None else uri.rstrip("/")).rpartition("/")
        above = ObjectStore(parent or "/", options)
        files = [info for info in above.list_folder() if info.key == name]
        if files:
            return above, files
        if path is None:
            raise DatasetNotFound(f"{uri}: there is no such file")
    if path is not None and not path.exists():
        raise DatasetNotFound(f"{uri}: there is no such file or folder")
    files = [
        info
        for info in _listed(root, "")
        if PurePosixPath(info.key).suffix in (*_PARQUET, *_ARROW)
        and not PurePosixPath(info.key).name.startswith(("_", "."))
    ]
    if not files:
        raise DatasetNotFound(f"{uri}: no Parquet or Arrow file is here, and no Delta table")
    return root, files


def _files(
    root: ObjectStore, files: list[ObjectInfo], columns: Sequence[str] | None
) -> TranscodedSource:
    identity = [[info.key, info.size_bytes, info.etag] for info in files]
    arrow = [info for info in files if PurePosixPath(info.key).suffix in _ARROW]
    if arrow and len(arrow) != len(files):
        raise DatasetNotFound(f"{root.uri}: Parquet and Arrow files are mixed; name one kind")
    if arrow:
        return _arrow(root, arrow, identity, columns)
    footers = _footers(root, [(info.key, info.size_bytes) for info in files])
    schema = _agreed(
        root, {key: footer.schema.to_arrow_schema() for key, footer in footers.items()}
    )
    return _of_parquet(root, footers, schema, {}, identity, columns)


def _delta(
    root: ObjectStore,
    uri: str,
    options: Mapping[str, str],
    version: str | None,
    columns: Sequence[str] | None,
) -> TranscodedSource:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    if version is not None and not version.isdigit():
        raise DatasetNotFound(f"{uri}: a Delta table's version is a number, not {version!r}")
    try:
        table = DeltaTable(
            uri, version=None if version is None else int(version), storage_options=dict(options)
        )
    except DeltaError as error:
        if version is not None:
            newest = DeltaTable(uri, storage_options=dict(options)).version()
            if int(version) > newest:
                message = f"{uri} has no version {version}; the newest is {newest}"
                raise DatasetNotFound(message) from error
        raise DatasetNotFound(f"{uri}: {error}") from error
    features = set(table.protocol().reader_features or ())
    mode = table.metadata().configuration.get("delta.columnMapping.mode", "none")
    actions = pa.table(table.get_add_actions(flatten=True))
    hides_rows = "deletionVectors" in features and pa.table(table.deletion_vectors()).num_rows
    if mode != "none" or hides_rows:
        what = "column mapping" if mode != "none" else "deletion vectors"
        raise ShardError(
            f"{uri}: uses {what} ({', '.join(sorted(features))}), which can't be read where it "
            "lies; rewrite the table without it, or publish it as a dataset"
        )
    schema = pa.schema(table.schema().to_arrow())
    partitions = [
        n.removeprefix("partition.") for n in actions.column_names if n.startswith("partition.")
    ]
    constants = {
        unquote(row["path"]): tuple((name, row[f"partition.{name}"]) for name in partitions)
        for row in actions.to_pylist()
    }
    files = sorted(
        (unquote(row["path"]), row["size_bytes"])
        for row in actions.select(["path", "size_bytes"]).to_pylist()
    )
    footers = _footers(root, files)
    identity = [str(table.metadata().id), table.version()]
    plain = pa.schema([pa.field(field.name, _plain(field.type)) for field in schema])
    return _of_parquet(root, footers, plain, constants, identity, columns)


def _of_parquet(
    root: ObjectStore,
    footers: Mapping[str, pq.FileMetaData],
    schema: pa.Schema,
    constants: Mapping[str, tuple[tuple[str, Any], ...]],
    identity: Sequence[Any],
    columns: Sequence[str] | None,
) -> TranscodedSource:
    schema = _projected(root, schema, columns)
    groups = list[RowGroup]()
    for key, footer in footers.items():
        for number in range(footer.num_row_groups):
            groups.append(_row_group(key, number, footer, schema, constants.get(key, ())))
    groups = [group for group in groups if group.rows]
    ranges, whole = _ranges(groups, footers, schema)
    return TranscodedSource(
        fingerprint=_fingerprint(root, identity, schema),
        objects=root,
        groups=tuple(groups),
        columns=schema,
        whole=whole,
        ranges=ranges,
        footers=footers,
        arrow_files={},
    )


def _arrow(
    root: ObjectStore,
    files: list[ObjectInfo],
    identity: Sequence[Any],
    columns: Sequence[str] | None,
) -> TranscodedSource:
    groups, schemas, nulls = list[RowGroup](), dict[str, pa.Schema](), set[str]()
    remote = dict[str, ArrowFile]()
    for info in files:
        path = root.local_path(info.key)
        if path is None:
            file = remote[info.key] = open_arrow_file(root, info.key, info.size_bytes)
            schemas[info.key] = file.schema
            for number, batch in enumerate(file.batches):
                nulls |= {n for n in file.schema.names if file.null_count(batch, n)}
                if batch.rows:
                    fixed = sum(_fixed_bytes(field.type, batch.rows) for field in file.schema)
                    size, stop = max(batch.length, fixed), batch.start + batch.length
                    group = RowGroup(info.key, number, batch.rows, size, batch.start, stop)
                    groups.append(group)
            continue
        for number, batch in enumerate(arrow_batches(str(path))):
            schemas[info.key] = batch.schema
            nulls |= {n for n in batch.schema.names if batch[n].null_count}
            if batch.num_rows:
                groups.append(RowGroup(info.key, number, batch.num_rows, batch.nbytes, 0, 0))
    schema = _projected(root, _agreed(root, schemas), columns)
    return TranscodedSource(
        fingerprint=_fingerprint(root, identity, schema),
        objects=root,
        groups=tuple(groups),
        columns=schema,
        whole=frozenset(schema.names) - nulls,
        ranges={},
        footers={},
        arrow_files=remote,
    )


def _row_group(
    key: str,
    number: int,
    footer: pq.FileMetaData,
    schema: pa.Schema,
    constants: tuple[tuple[str, Any], ...],
) -> RowGroup:
    group = footer.row_group(number)
    starts, stops, size = list[int](), list[int](), 0
    for place in range(group.num_columns):
        column = group.column(place)
        name = column.path_in_schema.split(".")[0]
        if name not in schema.names:
            continue
        at = column.data_page_offset
        if column.has_dictionary_page and column.dictionary_page_offset is not None:
            at = min(at, column.dictionary_page_offset)
        starts.append(at)
        stops.append(at + column.total_compressed_size)
        kind = schema.field(name).type
        size += max(_fixed_bytes(kind, group.num_rows), column.total_uncompressed_size)
    size += 8 * group.num_rows * len(constants)
    start, stop = (min(starts), max(stops)) if starts else (4, 5)
    return RowGroup(key, number, group.num_rows, max(1, size), start, stop, constants)


def _fixed_bytes(kind: pa.DataType, rows: int) -> int:
    """Of a column of numbers, however well its file packs it."""
    return rows * kind.bit_width // 8 if pa.types.is_primitive(kind) else 0


def _ranges(
    groups: Sequence[RowGroup], footers: Mapping[str, pq.FileMetaData], schema: pa.Schema
) -> tuple[dict[str, Ranges], frozenset[str]]:
    """The ranges of columns by row group, and the columns that have no null anywhere."""
    entries: dict[str, tuple[list[Any], list[Any], list[int]]] = {
        field.name: ([], [], []) for field in schema
    }
    whole = set(schema.names)
    for group in groups:
        constants = dict(group.constants)
        footer = footers[group.key].row_group(group.number)
        flat = {
            footer.column(n).path_in_schema: footer.column(n) for n in range(footer.num_columns)
        }
        for name, (least, greatest, nulls) in entries.items():
            column = flat.get(name)
            found = None if column is None else column.statistics
            if name in constants:
                least.append(constants[name])
                greatest.append(constants[name])
                nulls.append(0 if constants[name] is not None else group.rows)
                whole -= {name} if constants[name] is None else set()
                continue
            low, high = _extremes(found)
            least.append(low)
            greatest.append(high)
            nulls.append(found.null_count if found is not None and found.has_null_count else 1)
            if nulls[-1]:
                whole.discard(name)
    ranges: dict[str, Ranges] = {}
    for name, (least, greatest, nulls) in entries.items():
        kind = schema.field(name).type
        if not has_range(kind):
            continue
        try:
            ranges[name] = Ranges(pa.array(least, kind), pa.array(greatest, kind), pa.array(nulls))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            continue  # a statistic of another type than the column's
    return ranges, frozenset(whole)


def _extremes(found: Any) -> tuple[Any, Any]:
    """A column chunk's least and greatest value, where Python has such values."""
    if found is None or not found.has_min_max:
        return None, None
    try:
        return found.min, found.max
    except (ValueError, OverflowError, pa.ArrowException):  # nanoseconds, years past 9999
        return None, None


def _footers(root: ObjectStore, files: Sequence[tuple[str, int]]) -> dict[str, pq.FileMetaData]:
    def footer(file: tuple[str, int]) -> pq.FileMetaData:
        key, size = file
        path = root.local_path(key)
        try:
            if path is not None:
                return pq.read_metadata(path)
            return pq.read_metadata(pa.BufferReader(_tail(root, key, size)))
        except (pa.ArrowException, OSError) as error:
            raise ShardError(f"{root.uri}/{key}: no Parquet file: {error}") from error

    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip((key for key, _ in files), pool.map(footer, files), strict=True))


def _tail(root: ObjectStore, key: str, size: int) -> pa.Buffer:
    """A file's end with its footer, which `read_metadata` takes for a whole one."""
    length = min(size, _FOOTER_GUESS)
    data = memoryview(root.get_range(key, size - length, length))
    needed = int.from_bytes(data[-8:-4], "little") + 8
    if needed > length:
        data = memoryview(root.get_range(key, max(0, size - needed), min(size, needed)))
    return pa.py_buffer(b"PAR1" + bytes(data[-needed:]))


def _agreed(root: ObjectStore, schemas: Mapping[str, pa.Schema]) -> pa.Schema:
    """The schema of all files.

    Raises
    ------
    ShardError: they differ; says where.
    """
    if not schemas:
        raise DatasetNotFound(f"{root.uri}: no file has a row")
    first_key, first = next(iter(schemas.items()))
    for key, schema in schemas.items():
        if not schema.equals(first):
            other = {f"{f.name} {f.type}" for f in schema} ^ {f"{f.name} {f.type}" for f in first}
            raise ShardError(
                f"{root.uri}: {key} has other columns than {first_key}: {', '.join(sorted(other))}"
            )
    return pa.schema([pa.field(field.name, _plain(field.type)) for field in first])


def _projected(root: ObjectStore, schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    if columns is None:
        return schema
    for name in columns:
        if name not in schema.names:
            raise DatasetNotFound(
                f"{root.uri} has no column {name}.{did_you_mean(name, schema.names)}"
            )
    return pa.schema([schema.field(name) for name in columns])


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type that blocks keep: no dictionaries, no views."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    return kind


def _fingerprint(root: ObjectStore, identity: Sequence[Any], schema: pa.Schema) -> str:
    text = f"{root.uri}|{identity}|{schema.to_string()}"
    return xxhash.xxh3_128_hexdigest(text.encode())
