"""What a feed did, counted: samples, bytes by where they came from, and seconds starved."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from penstock.errors import MissingExtra


@dataclass(slots=True)
class Counts:
    """Totals since the dataset was opened."""

    samples: int = 0
    batches: int = 0
    bytes_fed: int = 0
    bytes_from_disk: int = 0
    """Of blocks opened from the local lake or the cache."""
    bytes_from_storage: int = 0
    fetches: int = 0
    retries: int = 0
    hedges: int = 0
    """Requests sent a second time because the first was slow."""
    evictions: int = 0
    starved_seconds: float = 0.0
    """Time that the training loop waited for a batch."""


class Metrics:
    """Counts that threads add to."""

    def __init__(self) -> None:
        self._counts, self._lock = Counts(), threading.Lock()
        self._began: float | None = None
        self.evictions_now: Callable[[], int] = int
        """Counts the evictions of what is open."""

    def add(self, **more: float) -> None:
        """Add to counts by name."""
        with self._lock:
            if self._began is None:
                self._began = time.monotonic()
            for name, value in more.items():
                setattr(self._counts, name, getattr(self._counts, name) + value)

    def read(self) -> dict[str, float]:
        """All counts, and samples a second since the first was asked for."""
        with self._lock:
            seconds = 0.0 if self._began is None else time.monotonic() - self._began
            rate = self._counts.samples / seconds if seconds else 0.0
            self._counts.evictions = self.evictions_now()
            return {**asdict(self._counts), "seconds": seconds, "samples_per_second": rate}

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, _: dict[str, Any]) -> None:
        self.__init__()


def serve_prometheus(metrics: Metrics, port: int, labels: dict[str, str]) -> Any:
    """Serve the counts at http://<host>:port/metrics; returns the server, whose `shutdown` ends it.

    Raises
    ------
    MissingExtra: prometheus-client is not installed.
    """
    try:
        client = importlib.import_module("prometheus_client")
        core = importlib.import_module("prometheus_client.core")
    except ImportError as error:
        raise MissingExtra("prometheus", "prometheus-client") from error

    class Collector:
        def collect(self) -> Any:
            counts = metrics.read()
            for field in fields(Counts):
                family = core.CounterMetricFamily(
                    f"penstock_feed_{field.name}", field.name.replace("_", " "), labels=list(labels)
                )
                family.add_metric(list(labels.values()), counts[field.name])
                yield family

    registry = client.CollectorRegistry()
    registry.register(Collector())
    server, _ = client.start_http_server(port, registry=registry)
    return server
