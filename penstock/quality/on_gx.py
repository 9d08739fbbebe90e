"""The expectations that don't compile, on Great Expectations itself, over one column."""

from __future__ import annotations

import os
from typing import Any

import polars as pl

from penstock.errors import ContractError, MissingExtra
from penstock.quality.results import MASK, Result

ON_GX = {"expect_column_kl_divergence_to_be_less_than"}


def judge_on_gx(result: Result, frame: pl.LazyFrame, personal: set[str]) -> None:
    """Fill in what Great Expectations says.

    Its column is held in memory as a whole.

    Raises
    ------
    MissingExtra: it isn't installed.
    ContractError: it can't ask that of the column.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    try:
        import great_expectations as gx
        import pandas as pd
    except ImportError as error:
        raise MissingExtra("great_expectations", "quality") from error
    entry = result.expectation.to_gx()
    (column,) = result.expectation.columns
    values = frame.select(pl.col(column).drop_nulls()).collect(engine="streaming").to_series()
    if values.dtype.is_temporal():
        values = values.cast(pl.String)
    # From a list: polars' own way wants pyarrow's, and that a dtype of its own.
    table = pd.DataFrame({column: values.to_numpy() if values.dtype.is_numeric() else list(values)})
    context: Any = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(
        batch_parameters={"dataframe": table}
    )
    name = "".join(part.title() for part in entry["type"].split("_"))
    made = getattr(gx.expectations, name.replace("Kl", "KL"))(**entry["kwargs"])
    told = batch.validate(made).to_json_dict()
    raised = [
        each["exception_message"]
        for each in (told.get("exception_info") or {}).values()
        if isinstance(each, dict) and each.get("raised_exception")
    ]
    if raised:
        raise ContractError(f"{result.expectation.name}: Great Expectations says: {raised[0]}")
    result.observed = told["result"].get("observed_value")
    result.holds = bool(told["success"])
    details = told["result"].get("details") or {}
    if column not in personal and details:
        result.details = {"details": details}
    elif details:
        result.details = {"details": MASK}
