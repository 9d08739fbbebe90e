"""A line for people who watch a run: how far the epoch is, how fast, and how much it waited."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from penstock.feed.metrics import Metrics

_SECONDS_BETWEEN = 0.5


class ProgressLine:
    """Rewrites one line of a terminal; where standard error is none, it writes nothing."""

    def __init__(self, name: str, epoch: int, steps: int, metrics: Metrics) -> None:
        self._out: TextIO = sys.stderr
        self._is_shown = self._out.isatty()
        self._name, self._epoch, self._steps, self._metrics = name, epoch, steps, metrics
        self._began = self._last = time.monotonic()
        before = metrics.read()
        self._samples, self._starved = before["samples"], before["starved_seconds"]

    def reached(self, step: int) -> None:
        """A batch was handed out."""
        now = time.monotonic()
        if self._is_shown and now - self._last >= _SECONDS_BETWEEN:
            self._last = now
            self._out.write(f"\r\x1b[2K{self.text(step, now)}")
            self._out.flush()

    def text(self, step: int, now: float) -> str:
        """The line."""
        counts, seconds = self._metrics.read(), max(1e-9, now - self._began)
        rate = (counts["samples"] - self._samples) / seconds
        starved = (counts["starved_seconds"] - self._starved) / seconds
        share = step / max(1, self._steps)
        return (
            f"{self._name} epoch {self._epoch}: {share:4.0%} {step:,}/{self._steps:,} steps, "
            f"{rate:,.0f} samples/s, starved {starved:.1%}"
        )

    def close(self) -> None:
        """Leave the last line standing."""
        if self._is_shown:
            self._out.write("\n")
