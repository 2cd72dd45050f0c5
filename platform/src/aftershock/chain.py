"""The chain of one fault, and what may be looked at to prove it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
