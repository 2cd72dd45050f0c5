"""Calls and series from spans, for cases whose metrics lack them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from aftershock.diagnose.case import Kind, kind_of

SPAN_COLUMNS = ("trace", "span", "parent", "service", "start", "duration", "error")
PER_ROW = 10  # so many requests of each service a row should hold
ROWS_MIN = 40  # and so many rows there should be
KINDS: tuple[Kind, ...] = ("latency", "errors", "requests")


class Span(NamedTuple):
    """One span; `at` and `parent` are (trace, span)."""

    at: tuple[str, str]
    parent: tuple[str, str]
    service: str
    start: float
    duration: float
    failed: bool


def calls_of(spans: Sequence[Span]) -> dict[tuple[str, str], float]:
    """How often each service called another."""
    service = {s.at: s.service for s in spans}
    calls: dict[tuple[str, str], float] = {}
    for span in spans:
        caller = service.get(span.parent)
        if caller is not None and caller != span.service:
            calls[caller, span.service] = calls.get((caller, span.service), 0.0) + 1
    return calls


def series_of(
    spans: Sequence[Span], known: frozenset[tuple[str, str]]
) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Latency, errors and requests of each service, of the kinds that `known` (entity, metric) lack; only what came from outside counts."""
    service = {s.at: s.service for s in spans}
    outer = [s for s in spans if service.get(s.parent) != s.service]
    if not outer:
        return {}
    first, last = min(s.start for s in outer), max(s.start for s in outer)
    step = _step(last - first, len(outer) / len({s.service for s in outer}))
    grouped: dict[tuple[str, int], list[Span]] = {}
    for span in outer:
        grouped.setdefault((span.service, int((span.start - first) / step)), []).append(span)
    measured = {(entity, kind_of(metric)) for entity, metric in known}
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for (entity, row), group in grouped.items():
        failed, count = sum(s.failed for s in group), float(len(group))
        values = (sum(s.duration for s in group) / count, failed / count, count)
        for kind, value in zip(KINDS, values, strict=True):
            if (entity, kind) not in measured:
                found.setdefault((entity, kind), []).append((first + row * step, value))
    return found


def _step(length: float, requests: float) -> float:
    """Seconds a row: at least one, enough for `PER_ROW` requests, and not so many that too few rows are left."""
    return max(1.0, min(length * PER_ROW / max(requests, 1.0), length / ROWS_MIN))
