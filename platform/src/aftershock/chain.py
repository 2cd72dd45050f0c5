"""The chain of one fault, and what may be looked at to prove it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from aftershock.slo import Interval

if TYPE_CHECKING:
    from aftershock.activities import ActivityRun
    from aftershock.events import Event
    from aftershock.faults import Planned
    from aftershock.observe.reach import Hop

HopFunction = Callable[[str, str, Interval], "Hop"]  # caller, callee, when the call started
EVENTS_MAX = 50


@dataclass(frozen=True)
class Step:
    """One step of the chain, as in `evidence.json`."""

    time_us: int
    source: str
    summary: str
    events: tuple[str, ...] = ()
    value: float | None = None
    unit: str | None = None

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "events": list(dict.fromkeys(self.events))[:EVENTS_MAX]}


@dataclass(frozen=True)
class Seen:
    """All that the rules may look at; times in microseconds."""

    fault: Planned
    run: ActivityRun
    events: Sequence[Event]  # by time
    baseline: Interval
    during: Interval  # from the request to the undo
    after: Interval  # from the undo to the end
    hop: HopFunction | None = None
    calls: Sequence[tuple[str, str]] = ()
    undone: Step | None = None

    def of(self, kind: str, span: Interval | None = None) -> list[Event]:
        """Events of a kind, within a span of time if given."""
        return [e for e in self.events if e.kind == kind and (span is None or span.holds(e.time_us))]

    @property
    def later(self) -> Interval:
        """From the request to the end."""
        return Interval(self.during.from_us, self.after.to_us)


@dataclass(frozen=True)
class Rules:
    """How the steps of one kind of fault are proven; each None where nothing proves it."""

    observed: Callable[[Seen], Step | None]
    undone: Callable[[Seen], Step | None] = field(default=lambda seen: seen.undone)
    recovered: Callable[[Seen], Step | None] = field(default=lambda seen: seen.undone)


def dying(event: Event) -> bool:
    """True if a pod is told to end, or has ended."""
    return event.type == "DELETED" or bool(event.detail.get("deletionTimestamp"))


def _restarts(event: Event) -> int:
    return sum(int(c.get("restarts") or 0) for c in event.detail.get("containers") or [])


def ends_of(seen: Seen, uids: Iterable[str | None], span: Interval) -> dict[str, Event]:
    """First event by uid that shows a pod deleted or one of its containers dead."""
    wanted = {uid for uid in uids if uid}
    restarts: dict[str, int] = {}
    found: dict[str, Event] = {}
    for event in seen.of("Pod"):
        if event.uid not in wanted or event.uid is None:
            continue
        if span.holds(event.time_us) and event.uid not in found:
            died = any(c.get("state") == "terminated" for c in event.detail.get("containers") or [])
            if dying(event) or died or _restarts(event) > restarts.get(event.uid, _restarts(event)):
                found[event.uid] = event
        restarts[event.uid] = max(restarts.get(event.uid, 0), _restarts(event))
    return found
