"""How far the nodes' clocks are from ours, from the spans themselves. Pure.

A call and its answer are four times, as in NTP (RFC 5905): the callee worked within the time that its caller waited. So calls bound how far
two nodes' clocks are apart, and the calls of the load generator, whose clock is known, bound the first of them. It takes no agent on a node
and no right to ask one. No call begins before it was made, so of the beginnings the strictest counts; a callee may note its end late, when
its caller has the answer already, so of the ends the middle one does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SPAN_COLUMNS = ("trace_id", "span_id", "parent_span_id", "node", "kind", "start_us", "duration_us")
SAMPLE_COLUMNS = ("trace_id", "start_us", "end_us")
SLACK_US = 5_000  # bounds may contradict each other by this much: no clock is read at the very moment
CALLS_MIN, SLICES = 5, 4  # a clock that was set in mid-run differs between parts of it
SURE_US = 10_000  # a clock that is certainly wrong by more than this is corrected
HERE = ""  # our own clock, among the nodes
Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Bounds:
    """One clock less another: somewhere between, as `measured` calls say."""

    low_us: int
    high_us: int
    measured: int = 1

    def both(self, other: Bounds) -> Bounds:
        """What agrees with both."""
        return Bounds(max(self.low_us, other.low_us), min(self.high_us, other.high_us), self.measured + other.measured)

    def then(self, other: Bounds) -> Bounds:
        """Over a clock in between."""
        return Bounds(self.low_us + other.low_us, self.high_us + other.high_us, min(self.measured, other.measured))

    @property
    def back(self) -> Bounds:
        """The same the other way round."""
        return Bounds(-self.high_us, -self.low_us, self.measured)

    @property
    def width_us(self) -> int:
        """How much is not known."""
        return abs(self.high_us - self.low_us)

    @property
    def agree(self) -> bool:
        """False if a clock was set meanwhile."""
        return self.high_us - self.low_us >= -SLACK_US


@dataclass(frozen=True)
class NodeClock:
    """A node's clock less ours; `offset_us` None if its bounds contradict each other."""

    node: str
    offset_us: int | None
    uncertainty_us: int | None
    measured: int

    @property
    def wrong(self) -> bool:
        """True if it certainly differs from ours by more than can be left as it is."""
        return (
            self.offset_us is not None
            and self.uncertainty_us is not None
            and abs(self.offset_us) - self.uncertainty_us > SURE_US
        )

    def as_run(self) -> dict[str, Any]:
        """An entry of `clocks` in run.json."""
        return {"of": f"node {self.node}", "node": self.node, "offset_us": self.offset_us, "uncertainty_us": self.uncertainty_us,
                "measured": self.measured, "corrected": self.wrong,
                "source": "calls between nodes" if self.offset_us is not None else "calls between nodes contradict each other"}  # fmt: skip


Call = tuple[
    str, str, int, int, int
]  # caller's node, callee's, when, and lowest and highest offset that this one call allows


def clocks(spans: Columns, samples: Columns, generator_us: int) -> list[NodeClock]:
    """Every node that answered a call; `generator_us` is how well the load generator's times are known.

    Needs SPAN_COLUMNS and SAMPLE_COLUMNS.
    """
    calls: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
    for a, b, *call in (*_from_samples(spans, samples, generator_us), *_between(spans)):
        calls.setdefault((a, b), []).append((call[0], call[1], call[2]))
    pairs: dict[tuple[str, str], Bounds] = {}
    for (a, b), seen in calls.items():
        bounds = _bounds(seen)
        for pair, one in (((a, b), bounds), ((b, a), bounds.back)):
            pairs[pair] = pairs[pair].both(one) if pair in pairs else one
    known = {HERE: Bounds(0, 0, 0)}
    left = {n for pair in pairs for n in pair} - {HERE}
    while left:
        ways = [(known[a].then(bounds) if a != HERE else bounds, b) for (a, b), bounds in pairs.items()
                if a in known and b in left and bounds.agree]  # fmt: skip
        if not ways:
            break
        best, node = min(ways, key=lambda way: (way[0].width_us, way[1]))
        known[node] = best
        left.discard(node)
    found = [_clock(node, bounds) for node, bounds in known.items() if node != HERE]
    return sorted([*found, *(NodeClock(node, None, None, 0) for node in left)], key=lambda clock: clock.node)


def _bounds(calls: list[tuple[int, int, int]]) -> Bounds:
    """What all parts of the run agree on; contradicting bounds if they do not."""
    calls.sort()
    parts = min(SLICES, max(1, len(calls) // CALLS_MIN))
    found: Bounds | None = None
    for n in range(parts):
        part = calls[n * len(calls) // parts : (n + 1) * len(calls) // parts]
        high_us = min(high for _, _, high in part)
        low_us = min(high_us, sorted(low for _, low, _ in part)[len(part) // 2])
        one = Bounds(low_us, high_us, len(part))
        found = one if found is None else found.both(one)
    assert found is not None, "a pair has calls"
    return found


def corrected(spans: Mapping[str, list[Any]], found: Iterable[NodeClock]) -> dict[str, list[Any]] | None:
    """The spans' columns with the times of wrong clocks brought onto ours; None if there is nothing to correct."""
    ahead_us = {clock.node: clock.offset_us for clock in found if clock.wrong}
    if not ahead_us:
        return None
    starts = [start - (ahead_us.get(node) or 0) for start, node in zip(spans["start_us"], spans["node"], strict=True)]
    return {**spans, "start_us": starts}


def _clock(node: str, bounds: Bounds) -> NodeClock:
    return NodeClock(node, (bounds.low_us + bounds.high_us) // 2, (bounds.width_us + 1) // 2, bounds.measured)


def _rows(columns: Columns, names: Sequence[str]) -> Iterable[tuple[Any, ...]]:
    return zip(*(columns[name] for name in names), strict=True)


def _from_samples(spans: Columns, samples: Columns, generator_us: int) -> Iterable[Call]:
    asked = {trace: (start_us, end_us) for trace, start_us, end_us in _rows(samples, SAMPLE_COLUMNS) if trace}
    for trace, _, parent, node, kind, start_us, duration_us in _rows(spans, SPAN_COLUMNS):
        if kind == "SERVER" and node and trace in asked and parent == trace[8:24]:  # the generator's own call
            from_us, to_us = asked[trace]
            yield HERE, node, from_us, start_us + duration_us - to_us - generator_us, start_us - from_us + generator_us


def _between(spans: Columns) -> Iterable[Call]:
    calls = {
        span: (node, start_us, start_us + duration_us)
        for _, span, _, node, kind, start_us, duration_us in _rows(spans, SPAN_COLUMNS)
        if kind == "CLIENT" and node
    }
    for _, _, parent, node, kind, start_us, duration_us in _rows(spans, SPAN_COLUMNS):
        if kind == "SERVER" and node and parent in calls:
            caller, from_us, to_us = calls[parent]
            if caller != node:
                yield caller, node, from_us, start_us + duration_us - to_us, start_us - from_us
