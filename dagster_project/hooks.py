"""What happens when a run fails: a webhook is told the cause and what to do."""

# No `from __future__ import annotations` here: Dagster reads the annotations as types.

import json
import os
import urllib.request
from collections.abc import Iterator
from typing import Any

import dagster as dg

WEBHOOK = "PENSTOCK_ALERT_WEBHOOK"
UI = "PENSTOCK_UI_URL"
_ADVICE = {
    "SourceError": "Mend the source, or its settings in schemas/; the next new file starts a run",
    "MissingExtra": "Install what the message names where the run's code runs",
    "StorageError": "When the store answers again, run the job again; nothing is half written",
    "CommitConflict": "Another writer was first; run the job again",
    "ContractError": "Mend the files or the contract that the message names; nothing of the batch "
    "was committed",
    "ConstraintBroken": "Mend the rows or drop the constraint; nothing was committed",
}
_OTHER = "Open the run and read the failed step; what was committed stays, so run the job again"


@dg.run_failure_sensor(
    name="failure_webhook",
    description=f"Posts the cause of a failed run to the URL in {WEBHOOK}, if there is one",
)
def failure_webhook(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """POST JSON: run_id, job, url, cause, what_to_do, and of each failed step its error."""
    url = os.environ.get(WEBHOOK)
    if not url:
        return dg.SkipReason(f"{WEBHOOK} is not set")
    body = json.dumps(told(context)).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10):
        return None


def told(context: dg.RunFailureSensorContext) -> dict[str, Any]:
    """What the webhook is told of a failed run."""
    run, steps = context.dagster_run, list[dict[str, str]]()
    advice = cause = ""
    for event in context.get_step_failure_events():
        found = [*_chain(event.step_failure_data.error)]
        # The innermost error that Penstock raised says most; else, the innermost.
        named = [error for error in found if error[0] in _ADVICE] or found[-1:]
        kind, message = named[-1] if named else ("", event.message or "")
        steps.append({"step": event.step_key or "", "kind": kind, "error": message})
        cause = cause or message
        advice = advice or _ADVICE.get(kind, "")
    base = os.environ.get(UI, "").rstrip("/")
    return {
        "run_id": run.run_id,
        "job": run.job_name,
        "url": f"{base}/runs/{run.run_id}" if base else None,
        "cause": cause or context.failure_event.message or "",
        "what_to_do": advice or _OTHER,
        "steps": steps,
    }


def _chain(error: Any) -> Iterator[tuple[str, str]]:
    """Each error's class and message, from the outermost to what caused it."""
    while error is not None:
        name = (error.cls_name or "").rsplit(".", 1)[-1]
        message = (error.message or "").strip()
        # Dagster writes `module.Class: message`.
        _, is_named, rest = message.partition(f"{name}: ")
        yield name, rest if is_named else message
        error = error.cause
