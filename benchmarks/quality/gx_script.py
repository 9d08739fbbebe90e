"""Great Expectations on pandas, SUMMARY: python gx_script.py ROWS REJECTS [EXTRA]; no rejects."""

import json
import sys
from datetime import date

import great_expectations as gx
import pandas as pd
from great_expectations import expectations as gxe

context = gx.get_context(mode="ephemeral")
context.variables.progress_bars = {"globally": False}
batch = (
    context.data_sources.add_pandas("pandas")
    .add_dataframe_asset("rows")
    .add_batch_definition_whole_dataframe("all")
)
frame = pd.read_parquet(sys.argv[1])
suite = [
    gxe.ExpectColumnValuesToNotBeNull(column="id"),
    gxe.ExpectColumnValuesToNotBeNull(column="rate", mostly=0.9),
    gxe.ExpectColumnValuesToBeBetween(column="quantity", min_value=0, max_value=999),
    gxe.ExpectColumnValuesToBeBetween(column="price", min_value=0),
    gxe.ExpectColumnValuesToBeInSet(column="country", value_set=["GB", "FR", "DE"]),
    gxe.ExpectColumnValuesToMatchRegex(column="code", regex="^[0-9]{5,6}$"),
    gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="price", column_B="paid", or_equal=True),
    gxe.ExpectColumnValueLengthsToBeBetween(column="note", min_value=0, max_value=10),
    gxe.ExpectColumnValuesToBeBetween(
        column="day", min_value=date(2020, 1, 1), max_value=date(2026, 1, 1)
    ),
    gxe.ExpectColumnValuesToBeBetween(column="rate", min_value=0, max_value=1),
    gxe.ExpectColumnValuesToNotBeInSet(column="note", value_set=["spam"]),
    gxe.ExpectColumnValuesToBeBetween(column="b", min_value=5, max_value=19),
]
suite = gx.ExpectationSuite(name="rows", expectations=suite)
validation = gx.ValidationDefinition(data=batch, suite=suite, name="rows")
context.suites.add(suite)
context.validation_definitions.add(validation)
result = validation.run(
    batch_parameters={"dataframe": frame}, result_format={"result_format": "SUMMARY"}
)
print(json.dumps({"rejected": None, "expectations": len(result.results)}))
