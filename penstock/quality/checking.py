"""Expectations held against any table: a frame, a Parquet or CSV file, a Delta table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from penstock.contracts import Contract, Expectation
from penstock.contracts.fitting import compared, is_of_text, is_of_times, middles, with_times
from penstock.errors import ContractError, SourceError
from penstock.quality.beyond import NEEDS_LAKE, refuse_without_lake
from penstock.quality.breaking import OWN
from penstock.quality.data import (
    Piece,
    in_pieces,
    named,
    personal_in,
    scanned,
    settled,
)
from penstock.quality.proving import prove
from penstock.quality.results import Result
from penstock.quality.scans import HasNaN, Run

if TYPE_CHECKING:  # each takes as long to import as a small table to check
    from penstock.quality.beyond import Past
    from penstock.quality.data import Data


@dataclass(slots=True)
class Report:
    """What a check came to."""

    name: str
    rows: int
    results: list[Result]
    rejected: int = 0
    """Rows that break an expectation of severity `reject` or `fail`."""
    checked_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def success(self) -> bool:
        """Whether every expectation holds, but those of severity `warn`."""
        return all(r.success for r in self.results if r.expectation.severity != "warn")

    def to_json(self) -> dict[str, Any]:
        """As Great Expectations' validation result of a suite."""
        good = sum(result.success for result in self.results)
        count = len(self.results)
        statistics = {
            "evaluated_expectations": count,
            "successful_expectations": good,
            "unsuccessful_expectations": count - good,
            "success_percent": 100 * good / count if count else None,
        }
        return {
            "success": good == count,
            "suite_name": self.name,
            "results": [result.to_json() for result in self.results],
            "statistics": statistics,
            "meta": {"rows": self.rows, "validation_time": self.checked_at.isoformat()},
        }

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.rows:,} rows, {self.rejected:,} of them rejected"]
        for result in self.results:
            mark = "holds " if result.success else "BROKEN" if self._weighs(result) else "warns "
            lines.append(f"  {mark} {result.expectation.describe()}{_came_to(result)}")
        return "\n".join(lines)

    @staticmethod
    def _weighs(result: Result) -> bool:
        return result.expectation.severity != "warn"


def check(
    data: Data,
    expectations: Contract | Expectation | Sequence[Expectation],
    *,
    rejects: str | Path | None = None,
    name: str = "",
) -> Report:
    """Hold expectations against all rows of a table, as it is.

    Parameters
    ----------
    data: a frame of polars or pandas, an Arrow table, a table of the lake, or the path or URI of
        Parquet or CSV files or of a Delta table. A CSV file's types are inferred. NaN counts as
        missing.
    expectations: or a contract, whose columns are looked for by their names in the table, and of
        which what is asked of other tables and earlier batches is left out.
    rejects: a Parquet file to write the rows to that break an expectation of severity `reject` or
        `fail`, with `_row` (from 0) and `_reasons`; it is complete or isn't there.

    Raises
    ------
    ContractError: an expectation names a column that isn't there, or one whose type it can't be
        asked of; nothing was read by then.
    """
    contract = expectations if isinstance(expectations, Contract) else None
    wanted = cast("Sequence[Expectation]", expectations)
    if isinstance(expectations, Expectation):
        wanted = [expectations]
    if contract is not None:
        wanted = [each for each in contract.all_expectations if each.type not in NEEDS_LAKE]
    personal = {c.name for c in contract.columns if c.personal} if contract else set[str]()
    path = None if rejects is None else Path(rejects)
    name = name or (contract.table if contract else named(data))
    if path is not None:
        _refuse_path(path, data)
    try:
        data = settled(data)
        frame, personal = scanned(data), personal | personal_in(data)
        pieces = in_pieces(data, frame.collect_schema())
        rows, results, rejected = checked(
            frame, wanted, personal=personal, rejects=path, pieces=pieces
        )
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise SourceError(f"{name}: can't be read: {reason}") from error
    return Report(name, rows, results, rejected)


def _refuse_path(path: Path, data: Data) -> None:
    """Raise `ContractError` where rejects can't be written, or would lie on what is checked."""
    parents = [path, *path.parents]
    if path.is_dir() or path.name in ("", ".", ".."):
        raise ContractError(f"{path}: rejects are written to a file, and this is a folder")
    if any(parent.is_file() for parent in parents[1:]):
        raise ContractError(f"{path}: rejects can't be written there: a file is in the way")
    if isinstance(data, str | Path) and "://" not in str(data):
        source = Path(data).resolve()
        if source in [each.resolve() for each in parents if each.exists() or each == path]:
            raise ContractError(
                f"{path}: rejects would be written over what is checked, or among it; take a path "
                "outside of it"
            )


def checked(
    frame: pl.LazyFrame,
    expectations: Sequence[Expectation],
    *,
    personal: set[str],
    rejects: Path | None = None,
    past: Past | None = None,
    pieces: Sequence[Piece] = (),
) -> tuple[int, list[Result], int]:
    """Rows, what each expectation comes to over them, and how many are rejected; see `check`.

    Parameters
    ----------
    personal: columns whose values are not shown.
    past: what came before, for those that are asked of it.
    pieces: the frame's rows in parts, in order, to read one by one; none: it is read as a whole.
    """
    schema = dict(frame.collect_schema())
    if rejects is not None and (taken := sorted({"_row", "_reasons"} & set(schema))):
        raise ContractError(f"{rejects}: rejects have columns {', '.join(taken)} of their own")
    if own := [name for name in schema if name.startswith(OWN)]:
        raise ContractError(
            f"{', '.join(own)}: columns called {OWN}... are those of a check; rename them first"
        )
    if past is None:
        refuse_without_lake(expectations)
    expectations = [_timed(each, schema) for each in expectations]
    if nulls := _kinds_of_nulls(schema, expectations):
        casts = [pl.col(name).cast(kind) for name, kind in nulls.items()]
        frame, schema = frame.with_columns(casts), {**schema, **nulls}
        pieces = [Piece(each.rows.with_columns(casts), each.size_bytes) for each in pieces]
    prove(expectations, schema)
    run = Run(frame, pieces, schema, [Result(each) for each in expectations], personal, past)
    try:
        rejected = run.run(rejects)
    except HasNaN:
        run = Run(frame, pieces, schema, [Result(each) for each in expectations], personal, past)
        run.without_nan()
        rejected = run.run(rejects)
    return run.rows, run.results, rejected


def _kinds_of_nulls(
    schema: Mapping[str, pl.DataType], expectations: Sequence[Expectation]
) -> dict[str, pl.DataType]:
    """Types for columns of nulls alone, which have none: such as they are to be asked."""
    found = dict[str, pl.DataType]()
    for each in expectations:
        for place, column in enumerate(each.columns):
            if column in found or schema.get(column) != pl.Null:
                continue
            values = [*compared(each), *middles(each)]
            if pairs := each.arguments.get("value_pairs_set"):
                values = [pair[place] for pair in pairs if pair[place] is not None]
            others = [schema[c] for c in each.columns if schema.get(c, pl.Null()) != pl.Null]
            if others and not pairs:
                found[column] = others[0]
            elif is_of_text(each) or (values and isinstance(values[0], str)):
                found[column] = pl.String()
            elif is_of_times(each) or (values and isinstance(values[0], date)):
                found[column] = pl.Datetime("us", "UTC")
            elif values and isinstance(values[0], bool):
                found[column] = pl.Boolean()
            else:
                found[column] = pl.Float64()
    return found


def _timed(expectation: Expectation, schema: Mapping[str, pl.DataType]) -> Expectation:
    kinds = [schema.get(column) for column in expectation.columns]
    are_times = [isinstance(kind, pl.Date | pl.Datetime) for kind in kinds]
    return with_times(expectation, are_times) if any(are_times) else expectation


def _came_to(result: Result) -> str:
    if result.holds is not None and not result.looked_at:
        return f": {json.dumps(result.to_json()['result']['observed_value'])}"
    return f": {result.broken:,} of {result.looked_at:,}"
