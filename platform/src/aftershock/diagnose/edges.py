"""Which entity can have caused another's disturbance: paths along calls and placement, and the three-way test of each step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise

from aftershock.diagnose.case import Case, Edge

Begun = Callable[[str], float | None]  # when an entity first deviated, if it did


def path_to(case: Case, origin: str | None, entity: str) -> tuple[str, ...]:
    """The shortest chain from where it was felt to `entity`: along calls, and from a service to a node that hosts it."""
    if origin is None or origin == entity:
        return (entity,)
    neighbours: dict[str, list[str]] = {}
    for caller, callee in sorted(case.calls):
        neighbours.setdefault(caller, []).append(callee)
    for node, services in sorted(case.hosts.items()):
        for service in sorted(services):
            neighbours.setdefault(service, []).append(node)
    before: dict[str, str] = {origin: ""}
    queue = deque([origin])
    while queue:
        at = queue.popleft()
        for following in neighbours.get(at, ()):
            if following not in before:
                before[following] = at
                queue.append(following)
    if entity not in before:
        return (entity,)
    path = [entity]
    while path[-1] != origin:
        path.append(before[path[-1]])
    return tuple(reversed(path))


def edges_of(case: Case, path: Sequence[str], begun: Begun, slack_s: float) -> tuple[Edge, ...]:
    """The three-way test (structure, deviation, order in time) along a path, and of what else its members depend on."""
    wanted = [(cause, effect) for effect, cause in pairwise(path)]
    others = ((callee, caller) for caller, callee in sorted(case.calls) if caller in path and caller != callee)
    wanted += [pair for pair in others if pair not in wanted]
    return tuple(_tested(case, cause, effect, begun, slack_s) for cause, effect in wanted)


def _tested(case: Case, cause: str, effect: str, begun: Begun, slack_s: float) -> Edge:
    since, until = begun(cause), begun(effect)
    structure = (effect, cause) in case.calls or effect in case.hosts.get(cause, ())
    ordered = since is not None and until is not None and since <= until + slack_s
    still = [entity for entity, at in ((cause, since), (effect, until)) if at is None]
    why = (
        "no call or placement joins them" if not structure
        else f"{' and '.join(still)} did not deviate" if still
        else f"{cause} deviated after {effect}" if not ordered
        else f"{effect} depends on {cause}, both deviated, {cause} not later"
    )  # fmt: skip
    return Edge(cause, effect, structure, not still, ordered, why)
