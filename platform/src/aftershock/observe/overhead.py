"""What the way to the shop costs by itself: when idle by small requests, and under load by what the entry's own spans do not explain. Pure
but for the small requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from aftershock.observe import reach
from aftershock.observe.reach import Way
from aftershock.slo import Interval, percentile

TRIES, TIMEOUT_S = 20, 2.0
PATH = "/healthz"
SPAN_COLUMNS = ("trace_id", "parent_span_id", "kind", "duration_us")
SAMPLE_COLUMNS = ("trace_id", "intended_us", "latency_us", "error")
Columns = Mapping[str, Sequence[Any]]


def idle(way: Way, path: str = PATH) -> dict[str, Any]:
    """Milliseconds of small requests over the way, each with a connection of its own; the server's own share is in them."""
    url = urlsplit(way.url)
    assert url.hostname, "a way leads to a host"
    found = reach.timed(url.hostname, url.port or 80, path, TRIES, TIMEOUT_S)
    return {"idle_ms_p50": _ms(found.ms, 50), "idle_ms_p95": _ms(found.ms, 95), "idle_answers": len(found.ms)}


def busy(spans: Columns, samples: Columns, interval: Interval) -> dict[str, Any]:
    """Milliseconds that requests of an interval took beyond the span with which the shop's entry answered them.

    Durations only, so no clock matters. Needs SPAN_COLUMNS and SAMPLE_COLUMNS.
    """
    served = {
        trace: duration_us
        for trace, parent, kind, duration_us in zip(*(spans[name] for name in SPAN_COLUMNS), strict=True)
        if kind == "SERVER" and parent == trace[8:24]
    }
    beyond = sorted(
        max(0.0, (latency_us - served[trace]) / 1000)
        for trace, intended_us, latency_us, error in zip(*(samples[name] for name in SAMPLE_COLUMNS), strict=True)
        if trace in served and error is None and interval.holds(intended_us)
    )
    return {"busy_ms_p50": _ms(beyond, 50), "busy_ms_p95": _ms(beyond, 95), "busy_requests": len(beyond)}


def _ms(sorted_ms: Sequence[float], share: float) -> float | None:
    return round(percentile(list(sorted_ms), share), 3) if sorted_ms else None
