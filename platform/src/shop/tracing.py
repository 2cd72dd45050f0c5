"""Spans with W3C context, sent by OTLP/HTTP without ever holding a request up.

Sources: W3C Trace Context; OpenTelemetry protocol 1.x over HTTP. Batches leave every 200 ms, and at once when a span has an error,
so that a killed pod's last second is not lost. A collector that is away costs nothing but the spans.
"""

from __future__ import annotations

import logging
import threading
from collections import deque

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags, Tracer
from opentelemetry.trace import set_span_in_context as in_context
from opentelemetry.trace.status import Status

from shop.settings import Settings

FLUSH_MS = 200
QUEUE_MAX = 4096
BATCH_MAX = 256
EXPORT_TIMEOUT_S = 1.0

__all__ = [
    "Context",
    "Span",
    "SpanKind",
    "Tracer",
    "fail",
    "in_context",
    "parent_of",
    "provider",
    "traceparent",
    "tracer",
]


class PromptProcessor(SpanProcessor):
    """Batches on a thread of its own, does not sit on errors, and drops what a full queue cannot hold."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._queue: deque[ReadableSpan] = deque(maxlen=QUEUE_MAX)
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="spans", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        """Queue the span, and wake the exporter if it failed."""
        self._queue.append(span)
        if span.status.status_code is StatusCode.ERROR or len(self._queue) >= BATCH_MAX:
            self._wake.set()

    def shutdown(self) -> None:
        """Send what is left, within the export's own timeout."""
        self._ended = True
        self._wake.set()
        self._thread.join(EXPORT_TIMEOUT_S)

    def _work(self) -> None:
        while not self._ended:
            self._wake.wait(FLUSH_MS / 1000)
            self._wake.clear()
            self._drain()
        self._exporter.shutdown()

    def _drain(self) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(BATCH_MAX, len(self._queue)))]
            if self._exporter.export(batch) is not SpanExportResult.SUCCESS:
                return


def provider(settings: Settings) -> TracerProvider:
    """A tracer provider for one service; without an endpoint it only carries context."""
    made = TracerProvider(
        resource=Resource(
            {"service.name": settings.role, "k8s.pod.name": settings.pod, "k8s.node.name": settings.node}
        ),
        shutdown_on_exit=False,
    )
    if settings.otlp_endpoint:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        for name in ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "urllib3.connectionpool"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # a collector that is away is no news
        exporter = OTLPSpanExporter(f"{settings.otlp_endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_S)
        made.add_span_processor(PromptProcessor(exporter))
    return made


def tracer(made: TracerProvider) -> Tracer:
    """The one tracer of this process."""
    return made.get_tracer("shop")


def traceparent(span: Span) -> str:
    """The W3C header that names this span as parent."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def parent_of(header: str | None) -> Context | None:
    """Context from a `traceparent` header; None if it is absent or malformed, as the recommendation asks."""
    parts = (header or "").split("-")
    if len(parts) != 4 or [len(p) for p in parts] != [2, 32, 16, 2] or parts[0] == "ff":
        return None
    try:
        trace, span, flags = int(parts[1], 16), int(parts[2], 16), int(parts[3], 16)
    except ValueError:
        return None
    if not trace or not span:
        return None
    return in_context(NonRecordingSpan(SpanContext(trace, span, is_remote=True, trace_flags=TraceFlags(flags))))


def fail(span: Span, error_type: str) -> None:
    """Mark a span as failed."""
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR))
