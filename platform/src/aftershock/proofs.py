"""What proves each kind of fault: watch events of exactly the targets, or a measured figure; no rule, no proof. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from aftershock.chain import Rules, Seen, Step, dying, ends_of
from aftershock.network_proofs import NETWORK_RULES
from aftershock.slo import Interval
from aftershock.workload_proofs import WORKLOAD_RULES, nothing, step

if TYPE_CHECKING:
    from aftershock.events import Event
    from aftershock.targets import Target


AWAY = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")


def targets_hit(seen: Seen) -> list[Target]:
    """The targets that the action itself says it took; all that were planned where it does not say."""
    targets = seen.fault.aim.targets
    if seen.fault.aim.count >= len(targets) or not isinstance(seen.run.output, list):
        return list(targets)
    names = {str(name) for name in seen.run.output}
    return [t for t in targets if t.name in names] or list(targets)


# Pods


def _pods_killed(seen: Seen) -> Step | None:
    hit = [t for t in targets_hit(seen) if t.kind == "Pod"]
    wanted = {t.uid for t in hit if t.uid}
    deaths = ends_of(seen, (t.uid for t in seen.fault.aim.targets), seen.during)
    if not wanted or len(wanted) != seen.fault.aim.count or set(deaths) != wanted:
        return None  # fewer died than were asked for, or others too: then this fault did not do just that
    last = max(deaths.values(), key=lambda e: e.time_us)
    names = ", ".join(sorted(t.name for t in hit))
    return Step(last.time_us, "watch", f"{len(deaths)} pod(s) died: {names}", tuple(e.id for e in deaths.values()),
                float(len(deaths)), "pods")  # fmt: skip


def _replaced(seen: Seen, pods: Sequence[Target], elsewhere: str | None = None) -> Step | None:
    """Every pod has a replacement of the same owner that was not there before and is Ready, or is Ready again itself."""
    first: dict[str, int] = {}
    owners: dict[str, str] = {}
    for event in seen.of("Pod"):
        if event.uid:
            first.setdefault(event.uid, event.time_us)
            owners[event.uid] = str(event.detail.get("owner") or event.service)
    begun = seen.during.from_us
    gone = ends_of(seen, (p.uid for p in pods), seen.later)
    used: list[Event] = []
    for pod in pods:
        if pod.uid not in owners or pod.uid not in gone:
            return None
        taken = {u.uid for u in used}
        for event in seen.of("Pod", Interval(gone[pod.uid].time_us, seen.after.to_us)):
            fresh = event.uid != pod.uid and first.get(event.uid or "", begun) >= begun and event.uid not in taken
            same = event.uid == pod.uid and not dying(gone[pod.uid])
            owned = owners.get(event.uid or "") == owners[pod.uid]
            up = bool(event.detail.get("ready")) and not dying(event)
            placed = event.node != elsewhere or seen.after.holds(
                event.time_us
            )  # a node takes pods again after the undo
            if (fresh or same) and owned and up and placed:
                used.append(event)
                break
        else:
            return None
    if not used:
        return None
    last = max(used, key=lambda e: e.time_us)
    took_s = (last.time_us - begun) / 1e6
    names = ", ".join(str(e.name) for e in used)
    return Step(last.time_us, "watch", f"Ready again: {names}", tuple(e.id for e in used), took_s, "s")


# Nodes


def _node_state(seen: Seen, span: Interval, good: Callable[[Event], bool]) -> list[Event] | None:
    """For every node that was aimed at, its first event in a span that is as wanted; None if one has none."""
    found = []
    for target in (t for t in seen.fault.aim.targets if t.kind == "Node"):
        event = next(
            (e for e in seen.of("Node", span) if e.name == target.name and e.type != "DELETED" and good(e)), None
        )
        if event is None:
            return None
        found.append(event)
    return found or None


def _cordoned(seen: Seen) -> Step | None:
    found = _node_state(seen, seen.during, lambda e: bool(e.detail.get("unschedulable")))
    return (found and Step(found[-1].time_us, "watch", f"unschedulable: {', '.join(str(e.name) for e in found)}",
                          tuple(e.id for e in found), float(len(found)), "nodes")) or None  # fmt: skip


def _uncordoned(seen: Seen) -> Step | None:
    changed = _node_state(seen, seen.during, lambda e: bool(e.detail.get("unschedulable")))
    if changed is None:
        return seen.undone  # it was so before, and nothing had to be given back
    found = _node_state(
        seen, Interval(changed[-1].time_us, seen.after.to_us), lambda e: not e.detail.get("unschedulable")
    )
    return (found and Step(found[-1].time_us, "watch", f"schedulable again: {', '.join(str(e.name) for e in found)}",
                          tuple(e.id for e in found))) or None  # fmt: skip


def _drained(seen: Seen) -> Step | None:
    cordoned = _cordoned(seen)
    pods = [t for t in seen.fault.aim.targets if t.kind == "Pod"]
    gone = {e.uid: e for e in seen.of("Pod", seen.during) if e.type == "DELETED"}
    if cordoned is None or not pods or any(p.uid not in gone for p in pods):
        return None
    events = [gone[p.uid] for p in pods]
    last = max(events, key=lambda e: e.time_us)
    return Step(max(last.time_us, cordoned.time_us), "watch", f"{cordoned.summary}; its {len(pods)} pod(s) are gone",
                (*cordoned.events, *(e.id for e in events)), float(len(pods)), "pods")  # fmt: skip


def _moved(seen: Seen) -> Step | None:
    pods = [t for t in seen.fault.aim.targets if t.kind == "Pod"]
    nodes = [t.name for t in seen.fault.aim.targets if t.kind == "Node"]
    return _replaced(seen, pods, nodes[0] if len(nodes) == 1 else None)


def _powered_off(seen: Seen) -> Step | None:
    """The control plane no longer hears from the node; that the program ended well is no proof."""
    found = _node_state(seen, seen.during, lambda e: not e.detail.get("ready"))
    if not found:
        return None
    took_s = (found[-1].time_us - seen.during.from_us) / 1e6
    return Step(found[-1].time_us, "watch", f"not Ready: {', '.join(str(e.name) for e in found)}",
                tuple(e.id for e in found), took_s, "s")  # fmt: skip


def _powered_on(seen: Seen) -> Step | None:
    """Ready again, and pods are no longer sent away from it."""
    off = _powered_off(seen)
    if off is None:
        return seen.undone
    span = Interval(off.time_us, seen.after.to_us)
    found = _node_state(seen, span, lambda e: bool(e.detail.get("ready")) and not _sends_away(e))
    return (found and Step(found[-1].time_us, "watch", f"Ready again: {', '.join(str(e.name) for e in found)}",
                          tuple(e.id for e in found))) or None  # fmt: skip


def _sends_away(node: Event) -> bool:
    return any(str(taint).startswith(AWAY) for taint in node.detail.get("taints") or [])


def _survived(seen: Seen) -> Step | None:
    """The node is back, and each of its pods has a replacement, or serves again itself if it was never given up."""
    moved, node = _moved(seen), _powered_on(seen)
    return max(moved, node, key=lambda step: step.time_us) if moved and node else None


# Anything else


def _unknown(seen: Seen) -> Step | None:
    """Only what watch events prove of a target that the action itself names."""
    pods = [t for t in seen.fault.aim.targets if t.kind == "Pod"]
    deaths = ends_of(seen, (p.uid for p in pods), seen.during)
    if deaths:
        return step(
            sorted(deaths.values(), key=lambda e: e.time_us), f"{len(deaths)} pod(s) died", float(len(deaths)), "pods"
        )
    down = _node_state(
        seen, seen.during, lambda e: e.detail.get("ready") != "True" or bool(e.detail.get("unschedulable"))
    )
    return step(down, "not Ready, or unschedulable", float(len(down)) if down else None, "nodes")


def _unknown_recovered(seen: Seen) -> Step | None:
    pods = [t for t in seen.fault.aim.targets if t.kind == "Pod"]
    if deaths := ends_of(seen, (p.uid for p in pods), seen.during):
        return _replaced(seen, [p for p in pods if p.uid in deaths])
    if _unknown(seen) is None:
        return None
    return step(_node_state(seen, seen.after, lambda e: e.detail.get("ready") == "True" and not e.detail.get("unschedulable")),
                 "Ready again")  # fmt: skip


UNKNOWN = Rules(_unknown, nothing, _unknown_recovered)
RULES: dict[str, Rules] = {
    "pod-kill": Rules(
        _pods_killed, nothing, lambda seen: _replaced(seen, [t for t in targets_hit(seen) if t.kind == "Pod"])
    ),
    "node-drain": Rules(_drained, _uncordoned, _moved),
    "node-cordon": Rules(_cordoned, _uncordoned, _uncordoned),
    "node-power-off": Rules(_powered_off, _powered_on, _survived),
    **WORKLOAD_RULES,
    **NETWORK_RULES,
}
