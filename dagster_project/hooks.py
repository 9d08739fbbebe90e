"""What happens when a run fails: a webhook is called with the cause."""

# No `from __future__ import annotations` here: Dagster reads the annotations as types.

import json
import os
import urllib.request

import dagster as dg

WEBHOOK = "PENSTOCK_ALERT_WEBHOOK"


@dg.run_failure_sensor(
    name="failure_webhook",
    description=f"Posts the cause of a failed run to the URL in {WEBHOOK}, if there is one",
)
def failure_webhook(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """POST `{"run_id", "job", "cause"}` as JSON."""
    url = os.environ.get(WEBHOOK)
    if not url:
        return dg.SkipReason(f"{WEBHOOK} is not set")
    failure = context.failure_event
    payload = {
        "run_id": context.dagster_run.run_id,
        "job": context.dagster_run.job_name,
        "cause": failure.message or "",
    }
    request = urllib.request.Request(
        url, json.dumps(payload).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10):
        return None
