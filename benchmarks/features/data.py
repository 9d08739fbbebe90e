"""Feature tables, spines and events of any size, made from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

DAY_US = 86_400_000_000
START_US = 1_704_067_200_000_000  # 2024-01-01
TABLES, FEATURES, DAYS = 3, 5, 90
TTL_DAYS = 7


def write_join(
    folder: Path,
    *,
    spine_rows: int = 1_000_000,
    table_rows: int = 2_000_000,
    entities: int = 100_000,
    tables: int = TABLES,
    features: int = FEATURES,
) -> None:
    """A spine and feature tables, unsorted Parquet: 5 % ties on event time, 20 % of rows late."""
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    span = DAYS * DAY_US // 1_000_000
    spine = {
        "id": np.arange(spine_rows),
        "entity": random.integers(0, entities, spine_rows),
        "event_timestamp": _times(random.integers(0, span, spine_rows)),
    }
    pl.DataFrame(spine).write_parquet(folder / "spine.parquet")
    for number in range(tables):
        entity = random.integers(0, entities, table_rows)
        event = random.integers(0, span, table_rows)
        tied = table_rows // 20
        entity[-tied:], event[-tied:] = entity[:tied], event[:tied]
        # Late by up to three days; the tied rows were created at other moments.
        late = random.random(table_rows) < 0.2
        delay = np.where(late, random.integers(1, 3 * 86_400, table_rows), 0)
        delay[-tied:] = random.integers(1, 3600, tied)
        order = random.permutation(table_rows)
        frame = {
            "entity": entity[order],
            "event_timestamp": _times(event[order]),
            "created": _times((event + delay)[order]),
            **{f"t{number}_f{i}": random.random(table_rows) for i in range(features)},
        }
        pl.DataFrame(frame).write_parquet(folder / f"table{number}.parquet")
    (folder / "done").touch()


def write_events(
    folder: Path,
    *,
    spine_rows: int = 1_000_000,
    event_rows: int = 20_000_000,
    entities: int = 100_000,
    days: int = 730,
) -> None:
    """A spine over the second half of `days`, and events over all of them."""
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(2)
    span = days * 86_400
    spine = {
        "id": np.arange(spine_rows),
        "entity": random.integers(0, entities, spine_rows),
        "event_timestamp": _times(random.integers(span // 2, span, spine_rows)),
    }
    pl.DataFrame(spine).write_parquet(folder / "spine.parquet")
    events = {
        "entity": random.integers(0, entities, event_rows),
        "at": _times(random.integers(0, span, event_rows)),
        "x": np.round(random.lognormal(3, 1, event_rows), 2),
    }
    pl.DataFrame(events).write_parquet(folder / "events.parquet")
    (folder / "done").touch()


def _times(seconds: np.ndarray) -> pl.Series:
    return pl.Series(seconds * 1_000_000 + START_US).cast(pl.Datetime("us", "UTC"))


def write_wide(folder: Path, *, rows: int, views: int = 10, features: int = 100) -> None:
    """A spine, and views of many features, two rows an entity."""
    write_join(
        folder,
        spine_rows=rows,
        table_rows=2 * rows,
        entities=rows,
        tables=views,
        features=features,
    )


def write_clustered(source: Path, folder: Path) -> None:
    """The tables of `source` as Penstock writes them: in a lake, in order of entity and time."""
    if (folder / "done").exists():
        return
    from penstock import Lake, Table
    from penstock.tables import append, optimize

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spine.parquet").write_bytes((source / "spine.parquet").read_bytes())
    lake = Lake(folder / "lake")
    for path in sorted(source.glob("table*.parquet")):
        (folder / path.name).write_bytes(path.read_bytes())
        rows = pl.read_parquet(path)
        append(Table(lake, f"bench/{path.stem}"), rows.to_arrow())
        optimize(Table(lake, f"bench/{path.stem}"), sort_by=["entity", "event_timestamp"])
    (folder / "done").touch()


def made(work: str, folder: Path, scale: float) -> Path:
    """The folder of a piece of work, made if it is not there."""
    million = int(1_000_000 * scale)
    match work:
        case "large":
            folder = folder / f"large-{scale}"
            write_join(folder, spine_rows=10 * million, table_rows=20 * million)
        case "wide":
            folder = folder / f"wide-{scale}"
            write_wide(folder, rows=int(20_000 * scale))
        case "windows":
            folder = folder / f"windows-{scale}"
            write_events(folder, spine_rows=million, event_rows=20 * million)
        case _:
            made = folder / f"join-{scale}"
            write_join(made, spine_rows=million, table_rows=2 * million)
            folder = made
            if work == "clustered":
                folder = made.with_name(f"clustered-{scale}")
                write_clustered(made, folder)
    return folder
