"""Workers that are forked from a process which has read from object storage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from penstock import Lake
from tests.conftest import S3Server
from tests.shards.test_shards import publish

_JOB = """
import sys
from torch.utils.data import DataLoader
from penstock import CacheOptions, load_dataset

if __name__ == "__main__":
    feed = load_dataset("shop/numbers", lake=sys.argv[1], cache=sys.argv[2])
    feed = feed.shuffle(seed=1).batch(100).to("torch")
    alone = [batch["label"].tolist() for batch in feed]
    feed.set_epoch(0)
    loader = DataLoader(feed, batch_size=None, num_workers=2, multiprocessing_context=sys.argv[3])
    assert [batch["label"].tolist() for batch in loader] == alone
    assert sorted(n for batch in alone for n in batch) == sorted(-float(n) for n in range(1000))
"""


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_object_storage_that_their_parent_read_before(
    s3_server: S3Server, s3_lake: Lake, tmp_path: Path, context: str
) -> None:
    publish(s3_lake)
    script = tmp_path / "job.py"
    script.write_text(_JOB)
    budget = tmp_path / "no-cache"
    budget.write_text("a file, so that workers have to ask storage")
    command = [sys.executable, str(script), s3_lake.uri, str(budget), context]

    subprocess.run(command, check=True, timeout=90, env={**os.environ, **s3_server.environment})
