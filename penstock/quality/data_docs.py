"""Great Expectations' own pages (Data Docs) of a table's validated batches."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

from penstock.contracts import Expectation
from penstock.contracts.expectation import BATCH
from penstock.errors import ContractError, MissingExtra
from penstock.lake import Lake
from penstock.quality.beyond import QUERY
from penstock.quality.history import validations
from penstock.tables import Table

_NO_EXCEPTION = {"raised_exception": False, "exception_message": None, "exception_traceback": None}


def write_data_docs(lake: Lake, table: str, folder: Path, limit: int = 20) -> Path:
    """A page a batch, rendered by Great Expectations, and an index of them; the index's path.

    Raises
    ------
    MissingExtra: Great Expectations is not installed.
    ContractError: nothing was validated yet.
    """
    try:
        from great_expectations.core import ExpectationSuiteValidationResult
        from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
        from great_expectations.render.view.view import DefaultJinjaPageView
    except ImportError as error:
        raise MissingExtra("great_expectations", "quality") from error
    batches = [*islice(validations(Table(lake, table).snapshot()), limit)]
    if not batches:
        raise ContractError(f"{table}: nothing was validated yet; validate a batch first")
    folder.mkdir(parents=True, exist_ok=True)
    entries = list[str]()
    for batch in batches:
        note, moment = batch.note, batch.at
        result = ExpectationSuiteValidationResult(
            **_suite(table, note, moment),  # pyright: ignore[reportArgumentType]
        )
        document = ValidationResultsPageRenderer().render(result)
        name = f"{batch.version}.html"
        (folder / name).write_text(DefaultJinjaPageView().render(document), encoding="utf-8")
        entries.append(
            f'<li><a href="{name}">version {batch.version}</a>, {moment:%Y-%m-%d %H:%M} UTC: '
            f"{note.get('rows_accepted', 0):,} accepted, {note.get('rows_rejected', 0):,} rejected"
        )
    index = folder / "index.html"
    index.write_text(
        f'<!doctype html><meta charset="utf-8"><title>{escape(table)}</title>'
        f"<h1>{escape(table)}</h1><ul>{''.join(entries)}</ul>\n",
        encoding="utf-8",
    )
    return index


def _result(told: Mapping[str, Any]) -> Any:
    """One of them; what Great Expectations lacks is shown as a rule in words."""
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    expectation = Expectation.from_gx(told["expectation_config"])
    config, result = expectation.to_gx(), dict(told["result"])
    if "unexpected_count" in result and "unexpected_percent" not in result:
        del result["unexpected_count"]  # of a column's values, of which it shows no share
    words = None
    if not expectation.is_in_gx:
        words, config["type"] = expectation.describe(), QUERY
        config["kwargs"] = {"unexpected_rows_query": f"{words} {BATCH}"}
        broken, elements = result.get("unexpected_count"), result.get("element_count")
        counts = None if elements is None else f"{broken:,} of {elements:,}"
        result = {"observed_value": result.get("observed_value", counts)}
    return ExpectationValidationResult(
        success=told["success"],
        expectation_config=ExpectationConfiguration(
            type=config["type"], kwargs=config["kwargs"], meta=config["meta"], description=words
        ),
        result=result,
        exception_info=dict(_NO_EXCEPTION),
    )


def _suite(table: str, note: Mapping[str, Any], moment: datetime) -> dict[str, Any]:
    """A batch's results as Great Expectations' own classes have them."""
    results = [_result(each) for each in note.get("results", [])]
    good = sum(bool(each.success) for each in results)
    count = len(results)
    return {
        "success": good == count,
        "results": results,
        "suite_name": table,
        "statistics": {
            "evaluated_expectations": count,
            "successful_expectations": good,
            "unsuccessful_expectations": count - good,
            "success_percent": 100 * good / count if count else None,
        },
        "meta": {
            "great_expectations_version": "1",
            "run_id": {"run_name": table, "run_time": moment.isoformat()},
            "batch_spec": {"table": table},
            "active_batch_definition": {"data_asset_name": table},
        },
    }
