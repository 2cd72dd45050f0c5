"""What a caller seems to do by itself because of a callee that is gone or failing.

An entity that is gone measures nothing: its callers fail right when nobody reaches it any more. One that refuses is quick about it: its
callers try again and wait. One that hangs may answer well in the end: its callers gave up long ago. A caller that fails early stops
calling too, but then all its callees fall silent; when one of several does, it is the one to suspect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from aftershock.diagnose import deviation
from aftershock.diagnose.case import Case, Series
from aftershock.diagnose.felt import BEFORE_MIN, Moments
from aftershock.diagnose.impact import Signal
from aftershock.diagnose.symptom import choose

DROP_MIN = 0.25  # share of its requests that an entity must lose to be called silent
VOLUME_MIN = 2.0  # requests per row below which silence means nothing
# Share of a caller's doing that goes to its silent callees: while it still calls others, if there is one, if there are several.
ALONE, ONLY, TOGETHER = 0.75, 0.45, 0.2
OTHERS_MIN = 0.1  # calls to other callees that must go on, as a share of the missing ones
SLOW_MIN, HANGS_MIN = (
    5.0,
    0.5,
)  # both slower than usual by this factor; share of the caller's time that the callee takes
FAILING_MIN = 0.02  # share of failures from which on callers are taken to wait and try again
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


def waited_for(own: Mapping[str, float], waits: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """Exclusive impact with a caller's share passed to the callees that it waits for, in proportion to `waits`."""
    moved = dict(own)
    for caller, value in own.items():
        parts = {callee: part for (a, callee), part in waits.items() if a == caller and part > 0}
        whole = sum(parts.values())
        if value > 0 and whole > 0:
            moved[caller] -= value * ALONE
            for callee, part in parts.items():
                moved[callee] = moved.get(callee, 0.0) + value * ALONE * part / whole
    return moved


def retries(case: Case, failing: Mapping[str, Signal]) -> dict[tuple[str, str], float]:
    """(caller, callee) -> share of the callee's answers that are failures, which callers wait to try again."""
    shares = {e: s.after - s.before for e, s in failing.items()}
    return {(a, b): shares[b] for a, b in case.calls if a != b and shares.get(b, 0.0) >= FAILING_MIN}


def hangs(case: Case, slow: Mapping[str, Signal]) -> dict[tuple[str, str], float]:
    """(caller, callee) -> share of the caller's time that it waits for a callee much slower than usual, until it gives up."""
    found: dict[tuple[str, str], float] = {}
    for caller, callee in case.calls:
        if caller != callee and caller in slow and callee in slow:
            mine, theirs = slow[caller], slow[callee]
            if theirs.after > SLOW_MIN * theirs.before and mine.after > SLOW_MIN * mine.before:
                share = theirs.after / mine.after
                found.update({(caller, callee): min(1.0, share)} if share >= HANGS_MIN else {})
    return found


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
