"""Without a call graph: how far each metric leaves its normal range.

Source: Pham et al., "BARO: Robust Root Cause Analysis for Microservices" (2024), the RobustScorer: distance from the median in
interquartile ranges, at most.
"""

from __future__ import annotations

from statistics import median, quantiles

from aftershock.diagnose import deviation
from aftershock.diagnose.case import Case, Series, kind_of
from aftershock.diagnose.felt import BEFORE_MIN, RARE, SCORE_MIN

FLAT = 0.02  # a series that never moved in normal operation is measured in this share of all it ever reached


def ranges(before: list[float], after: list[float]) -> float:
    """How many interquartile ranges of `before` the farthest of `after` lies from the median."""
    middle, (low, _, high) = median(before), quantiles(before, n=4)
    scale = high - low
    if scale <= 1e-3 * abs(middle):
        scale = max(scale, FLAT * max(abs(v) for v in (*before, *after)), 1e-9)
    return max(abs(v - middle) for v in after) / scale


def robust(case: Case, start: float) -> dict[str, tuple[float, str]]:
    """entity -> (score, metric) by its best metric, 1 for the best of all; entities that do not deviate are left out."""
    best: dict[str, tuple[float, str]] = {}
    for (entity, metric), series in sorted(case.series.items()):
        before, after = _parts(series, start)
        if len(before) >= BEFORE_MIN and after and abs(deviation.shift(before, after)) > deviation.Z_MIN:
            weight = (
                0.5 if kind_of(metric) == "requests" else 1.0
            )  # more or fewer customers break nothing by themselves
            best[entity] = max(best.get(entity, (0.0, "")), (weight * ranges(before, after), metric))
    top = max((score for score, _ in best.values()), default=0.0)
    return {entity: (score / top, metric) for entity, (score, metric) in best.items()} if top else {}


def stands_out(series: Series, start: float) -> bool:
    """Whether a metric left its range, either way, for longer and farther than it ever did in normal operation."""
    before, after = _parts(series, start)
    if len(before) < BEFORE_MIN or not after:
        return False
    middle, sigma = median(before), deviation.spread(before)
    usual = [abs(v - middle) / sigma for v in before]
    found = deviation.worst_segment([abs(v - middle) / sigma for v in after])
    if found is None or found.rows < min(2, len(after)) or found.score < SCORE_MIN:
        return False
    if len(before) >= 2 * len(after):
        return deviation.rarity(found.score, usual, len(after)) <= RARE
    calm = deviation.worst_segment(usual)
    return calm is None or calm.score < found.score


def _parts(series: Series, start: float) -> tuple[list[float], list[float]]:
    return series.between(float("-inf"), start), series.between(start, float("inf"))
