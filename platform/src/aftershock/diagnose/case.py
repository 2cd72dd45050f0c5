"""A case: what was observed of a system around an incident, whatever it came from. All times are Unix seconds."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from statistics import median
from typing import Literal

Kind = Literal["latency", "errors", "availability", "requests", "resource"]

# Names of metrics in the wild, most telling first.
_KINDS: tuple[tuple[Kind, str], ...] = (
    ("resource", r"cpu|mem|disk|heap|thread|page|socket|(^|[^a-z])(gc|io|fd|tcp|udp|net)([^a-z]|$)"),
    ("availability", r"availab|success|(^|[^a-z])up$"),
    ("errors", r"error|(^|[^a-z])(err|faults?|drop)|fail|5xx|4xx|exception|refus|reset|timeout"),
    ("latency", r"laten|durat|response(?!s)|elapsed|(^|[^a-z])rt([^a-z]|$)|(^|[^a-z])p(50|75|90|95|99)([^0-9]|$)"),
    (
        "requests",
        r"request|responses|traffic|workload|through|(^|[^a-z])(rps|qps|hits)|call|invocation|^count$|(^|[^a-z])load$",
    ),
)


def kind_of(metric: str) -> Kind:
    """What a metric measures, by its name; whatever has no other name is a resource."""
    return _kind_of(metric.lower())


@cache
def _kind_of(name: str) -> Kind:
    return next((kind for kind, pattern in _KINDS if re.search(pattern, name)), "resource")


@dataclass(frozen=True)
class Series:
    """Values over time, ascending; no answer is no value."""

    times: tuple[float, ...]
    values: tuple[float, ...]

    def between(self, begin: float, end: float) -> list[float]:
        """Values in [begin, end)."""
        return list(self.values[bisect_left(self.times, begin) : bisect_left(self.times, end)])

    @property
    def step(self) -> float:
        """The usual time between two rows; 0 if there are fewer than two."""
        late = self.times[-100:]
        return median(b - a for a, b in pairwise(late)) if len(late) > 1 else 0.0


@dataclass(frozen=True)
class Disruption:
    """Something that happened to an entity: a pod of a service ended, a node stopped taking pods, a workload was changed."""

    time: float
    entity: str
    what: str
    node: str | None = None
    weight: float = 1.0  # 1 for what breaks service, less for what may as well be a consequence


@dataclass(frozen=True)
class Impact:
    """Where users felt it; `start` is None where it must be found."""

    entity: str | None
    metric: str | None
    start: float | None


@dataclass(frozen=True)
class Case:
    """All that a diagnosis may look at."""

    series: Mapping[tuple[str, str], Series]  # (entity, metric)
    calls: frozenset[tuple[str, str]]  # (caller, callee)
    impact: Impact
    disruptions: Sequence[Disruption] = ()
    hosts: Mapping[str, frozenset[str]] = field(default_factory=dict)  # node to the services with pods on it
    volumes: Mapping[tuple[str, str], float] = field(
        default_factory=dict
    )  # calls counted on each edge, where they were
    hold_s: float = 0.0  # a disturbance shorter than this is a hiccup of the machine
    rise_min: float = 0.10  # a latency that rises by less than this share of normal is no disturbance
    slowdown_max: float = 1.0  # what shares one machine may all be slower by this factor without anybody's doing

    @property
    def entities(self) -> tuple[str, ...]:
        """Every entity that was observed, sorted."""
        called = {name for call in self.calls for name in call}
        return tuple(sorted({e for e, _ in self.series} | called | {d.entity for d in self.disruptions}))

    def of_kind(self, kind: Kind) -> dict[str, dict[str, Series]]:
        """entity -> metric -> series of one kind."""
        found: dict[str, dict[str, Series]] = {}
        for (entity, metric), series in self.series.items():
            if kind_of(metric) == kind:
                found.setdefault(entity, {})[metric] = series
        return found


@dataclass(frozen=True)
class Ranked:
    """A candidate; `path` leads from where it was felt to the candidate."""

    entity: str
    indicator: str
    score: float
    path: tuple[str, ...]


@dataclass(frozen=True)
class Edge:
    """Whether `cause` can have caused `effect`: structure, deviation of both, and order in time."""

    cause: str
    effect: str
    structure: bool
    deviation: bool
    order: bool
    why: str

    @property
    def accepted(self) -> bool:
        """All three tests passed."""
        return self.structure and self.deviation and self.order


@dataclass(frozen=True)
class Diagnosis:
    """The answer; `onset` in Unix seconds."""

    verdict: Literal["root_cause", "no_root_cause", "inconclusive"]
    onset: float | None
    ranked: tuple[Ranked, ...]
    edges: tuple[Edge, ...] = ()
