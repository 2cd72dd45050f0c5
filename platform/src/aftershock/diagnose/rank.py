"""The ranking: exclusive impact where calls are known, robust deviation where they are not, and what happened beside both.

Pure: takes a `Case`, gives a `Diagnosis`. Anchors: Hardt et al., "The PetShop Dataset" (2024), for impact along call graphs; Pham et al.,
"BARO" (2024), for the robust scorer (median and interquartile range) on metrics without a call graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from statistics import median

from aftershock.diagnose import deviation, happened
from aftershock.diagnose.case import Case, Diagnosis, Disruption, Kind, Ranked
from aftershock.diagnose.edges import edges_of, path_to
from aftershock.diagnose.felt import (
    BEFORE_MIN,
    Disturbance,
    Moments,
    below,
    disturbance,
    entry_of,
    moments,
    start_of,
    wanted_kind,
)
from aftershock.diagnose.impact import exclusive, signals, slowdown
from aftershock.diagnose.robust import robust, stands_out
from aftershock.diagnose.silence import GONE, hangs, losses, passed_on, retries, waited_for
from aftershock.diagnose.symptom import KINDS, Symptom, symptoms

UNREACHABLE = 0.05  # weight of a candidate to which no chain of calls leads from where it was felt
UNFELT = 0.4  # how sure symptoms are that did not reach the users
SHARE_MIN = 0.01
HOT_SHARE = 0.9  # how much the moments that were bad for users count against all moments alike
SCORE_MIN = 1e-6


def diagnose(case: Case) -> Diagnosis:
    """Rank root causes, best first."""
    entry = entry_of(case)
    start = start_of(case, entry)
    if start is None or not _enough(case, start):
        return Diagnosis("inconclusive", start, ())
    return Ranking(case, entry, start).diagnosis()


def _enough(case: Case, start: float) -> bool:
    """Some series has rows of normal operation before `start` and something after it."""
    return any(
        s.times[:BEFORE_MIN][-1] < start <= s.times[-1] and len(s.times) > BEFORE_MIN
        for s in case.series.values()
        if s.times
    )


class Ranking:
    """One case being ranked; everything is computed once, when it is first asked for."""

    def __init__(self, case: Case, entry: str | None, start: float) -> None:
        self.case, self.entry, self.start = case, entry, start
        self._disturbances: dict[tuple[Kind, str], Disturbance | None] = {}
        self._begun: dict[str, float | None] = {}

    def diagnosis(self) -> Diagnosis:
        """The answer."""
        shares, sure = self.shares
        scores = happened.combined(self.case.hosts, shares, self.events, sure)
        ranked = tuple(
            Ranked(entity, self.indicator(entity), round(score, 6), path_to(self.case, self.entry, entity))
            for entity, score in sorted(scores.items(), key=lambda pair: (-pair[1], pair[0])) if score > SCORE_MIN
        )  # fmt: skip
        if not ranked or not self.proven(ranked[0].entity):
            # Where somebody reported a violation, what little there is may still help; nobody reported anything of a quiet run.
            return Diagnosis("no_root_cause", None, ranked if self.case.impact.metric else ())
        onset = self.begun(ranked[0].entity)
        tested = edges_of(self.case, ranked[0].path, self.begun, max(happened.SLACK_S, self.step))
        return Diagnosis("root_cause", self.start if onset is None else onset, ranked, tested)

    @cached_property
    def step(self) -> float:
        """The usual time between two rows."""
        steps = [s.step for s in list(self.case.series.values())[:50]]
        return median(steps) if steps else 0.0

    @cached_property
    def events(self) -> list[Disruption]:
        """What happened to entities around the incident."""
        return happened.relevant(self.case, self.start, self.step)

    @cached_property
    def symptoms(self) -> dict[Kind, dict[str, Symptom]]:
        """kind -> entity -> the symptom in the metric that was reported, or in a mean."""
        return {kind: symptoms(self.case, kind, self.case.impact.metric) for kind in KINDS}

    def disturbed(self, kind: Kind, entity: str | None) -> Disturbance | None:
        """How an entity's symptom of a kind stood out."""
        if entity is None or entity not in self.symptoms[kind]:
            return None
        if (kind, entity) not in self._disturbances:
            symptom = self.symptoms[kind][entity]
            self._disturbances[kind, entity] = disturbance(self.case, symptom, self.start, self.slowdown)
        return self._disturbances[kind, entity]

    def strongly(self, entity: str | None) -> list[tuple[Kind, Disturbance]]:
        """The kinds in which an entity was strongly disturbed."""
        found = ((kind, self.disturbed(kind, entity)) for kind in KINDS)
        return [(kind, d) for kind, d in found if d is not None and d.strong]

    @cached_property
    def felt(self) -> list[Kind]:
        """The kinds in which users felt it."""
        return [kind for kind, _ in self.strongly(self.entry)]

    @cached_property
    def shares(self) -> tuple[dict[str, float], float]:
        """Each entity's share of the disturbance, and how sure that is."""
        wanted = wanted_kind(self.case)
        reported = [wanted] if wanted and self.entry in self.symptoms[wanted] else []
        kinds = reported or self.felt or [k for k in KINDS if any(self._strong(k, e) for e in self.symptoms[k])]
        total: dict[str, float] = {}
        if self.case.calls:
            for kind in kinds:
                for entity, share in self._of_kind(kind).items():
                    total[entity] = total.get(entity, 0.0) + share / len(kinds)
        if not total:
            total = {entity: score for entity, (score, _) in self.robust.items()}
        return total, 1.0 if reported or self.felt or not self.case.calls else UNFELT

    def _strong(self, kind: Kind, entity: str) -> bool:
        found = self.disturbed(kind, entity)
        return found is not None and found.strong

    def _of_kind(self, kind: Kind) -> dict[str, float]:
        """Shares in one kind; from means, which add up along calls, and from the reported statistic where that is another."""
        entry = self.entry or ""
        felt = self.symptoms[kind].get(entry)
        reached = below(self.case, self.entry)
        means = symptoms(self.case, kind, mean=True)
        both = [means]
        if felt and entry in means and means[entry].metric != felt.metric:
            both.append(self.symptoms[kind])
        total: dict[str, float] = {}
        for found in both:
            worst = moments(found.get(entry), self.start) if felt else Moments()
            views = [(HOT_SHARE, worst), (1 - HOT_SHARE, Moments())] if worst.times else [(1.0, worst)]
            for weight, when in views:
                own = exclusive(self.case, signals(self.case, found, self.start, when, self.slowdown))
                own = passed_on(self.case, own, self.start, when, failures=kind != "latency")
                for waits in self._waits(kind, when):
                    own = waited_for(own, waits)
                weighed = {e: v * (1.0 if e in reached or len(reached) < 2 else UNREACHABLE) for e, v in own.items()}
                whole = sum(weighed.values())
                for entity, value in weighed.items():
                    if value > 0:
                        total[entity] = total.get(entity, 0.0) + weight * value / whole / len(both)
        return {entity: share for entity, share in total.items() if share > SHARE_MIN}

    def _waits(self, kind: Kind, when: Moments) -> Iterator[dict[tuple[str, str], float]]:
        """What callers wait for in the moments that count: retries explain latency, hanging callees explain failures."""
        if kind != "latency":
            yield hangs(self.case, signals(self.case, symptoms(self.case, "latency", mean=True), self.start, when))
            return
        failing: tuple[Kind, ...] = ("errors", "availability")
        for failures in failing:
            usable = {e: s for e, s in self.symptoms[failures].items() if not s.counted}
            yield retries(self.case, signals(self.case, usable, self.start, when))

    @cached_property
    def slowdown(self) -> float:
        """By which factor everything was slower when users felt it."""
        if self.case.slowdown_max <= 1:
            return 1.0
        means = symptoms(self.case, "latency", mean=True)
        when = moments(means.get(self.entry or ""), self.start)
        return slowdown(signals(self.case, means, self.start, when), self.case.slowdown_max)

    @cached_property
    def robust(self) -> dict[str, tuple[float, str]]:
        """entity -> (score, metric) without the help of a call graph."""
        return robust(self.case, self.start)

    def proven(self, entity: str) -> bool:
        """Whether a candidate was hit hard enough, and users (where it is known who they are) felt something."""
        if any(d.entity == entity and d.weight >= happened.BREAKS for d in self.events):
            return True
        on_it = self.case.hosts.get(entity, ())
        hit = any(self.strongly(e) for e in (entity, *on_it)) or self.gone(entity)
        if self.case.impact.metric is not None and self.case.calls:
            wanted = wanted_kind(self.case)
            return hit and (wanted is None or self.entry not in self.symptoms[wanted]
                            or self.disturbed(wanted, self.entry) is not None)  # fmt: skip
        if self.case.calls and (self.felt or any(self.symptoms[k] for k in KINDS)):
            return hit and bool(self.felt or any(k != "latency" for k, _ in self.strongly(entity)))
        _, metric = self.robust.get(entity, (0.0, ""))
        return hit or (
            (entity, metric) in self.case.series and stands_out(self.case.series[entity, metric], self.start)
        )

    def gone(self, entity: str) -> bool:
        """Whether an entity lost most of its requests when users felt something."""
        kind = wanted_kind(self.case) or next(iter(self.felt), None)
        felt = self.symptoms[kind].get(self.entry or "") if kind else None
        lost = losses(self.case, self.start, moments(felt, self.start)).get(entity)
        return felt is not None and lost is not None and lost.sure and lost.share >= GONE

    def indicator(self, entity: str) -> str:
        """What tells of a candidate: its worst symptom, else what happened to it, else the metric that left its range most."""
        worst = max(((d.score, self.symptoms[k][entity].metric) for k, d in self.strongly(entity)), default=None)
        if worst:
            return worst[1]
        told = max((d for d in self.events if d.entity == entity), key=lambda d: (d.weight, -d.time), default=None)
        if told:
            return told.what
        if entity in self.robust:
            return self.robust[entity][1]
        series = self.case.series
        moved = {m: abs(deviation.shift(s.between(float("-inf"), self.start), s.between(self.start, float("inf"))))
                 for (e, m), s in series.items() if e == entity}  # fmt: skip
        return max(moved, key=lambda m: (moved[m], m)) if moved else "unknown"

    def begun(self, entity: str) -> float | None:
        """When an entity first deviated, by its symptoms or by what happened to it; None where it did not."""
        if entity not in self._begun:
            times = [d.time for d in self.events if d.entity == entity]
            times += [
                d.begin
                for kind in KINDS
                if (d := self.disturbed(kind, entity)) is not None and d.score >= deviation.Z_MIN
            ]
            if not times and entity in self.robust:
                series = self.case.series[entity, self.robust[entity][1]]
                reference = series.between(float("-inf"), self.start)
                at = deviation.onset(series, self.start, reference)
                times += [at] if at is not None else []
            self._begun[entity] = min(times, default=None)
        return self._begun[entity]
