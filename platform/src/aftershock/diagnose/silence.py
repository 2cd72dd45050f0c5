"""An entity that is gone measures nothing: its callers fail, seemingly by themselves, right when nobody reaches it any more.

A caller that fails early stops calling too, but then all its callees fall silent; when one of several does, it is the one to suspect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from aftershock.diagnose import deviation
from aftershock.diagnose.case import Case, Series
from aftershock.diagnose.felt import BEFORE_MIN, Moments
from aftershock.diagnose.symptom import choose

DROP_MIN = 0.25  # share of its requests that an entity must lose to be called silent
VOLUME_MIN = 2.0  # requests per row below which silence means nothing
ALONE, ONLY, TOGETHER = (
    0.75,
    0.45,
    0.2,
)  # share of a caller's doing that goes to its silent callees: among others, the only one, all silent
OTHERS_MIN = 0.1  # calls to other callees that must go on, as a share of the missing ones
GONE = 0.5  # an entity that lost this share of its requests is as good as hit


def passed_on(case: Case, own: Mapping[str, float], start: float, when: Moments, *, failures: bool) -> dict[str, float]:
    """Exclusive impact with a caller's share passed to its silent callees; of failures no more than the requests that are missing."""
    lost = losses(case, start, when)
    callers: dict[str, int] = {}
    for _, callee in case.calls:
        callers[callee] = callers.get(callee, 0) + 1
    moved = dict(own)
    for caller, value in own.items():
        callees = {b: lost[b] for a, b in case.calls if a == caller and b != caller and b in lost}
        own_share = lost[caller].share if caller in lost else 0.0
        silent = {c: at for c, at in callees.items() if at.sure and at.share >= DROP_MIN and own_share < at.share / 2}
        missing = sum(at.number for at in silent.values())
        if value <= 0 or missing <= 0:
            continue
        least = min(at.share for at in silent.values())
        # Only what nobody else calls tells whether the caller still works through its list.
        others = [at for c, at in callees.items() if c not in silent and callers[c] == 1]
        calm = sum(at.usual for at in others if at.share < least / 2) >= OTHERS_MIN * missing
        part = ALONE if calm else ONLY if len(silent) == 1 else TOGETHER
        taken = value * part * (min(1.0, missing / value) if failures else 1.0)
        moved[caller] -= taken
        for callee, at in silent.items():
            moved[callee] = moved.get(callee, 0.0) + taken * at.number / missing
    return moved


@dataclass(frozen=True)
class Loss:
    """Requests per row that an entity usually gets, the share of them that is missing, and whether that is more than noise."""

    usual: float
    share: float
    sure: bool

    @property
    def number(self) -> float:
        """How many requests per row are missing."""
        return self.usual * self.share


def losses(case: Case, start: float, when: Moments) -> dict[str, Loss]:
    """What each entity lost of its usual requests when it was felt."""
    found: dict[str, Loss] = {}
    every = case.of_kind("requests")
    longest = max((len(s.times) for metrics in every.values() for s in metrics.values()), default=0)
    for entity, metrics in every.items():
        series = metrics[choose(metrics, None)]
        before = series.between(float("-inf"), start)
        if len(before) < max(BEFORE_MIN, longest // 2) or median(before) < VOLUME_MIN:
            continue
        usual, now = median(before), _level(series, start, when)
        sure = usual - now > deviation.Z_MIN * max(deviation.deviations(before), 0.02 * usual)
        found[entity] = Loss(usual, max(0.0, 1 - now / usual), sure)
    return found


def _level(series: Series, start: float, when: Moments) -> float:
    """Mean requests in the moments that count; a row that is not there is a row without requests."""
    if not when.times:
        values = series.between(start, float("inf"))
        return sum(values) / len(values) if values else 0.0
    at = dict(zip(series.times, series.values, strict=True))
    total = sum(when.weights)
    if not any(t in at for t in when.times) and any(t >= start for t in series.times):
        rows = when.of(series, start)  # on another clock
        return sum(w * series.values[n] for w, n in rows) / sum(w for w, _ in rows)
    return sum(w * at.get(t, 0.0) for t, w in zip(when.times, when.weights, strict=True)) / total
