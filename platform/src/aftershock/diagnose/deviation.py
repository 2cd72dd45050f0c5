"""Deviations that a few wild values cannot fake, and the stretch of time in which a series stood out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from aftershock.diagnose.case import Series

MAD_TO_SIGMA = 1.4826  # Rousseeuw and Croux, "Alternatives to the Median Absolute Deviation" (1993)
Z_MIN = 4.0  # below this a shift is noise
Z_CLIP, Z_DRAG = 8.0, 2.0  # one wild row counts as this much at most; each row must stand out by more than the drag


def deviations(values: Sequence[float]) -> float:
    """The scaled median absolute deviation; 0 for a series of which most values are the same."""
    middle = median(values)
    return median(abs(v - middle) for v in values) * MAD_TO_SIGMA


def spread(values: Sequence[float], floor: float = 1e-9) -> float:
    """A robust standard deviation, at least 5 % of the median's size (for series that hardly move) and `floor`."""
    return max(deviations(values), 0.05 * abs(median(values)), floor)


def shift(before: Sequence[float], after: Sequence[float]) -> float:
    """How many robust standard deviations the middle of the worst half of `after` lies above the median of `before`; signed."""
    if not before or not after:
        return 0.0
    middle, sigma = median(before), spread(before)
    ordered = sorted(after, key=lambda v: abs(v - middle), reverse=True)
    worst = ordered[: max(1, math.ceil(len(ordered) / 2))]
    return (fmean(worst) - middle) / sigma


def onset(series: Series, begin: float, reference: Sequence[float], floor: float = 1e-9) -> float | None:
    """The first time from `begin` on at which two values in a row stand out above `reference`."""
    if not reference:
        return None
    middle, sigma = median(reference), spread(reference, floor)
    late = [(t, v) for t, v in zip(series.times, series.values, strict=True) if t >= begin]
    out = [(v - middle) / sigma > Z_MIN for _, v in late]
    for n, (time, _) in enumerate(late):
        if out[n] and (n + 1 == len(late) or out[n + 1]):
            return time
    return next((t for (t, _), o in zip(late, out, strict=True) if o), None)


@dataclass(frozen=True)
class Segment:
    """Rows [begin, end) of a sequence that together stand out, and by how much."""

    begin: int
    end: int
    score: float

    @property
    def rows(self) -> int:
        """How many rows."""
        return self.end - self.begin


def segments(scores: Sequence[float], drag: float = Z_DRAG, clip: float = Z_CLIP) -> list[Segment]:
    """Stretches whose clipped scores beat the drag, each up to its peak (Page's cumulative sum, 1954)."""
    found: list[Segment] = []
    total, begin, peak = 0.0, 0, Segment(0, 0, 0.0)
    for n, score in enumerate(scores):
        if total <= 0:
            if peak.score > 0:
                found.append(peak)
            total, begin, peak = 0.0, n, Segment(n, n, 0.0)
        total += min(score, clip) - drag
        if total > peak.score:
            peak = Segment(begin, n + 1, total)
    return [*found, peak] if peak.score > 0 else found


def worst_segment(scores: Sequence[float]) -> Segment | None:
    """The stretch that stands out most."""
    return max(segments(scores), key=lambda s: s.score, default=None)


def rarity(score: float, before: Sequence[float], rows: int) -> float:
    """The share of windows of normal operation, `rows` long, in which something stood out as much; 1 if there is no such window."""
    starts = range(0, max(0, len(before) - rows + 1), max(1, len(before) // 200))
    worse = [((found := worst_segment(before[n : n + rows])) is not None and found.score >= score) for n in starts]
    return sum(worse) / len(worse) if worse else 1.0
