"""Observers: each records one kind of evidence while a run lasts, and says when it could not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class ObserverGap:
    """A time in which an observer could not see."""

    from_us: int
    to_us: int
    reason: str


@dataclass(frozen=True)
class ObserverReport:
    """What an observer did, as evidence.json keeps it."""

    name: str
    from_us: int
    to_us: int
    records: int
    gaps: tuple[ObserverGap, ...] = ()

    def as_evidence(self) -> dict[str, Any]:
        """The entry of evidence.json."""
        return {**asdict(self), "gaps": [asdict(gap) for gap in self.gaps]}


def merged(gaps: Iterable[ObserverGap]) -> tuple[ObserverGap, ...]:
    """Gaps in order of time, those that overlap or touch made into one that keeps the first three reasons."""
    found: list[ObserverGap] = []
    for gap in sorted(gaps, key=lambda g: (g.from_us, g.to_us, g.reason)):
        last = found[-1] if found else None
        if last is None or gap.from_us > last.to_us:
            found.append(gap)
            continue
        reasons = last.reason.split("; ")
        if gap.reason not in reasons and len(reasons) < 3:
            reasons.append(gap.reason)
        found[-1] = ObserverGap(last.from_us, max(last.to_us, gap.to_us), "; ".join(reasons))
    return tuple(found)


class Observer(Protocol):
    """Starts, then stops once; `stop` reports also when nothing was seen."""

    name: str

    def start(self) -> None:
        """Begin to record. Raises ObserverError, ClusterError."""

    def stop(self) -> ObserverReport:
        """End and report; a second call reports the same."""


def stop(observers: Sequence[Observer]) -> list[ObserverReport]:
    """End all at once, since each may wait for a cluster that does not answer; their reports in the order of the observers."""
    if not observers:
        return []
    with ThreadPoolExecutor(len(observers), thread_name_prefix="stop") as pool:
        return list(pool.map(lambda observer: observer.stop(), observers))
