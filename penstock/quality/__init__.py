"""Contracts held at the speed of a scan.

raw batch (text) ─▶ cast.py: typed values, and which did not cast
                 ─▶ compiled.py: expectations as polars expressions, all in one pass
                 ─▶ repeats.py: rows equal to an earlier one of their file
                 ─▶ validation.py: accepted rows, rejected rows with every reason; commits
                 ─▶ results.py: counts, in the shape of Great Expectations' results

any table ─▶ checking.py: the same expectations over a frame, file or table as it is, with
             columns.py (whole columns) and passing.py (repeats, order)
"""

from penstock.quality.checking import Report, check
from penstock.quality.validation import Validation, validate

__all__ = ["Report", "Validation", "check", "validate"]
