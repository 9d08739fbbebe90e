"""Whether a condition is about one row at a time, and so means the same for parts of a table."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import polars as pl

# As polars writes its expressions down.
_NODES = {
    *("Agg", "Over", "SubPlan", "Rolling", "Cumulative"),
    *("Sort", "SortBy", "Explode", "Gather", "Slice", "Filter"),
}
_FUNCTIONS = {
    *("IsFirstDistinct", "IsLastDistinct", "IsUnique", "IsDuplicated", "Any", "All"),
    *("Shift", "ShiftAndFill", "Diff", "PctChange", "Rank", "Random", "Reverse"),
    *("CumSum", "CumProd", "CumMin", "CumMax", "CumCount", "RollingExpr", "RollingExprBy"),
    *("EwmMean", "EwmStd", "EwmVar", "EwmMeanBy", "Interpolate", "InterpolateBy"),
    *("FillNullWithStrategy", "SearchSorted", "RLE", "RLEID", "PeakMin", "PeakMax"),
    *("TopK", "TopKBy", "GatherEvery", "Unique", "UniqueCounts", "ValueCounts", "Mode"),
    *("ArgMax", "ArgMin", "ArgSort", "ArgUnique", "ArgWhere", "IndexOf", "Hist", "Append"),
    *("Quantile", "Entropy", "Skew", "Kurtosis", "Correlation", "NullCount", "ApproxNUnique"),
    *("Product", "DropNulls", "DropNans", "MaxBy", "MinBy", "ExtendConstant", "Reshape"),
}
_NAMES = {"Column", "Literal", "Selector", "Field", "dtype"}
"""Below which is what a table or its reader names."""


def looks_past_a_row(condition: pl.Expr) -> bool:
    """Whether what it says of a row depends on others.

    A function of Python's is taken at its word: what it looks at isn't known.
    """
    from polars.exceptions import PolarsError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that JSON may change between versions
        try:
            tree = json.loads(condition.meta.serialize(format="json"))
        except PolarsError:
            return False
    return _looks_past(tree)


def _looks_past(node: Any) -> bool:
    if isinstance(node, list):
        return any(map(_looks_past, cast("list[Any]", node)))
    if not isinstance(node, dict):
        return node == "Len"
    for key, value in cast("dict[str, Any]", node).items():
        if key in _NAMES:
            continue
        is_past = key in _NODES or (key == "Function" and _name(value) in _FUNCTIONS)
        if (is_past and (_has_column(value) or key == "Cumulative")) or _looks_past(
            _asked(key, value)
        ):
            return True
    return False


def _asked(key: str, value: Any) -> Any:
    """The expressions of a node, without the names in it, of which one may be that of a node."""
    if key == "Alias":
        return value[0]
    return value["input"] if key == "Function" else value


def _name(function: Any) -> str:
    """A function's name; those of lists and texts, which are of one row, have others within."""
    said = function["function"]
    if isinstance(said, dict) and "Boolean" in said:
        said = cast("dict[str, Any]", said)["Boolean"]
    return next(iter(cast("dict[str, Any]", said))) if isinstance(said, dict) else str(said)


def _has_column(node: Any) -> bool:
    """Whether it is about a table's rows, and not about constants."""
    if isinstance(node, list):
        return any(map(_has_column, cast("list[Any]", node)))
    if not isinstance(node, dict):
        return node == "Len"
    return any(
        key in ("Column", "Selector", "SubPlan") or (key != "Literal" and _has_column(value))
        for key, value in cast("dict[str, Any]", node).items()
    )
