"""Series as symptoms: turned so that up is bad, failures as a share of requests, whatever unit they came in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aftershock.diagnose.case import Case, Kind, Series

KINDS: tuple[Kind, ...] = ("errors", "availability", "latency")
ERROR_RATIO_MIN = 0.002  # fewer failures than this are no symptom
MEANS = ("average", "mean", "avg")
_STATISTICS = (*MEANS, "p50", "p75", "p90", "p95", "p99")
_PERCENT = re.compile(r"percent|pct|%")


@dataclass(frozen=True)
class Symptom:
    """One metric of one entity, turned so that up is bad; `counted` is set where it counts failures instead of giving their share."""

    metric: str
    kind: Kind
    series: Series
    counted: bool = False

    @property
    def floor(self) -> float:
        """The least that this metric can move by and mean something."""
        return 1e-9 if self.kind == "latency" else 0.5 if self.counted else ERROR_RATIO_MIN


def symptoms(case: Case, kind: Kind, wanted: str | None = None, *, mean: bool = False) -> dict[str, Symptom]:
    """One symptom of this kind for every entity that has one: the metric wanted, else (or if `mean`) a mean, else the first."""
    found: dict[str, Symptom] = {}
    units: dict[str, str] = {}
    families = case.of_kind(kind)
    for entity, metrics in families.items():
        name = choose(metrics, None if mean and any(_is_mean(m) for m in metrics) else wanted)
        if name not in units:
            units[name] = _unit(kind, name, (m[name] for m in families.values() if name in m))
        found[entity] = Symptom(name, kind, _turned(kind, metrics[name], units[name]), units[name] == "count")
    return found


def choose(metrics: Mapping[str, Series], wanted: str | None) -> str:
    """The metric to use: the one wanted, else a mean, else the lowest percentile, else the first by name."""
    if wanted in metrics:
        return str(wanted)

    def order(name: str) -> tuple[int, str]:
        return next((n for n, s in enumerate(_STATISTICS) if s in name.lower()), len(_STATISTICS)), name

    return min(metrics, key=order)


def _is_mean(metric: str) -> bool:
    return any(word in metric.lower() for word in MEANS)


def _unit(kind: Kind, metric: str, every: Iterable[Series]) -> str:
    """`ratio`, `percent` or `count`, by the name and by the values of all entities."""
    if kind == "latency":
        return "time"
    top, whole = 0.0, True
    for series in every:
        top = max(top, max(series.values, default=0.0))
        whole = whole and all(v == int(v) for v in series.values)
    if _PERCENT.search(metric.lower()):
        return "percent"
    if top <= (1.5 if kind == "availability" else 1.0):
        return "ratio"
    return "percent" if kind == "availability" or (top <= 100 and not whole) else "count"


def _turned(kind: Kind, series: Series, unit: str) -> Series:
    if unit in ("time", "count") or (unit == "ratio" and kind == "errors"):
        return series
    top = 100.0 if unit == "percent" else 1.0
    if kind == "availability":
        return Series(series.times, tuple((top - v) / top for v in series.values))
    return Series(series.times, tuple(v / top for v in series.values))
