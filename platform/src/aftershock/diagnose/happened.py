"""What happened to pods, nodes and workloads around the incident, and whom that points to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aftershock.diagnose.case import Case, Disruption

SYMPTOM, EVENT, NODE_EVENT = (
    0.6,
    0.4,
    0.6,
)  # what was felt counts more than what happened, since something always happens somewhere
EXCUSED = 0.05  # a service whose pods went with their node
TOGETHER_S = 5.0  # disruptions of one node's pods within this time have one cause
SLACK_S = 1.0
BREAKS = 0.5  # from this weight on a disruption can be a root cause all by itself


def relevant(case: Case, start: float, step: float) -> list[Disruption]:
    """Disruptions from shortly before `start` on, in order."""
    slack = max(SLACK_S, 2 * step)
    return sorted((d for d in case.disruptions if d.time >= start - slack), key=lambda d: d.time)


def combined(
    hosts: Mapping[str, frozenset[str]], shares: Mapping[str, float], happened: Iterable[Disruption], sure: float
) -> dict[str, float]:
    """Scores from symptoms (as far as they are `sure`) and from events; a node stands for the services whose pods it lost."""
    events = list(happened)
    if not events:
        return {entity: share * sure for entity, share in shares.items()}
    told = _strongest(d for d in events if d.entity in hosts)
    on_node = _lost_together(events, hosts)
    for d in events:
        if d.node in told and d.entity not in hosts:  # with their node even what is merely not ready any more
            on_node.setdefault(d.node, set()).add(d.entity)
    # Of a node that said nothing itself all that was lost must have been there, and more than one service.
    told |= {n: 1.0 for n, lost in on_node.items() if n not in told and len(lost) > 1 and len(on_node) == 1}
    excused = {service for node in told for service in on_node.get(node, ())}
    scores = {entity: SYMPTOM * sure * share for entity, share in shares.items()}
    for node, weight in told.items():
        theirs = sum(shares.get(service, 0.0) for service in on_node.get(node, ()))
        alone = EVENT if len(on_node.get(node, ())) < 2 else NODE_EVENT  # services that went together name their node
        scores[node] = alone * weight + SYMPTOM * sure * min(1.0, theirs)
    for entity, weight in _strongest(d for d in events if d.entity not in hosts).items():
        scores[entity] = scores.get(entity, 0.0) + (EXCUSED if entity in excused else EVENT) * weight
    return scores


def _strongest(events: Iterable[Disruption]) -> dict[str, float]:
    found: dict[str, float] = {}
    for d in events:
        found[d.entity] = max(found.get(d.entity, 0.0), d.weight)
    return found


def _lost_together(events: list[Disruption], hosts: Mapping[str, frozenset[str]]) -> dict[str, set[str]]:
    """node -> services that it lost within a short time of the first loss."""
    lost = [d for d in events if d.node and d.entity not in hosts and d.weight >= BREAKS]
    on_node: dict[str, set[str]] = {}
    for d in lost:
        if d.node and d.time - lost[0].time < TOGETHER_S:
            on_node.setdefault(d.node, set()).add(d.entity)
    return on_node
