"""The Dagster UI on the lake: `make ui`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from dagster_project.place import is_missing, settle


def main() -> int:
    """Replace this process by Dagster's webserver and daemon."""
    parser = argparse.ArgumentParser(prog="make ui", description=__doc__)
    parser.add_argument("--domain", default="retail", help="whose raw files those are")
    parser.add_argument("--raw", help="the folder of raw files that the demo ran on")
    parser.add_argument("--lake", help="the lake's URI")
    options = parser.parse_args()
    if is_missing(options.raw):
        print(f"{options.raw}: no such folder", file=sys.stderr)
        return 2
    settle(options.raw, options.lake, options.domain)
    host, port = os.environ.get("UI_HOST", "127.0.0.1"), os.environ.get("UI_PORT", "3000")
    os.environ["PYTHONWARNINGS"] = "ignore"  # notices of what is beta in Dagster
    print(f"opening http://{host}:{port} (takes about 10 s; ctrl-c ends it)", flush=True)
    dagster = str(Path(sys.executable).parent / "dagster")
    module = "dagster_project.definitions"
    os.execv(dagster, [dagster, "dev", "-m", module, "-h", host, "-p", port])


if __name__ == "__main__":
    sys.exit(main())
