"""Expectations beyond one table's rows: other tables, time, earlier batches, SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import polars as pl

from penstock.contracts import Contract, Expectation
from penstock.contracts.beyond import seconds
from penstock.contracts.catalogue import OF_THE_LAKE
from penstock.errors import ContractError, TableNotFound
from penstock.quality.compiled import SOURCE_FILE, looked_at
from penstock.quality.on_gx import ON_GX, judge_on_gx
from penstock.quality.queries import COMPARISON, QUERY, judge_comparison, judge_query
from penstock.quality.results import Result
from penstock.tables.rewrite import origin

if TYPE_CHECKING:
    from penstock.lake import Lake
    from penstock.quality.profiling import Profile
    from penstock.tables import Snapshot

FOREIGN_KEY = "expect_column_values_to_exist_in_table"
NEAR_PREVIOUS = "expect_table_row_count_to_be_near_previous"
KNOWN_COLUMNS = "expect_table_columns_to_be_known"
OTHER_COUNT = "expect_table_row_count_to_equal_other_table"
STABLE = "expect_column_distribution_to_be_stable"
NEEDS_LAKE = {FOREIGN_KEY, NEAR_PREVIOUS, KNOWN_COLUMNS, STABLE, *OF_THE_LAKE}
"""What can't be asked of rows alone."""
_GAPS_SHOWN = 20
_NAMES = """
    SELECT unnest(json_keys(rescued)) AS name, count(*)
    FROM (SELECT CASE WHEN json_valid(rescued) AND json_type(rescued) = 'OBJECT'
                 THEN rescued END AS rescued FROM rows)
    GROUP BY name
"""
"""A row that could not be taken apart is no JSON, and has no names."""


@dataclass
class Past:
    """What came before a batch, and what was unknown in it."""

    lake: Lake
    table: str
    unknown: dict[str, int] = field(default_factory=dict[str, int])
    """Raw columns that the contract doesn't know, with rows that have a value there."""
    replaced: list[str] = field(default_factory=list[str])
    """Source files of which the batch takes rows out."""

    def rows_before(self, batches: int) -> list[int]:
        """Rows of earlier batches, the newest first; those without rows are left out."""
        from penstock.quality.history import validations
        from penstock.tables import Table

        snapshot = Table(self.lake, self.table).snapshot_or_none()
        notes = (each.note for each in validations(snapshot)) if snapshot else ()
        rows = (note.get("rows_accepted", 0) + note.get("rows_rejected", 0) for note in notes)
        return [*islice(filter(None, rows), batches)]

    def newest(self, expectation: Expectation) -> datetime | None:
        """The latest time of the table's rows that are there beside the batch's."""
        from penstock.tables import Table

        (column,) = expectation.columns
        snapshot = Table(self.lake, self.table).snapshot_or_none()
        if snapshot is None or not snapshot.rows:
            return None
        if self.replaced or expectation.row_condition:
            stays = ~origin(SOURCE_FILE).is_in(self.replaced) & looked_at(expectation)
            rows = snapshot.scan().filter(stays).select(pl.col(column).max())
            found = rows.collect(engine="streaming").item()
        else:
            found = snapshot.bounds(column)[1]
        if isinstance(found, date) and not isinstance(found, datetime):
            found = datetime(found.year, found.month, found.day, tzinfo=UTC)
        if isinstance(found, datetime) and found.tzinfo is None:
            found = found.replace(tzinfo=UTC)
        return found

    def profile(self, against: int | str) -> Profile | None:
        """What a batch is held against; None where there is nothing yet.

        Raises
        ------
        ContractError: the table has rows, and no such version or tag.
        """
        from penstock.quality.profiling import batch_profiles, profile_of

        try:
            if against != "previous":
                return profile_of(self.lake, self.table, against)
            # Batches that only took rows out have none to compare with.
            filled = [each for each in batch_profiles(self.lake, self.table, 5) if each.rows]
        except TableNotFound as error:
            if self.rows_before(1):
                raise ContractError(
                    f"{self.table}: nothing to hold a batch against: {error}"
                ) from error
            return None
        return filled[-1] if filled else None

    def saw(self, rescued: pl.Series) -> None:
        """Count the raw columns of rows' `_rescued` (JSON objects, null where nothing was)."""
        some = rescued.drop_nulls()
        if some.is_empty():
            return
        from penstock.tables.sql import connect

        with connect() as connection:
            connection.register("rows", pl.DataFrame({"rescued": some}).to_arrow())
            found = connection.execute(_NAMES).fetchall()
        for name, count in found:
            self.unknown[name] = self.unknown.get(name, 0) + count


class Absent:
    """Marks rows whose value another table doesn't have."""

    def __init__(self, lake: Lake, expectation: Expectation, kind: pl.DataType) -> None:
        (self._column,) = expectation.columns
        keys = keys_of(lake, expectation)
        if keys.dtype != kind and not (keys.dtype.is_integer() and kind.is_integer()):
            other = f"{expectation.arguments['table']}.{expectation.arguments['other_column']}"
            raise ContractError(
                f"{expectation.name}: {self._column} is {kind}, and {other} is {keys.dtype}; two "
                "columns that are compared are of one type"
            )
        self._keys = keys.cast(kind, strict=False).drop_nulls().sort()

    def prepared(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """What `mark` gives, as no row's depends on another."""
        return self._missing(chunk).to_frame("missing")

    def mark(self, prepared: pl.DataFrame) -> pl.Series:
        """Whether each row's value is missing there; of null, nothing is said."""
        return prepared["missing"]

    def _missing(self, chunk: pl.DataFrame) -> pl.Series:
        values, keys = chunk[self._column], self._keys
        if keys.is_empty():
            return values.is_not_null()
        # Sorted once: a hash of all keys for each chunk would cost more than what it is asked.
        places = keys.search_sorted(values).clip(upper_bound=len(keys) - 1)
        return keys.gather(places).ne_missing(values) & values.is_not_null()


def absences(lake: Lake, contract: Contract) -> dict[str, Absent]:
    """By name, what marks the rows of a contract's foreign keys."""
    wanted = [each for each in contract.all_expectations if each.type == FOREIGN_KEY]
    if not wanted:
        return {}
    schema = pl.DataFrame(pl.from_arrow(contract.arrow_schema().empty_table())).schema
    return {each.name: Absent(lake, each, schema[each.columns[0]]) for each in wanted}


def keys_of(lake: Lake, expectation: Expectation) -> pl.Series:
    """The values that the other table has, each once.

    Raises
    ------
    ContractError: there is no such table, version or column, or it is of another type.
    """
    name, column = expectation.arguments["table"], expectation.arguments["other_column"]
    snapshot = _other(lake, expectation, name)
    if column not in snapshot.schema.names:
        known = ", ".join(snapshot.schema.names)[:1000]
        raise ContractError(f"{expectation.name}: {name} has no column {column}; it has {known}")
    rows = snapshot.scan().select(pl.col(column).drop_nulls().unique())
    return rows.collect(engine="streaming").to_series()


def _other(lake: Lake, expectation: Expectation, name: str) -> Snapshot:
    """Another table that an expectation reads, at the version that it says."""
    from penstock.tables import Table

    try:
        return Table(lake, name).snapshot(expectation.arguments.get("version"))
    except TableNotFound as error:
        raise ContractError(f"{expectation.name}: {error}") from error


def refuse_without_lake(expectations: Sequence[Expectation]) -> None:
    """Raise `ContractError` where something can only be asked of a batch of a table."""
    if wanted := [each.name for each in expectations if each.type in NEEDS_LAKE]:
        raise ContractError(
            f"{', '.join(wanted)}: asked of other tables or earlier batches, which only "
            "`validate` knows; leave it out here"
        )


def measures(expectation: Expectation, value: pl.Expr) -> dict[str, pl.Expr]:
    """Aggregates of a column of times; none of what isn't about one."""
    if not expectation.type.endswith(("_to_be_recent", "_to_have_no_gaps")):
        return {}
    if expectation.type.endswith("_to_be_recent"):
        return {"observed": value.max()}
    length = seconds(expectation.arguments["every"])
    steps = value.dt.epoch("s").floordiv(length).unique().sort()
    after = steps.diff()
    return {
        "gaps": (after > 1).sum(),
        "missing": (after - 1).sum(),
        "before": steps.filter(after.shift(-1) > 1).head(_GAPS_SHOWN).implode(),
        "first": steps.first(),
    }


def judge_times(result: Result, values: Mapping[str, Any], past: Past | None) -> bool:
    """Fill in what a column of times comes to; whether this was for it to do.

    Parameters
    ----------
    past: where a batch goes on behind earlier ones, the gap between them counts too.
    """
    expectation = result.expectation
    if expectation.type.endswith("_to_be_recent"):
        newest = values.get("observed")
        if newest is not None and not isinstance(newest, datetime):
            newest = datetime(newest.year, newest.month, newest.day, tzinfo=UTC)
        if newest is not None and newest.tzinfo is None:
            newest = newest.replace(tzinfo=UTC)
        age = None if newest is None else (datetime.now(UTC) - newest).total_seconds()
        result.observed = newest
        # Nor from the future: one typing error would hold for years.
        within = seconds(expectation.arguments["within"])
        result.holds = age is not None and -within <= age <= within
        return True
    if not expectation.type.endswith("_to_have_no_gaps"):
        return False
    length = seconds(expectation.arguments["every"])
    missing, gaps = int(values.get("missing") or 0), int(values.get("gaps") or 0)
    before, first = [*(values.get("before") or ())], values.get("first")
    if past is not None and first is not None:
        newest = past.newest(expectation)
        last = first if newest is None else int(newest.timestamp() // length)
        if first - last > 1:
            missing, gaps, before = missing + first - last - 1, gaps + 1, [last, *before]
    result.observed, result.holds = missing, missing == 0
    ends = [
        datetime.fromtimestamp((step + 1) * length, UTC).isoformat()
        for step in before[:_GAPS_SHOWN]
    ]
    result.details = {"gaps": gaps, "partial_gaps_list": ends}
    return True


def judge_table(result: Result, rows: int, past: Past | None) -> bool:
    """Fill in what is asked beside earlier batches and another table; whether this was for it to
    do.
    """
    expectation = result.expectation
    if past is None or expectation.type not in (NEAR_PREVIOUS, KNOWN_COLUMNS, OTHER_COUNT):
        return False
    if expectation.type == OTHER_COUNT:
        other = _other(past.lake, expectation, expectation.arguments["other_table_name"]).rows
        result.observed, result.holds = {"self": rows, "other": other}, rows == other
        return True
    if expectation.type == KNOWN_COLUMNS:
        result.observed, result.holds = sorted(past.unknown), not past.unknown
        return True
    low, high, over = (expectation.arguments[key] for key in ("min_ratio", "max_ratio", "over"))
    before = past.rows_before(over)
    from statistics import median

    usual = median(before) if before else 0
    # A batch that only takes rows out, as where a file was emptied, says nothing.
    result.observed = rows / usual if usual and rows else None
    result.holds = result.observed is None or low <= result.observed <= high
    result.details = {"rows": rows, "usual_rows": usual}
    return True


def judge_frame(result: Result, frame: pl.LazyFrame, personal: set[str], past: Past | None) -> bool:
    """Fill in what takes a scan of its own; whether this was for it to do."""
    if result.expectation.type == QUERY:
        judge_query(result, frame, personal)
        return True
    if result.expectation.type == COMPARISON and past is not None:
        judge_comparison(result, frame, personal, past.lake)
        return True
    if result.expectation.type in ON_GX:
        judge_on_gx(result, frame, personal)
        return True
    if result.expectation.type == STABLE and past is not None:
        _stable(result, frame, personal, past)
        return True
    return False


def _stable(result: Result, frame: pl.LazyFrame, personal: set[str], past: Past) -> None:
    from penstock.quality.drifting import Limits, drift
    from penstock.quality.profiling import profile

    (column,) = result.expectation.columns
    arguments = result.expectation.arguments
    before = past.profile(arguments["against"])
    result.holds = True
    if before is None or column not in before.columns or not before.rows:
        return
    after = profile(frame, columns=[column], personal=personal & {column}, name=past.table)
    limits = Limits(**{name: arguments.get(name) for name in ("psi", "js", "ks")})
    found = drift(before, after, limits)
    moved = next((each for each in found.columns if each.column == column), None)
    if moved is None:
        result.observed, result.holds = "of another type", False
        return
    result.observed = {"psi": moved.psi, "js": moved.js, "ks": moved.ks, "p": moved.p_value}
    result.details = {"against": found.before, "middle": list(moved.middle)}
    result.holds = not moved.has_drifted
