"""What every asset tells of itself in the Dagster UI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa

from penstock.tables import Snapshot

_PREVIEW_ROWS = 5


def table_metadata(snapshot: Snapshot, *, seconds: float, **counts: float) -> dict[str, Any]:
    """Rows, bytes, version, columns and a preview of a table.

    Personal columns are masked in the preview.
    """
    return {
        "dagster/row_count": snapshot.rows,
        "dagster/table_name": snapshot.table.name.replace("/", "."),
        "dagster/uri": snapshot.table.uri,
        "dagster/column_schema": column_schema(snapshot.schema),
        "version": snapshot.version,
        "bytes": snapshot.size_bytes,
        "seconds": round(seconds, 3),
        "preview": dg.MetadataValue.md(preview(snapshot)),
        **counts,
    }


def column_schema(schema: pa.Schema) -> dg.TableSchema:
    """Columns with types, and descriptions, units and personal marks."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=field.name,
                type=str(field.type),
                description=_note(field, "comment") or None,
                constraints=dg.TableColumnConstraints(nullable=field.nullable),
                tags={k: v for k in ("unit", "personal") if (v := _note(field, k))},
            )
            for field in schema
        ]
    )


def preview(snapshot: Snapshot) -> str:
    """The first rows as a Markdown table."""
    if not snapshot.files:
        return "_no rows_"
    frame = snapshot.scan().head(_PREVIEW_ROWS).collect()
    personal = [field.name for field in snapshot.schema if _note(field, "personal")]
    # What could not be taken apart may hold what is personal.
    hidden = [name for name in (*personal, "_rescued") if name in frame.columns]
    return markdown(frame.with_columns(pl.lit("•••").alias(name) for name in hidden))


def markdown(frame: pl.DataFrame) -> str:
    """A frame as a Markdown table."""
    head = f"| {' | '.join(frame.columns)} |\n|{'---|' * frame.width}"
    rows = (f"| {' | '.join(_cell(value) for value in row)} |" for row in frame.iter_rows())
    return "\n".join([head, *rows])


def counts_markdown(counts: Mapping[str, int], what: str) -> str:
    """Counts, largest first, as a Markdown table."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return markdown(pl.DataFrame(ordered, schema=[what, "rows"], orient="row"))


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")[:80]


def _note(field: pa.Field, key: str) -> str:
    return (field.metadata or {}).get(key.encode(), b"").decode()
