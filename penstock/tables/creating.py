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
from penstock.errors import LakeError
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
    LakeError: there is no Delta table of such columns.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        try:
            DeltaTable.create(
                Path(folder).as_uri(),
                schema=schema,
                partition_by=list(partition_by) or None,
                name=name,
                description=description or None,
                configuration=dict(configuration),
            )
        except Exception as error:  # deltalake raises plain ones for types that Delta lacks
            reason = (str(error) or repr(error)).splitlines()[0]
            raise LakeError(f"{name}: no Delta table has such columns: {reason}") from error
        # By bytes: a text may hold line breaks of Unicode, and lines are of ASCII's alone.
        lines = Path(path_of(folder, 0)).read_bytes().splitlines()
    info = {
        "timestamp": int(time.time() * 1000),
        "operation": "CREATE TABLE",
        "operationParameters": {},
        "engineInfo": f"penstock:{__version__}",
        "clientVersion": f"penstock.{__version__}",
    }
    rest = [line for line in lines if "commitInfo" not in json.loads(line)]
    return b"\n".join([json.dumps({"commitInfo": info}).encode(), *rest])
