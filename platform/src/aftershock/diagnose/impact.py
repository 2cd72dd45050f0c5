"""Exclusive impact: how much of a disturbance an entity adds beyond what the entities that it calls explain.

The excess of an entity's latency (or failures), in the moments in which users felt it, is weighted by how many requests it serves, so
that a slow call that nobody makes does not count; from it goes the callees' own weighted excess, shared among their callers by calls.
What is left is its own doing. Pure: takes a `Case`, gives numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median

from aftershock.diagnose.case import Case, Series
from aftershock.diagnose.deviation import deviations
from aftershock.diagnose.felt import BEFORE_MIN, Moments
from aftershock.diagnose.symptom import Symptom, choose

NOISE = 1.0  # this many robust standard deviations of normal operation are nobody's doing


@dataclass(frozen=True)
class Signal:
    """One entity's disturbance of one kind: normal level (noise included), level when it was felt, requests per row then."""

    metric: str
    before: float
    after: float
    volume: float

    @property
    def weighted(self) -> float:
        """Excess over normal operation, times requests; never negative."""
        return max(0.0, self.after - self.before) * self.volume


def signals(
    case: Case, found: Mapping[str, Symptom], start: float, when: Moments, slowdown: float = 1.0
) -> dict[str, Signal]:
    """The disturbance of every entity that was there before and has such a symptom; latencies beyond a `slowdown` of the whole machine."""
    requests = {entity: metrics[choose(metrics, None)] for entity, metrics in case.of_kind("requests").items()}
    volumes = {entity: v for entity, series in requests.items() if (v := _level(series, start, when)) is not None}
    # A dependency that was never seen before cannot have changed: whoever calls it has.
    old = {entity for (entity, _), series in case.series.items() if bisect_left(series.times, start) >= BEFORE_MIN}
    made: dict[str, Signal] = {}
    for entity, symptom in found.items():
        if entity not in old:
            continue
        after = _level(symptom.series, start, when)
        base = _base(symptom, start)
        if after is not None and base is not None:
            volume = 1.0 if symptom.counted else _volume(case, entity, volumes)
            made[entity] = Signal(
                symptom.metric, base * (slowdown if symptom.kind == "latency" else 1.0), after, volume
            )
    return made


def slowdown(found: Mapping[str, Signal], most: float) -> float:
    """By which factor the entities that are best off are slower too, up to `most`: the machine that they share."""
    ratios = sorted(s.after / s.before for s in found.values() if s.before > 0)
    return min(most, max(1.0, ratios[1])) if len(ratios) > 2 else 1.0


def exclusive(case: Case, found: Mapping[str, Signal]) -> dict[str, float]:
    """Weighted excess of each entity minus its callees' share; never negative."""
    own = {entity: signal.weighted for entity, signal in found.items()}
    counted = {callee for _, callee in case.volumes}
    parts = {
        (a, b): case.volumes.get((a, b), 0.0) if b in counted else max(found[a].volume, 1e-9)
        for a, b in case.calls if a in found and b in found and a != b
    }  # fmt: skip
    whole: dict[str, float] = {}
    for (_, callee), part in parts.items():
        whole[callee] = whole.get(callee, 0.0) + part
    for (caller, callee), part in parts.items():
        if whole[callee] > 0:
            own[caller] -= found[callee].weighted * part / whole[callee]
    return {entity: max(0.0, value) for entity, value in own.items()}


def _level(series: Series, start: float, when: Moments) -> float | None:
    """Mean of a series over the moments that count."""
    rows = when.of(series, start)
    total = sum(w for w, _ in rows)
    return sum(w * series.values[n] for w, n in rows) / total if total else None


def _base(symptom: Symptom, start: float) -> float | None:
    before = symptom.series.between(float("-inf"), start)
    if symptom.kind == "latency":
        return median(before) + NOISE * deviations(before) if len(before) >= BEFORE_MIN else None
    return fmean(before) + NOISE * deviations(before) if before else 0.0


def _volume(case: Case, entity: str, volumes: Mapping[str, float]) -> float:
    """Requests per row; where they were not counted those of the callers, else the usual number."""
    if entity in volumes or not volumes:
        return volumes.get(entity, 1.0)
    callers = [volumes[a] for a, b in case.calls if b == entity and a in volumes]
    return sum(callers) if callers else median(volumes.values())
