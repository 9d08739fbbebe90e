"""What Penstock costs beside its alternatives: `python -m benchmarks.feed`."""

from __future__ import annotations

import os
from pathlib import Path


def environment_of(**more: str) -> dict[str, str]:
    """For what is measured: this tree's modules, compiled once, as those of packages are."""
    found = {**os.environ, "PYTHONPATH": str(Path.cwd()), **more}
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**found, "PYTHONPYCACHEPREFIX": str(Path("data/bench/pycache").resolve())}
