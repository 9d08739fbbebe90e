"""Expectations about rows as polars expressions: for each row, whether it breaks one.

Missing is null here; whoever holds rows in which NaN is missing too makes it null first.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial, reduce
from itertools import combinations
from operator import and_, or_
from typing import Any

import polars as pl

from penstock.contracts import Expectation
from penstock.errors import ContractError, MissingExtra

SOURCE_FILE = "_source_file"
_EXACT = 1 << 53
"""Up to which every integer is a float."""
_LARGEST = 1 << 127
"""Of the integers that there is a type for."""
_FEW = 64
"""Values that are compared one by one."""
_DIGITS = re.compile(r"\^\[0-9\]\{(?P<least>[0-9]{1,4})(?:,(?P<most>[0-9]{1,4}))?\}\$")
_MOST_DIGITS = 18
"""That every integer of 64 bits has room for."""
UNIQUE = "expect_compound_columns_to_be_unique"
_ABOUT_NULLS = {"expect_column_values_to_not_be_null", "expect_column_values_to_be_null"}


def broken(expectation: Expectation) -> pl.Expr:
    """True where a row breaks the expectation, false elsewhere; never null.

    Over the typed columns and `_source_file`.

    Raises
    ------
    ContractError: the type is not one that compiles to a row's own expression.
    """
    # What can't be compared holds in one column, which says nothing of it, and not in several.
    is_broken = breaks(expectation).fill_null(value=expectation.kind != "row")
    if expectation.kind == "row" and expectation.row_condition is None:
        return is_broken  # of what isn't looked at, nulls, it is false already
    return is_broken & looked_at(expectation)


def considered(expectation: Expectation) -> pl.Expr:
    """True where the row condition picks a row, whether or not values are missing."""
    if not expectation.row_condition:
        return pl.lit(value=True)
    picks = pl.sql_expr(expectation.row_condition).fill_null(value=False)
    if picks.meta.root_names():
        return picks
    # A literal, such as `1 = 1`, is one value; it is to be one for each row.
    return picks & pl.col(expectation.columns[0]).is_null().is_not_null()


def looked_at(expectation: Expectation) -> pl.Expr:
    """True where the expectation says anything of a row at all; never null."""
    picked = considered(expectation)
    if expectation.type in _ABOUT_NULLS or expectation.type == UNIQUE:
        return picked
    there = [pl.col(name).is_not_null() for name in expectation.columns]
    if len(there) == 1 or expectation.ignores == "any_value_is_missing":
        return reduce(and_, there, picked)
    return picked if expectation.ignores == "never" else picked & reduce(or_, there)


def breaks(expectation: Expectation) -> pl.Expr:
    """Whether values break the expectation, whatever its row condition; null where they are."""
    compiled = _COMPILED.get(expectation.type)
    if compiled is None:
        raise ContractError(f"{expectation.type} is not known; see docs/contracts.md")
    return compiled([pl.col(name) for name in expectation.columns], expectation.arguments)


_Columns = Sequence[pl.Expr]
_Arguments = Mapping[str, Any]


def _between(columns: _Columns, arguments: _Arguments) -> pl.Expr:
    return outside(columns[0], arguments)


def _lengths(columns: _Columns, arguments: _Arguments) -> pl.Expr:
    return outside(columns[0].str.len_chars(), arguments)


def outside(value: pl.Expr, arguments: _Arguments) -> pl.Expr:
    """Whether a value lies outside of `min_value` and `max_value`."""
    low, high = _exact(arguments.get("min_value")), _exact(arguments.get("max_value"))
    if isinstance(low, datetime) or isinstance(high, datetime):
        # As instants: two time zones can't be compared, and a time without one is UTC.
        value, low, high = value.dt.timestamp("us"), _instant(low), _instant(high)
    out = pl.lit(value=False)
    if low is not None:
        out = out | (value <= low if arguments.get("strict_min") else value < low)
    if high is not None:
        out = out | (value >= high if arguments.get("strict_max") else value > high)
    return out


def _exact(bound: Any) -> Any:
    """A whole number where it is a large one: beside a float, integers past 2^53 are rounded."""
    is_large = isinstance(bound, int | float) and _EXACT <= abs(bound) < _LARGEST
    return pl.lit(int(bound), pl.Int128) if is_large else bound


def _instant(bound: Any) -> int | None:
    """Microseconds since 1970, UTC."""
    if bound is None:
        return None
    if not isinstance(bound, datetime):
        bound = datetime(bound.year, bound.month, bound.day, tzinfo=UTC)
    bound = bound.replace(tzinfo=UTC) if bound.tzinfo is None else bound
    return (bound - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _in_set(columns: _Columns, arguments: _Arguments) -> pl.Expr:
    return in_set(columns[0], arguments["value_set"])


def in_set(value: pl.Expr, values: Sequence[Any]) -> pl.Expr:
    """Whether a value is one of some, whatever kinds of number or time both are."""
    there = [each for each in values if each is not None]
    if any(isinstance(each, datetime) for each in there):
        return value.dt.timestamp("us").is_in([_instant(each) for each in there])
    if len(there) > _FEW and len({type(each) for each in there}) == 1:
        return value.is_in(there)
    return reduce(or_, (value == pl.lit(each) for each in there), pl.lit(value=False))


def _pair_in_set(columns: _Columns, arguments: _Arguments) -> pl.Expr:
    a, b = columns
    pairs = arguments["value_pairs_set"]
    return reduce(or_, (a.eq_missing(pl.lit(x)) & b.eq_missing(pl.lit(y)) for x, y in pairs))


def _greater(columns: _Columns, arguments: _Arguments) -> pl.Expr:
    a, b = columns
    return a < b if arguments.get("or_equal") else a <= b


def _found(text: pl.Expr, patterns: Sequence[str], match_on: str = "any") -> pl.Expr:
    return reduce(and_ if match_on == "all" else or_, (_matches(text, p) for p in patterns))


def _matches(text: pl.Expr, pattern: str) -> pl.Expr:
    lengths = digits_of(pattern)
    if lengths is None:
        return text.str.contains(pattern)
    # Codes of digits are so frequent, and a number so much faster to read than a pattern to match,
    # that they are read as one; what it may begin with, a sign, sorts before the digits.
    is_number = text.cast(pl.Int64, strict=False).is_not_null() | text.is_null()
    return text.str.len_bytes().is_between(*lengths) & (text >= "0") & is_number


def digits_of(pattern: str) -> tuple[int, int] | None:
    """The least and most digits, such as an integer has, that are all a pattern takes."""
    digits = _DIGITS.fullmatch(pattern)
    if digits is None:
        return None
    least = int(digits["least"])
    most = least if digits["most"] is None else int(digits["most"])
    return (least, most) if 0 < least <= most <= _MOST_DIGITS else None


def _regex(columns: _Columns, arguments: _Arguments) -> pl.Expr:
    return _found(columns[0], [arguments["regex"]])


def _regexes(columns: _Columns, arguments: _Arguments) -> pl.Expr:
    return _found(columns[0], arguments["regex_list"], arguments.get("match_on", "any"))


def _like(columns: _Columns, arguments: _Arguments) -> pl.Expr:
    return _found(columns[0], [_from_like(arguments["like_pattern"])])


def _likes(columns: _Columns, arguments: _Arguments) -> pl.Expr:
    patterns = [_from_like(pattern) for pattern in arguments["like_pattern_list"]]
    return _found(columns[0], patterns, arguments.get("match_on", "any"))


def _from_like(pattern: str) -> str:
    """An SQL pattern as a regular expression."""
    parts = (re.escape(c) if c not in "%_" else ".*" if c == "%" else "." for c in pattern)
    return f"(?s)^{''.join(parts)}$"


def _sums(columns: _Columns, arguments: _Arguments) -> pl.Expr:
    wide = (column + pl.lit(0, pl.Int64) for column in columns)  # narrow ones would overflow
    return pl.sum_horizontal(*wide, ignore_nulls=False) == arguments["sum_total"]


def _all_equal(columns: _Columns, _: _Arguments) -> pl.Expr:
    first, *others = columns
    return reduce(and_, (first.eq_missing(other) for other in others), pl.lit(value=True))


def _any_equal(columns: _Columns, _: _Arguments) -> pl.Expr:
    pairs = combinations(columns, 2)
    return reduce(or_, (a.eq_missing(b) for a, b in pairs), pl.lit(value=False))


def _by_distinct(is_so: Callable[[str], bool], text: pl.Expr) -> pl.Expr:
    """What a Python function says of each text, asked once for each distinct one."""
    ask = partial(_asked, is_so)
    return text.map_batches(ask, return_dtype=pl.Boolean, is_elementwise=True)


def _asked(is_so: Callable[[str], bool], series: pl.Series) -> pl.Series:
    distinct = series.drop_nulls().unique()
    said = pl.Series([is_so(each) for each in distinct], dtype=pl.Boolean)
    return series.replace_strict(distinct, said, default=None, return_dtype=pl.Boolean)


def _is_time(columns: _Columns, arguments: _Arguments) -> pl.Expr:
    """By polars where it takes the text, and by Python's strptime, the judge, where it doesn't."""
    form = arguments["strftime_format"]

    def ask(series: pl.Series) -> pl.Series:
        try:
            parsed = series.str.to_datetime(form, strict=False, time_unit="us")
        except pl.exceptions.PolarsError:  # a format without a date, or unknown to it
            return _asked(partial(_has_format, form), series)
        rows = (series.is_not_null() & parsed.is_null()).arg_true()
        said = parsed.is_not_null().set(series.is_null(), None)
        if not len(rows):
            return said
        return said.scatter(rows, _asked(partial(_has_format, form), series.gather(rows)))

    return columns[0].map_batches(ask, return_dtype=pl.Boolean, is_elementwise=True)


def _has_format(form: str, text: str) -> bool:
    try:
        datetime.strptime(text, form)
    except ValueError:
        return False
    return True


def _is_date(columns: _Columns, _: _Arguments) -> pl.Expr:
    try:
        parser = importlib.import_module("dateutil.parser")
    except ImportError as error:
        raise MissingExtra("python-dateutil", "quality") from error

    def is_so(text: str) -> bool:
        try:
            parser.parse(text)
        except (ValueError, OverflowError):
            return False
        return True

    return _by_distinct(is_so, columns[0])


def _is_json(columns: _Columns, _: _Arguments) -> pl.Expr:
    return _by_distinct(lambda text: _loaded(text)[0], columns[0])


def _loaded(text: str) -> tuple[bool, Any]:
    try:
        return True, json.loads(text)
    except (ValueError, RecursionError):
        return False, None


def _has_schema(columns: _Columns, arguments: _Arguments) -> pl.Expr:
    try:
        jsonschema = importlib.import_module("jsonschema")
    except ImportError as error:
        raise MissingExtra("jsonschema", "quality") from error
    schema = arguments["json_schema"]
    kind = jsonschema.validators.validator_for(schema)
    try:
        kind.check_schema(schema)
    except jsonschema.exceptions.SchemaError as error:
        raise ContractError(f"json_schema is no JSON Schema: {error.message}") from error
    _check_references(schema)
    validator = kind(schema)

    def is_so(text: str) -> bool:
        is_json, value = _loaded(text)
        return is_json and validator.is_valid(value)

    return _by_distinct(is_so, columns[0])


def _check_references(schema: Mapping[str, Any]) -> None:
    """Raise `ContractError` for a `$ref` that leads nowhere, or out of the schema."""
    referencing = importlib.import_module("referencing")
    jsonschema = importlib.import_module("referencing.jsonschema")
    resource = referencing.Resource.from_contents(
        schema, default_specification=jsonschema.DRAFT202012
    )
    if any("$id" in part or "id" in part for part in _parts(schema) if part is not schema):
        return  # a reference there begins elsewhere
    resolver = referencing.Registry().with_resource("", resource).resolver()
    for part in _parts(schema):
        reference = part.get("$ref")
        if not isinstance(reference, str):
            continue
        try:
            resolver.lookup(reference.removeprefix(resource.id() or ""))
        except referencing.exceptions.Unresolvable as error:
            raise ContractError(
                f"json_schema refers to {reference!r}, which is not in it; write what it names "
                "under $defs"
            ) from error


def _parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    """A schema's own objects, at any depth."""
    if isinstance(schema, Mapping):
        yield schema
    inner = schema.values() if isinstance(schema, Mapping) else schema
    for each in inner if isinstance(schema, Mapping | list | tuple) else ():
        yield from _parts(each)


def _not(
    holds: Callable[[_Columns, _Arguments], pl.Expr],
) -> Callable[[_Columns, _Arguments], pl.Expr]:
    def breaks(columns: _Columns, arguments: _Arguments) -> pl.Expr:
        return ~holds(columns, arguments)

    return breaks


_COMPILED: dict[str, Callable[[_Columns, _Arguments], pl.Expr]] = {
    "expect_column_values_to_not_be_null": lambda columns, _: columns[0].is_null(),
    "expect_column_values_to_be_null": lambda columns, _: columns[0].is_not_null(),
    "expect_column_values_to_be_between": _between,
    # Which rows' values another table lacks is known to whoever has read it.
    "expect_column_values_to_exist_in_table": lambda columns, _: columns[0].is_not_null(),
    "expect_column_values_to_be_in_set": _not(_in_set),
    "expect_column_values_to_not_be_in_set": _in_set,
    "expect_column_values_to_match_regex": _not(_regex),
    "expect_column_values_to_not_match_regex": _regex,
    "expect_column_values_to_match_regex_list": _not(_regexes),
    "expect_column_values_to_not_match_regex_list": _regexes,
    "expect_column_values_to_match_like_pattern": _not(_like),
    "expect_column_values_to_not_match_like_pattern": _like,
    "expect_column_values_to_match_like_pattern_list": _not(_likes),
    "expect_column_values_to_not_match_like_pattern_list": _likes,
    "expect_column_values_to_match_strftime_format": _not(_is_time),
    "expect_column_values_to_be_dateutil_parseable": _not(_is_date),
    "expect_column_values_to_be_json_parseable": _not(_is_json),
    "expect_column_values_to_match_json_schema": _not(_has_schema),
    "expect_column_value_lengths_to_be_between": _lengths,
    "expect_column_value_lengths_to_equal": lambda columns, arguments: (
        columns[0].str.len_chars() != arguments["value"]
    ),
    "expect_column_pair_values_a_to_be_greater_than_b": _greater,
    "expect_column_pair_values_to_be_equal": lambda columns, _: columns[0] != columns[1],
    "expect_column_pair_values_to_be_in_set": _not(_pair_in_set),
    "expect_compound_columns_to_be_unique": lambda _, __: pl.lit(value=True),
    "expect_multicolumn_sum_to_equal": _not(_sums),
    "expect_multicolumn_values_to_be_equal": _not(_all_equal),
    "expect_multicolumn_values_to_be_unique": _any_equal,
    "expect_select_column_values_to_be_unique_within_record": _any_equal,
}
"""`expect_compound_columns_to_be_unique`: of the rows that are marked as repeated elsewhere."""


def read_by(expectation: Expectation) -> list[str]:
    """Every column that an expectation reads, its row condition's too."""
    found = dict.fromkeys(expectation.columns)
    if expectation.row_condition:
        found |= dict.fromkeys(pl.sql_expr(expectation.row_condition).meta.root_names())
    return list(found)
