"""Where the demo and the UI keep their lake and Dagster's runs, and where raw files are."""

from __future__ import annotations

import os
import re
from pathlib import Path

import xxhash

SAMPLES = Path("data/raw")
_SETTINGS = """\
telemetry:
  enabled: false
nux:
  enabled: false
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config:
    max_concurrent_runs: 2
"""


def settle(raw: str | None, lake: str | None, domain: str = "retail") -> str:
    """Set the environment that the definitions read; the folder of raw files.

    A user's own folder gets a lake of its own, unless one is named: by `lake`, or by
    `PENSTOCK_LAKE`. Dagster's runs go beside it, unless `DAGSTER_HOME` says otherwise.
    """
    suffix = f"-{_label(raw)}" if raw else ""
    uri = lake or os.environ.get("PENSTOCK_LAKE") or f"data/lake{suffix}"
    os.environ["PENSTOCK_LAKE"] = uri if "://" in uri else str(Path(uri).absolute())
    home = Path(os.environ.get("DAGSTER_HOME") or f"data/dagster{suffix}").absolute()
    os.environ["DAGSTER_HOME"] = str(home)
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.exists():
        settings.write_text(_SETTINGS)
    folder = raw or str(SAMPLES / domain)
    whole = folder if "://" in folder else str(Path(folder).absolute())
    os.environ[f"PENSTOCK_{domain.upper()}_RAW"] = whole
    return folder


def is_missing(raw: str | None) -> bool:
    """Whether a folder of this machine is named that isn't there."""
    return raw is not None and "://" not in raw and not Path(raw).is_dir()


def _label(raw: str) -> str:
    """Short, and another for each folder, whatever its last part is called."""
    whole = raw if "://" in raw else str(Path(raw).resolve())
    name = re.sub(r"[^a-z0-9]+", "-", Path(whole).name.lower()).strip("-")
    return f"{name}-{xxhash.xxh3_64_hexdigest(whole.encode())[:6]}"
