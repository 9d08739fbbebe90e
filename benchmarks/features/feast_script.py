"""The join by Feast, as its docs recommend.  feast_script.py WORK FOLDER OUT STORE."""

import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64, Int64
from feast.value_type import ValueType


def peak_kb() -> int:
    """The most memory that this process has held; a parent's is not counted in."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return int(line.split()[1])


work, folder, out, store_kind = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
with tempfile.TemporaryDirectory() as repo:
    config = RepoConfig(
        project="bench",
        provider="local",
        registry=f"{repo}/registry.db",
        offline_store={"type": store_kind},
        online_store={"type": "sqlite", "path": f"{repo}/online.db"},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    thing = Entity(name="thing", join_keys=["entity"], value_type=ValueType.INT64)
    views, asked = [], []
    for path in sorted(folder.glob("table*.parquet")):
        names = [name for name in pq.read_schema(path).names if name[0] == "t"]
        views.append(
            FeatureView(
                name=path.stem,
                entities=[thing],
                ttl=timedelta(days=7),
                schema=[Field(name="entity", dtype=Int64)]
                + [Field(name=name, dtype=Float64) for name in names],
                source=FileSource(
                    path=str(path.absolute()),
                    timestamp_field="event_timestamp",
                    created_timestamp_column="created",
                ),
                online=False,
            )
        )
        asked += [f"{path.stem}:{name}" for name in names]
    store.apply([thing, *views])
    began = time.perf_counter()
    spine = pd.read_parquet(folder / "spine.parquet")
    job = store.get_historical_features(
        entity_df=spine, features=asked, filter_by_created_timestamp=work == "created"
    )
    rows = job.to_df()
    print(time.perf_counter() - began, peak_kb())
    rows.to_parquet(out)
