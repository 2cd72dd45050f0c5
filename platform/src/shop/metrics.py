"""The shop's metrics, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, generate_latest

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)

REQUESTS = Counter("http_requests", "Requests answered", ["service", "route", "method", "status"])
DURATION = Histogram(
    "http_request_duration_seconds", "Time to answer", ["service", "route", "method"], buckets=LATENCY_BUCKETS_S
)
CALLS = Counter("client_requests", "Tries of calls to other services", ["service", "peer", "outcome"])
ORDERS = Counter("orders", "Orders that came into a state", ["state"])
OUTBOX_PENDING = Gauge("outbox_pending", "Parcels not yet handed to shipping")
POOL_WAITING = Gauge("db_pool_waiting", "Requests that wait for a database connection")


def exposition() -> bytes:
    """All metrics of this process."""
    return generate_latest()
