"""The benchmark runs, and its loaders feed what they should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_DATA = json.dumps({"rows": 20_000, "token_lists": 300, "jpegs": 40})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "samples"),
    [
        ("rows", 20_000),
        ("rows-parquet", 20_000),
        ("tokens", None),
        ("jpegs", 40),
        ("jpegs-bytes", 40),
        ("images", 40),
        ("images-cached", 40),
    ],
)
def test_ours_feeds_all_of_a_work(tmp_path: Path, work: str, samples: int | None) -> None:
    command = [sys.executable, "-m", "benchmarks.feed.measure", "penstock", work]
    command += ["--folder", str(tmp_path / "data"), "--data", _DATA, "--epochs", "2"]
    subprocess.run([*command, "--prepare"], check=True, timeout=60)

    told = subprocess.run(command, check=True, timeout=60, capture_output=True)

    found = json.loads(told.stdout)
    for fed in found["samples"]:
        assert fed == samples or (samples is None and 60 < fed <= 75)
    assert len(found["seconds"]) == len(found["samples"]) == 2
