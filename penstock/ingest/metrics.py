"""What runs of ingest and validation did, as Prometheus counts it."""

from __future__ import annotations

import importlib
from typing import Any

from penstock.errors import MissingExtra
from penstock.ingest.run import IngestReport

_COUNTERS = {
    "files": "Files by what became of them",
    "rows": "Rows read, rescued, accepted and rejected",
    "bytes": "Bytes of files that were loaded",
    "seconds": "Seconds spent by stage",
    "batches": "Batches committed",
}


class IngestMetrics:
    """Counters `penstock_ingest_*_total` and the lag, by table, served over HTTP.

    Raises
    ------
    MissingExtra: prometheus-client is not installed.
    """

    def __init__(self) -> None:
        try:
            client: Any = importlib.import_module("prometheus_client")
        except ImportError as error:
            raise MissingExtra("prometheus", "prometheus-client") from error
        self._client, self._registry = client, client.CollectorRegistry()
        self._counters = {
            name: client.Counter(
                f"penstock_ingest_{name}", text, ["table", "kind"], registry=self._registry
            )
            for name, text in _COUNTERS.items()
        }
        self._lag = client.Gauge(
            "penstock_ingest_lag_seconds",
            "Age of the newest file when its rows were committed",
            ["table"],
            registry=self._registry,
        )

    def serve(self, port: int, host: str = "127.0.0.1") -> Any:
        """Serve them at `http://<host>:<port>/metrics`; the server, to shut down."""
        server, _ = self._client.start_http_server(port, addr=host, registry=self._registry)
        return server

    def add(self, report: IngestReport, *, accepted: int = 0, rejected: int = 0) -> None:
        """Count what one run did."""
        files = {
            "loaded": report.files_loaded,
            "unchanged": report.files_unchanged,
            "removed": report.files_removed,
            "failed": len(report.failed),
        }
        rows = {
            "read": report.rows_read,
            "rescued": report.rows_rescued,
            "accepted": accepted,
            "rejected": rejected,
        }
        told: list[tuple[str, dict[str, float]]] = [
            ("files", dict(files)),
            ("rows", dict(rows)),
            ("bytes", {"loaded": report.bytes_read}),
            ("seconds", dict(report.seconds)),
            ("batches", {"committed": len(report.batches)}),
        ]
        for name, kinds in told:
            for kind, value in kinds.items():
                self._counters[name].labels(report.table, kind).inc(value)
        if report.lag_seconds is not None:
            self._lag.labels(report.table).set(report.lag_seconds)
