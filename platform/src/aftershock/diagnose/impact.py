"""Exclusive impact: how much of a disturbance an entity adds beyond what the entities that it calls explain.

The excess of an entity's latency (or failures) is weighted by how many requests it serves, so that a slow call that nobody makes
does not count; from it goes the callees' own weighted excess, shared among their callers by volume. What is left is its own doing.
Pure: takes a `Case`, gives numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from aftershock.diagnose.case import Case, Kind, Series
from aftershock.diagnose.deviation import shift

PREFERRED = ("average", "mean", "avg", "p50", "p90", "p95", "p99")


@dataclass(frozen=True)
class Signal:
    """One entity's disturbance of one kind: mean before and after, requests per row, robust shift."""

    metric: str
    before: float
    after: float
    volume: float
    shift: float

    @property
    def weighted(self) -> float:
        """Excess over normal operation, times requests; never negative."""
        return max(0.0, self.after - self.before) * self.volume


def signals(case: Case, kind: Kind, start: float, wanted: str | None = None) -> dict[str, Signal]:
    """The disturbance of every entity that has a metric of this kind; `wanted` is the metric to prefer."""
    volumes = {entity: volume(metrics, start) for entity, metrics in case.of_kind("requests").items()}
    usual = fmean(v for v in volumes.values() if v > 0) if any(v > 0 for v in volumes.values()) else 1.0
    found: dict[str, Signal] = {}
    for entity, metrics in case.of_kind(kind).items():
        name = choose(metrics, wanted)
        series = metrics[name] if kind != "availability" else _failures(metrics[name])
        before, after = series.between(float("-inf"), start), series.between(start, float("inf"))
        if not after:
            continue
        base = fmean(before) if before else 0.0
        served = volumes.get(entity, 0.0 if volumes else 1.0)
        found[entity] = Signal(name, base, fmean(after), served if volumes else usual, shift(before or [0.0], after))
    return found


def choose(metrics: dict[str, Series], wanted: str | None) -> str:
    """The metric to use: the one wanted, else a mean, else the first by name."""
    if wanted in metrics:
        return str(wanted)
    return min(metrics, key=lambda m: (next((n for n, p in enumerate(PREFERRED) if p in m.lower()), len(PREFERRED)), m))


def volume(metrics: dict[str, Series], start: float) -> float:
    """Mean requests per row since `start`."""
    values = metrics[choose(metrics, None)].between(start, float("inf"))
    return fmean(values) if values else 0.0


def exclusive(case: Case, found: dict[str, Signal]) -> dict[str, float]:
    """Weighted excess of each entity minus its callees' share; never negative."""
    callers: dict[str, float] = {}
    for caller, callee in case.calls:
        if caller in found:
            callers[callee] = callers.get(callee, 0.0) + max(found[caller].volume, 1e-9)
    own: dict[str, float] = {}
    for entity, signal in found.items():
        explained = sum(
            found[callee].weighted * max(signal.volume, 1e-9) / callers[callee]
            for caller, callee in case.calls
            if caller == entity and callee in found and callee != entity
        )
        own[entity] = max(0.0, signal.weighted - explained)
    return own


def _failures(availability: Series) -> Series:
    """1 - availability, for a ratio or a percentage."""
    top = 100.0 if max(availability.values, default=0.0) > 1.5 else 1.0
    return Series(availability.times, tuple((top - v) / top for v in availability.values))
