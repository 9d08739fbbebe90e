"""The package as others get it: names, wheel, import time, what it needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import penstock
from penstock import Lake
from tests.conftest import ROOT
from tests.shards.test_shards import publish


def test_every_public_name_is_there() -> None:
    for name in penstock.__all__:
        assert getattr(penstock, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        penstock.nothing


def test_importing_it_loads_nothing_heavy() -> None:
    script = (
        "import sys; before = set(sys.modules); import penstock; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    heavy = {"pyarrow", "polars", "duckdb", "deltalake", "numpy", "torch", "dagster", "obstore"}
    assert not heavy & set(loaded.stdout.split())


def test_a_first_batch_does_not_wait_for_pandas(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    script = """
import sys
from penstock import Lake, load_dataset
next(iter(load_dataset("shop/numbers", lake=Lake(sys.argv[1])).shuffle(1).batch(64)))
assert not {"pandas", "pyarrow.dataset"} & set(sys.modules)
"""
    publish(Lake(tmp_path / "lake"))
    command = [sys.executable, "-c", script, str(tmp_path / "lake")]
    subprocess.run(command, check=True, cwd=ROOT)


def test_load_dataset_works_without_the_extras(tmp_path: Path) -> None:
    """In a process where no extra can be imported."""
    script = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "dagster", "s3fs", "matplotlib", "jax", "pandas"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from penstock import Lake, load_dataset
from tests.shards.test_shards import publish
lake = Lake(sys.argv[1])
publish(lake)
rows = sum(len(b["label"]) for b in load_dataset("shop/numbers", lake=lake).shuffle(1).batch(64))
assert rows == 1000
try:
    load_dataset("shop/numbers", lake=lake).to("torch")
except ImportError as error:
    assert 'pip install "penstock[torch]"' in str(error)
else:
    raise AssertionError("torch was there")
"""
    command = [sys.executable, "-c", script, str(tmp_path / "lake")]
    subprocess.run(command, check=True, cwd=ROOT)


@pytest.mark.slow
def test_the_wheel_holds_penstock_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--quiet", "--wheel-dir", str(tmp_path), "."],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    (wheel,) = tmp_path.glob("*.whl")
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"penstock", f"penstock-{penstock.__version__}.dist-info"}


def test_versions_agree() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.+)"', project, re.M)[1] == penstock.__version__


def test_the_lock_has_what_the_project_asks_for() -> None:
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # Not locked: frameworks, which each machine has its own build of, and the peers of benchmarks.
    unlocked = {"torch", "jax", "tensorflow", "benchmarks", "all"}
    extras = project["optional-dependencies"]
    kept = [name for extra in extras.keys() - unlocked for name in extras[extra]]
    asked = {re.split(r"[><=;\[ ]", name)[0] for name in [*project["dependencies"], *kept]}
    assert asked - locked == set()
