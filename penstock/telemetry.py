"""Spans for OpenTelemetry, where the process has it set up; nothing, at no cost, where it hasn't.

Whoever traces a process has imported OpenTelemetry in it (`opentelemetry-instrument`, or a provider
of his own), so it is never imported from here.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from penstock._version import __version__


class Span:
    """What is under way, for attributes that are known later."""

    def __init__(self, inner: Any = None) -> None:
        self._inner = inner

    def set(self, attributes: Mapping[str, Any]) -> None:
        """Numbers and texts, under `penstock.<name>`; null ones are left out."""
        if self._inner is not None:
            for name, value in attributes.items():
                if value is not None:
                    self._inner.set_attribute(f"penstock.{name}", value)


@contextmanager
def span(name: str, **attributes: Any) -> Generator[Span]:
    """A span around what is done within; an exception ends it as an error."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        yield Span()
        return
    tracer = trace.get_tracer("penstock", __version__)
    with tracer.start_as_current_span(f"penstock.{name}") as inner:
        told = Span(inner)
        told.set(attributes)
        yield told
