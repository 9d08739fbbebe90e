"""A contract: the columns of a table with their types and units, its key, its event time, and
what is expected of its rows. A value: it compares, hashes to a fingerprint, and prints itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, get_args

import xxhash

from penstock.contracts.beyond import expect_column_max_to_be_recent, seconds
from penstock.contracts.expectation import Expectation
from penstock.contracts.expectations import expect_column_values_to_not_be_null
from penstock.contracts.fitting import refuse_unfit
from penstock.errors import ContractError
from penstock.lake import checked_name

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["string", "int32", "int64", "float64", "bool", "date", "timestamp", "binary"]

Evolution = Literal["widen", "fixed"]
Policy = Literal["rescue", "add", "fail"]
"""What becomes of a raw column that the contract doesn't know."""

_PROVENANCE = {
    "_batch",
    "_error",
    "_ingested_at",
    "_reasons",
    "_rescued",
    "_source_file",
    "_source_row",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    name: str
    kind: Kind
    description: str = ""
    source_name: str = ""
    """What the column is called in raw files; by default as in the table."""
    nullable: bool = True
    unit: str = ""
    personal: bool = False
    """Whether it is about a person: masked in previews and reports, and found by an erasure."""
    evolution: Evolution = "widen"
    """Whether a later contract may widen its type (int32, int64, float64; date, timestamp), for
    which the table is written anew, or the type is `fixed`."""
    former_names: tuple[str, ...] = ()
    """What raw files have called it before; of a file without `source_name`, the first that it has
    is taken."""

    @property
    def raw_name(self) -> str:
        """The column's name in raw files."""
        return self.source_name or self.name


@dataclass(frozen=True, slots=True)
class Contract:
    """What a table promises.

    Raises
    ------
    ContractError: a key, event time or expectation names a column that isn't there.
    """

    table: str
    columns: tuple[Column, ...]
    event_time: str
    key: tuple[str, ...] = ()
    expectations: tuple[Expectation, ...] = ()
    description: str = ""
    owner: str = ""
    unknown_columns: Policy | Mapping[str, Policy] = field(default="rescue", hash=False)
    """Columns of raw files that the contract doesn't know: kept as JSON in `_rescued`, added to the
    bronze table as text, or the file is refused. One policy for all, or one a column by the longest
    pattern that its name matches (`{"promo_*": "add", "*": "fail"}`); without one it is kept."""
    max_rejected: float | int | None = None
    """Of a batch's rows, a share (0.01) or a number (1000); with more nothing of it commits."""
    freshness: str = ""
    """How old the newest event may be when rows are validated, such as `26h`: an expectation of
    severity `warn`, and a check in Dagster when nothing comes any more. Empty: any age."""
    grain: str = ""
    """What one row is, for a reader: `a product on an invoice`."""

    def __post_init__(self) -> None:
        checked_name(self.table)
        known = [column.name for column in self.columns]
        for names in (known, self.raw_names):
            lower = [name.lower() for name in names]  # Delta's names are told apart by no case
            if twice := sorted({name for name in names if lower.count(name.lower()) > 1}):
                raise ContractError(f"{self.table}: a column is there twice: {', '.join(twice)}")
            if taken := sorted(set(lower) & _PROVENANCE):
                raise ContractError(
                    f"{self.table}: {', '.join(taken)}: names that Penstock gives to columns of "
                    "its own; take others"
                )
        for column in self.columns:
            if column.kind not in get_args(Kind):
                raise ContractError(
                    f"{self.table}: column {column.name}: {column.kind!r} is no kind; there are "
                    f"{', '.join(get_args(Kind))}"
                )
            if column.evolution not in get_args(Evolution):
                raise ContractError(
                    f"{self.table}: column {column.name}: evolution is widen or fixed, not "
                    f"{column.evolution!r}"
                )
        if texts := [c.name for c in self.columns if isinstance(c.former_names, str)]:
            raise ContractError(f"{self.table}: {texts[0]}: former_names is a tuple of names")
        former = [name for column in self.columns for name in column.former_names]
        if twice := sorted({n for n in former if former.count(n) > 1 or n in self.raw_names}):
            raise ContractError(
                f"{self.table}: {', '.join(twice)}: a former name is of one column, and of none now"
            )
        used = {self.event_time, *self.key}
        for expectation in self.expectations:
            used.update(expectation.columns)
        if missing := sorted(used - set(known)):
            raise ContractError(f"{self.table}: no column {', '.join(missing)}; there are {known}")
        if self.column(self.event_time).kind != "timestamp":
            raise ContractError(f"{self.table}: event time {self.event_time} is not a timestamp")
        if self.freshness:
            seconds(self.freshness)
        policies = self.unknown_columns
        each = [policies] if isinstance(policies, str) else policies.values()
        if wrong := sorted({str(policy) for policy in each} - set(get_args(Policy))):
            raise ContractError(
                f"{self.table}: unknown_columns: no policy {', '.join(wrong)}; there are "
                f"{', '.join(get_args(Policy))}"
            )
        most = self.max_rejected
        is_number = isinstance(most, int | float) and not isinstance(most, bool)
        if most is not None and not (
            is_number and most >= 0 and (isinstance(most, int) or most <= 1)
        ):
            raise ContractError(
                f"{self.table}: max_rejected is a share up to 1.0 or a number of rows, not {most!r}"
            )
        refuse_unfit(self.all_expectations, self.columns)
        personal = {column.name for column in self.columns if column.personal}
        for expectation in self.expectations:
            if expectation.type.endswith("_to_be_stable") and personal & set(expectation.columns):
                raise ContractError(
                    f"{self.table}: {expectation.name}: of a personal column no values are kept"
                )
        names = [expectation.name for expectation in self.all_expectations]
        own = {"malformed_row", *(f"{c.name}_is_{c.kind}" for c in self.columns)}
        if taken := sorted(own & {*names}):
            raise ContractError(
                f"{self.table}: {', '.join(taken)}: why Penstock itself rejects rows; take another "
                "label"
            )
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ContractError(
                f"{self.table}: expected twice: {', '.join(twice)}; tell them apart by a name, "
                'label="..."'
            )

    def __str__(self) -> str:
        """For a reader: a line for each column and each expectation."""
        facts = {
            "": self.description,
            "a row is ": self.grain,
            "owner ": self.owner,
            "fresh within ": self.freshness,
            "unknown columns: ": "" if self.unknown_columns == "rescue" else self.unknown_columns,
            "rejected at most: ": self.max_rejected,
        }
        said = [f"  {what}{value}" for what, value in facts.items() if value not in ("", None)]
        lines = [self.table, *said, "columns"]
        width = max(len(column.name) for column in self.columns)
        for column in self.columns:
            marks = [
                column.kind,
                *([] if column.nullable else ["not null"]),
                *(["key"] if column.name in self.key else []),
                *(["event time"] if column.name == self.event_time else []),
                *(["personal"] if column.personal else []),
                *([f"in {column.unit}"] if column.unit else []),
                *([f"{column.source_name} in files"] if column.source_name else []),
                *([f"{', '.join(column.former_names)} before"] if column.former_names else []),
                *(["fixed"] if column.evolution == "fixed" else []),
            ]
            about = f": {column.description}" if column.description else ""
            lines.append(f"  {column.name:{width}}  {', '.join(marks)}{about}")
        lines.append("expectations")
        for each in self.all_expectations:
            mostly = f", of {each.mostly:.0%} at least" if each.mostly < 1 else ""
            lines.append(f"  {each.severity:6}  {each.describe()}{mostly}")
        return "\n".join(lines)

    def column(self, name: str) -> Column:
        """The column of that name."""
        return next(column for column in self.columns if column.name == name)

    def policy_of(self, name: str) -> Policy:
        """What becomes of a raw column of that name, which the contract doesn't know."""
        if isinstance(self.unknown_columns, str):
            return self.unknown_columns
        matching = [pattern for pattern in self.unknown_columns if fnmatchcase(name, pattern)]
        return self.unknown_columns[max(matching, key=len)] if matching else "rescue"

    @property
    def raw_names(self) -> list[str]:
        """The columns' names in raw files, in the contract's order."""
        return [column.raw_name for column in self.columns]

    def renamed(self, names: Sequence[str]) -> list[str]:
        """A raw file's names, with those of now in the place of former ones."""
        found = list(names)
        for column in self.columns:
            if column.former_names and column.raw_name not in found:
                former = next((name for name in column.former_names if name in found), None)
                if former is not None:
                    found[found.index(former)] = column.raw_name
        return found

    @property
    def all_expectations(self) -> tuple[Expectation, ...]:
        """Those written down, after one for each column that must have a value, and freshness."""
        said = {
            each.columns[0]
            for each in self.expectations
            if each.type == "expect_column_values_to_not_be_null"
            and each.severity != "warn"
            and not each.row_condition
        }
        implied = (
            expect_column_values_to_not_be_null(column.name)
            for column in self.columns
            if not column.nullable and column.name not in said
        )
        fresh = ()
        if self.freshness:
            fresh = (expect_column_max_to_be_recent(self.event_time, self.freshness),)
        return (*implied, *fresh, *self.expectations)

    def arrow_schema(self) -> pa.Schema:
        """The columns as Arrow fields; all else of a column is field metadata, also whether it
        may be null: a field that may not couldn't be given up again.
        """
        import pyarrow as pa  # which takes as long to import as a small table to check

        return pa.schema([_field(column) for column in self.columns])

    def fingerprint(self) -> str:
        """16 hex digits that change when anything in the contract does."""
        text = json.dumps(asdict(self), sort_keys=True, default=str)
        return xxhash.xxh3_64_hexdigest(text.encode())

    def gx_suite(self) -> dict[str, Any]:
        """The expectations as a Great Expectations suite (JSON).

        Those that it hasn't, or would ask of rows that their condition leaves out, are in
        `meta.penstock`, each with its place, for whoever reads the suite with Penstock.
        """
        every = [*enumerate(self.all_expectations)]
        others = [{"at": at, **each.to_gx()} for at, each in every if not each.is_in_gx]
        return {
            "name": self.table,
            "expectations": [each.to_gx() for _, each in every if each.is_in_gx],
            "meta": {"penstock": {"expectations": others}} if others else {},
        }


def file_columns(*, content: bool = True) -> tuple[Column, ...]:
    """The columns of a table of files (images, audio, documents), a row each.

    Parameters
    ----------
    content: whether the bytes are a column; else `uri` says where they lie.
    """
    columns = (
        Column("path", "string", "Under the source's folder", nullable=False),
        Column("uri", "string", "Whole, without credentials", nullable=False),
        Column("size_bytes", "int64", unit="bytes", nullable=False),
        Column("media_type", "string", "By its first bytes, such as image/jpeg"),
        Column("width", "int32", "Of an image", unit="pixels"),
        Column("height", "int32", "Of an image", unit="pixels"),
        Column("checksum", "string", "XXH3, 128 bits", nullable=False),
        Column("changed_at", "timestamp", "When the file changed", nullable=False),
    )
    return (*columns, Column("content", "binary", "The bytes")) if content else columns


def _field(column: Column) -> pa.Field:
    import pyarrow as pa

    kinds: dict[Kind, pa.DataType] = {
        "string": pa.string(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us", "UTC"),
        "binary": pa.binary(),
    }
    metadata = {"comment": column.description, "unit": column.unit}
    metadata |= {
        "personal": "true" if column.personal else "",
        "source_name": column.source_name,
        "nullable": "" if column.nullable else "false",
        "evolution": "" if column.evolution == "widen" else column.evolution,
        "former_names": json.dumps(column.former_names) if column.former_names else "",
    }
    kept = {key: value for key, value in metadata.items() if value}
    return pa.field(column.name, kinds[column.kind], metadata=kept or None)
