"""Where and when users felt it: the entry, the start (looked for where it is not given), and how much each moment counts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median

from aftershock.diagnose import deviation
from aftershock.diagnose.case import Case, Kind, Series, kind_of
from aftershock.diagnose.symptom import KINDS, Symptom, symptoms

BEFORE_MIN = 5  # rows of normal operation without which nothing can deviate
SCORE_MIN = 6.0  # one row that stands out as far as a row can
RARE = 0.02  # share of normal windows that may be as bad as a disturbance
HIGH = 0.9  # a level that so many rows of normal operation stay below
NORMAL_SHARE = 0.4  # where no start is given, the first rows are taken for normal operation
CLIP = 20.0
BELOW = 0.3  # how much the worst of the entities below counts when the start is looked for
LATE_BONUS, LATE_POWER = 4.0, 20  # a case is cut out where its incident was: its end is the likelier place
LOOK_BACK_ROWS, LOOK_BACK_FROM = (
    2,
    20,
)  # so many rows before the start that is given count too, if there are so many at all
HOT = 0.3  # moments with less than this share of the worst excess do not count


@dataclass(frozen=True)
class Disturbance:
    """A stretch of time in which a symptom stood out."""

    begin: float
    end: float
    rows: int
    score: float
    base: float
    rise: float
    rarity: float

    @property
    def strong(self) -> bool:
        """More than a hiccup: lasting, large, and rare in normal operation."""
        return self.rows >= 2 and self.score >= SCORE_MIN and self.rarity <= RARE


def disturbance(case: Case, symptom: Symptom, start: float, slowdown: float = 1.0) -> Disturbance | None:
    """How a symptom stood out after `start`; None where it did not, only for a moment, or by too little to matter."""
    series = symptom.series
    cut = bisect_left(series.times, start)
    before, after = series.values[:cut], series.values[cut:]
    if len(before) < BEFORE_MIN or not after:
        return None
    middle, sigma = median(before), deviation.spread(before, symptom.floor)
    found = deviation.worst_segment([(v - middle) / sigma for v in after])
    if found is None:
        return None
    base = middle if symptom.kind == "latency" else fmean(before)
    rise = fmean(after[found.begin : found.end]) - base
    least = symptom.floor
    if symptom.kind == "latency":
        least = abs(base) * (slowdown * (1 + case.rise_min) - 1)
    begin, end = series.times[cut + found.begin], series.times[cut + found.end - 1]
    if rise <= max(least, 1e-12) or (found.rows - 1) * series.step + 1e-9 < case.hold_s:
        return None
    often = deviation.rarity(found.score, [(v - middle) / sigma for v in before], len(after))
    if len(before) < 2 * len(after):  # too few windows of normal operation to tell how rare it is
        calm = deviation.worst_segment([(v - middle) / sigma for v in before])
        high = sorted(before)[int(HIGH * (len(before) - 1))]
        often = 1.0 if base + rise <= high or (calm is not None and calm.score >= found.score) else 0.0
    return Disturbance(begin, end, found.rows, found.score, base, rise, often)


@dataclass(frozen=True)
class Moments:
    """How much each moment counts, by how bad it was for users; without times every moment counts the same."""

    times: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()

    def of(self, series: Series, begin: float) -> list[tuple[float, int]]:
        """(weight, index) of the rows of a series from `begin` on that count; all of them if none coincides."""
        first = bisect_left(series.times, begin)
        every = [(1.0, n) for n in range(first, len(series.times))]
        if not self.times:
            return every
        reach = 0.75 * max(series.step, Series(self.times, self.weights).step, 1e-9)
        counted = [(self._at(series.times[n], reach), n) for _, n in every]
        return [(w, n) for w, n in counted if w > 0] or every

    def _at(self, time: float, reach: float) -> float:
        at = bisect_left(self.times, time)
        near = min((n for n in (at - 1, at) if 0 <= n < len(self.times)), key=lambda n: abs(self.times[n] - time))
        return self.weights[near] if abs(self.times[near] - time) <= reach else 0.0


def moments(symptom: Symptom | None, start: float) -> Moments:
    """The moments after `start` that were bad, each by its excess; a single wild one among many counts no more than the next."""
    if symptom is None:
        return Moments()
    series = symptom.series
    cut = bisect_left(series.times, start)
    if not 0 < cut < len(series.times):
        return Moments()
    base = (median if symptom.kind == "latency" else fmean)(series.values[:cut])
    excess = [max(0.0, v - base) for v in series.values[cut:]]
    ordered = sorted(excess, reverse=True)
    top = ordered[(len(ordered) - 1) // 12] or ordered[0]
    weights = tuple(min(x, top) if x >= HOT * top else 0.0 for x in excess)
    return Moments(series.times[cut:], weights) if any(weights) else Moments()


def entry_of(case: Case) -> str | None:
    """Where users come in: as given, else the busiest of those that call and are called by nobody."""
    named = case.impact.entity
    if named is not None:
        return named
    called = {callee for _, callee in case.calls}
    roots = {caller for caller, _ in case.calls} - called
    busy = {e: max(fmean(s.values) for s in m.values()) for e, m in case.of_kind("requests").items() if e in roots}
    return max(busy, key=lambda e: (busy[e], e)) if busy else min(roots) if len(roots) == 1 else None


def below(case: Case, entity: str | None) -> frozenset[str]:
    """An entity and all that it depends on by calls; everything for None."""
    if entity is None:
        return frozenset(case.entities)
    callees: dict[str, list[str]] = {}
    for caller, callee in case.calls:
        callees.setdefault(caller, []).append(callee)
    found, open_ = {entity}, [entity]
    while open_:
        for callee in callees.get(open_.pop(), ()):
            if callee not in found:
                found.add(callee)
                open_.append(callee)
    return frozenset(found)


def wanted_kind(case: Case) -> Kind | None:
    """The kind of the metric in which it was felt, if that is a symptom."""
    kind = kind_of(case.impact.metric) if case.impact.metric else None
    return kind if kind in KINDS else None


def start_of(case: Case, entry: str | None) -> float | None:
    """When to look from: shortly before the start that is given, else where something stands out most; None where nothing does.

    A violation is seen after it began, often at the end of the row that holds it. Where no start is given it is looked for in what
    users felt together with the worst of what lies below it, since either alone has many a bad stretch.
    """
    if case.impact.start is not None:
        steps = [s.step for s in case.series.values() if bisect_left(s.times, case.impact.start) >= LOOK_BACK_FROM]
        return case.impact.start - (LOOK_BACK_ROWS * median(steps) if steps else 0.0)
    wanted = wanted_kind(case)
    reached = below(case, entry if case.calls else None)
    best: tuple[float, float] | None = None
    for kind in [wanted] if wanted else KINDS:
        every = symptoms(case, kind, case.impact.metric)
        worst = _worst_below({e: s.series for e, s in every.items() if e in reached and e != entry}, every)
        found = _stretch(every[entry].series, every[entry].floor, worst) if entry in every else _of_all(worst)
        best = max(filter(None, (best, found)), default=None)
    if best is None:
        resources = [_stretch(s, 1e-9, {}, both=True) for s in case.series.values()]
        best = max(filter(None, resources), default=None)
    return best[1] if best else None


def _scores(series: Series, floor: float, *, both: bool = False) -> list[float]:
    normal = series.values[: max(BEFORE_MIN, int(NORMAL_SHARE * len(series.values)))]
    middle, sigma = median(normal), max(deviation.deviations(normal), 0.02 * abs(median(normal)), floor)
    return [min(CLIP, (abs(v - middle) if both else v - middle) / sigma) for v in series.values]


def _worst_below(series: Mapping[str, Series], of: Mapping[str, Symptom]) -> dict[float, float]:
    longest = max((len(s.times) for s in series.values()), default=0)
    worst: dict[float, float] = {}
    for entity, one in series.items():
        if len(one.times) > max(BEFORE_MIN, longest // 2):
            for time, score in zip(one.times, _scores(one, of[entity].floor), strict=True):
                worst[time] = max(worst.get(time, 0.0), score)
    return worst


def _stretch(
    series: Series, floor: float, worst: Mapping[float, float], *, both: bool = False
) -> tuple[float, float] | None:
    """(score, begin) of the stretch that stands out most, after at least `BEFORE_MIN` rows."""
    if len(series.times) <= BEFORE_MIN:
        return None
    scores = _scores(series, floor, both=both)
    if worst:
        scores = [s + BELOW * (worst.get(t, 0.0) - CLIP / 2) for t, s in zip(series.times, scores, strict=True)]
    found = deviation.segments(scores[BEFORE_MIN:], clip=2 * CLIP)
    if not found:
        return None
    last = len(scores) - BEFORE_MIN
    score, begin = max((s.score * (1 + LATE_BONUS * (s.end / last) ** LATE_POWER), s.begin) for s in found)
    return score, series.times[begin + BEFORE_MIN]


def _of_all(worst: Mapping[float, float]) -> tuple[float, float] | None:
    times = tuple(sorted(worst))
    return _stretch(Series(times, tuple(worst[t] for t in times)), 1.0, {}) if times else None
