"""Service level objectives over journeys: iterations are counted, not requests.

Pure: takes iterations, gives measurements. The percentile is the nearest-rank one (a value that really occurred).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aftershock.experiment import Slo

UNDER_WAY_S = 1.0  # half of what a customer waits
MIN_ITERATIONS = 20  # below this a p95 is a guess and one failure moves a ratio by 5 %


@dataclass(frozen=True)
class Sample:
    """One request; times in microseconds since the epoch, `status` None where no answer came."""

    iteration: int
    journey: str
    intended_us: int
    end_us: int
    status: int | None
    error: str | None


@dataclass(frozen=True)
class Iteration:
    """One customer journey: succeeded if all its requests did."""

    journey: str
    intended_us: int
    end_us: int
    ok: bool

    @property
    def latency_ms(self) -> float:
        """From the moment the schedule wanted it to its last answer, so that queueing counts."""
        return (self.end_us - self.intended_us) / 1000


@dataclass(frozen=True)
class Interval:
    """Half-open span of time in microseconds."""

    from_us: int
    to_us: int

    def holds(self, time_us: int) -> bool:
        """True if the time lies inside."""
        return self.from_us <= time_us < self.to_us


@dataclass(frozen=True)
class Measurement:
    """What an SLO was measured to be; `held` is None when there were too few iterations to say."""

    slo: Slo
    measured: float | None
    samples: int
    held: bool | None


def iterations(samples: Iterable[Sample]) -> list[Iteration]:
    """Join requests to journeys, ordered by intended time."""
    grouped: dict[tuple[str, int], list[Sample]] = {}
    for sample in samples:
        grouped.setdefault((sample.journey, sample.iteration), []).append(sample)
    joined = [
        Iteration(
            journey=journey,
            intended_us=min(s.intended_us for s in group),
            end_us=max(s.end_us for s in group),
            ok=all(s.error is None and s.status is not None and 200 <= s.status < 400 for s in group),
        )
        for (journey, _), group in grouped.items()
    ]
    return sorted(joined, key=lambda i: i.intended_us)


def percentile(values: Sequence[float], rank: float) -> float:
    """Nearest-rank percentile; `rank` in (0, 100]. Raises ValueError on no values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(rank / 100 * len(ordered)) - 1)]


def outage_s_max(journeys: Sequence[Iteration], window: Interval) -> float:
    """Longest time in seconds without a success between the first failure and the next success (or the window's end)."""
    longest = 0
    since: int | None = None
    for journey in journeys:
        if journey.ok:
            if since is not None:
                longest = max(longest, journey.intended_us - since)
            since = None
        elif since is None:
            since = journey.intended_us
    if since is not None:
        longest = max(longest, window.to_us - since)
    return longest / 1e6


def measure(slo: Slo, journeys: Sequence[Iteration], windows: Mapping[str, Interval]) -> Measurement:
    """Measure one objective in its window."""
    window = windows[slo.window]
    inside = [j for j in journeys if j.journey == slo.journey and window.holds(j.intended_us)]
    if len(inside) < MIN_ITERATIONS:
        return Measurement(slo, None, len(inside), None)
    if slo.indicator == "success_ratio":
        value = sum(j.ok for j in inside) / len(inside)
    elif slo.indicator == "outage_s_max":
        value = outage_s_max(inside, window)
    else:
        value = percentile([j.latency_ms for j in inside], float(slo.indicator.rsplit("p", 1)[1]))
    return Measurement(slo, value, len(inside), slo.holds(value))


def undisturbed(journeys: Sequence[Iteration], fault_us: int) -> list[Iteration]:
    """Journeys that tell of the time before a fault at `fault_us`: all but those that had just begun then.

    What became of these the fault may have decided. One that had already taken longer than UNDER_WAY_S stays: the shop was slow before.
    """
    just_begun_us = fault_us - round(UNDER_WAY_S * 1e6)
    return [j for j in journeys if j.end_us <= fault_us or not just_begun_us <= j.intended_us < fault_us]


def recovered_s(journeys: Sequence[Iteration], undone_us: int, hold: int = MIN_ITERATIONS) -> float | None:
    """Seconds from the undo to the first of `hold` successes in a row; None if that never came."""
    run: list[Iteration] = []
    for journey in journeys:
        if journey.intended_us < undone_us:
            continue
        run = [*run, journey] if journey.ok else []
        if len(run) == hold:
            return max(0.0, (run[0].end_us - undone_us) / 1e6)
    return None
