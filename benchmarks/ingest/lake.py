"""What ingest costs beside nothing: known files, a commit, object storage, upsert, validation.

    python -m benchmarks.ingest.lake --works known commit upsert validate
    python -m benchmarks.ingest.lake --works s3 --s3 s3://bucket/prefix    (keys in the environment)

Each work is a process of its own; limits that it is held against are measured in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.ingest.data import HEADER, made_rows

RESULTS = Path(__file__).parents[1] / "results" / "ingest_lake.md"
FOLDER = Path("data/bench/ingest_lake")


def main() -> None:
    """Run works in processes of their own, print what they found, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--works", nargs="*", default=["known", "commit", "upsert", "validate"])
    parser.add_argument("--s3", default="", help="where the work s3 may write")
    parser.add_argument("--scale", type=float, default=1.0, help="of the usual sizes, for a try")
    parser.add_argument("--alone", default="", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.alone:
        found = WORKS[told.alone](told.scale, told.s3)
        found["peak_mb"] = _memory_mb("VmHWM")
        print(json.dumps(found))
        return
    lines = [
        f"# What ingest costs, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{os.cpu_count()} cores; seconds unless it says otherwise. `python -m "
        "benchmarks.ingest.lake`.",
        "",
        "| work | | |",
        "|---|---|---|",
    ]
    for work in told.works:
        command = [sys.executable, "-m", "benchmarks.ingest.lake", "--alone", work]
        command += ["--scale", str(told.scale), "--s3", told.s3]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        for name, value in json.loads(done.stdout.splitlines()[-1]).items():
            shown = f"{value:,.3f}" if isinstance(value, float) and value < 100 else f"{value:,.0f}"
            lines.append(f"| {work} | {name} | {shown} |")
            print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n")


def known(scale: float, _: str) -> dict[str, Any]:
    """A run that finds nothing new among a million known files, beside their listing alone."""
    from penstock import Lake
    from penstock.ingest import Source, ingest
    from schemas.retail import SALES

    files, folder = int(1_000_000 * scale), FOLDER / "known"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as maker:  # its memory is its own
        maker.submit(_made_known, folder, files).result()
    lake, source = Lake(folder / "lake"), Source("retail/raw", str(folder / "raw"), SALES)

    def listed() -> int:
        return sum(frame.height for frame in source.folder().frames())

    _, seconds = _timed(listed)
    report, took = _timed(lambda: ingest(lake, source))
    assert not report.batches, report
    return {"files": files, "listing alone": seconds, "run, nothing new": took}


def _made_known(folder: Path, files: int) -> None:
    """Files, and a ledger that has them all."""
    from penstock import Lake
    from penstock.ingest import Source, ingest
    from penstock.ingest.ledger import SCHEMA, ledger_table
    from penstock.tables import Stager, Table, Transaction
    from schemas.retail import SALES

    _million(folder / "raw", files)
    lake, source = Lake(folder / "lake"), Source("retail/raw", str(folder / "raw"), SALES)
    made = Table(lake, source.table).snapshot_or_none()
    if made is not None and Table(lake, f"{source.table}__ledger").snapshot().rows == files + 1:
        return
    shutil.rmtree(folder / "lake", ignore_errors=True)
    ingest(lake, source, max_files=1, max_batches=1)
    rows = (
        source.folder()
        .list()
        .select(
            pl.lit(2, pl.Int64).alias("batch"),
            pl.col("path").alias("file"),
            "size_bytes",
            "tag",
            pl.lit("0" * 32).alias("checksum"),
            pl.lit("loaded").alias("status"),
            pl.lit(1, pl.Int64).alias("rows_read"),
            pl.lit(value=False).alias("replaces"),
            pl.lit(None, pl.String).alias("error"),
            "changed_at",
            pl.lit(datetime.now(UTC)).alias("ingested_at"),
        )
    )
    with Stager(lake, ledger_table(lake, source).name, SCHEMA) as stager:
        stager.write(rows.to_arrow())
        (staged,) = stager.finish()
    transaction = Transaction(source.application, 2)
    bronze = Table(lake, source.table).snapshot()
    bronze.commit([], transaction=transaction, note={"batch": 2, "ledger": asdict(staged)})
    ingest(lake, source)


def _million(folder: Path, files: int) -> None:
    marker = folder.with_suffix(".complete")
    if marker.exists() and marker.read_text() == str(files):
        return
    shutil.rmtree(folder, ignore_errors=True)
    for number in range(files):
        if number % 1000 == 0:
            day = folder / f"part={number // 1000:04d}"
            day.mkdir(parents=True)
        (day / f"{number:07d}.csv").touch()
    marker.write_text(str(files))


def commit(_: float, __: str) -> dict[str, Any]:
    """What a batch costs beside its data: a file of one row, and the objects written."""
    from penstock import Lake
    from penstock.ingest import Source, ingest
    from penstock.storage.objects import ObjectStore
    from schemas.retail import SALES

    folder = FOLDER / "commit"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "raw").mkdir(parents=True)
    lake, source = Lake(folder / "lake"), Source("retail/raw", str(folder / "raw"), SALES)
    writes = list[str]()
    for name in ("put", "put_if_absent", "open_writer"):
        _counted(ObjectStore, name, writes)
    line = made_rows(1, 0).write_csv(include_header=False)
    times = list[float]()
    for number in range(30):
        (folder / "raw" / f"{number:03d}.csv").write_text(f"{HEADER}\n{line}")
        writes.clear()
        report, took = _timed(lambda: ingest(lake, source))
        assert report.rows_read == 1
        times.append(took)
    others = [key for key in writes if not key.rsplit("/", 1)[-1].startswith("part-")]
    beside = [key for key in writes if "__ledger/part-" in key]
    return {
        "run of one file of one row, median": float(np.median(times[5:])),
        "objects written beside Parquet files": len(others),
        "and with the ledger's Parquet file": len(others) + len(beside),
    }


def _counted(kind: type, name: str, into: list[str]) -> None:
    inner = getattr(kind, name)

    def counted(self: Any, key: str, *arguments: Any, **settings: Any) -> Any:
        into.append(key)
        return inner(self, key, *arguments, **settings)

    setattr(kind, name, counted)


def validated(scale: float, _: str) -> dict[str, Any]:
    """One long CSV file's rows, ingested before, held against the contract of sales."""
    from penstock import Lake, validate
    from penstock.ingest import Source
    from schemas.retail import SALES

    rows, folder = int(16_000_000 * scale), FOLDER / "validate"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as maker:  # its memory is its own
        maker.submit(_made_bronze, folder, rows).result()
    lake, source = Lake(folder / "lake"), Source("retail/raw", str(folder / "raw"), SALES)
    done, took = _timed(lambda: validate(lake, source))
    assert done.rows_accepted == rows, done
    return {"rows": rows, "seconds": took}


def _made_bronze(folder: Path, rows: int) -> None:
    from penstock import Lake
    from penstock.ingest import Source, ingest
    from schemas.retail import SALES

    shutil.rmtree(folder, ignore_errors=True)
    (folder / "raw").mkdir(parents=True)
    with (folder / "raw" / "sales.csv").open("wb") as file:
        file.write(HEADER.encode() + b"\n")
        for first in range(0, rows, 1_000_000):
            part = made_rows(min(1_000_000, rows - first), first)
            file.write(part.write_csv(include_header=False).encode())
    ingest(Lake(folder / "lake"), Source("retail/raw", str(folder / "raw"), SALES))


def s3(scale: float, uri: str) -> dict[str, Any]:
    """1 GB of CSV files in a bucket to a table there, beside getting, parsing and putting alone."""
    import obstore
    import pyarrow.csv as pacsv

    from penstock import Lake
    from penstock.ingest import Source, ingest
    from penstock.storage.objects import ObjectStore, resolve_options
    from schemas.retail import SALES

    files, each = int(256 * scale), 4 << 20
    options = resolve_options(uri, None)
    store = ObjectStore(uri, options)
    text = made_rows(50_000, 0).write_csv(include_header=False).encode()
    data = HEADER.encode() + b"\n" + text[: text.rfind(b"\n", 0, each) + 1]
    have = {info.key for info in store.list("raw")}
    keys = [f"raw/{number:05d}.csv" for number in range(files)]
    for key in keys:
        if key not in have:
            store.put(key, data)
    size = len(data) * files

    async def get_all() -> None:
        gate = asyncio.Semaphore(8)

        async def one(key: str) -> None:
            async with gate:
                got = await obstore.get_async(store._store, key)
                await got.bytes_async()

        await asyncio.gather(*(one(key) for key in keys))

    began = _busy_seconds()
    _, got = _timed(lambda: asyncio.run(get_all()))
    strings = pacsv.ConvertOptions(column_types=dict.fromkeys(HEADER.split(","), pa.string()))

    def parse_all() -> None:
        for _ in range(files):
            pacsv.read_csv(pa.py_buffer(data), convert_options=strings)

    _, parsed = _timed(parse_all)
    alone = _busy_seconds() - began
    lake = Lake(f"{uri}/lake-{int(time.time())}", storage_options=options)
    source = Source("retail/raw", f"{uri}/raw", SALES)
    report, took = _timed(lambda: ingest(lake, source))
    assert not report.failed
    assert report.bytes_read == size, (report.bytes_read, size)
    from penstock.tables import Table

    stored = Table(lake, source.table).snapshot().files
    parts = [store_file.size_bytes for store_file in stored]
    blobs = [os.urandom(part) for part in parts]
    began = _busy_seconds()
    _, put = _timed(lambda: [lake.objects.put(f"put/{n}", blob) for n, blob in enumerate(blobs)])
    alone += _busy_seconds() - began
    limit = max(got, parsed, put)
    # Where the gateway has no cores of its own, nobody can be faster than all cores at full work.
    least = max(limit, alone / (os.cpu_count() or 1))
    return {
        "MB": size / 1e6,
        "GET alone, 8 at once": got,
        "parse alone, pyarrow, all cores": parsed,
        "PUT of the table's files alone": put,
        "ingest": took,
        "of the slowest alone": limit / took,
        "GET, parse and PUT on all cores at full work": least,
        "of that": least / took,
    }


def upsert(scale: float, _: str) -> dict[str, Any]:
    """1 % of 20 M rows by key, with deletion vectors and by copies, beside delta-rs' merge."""
    rows, folder = int(20_000_000 * scale), FOLDER / "upsert"
    shutil.rmtree(folder, ignore_errors=True)
    found = dict[str, Any]()
    times = dict[str, list[tuple[float, float, float]]]()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as maker:
        maker.submit(_made_tables, folder / "made", rows).result()
    for turn in range(3):
        for name in _NAMES:
            now = folder / "now"  # each from the same state
            shutil.rmtree(now, ignore_errors=True)
            shutil.copytree(folder / "made", now, copy_function=os.link)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as worker:
                done = worker.submit(_upserted, now, name, rows, turn).result()
            times.setdefault(name, []).append(done)
    for name, done in times.items():
        found[name] = min(seconds for seconds, _, _ in done)
        found[f"{name}, MB above the start"] = float(np.median([mb for _, mb, _ in done]))
        found[f"{name}, MB without code"] = float(np.median([own for _, _, own in done]))
    for name in ("vectors", "copies"):
        found[f"{name}, times as fast"] = found["delta-rs merge"] / found[name]
        for what in ("MB above the start", "MB without code"):
            of_theirs = found[f"{name}, {what}"] / found[f"delta-rs merge, {what}"]
            found[f"{name}, {what}, of theirs"] = of_theirs
    return found


_NAMES = {"vectors": "vectors", "copies": "copies", "delta-rs merge": "theirs"}


def _made_tables(folder: Path, rows: int) -> None:
    from penstock import Lake
    from penstock.tables import Table, append, enable_deletion_vectors

    tables = [Table(Lake(folder), f"bench/{_NAMES[name]}") for name in _NAMES]
    for table in tables:
        for first in range(0, rows, 2_000_000):
            count = min(2_000_000, rows - first)
            append(table, _lines(np.arange(first, first + count), first))
    enable_deletion_vectors(tables[0])


def _lines(keys: NDArray[np.int64], seed: int) -> pl.DataFrame:
    """Lines of invoices by number: nine columns, four of them texts."""
    rng, count = np.random.default_rng(seed), len(keys)
    words = np.array(
        [
            "WHITE",
            "HANGING",
            "HEART",
            "T-LIGHT",
            "HOLDER",
            "METAL",
            "LANTERN",
            "CREAM",
            "CUPID",
            "COAT",
        ]
    )
    texts = [" ".join(rng.choice(words, 5)) for _ in range(4000)]
    countries = ["United Kingdom", "France", "Germany", "EIRE", "Spain", "Netherlands"]
    product = rng.integers(0, len(texts), count)
    return pl.DataFrame(
        {
            "id": keys,
            "invoice": (536_365 + keys // 20).astype(str),
            "product": (10_000 + product).astype(str),
            "description": pl.Series(texts).gather(product),
            "quantity": rng.integers(1, 100, count),
            "price": np.round(rng.gamma(2, 2, count) + 0.01, 2),
            "customer": rng.integers(12_000, 18_000, count),
            "country": pl.Series(countries).gather(rng.integers(0, len(countries), count)),
            "at": pl.Series(1_290_000_000 + keys * 2).cast(pl.Int64) * 1_000_000,
        }
    ).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))


def _upserted(folder: Path, name: str, rows: int, turn: int) -> tuple[float, float, float]:
    """Seconds, memory above what the imports and the rows take, and of that what is no code."""
    from deltalake import DeltaTable

    from penstock import Lake
    from penstock.tables import Table
    from penstock.tables import upsert as upsert_rows

    table = Table(Lake(folder), f"bench/{_NAMES[name]}")
    picked = np.random.default_rng(turn).choice(rows, rows // 100, replace=False)
    new = _lines(np.sort(picked), 1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    began, own = _memory_mb("VmHWM"), _OwnMemory()
    if name in ("vectors", "copies"):
        done, took = _timed(lambda: upsert_rows(table, new, ["id"]))
        assert done.rows_updated == rows // 100
    else:
        theirs, given = DeltaTable(table.uri), new.to_arrow()
        _, took = _timed(
            lambda: (
                theirs.merge(given, "s.id = t.id", source_alias="s", target_alias="t")
                .when_matched_update_all()
                .when_not_matched_insert_all()
                .execute()
            )
        )
    return took, _memory_mb("VmHWM") - began, own.above_start()


def _busy_seconds() -> float:
    """What all of this machine's cores have worked, the gateway's work too."""
    user, nice, system, _, _, irq, softirq = map(
        int, Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class _OwnMemory:
    """The most that a process holds besides files it maps, such as the code of libraries."""

    def __init__(self) -> None:
        self._began = self._most = _memory_mb("RssAnon")
        self._is_over = threading.Event()
        self._watch = threading.Thread(target=self._watched, daemon=True)
        self._watch.start()

    def _watched(self) -> None:
        while not self._is_over.wait(0.01):
            self._most = max(self._most, _memory_mb("RssAnon"))

    def above_start(self) -> float:
        """MB, after which it is no longer watched."""
        self._is_over.set()
        self._watch.join()
        return self._most - self._began


def _memory_mb(what: str) -> float:
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if what in x]
    return int(line.split()[1]) / 1024


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    result = call()
    return result, time.perf_counter() - begun


WORKS: dict[str, Callable[[float, str], dict[str, Any]]] = {
    "known": known,
    "commit": commit,
    "s3": s3,
    "upsert": upsert,
    "validate": validated,
}

if __name__ == "__main__":
    main()
