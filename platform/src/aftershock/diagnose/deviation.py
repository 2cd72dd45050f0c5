"""Deviations that a few wild values cannot fake, and the moment at which a series changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median

from aftershock.diagnose.case import Series

MAD_TO_SIGMA = 1.4826  # Rousseeuw and Croux, "Alternatives to the Median Absolute Deviation" (1993)
Z_MIN = 4.0  # below this a shift is noise


def spread(values: Sequence[float]) -> float:
    """A robust standard deviation, never zero: at least 5 % of the median's size, for series that hardly move."""
    middle = median(values)
    mad = median([abs(v - middle) for v in values]) * MAD_TO_SIGMA
    return max(mad, 0.05 * abs(middle), 1e-9)


def shift(before: Sequence[float], after: Sequence[float]) -> float:
    """How many robust standard deviations the middle of the worst half of `after` lies above the median of `before`; signed."""
    if not before or not after:
        return 0.0
    middle, sigma = median(before), spread(before)
    ordered = sorted(after, key=lambda v: abs(v - middle), reverse=True)
    worst = ordered[: max(1, math.ceil(len(ordered) / 2))]
    return (fmean(worst) - middle) / sigma


def onset(series: Series, begin: float, reference: Sequence[float], sign: int = 1) -> float | None:
    """The first time from `begin` on at which two values in a row stand out from `reference` in the direction of `sign`."""
    if not reference:
        return None
    middle, sigma = median(reference), spread(reference)
    late = [(t, v) for t, v in zip(series.times, series.values, strict=True) if t >= begin]
    out = [sign * (v - middle) / sigma > Z_MIN for _, v in late]
    for n, (time, _) in enumerate(late):
        if out[n] and (n + 1 == len(late) or out[n + 1]):
            return time
    return next((t for (t, _), o in zip(late, out, strict=True) if o), None)


def change_point(series: Series, before_min: int = 5, after_min: int = 1) -> float | None:
    """Start of the second of the two segments that explain a series best (least squares); None if it is too short.

    Source: one step of binary segmentation (Scott and Knott, 1974).
    """
    values = series.values
    if len(values) < before_min + after_min:
        return None
    best, at = math.inf, None
    total, squares = sum(values), sum(v * v for v in values)
    left = left_squares = 0.0
    for n, value in enumerate(values[:-after_min], 1):
        left, left_squares = left + value, left_squares + value * value
        if n < before_min:
            continue
        right = total - left
        cost = (left_squares - left * left / n) + (squares - left_squares - right * right / (len(values) - n))
        if cost < best:
            best, at = cost, series.times[n]
    return at
