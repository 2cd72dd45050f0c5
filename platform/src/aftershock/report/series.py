"""Journeys in bins of time, and in windows: the figures behind the chart and its table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aftershock.slo import Interval, Iteration, percentile

BINS_MAX = 64
_WIDTHS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)


@dataclass(frozen=True)
class Bin:
    """One stretch of time; latencies are None where no journey was due."""

    from_s: float  # since the moment zero
    due: int  # journeys whose intended start lies here
    done_per_s: float  # journeys that ended here with success
    failed: int  # of those due here
    p50_ms: float | None
    p95_ms: float | None


@dataclass(frozen=True)
class Series:
    """Consecutive bins of one width."""

    width_s: float
    bins: tuple[Bin, ...]

    @property
    def to_s(self) -> float:
        """End of the last bin."""
        return self.bins[-1].from_s + self.width_s if self.bins else 0.0


@dataclass(frozen=True)
class Stretch:
    """A window's figures; None where no journey was due in it."""

    name: str
    from_s: float
    to_s: float
    due: int
    failed: int
    success: float | None
    done_per_s: float | None
    p50_ms: float | None
    p95_ms: float | None


def series(journeys: Sequence[Iteration], span: Interval, zero_us: int) -> Series:
    """Bins over `span`, at most `BINS_MAX`; nothing outside it counts."""
    total_s = max(0.0, (span.to_us - span.from_us) / 1e6)
    width_s = next((w for w in _WIDTHS_S if total_s / w <= BINS_MAX), total_s / BINS_MAX)
    width_us = max(1, math.ceil(round(width_s * 1e6, 3)))
    width_s = width_us / 1e6
    count = -(-(span.to_us - span.from_us) // width_us) if total_s else 0
    due: list[list[Iteration]] = [[] for _ in range(count)]
    done = [0] * count
    for journey in journeys:
        if span.holds(journey.intended_us):
            due[(journey.intended_us - span.from_us) // width_us].append(journey)
        if journey.ok and span.holds(journey.end_us):
            done[(journey.end_us - span.from_us) // width_us] += 1
    return Series(width_s, tuple(
        Bin((span.from_us + n * width_us - zero_us) / 1e6, len(inside), done[n] / width_s, sum(not j.ok for j in inside),
            *_latencies(inside))
        for n, inside in enumerate(due)
    ))  # fmt: skip


def stretches(journeys: Sequence[Iteration], windows: Mapping[str, Interval], zero_us: int) -> list[Stretch]:
    """One row per window, in the order of their time."""
    rows = []
    for name, window in sorted(windows.items(), key=lambda item: item[1].from_us):
        inside = [j for j in journeys if window.holds(j.intended_us)]
        failed, length_s = sum(not j.ok for j in inside), (window.to_us - window.from_us) / 1e6
        rows.append(Stretch(
            name, (window.from_us - zero_us) / 1e6, (window.to_us - zero_us) / 1e6, len(inside), failed,
            1 - failed / len(inside) if inside else None,
            sum(j.ok and window.holds(j.end_us) for j in journeys) / length_s if inside and length_s > 0 else None,
            *_latencies(inside),
        ))  # fmt: skip
    return rows


def _latencies(journeys: Sequence[Iteration]) -> tuple[float | None, float | None]:
    if not journeys:
        return None, None
    values = [j.latency_ms for j in journeys]
    return percentile(values, 50), percentile(values, 95)
