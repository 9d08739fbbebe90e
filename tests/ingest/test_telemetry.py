"""Spans of a run, as OpenTelemetry's own SDK collects them."""

from __future__ import annotations

import subprocess
import sys
from urllib.request import urlopen

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from penstock.errors import SourceError
from penstock.ingest import batches, ingest
from penstock.ingest import work as work_module
from penstock.ingest.metrics import IngestMetrics
from tests.conftest import HEADER, Shop, order


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def test_a_run_is_a_span_with_its_stages_within(shop: Shop, exporter: InMemorySpanExporter) -> None:
    exporter.clear()
    shop.write_orders("a.csv", 3)
    (shop.raw / "b.csv").write_text("")

    ingest(shop.lake, shop.source)

    spans = {span.name: span for span in exporter.get_finished_spans()}
    run = spans["penstock.ingest"]
    told = dict(run.attributes or {})
    assert told.pop("penstock.lag_seconds") > 0
    assert told.pop("penstock.bytes_read") > 0
    assert told == {
        "penstock.table": "shop/orders_raw",
        "penstock.batches": 1,
        "penstock.files_loaded": 1,
        "penstock.files_failed": 1,
        "penstock.rows_read": 3,
    }
    parents = {
        "penstock.ingest.batch": "penstock.ingest",
        "penstock.ingest.look": "penstock.ingest",
        "penstock.ingest.read": "penstock.ingest.batch",
        "penstock.ingest.commit": "penstock.ingest.batch",
    }
    for child, parent in parents.items():
        above = spans[child].parent
        assert above is not None
        assert above.span_id == spans[parent].context.span_id


def test_a_run_that_fails_ends_its_span_as_an_error(
    shop: Shop, exporter: InMemorySpanExporter
) -> None:
    exporter.clear()
    shop.raw.rmdir()

    with pytest.raises(SourceError):
        ingest(shop.lake, shop.source)

    run = next(span for span in exporter.get_finished_spans() if span.name == "penstock.ingest")
    assert not run.status.is_ok
    assert "no such folder" in (run.status.description or "")


def test_without_tracing_it_is_not_imported() -> None:
    code = "import sys, penstock.ingest; assert 'opentelemetry' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("is_large", [False, True])
def test_rows_with_something_rescued_are_counted(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    if is_large:
        monkeypatch.setattr(work_module, "SMALL_BYTES", 0)
    shop.write("a.csv", f"{order(1)},x", f"{order(2)},", header=f"{HEADER.strip()},extra\n")
    shop.write("b.csv", order(3), "cut,short")
    shop.write_orders("c.csv", 3, first=10)
    shop.write("d.csv", f"{order(4)},x", '"open', header=f"{HEADER.strip()},extra\n")

    report = ingest(shop.lake, shop.source)

    raw = shop.rows("shop/orders_raw")
    assert raw["_rescued"].count() == 3
    assert (report.rows_read, report.rows_rescued) == (raw.height, 3)
    (batch,) = batches(shop.lake, shop.source)
    assert batch["rows_rescued"] == 3
    metrics = IngestMetrics()
    metrics.add(report)
    server = metrics.serve(0)
    try:
        with urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=5) as answer:
            told = answer.read().decode()
    finally:
        server.shutdown()
        server.server_close()
    assert 'rows_total{kind="rescued",table="shop/orders_raw"} 3.0' in told
