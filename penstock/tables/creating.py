"""The first entry of a new table's log.

deltalake knows what a schema asks of readers and writers, but to make a table in object storage it
opens it two times over, a dozen round trips. So it makes one in a folder of this machine, and that
one's entry is put where the table is to be.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable

from penstock._version import __version__
from penstock.tables.log import path_of


def first_entry(
    schema: pa.Schema,
    *,
    name: str,
    partition_by: Sequence[str],
    description: str,
    configuration: Mapping[str, str | None],
) -> bytes:
    """The log file's lines.

    Raises
    ------
    DeltaError: there is no table of such a schema.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        DeltaTable.create(
            folder,
            schema=schema,
            partition_by=list(partition_by) or None,
            name=name,
            description=description or None,
            configuration=dict(configuration),
        )
        lines = Path(path_of(folder, 0)).read_text("utf-8").splitlines()
    info = {
        "timestamp": int(time.time() * 1000),
        "operation": "CREATE TABLE",
        "operationParameters": {},
        "engineInfo": f"penstock:{__version__}",
        "clientVersion": f"penstock.{__version__}",
    }
    rest = [line for line in lines if "commitInfo" not in json.loads(line)]
    return "\n".join([json.dumps({"commitInfo": info}), *rest]).encode()
