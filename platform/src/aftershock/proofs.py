"""What proves each kind of fault: watch events of exactly the targets, or a measured figure; no rule, no proof. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from aftershock.chain import Rules, Seen, Step
from aftershock.network_proofs import NETWORK_RULES
from aftershock.slo import Interval

if TYPE_CHECKING:
    from aftershock.events import Event
    from aftershock.targets import Target


TOLERANCE = 0.1  # within which an autoscaler does nothing
AWAY = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
NO_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"})


def targets_hit(seen: Seen) -> list[Target]:
    """The targets that the action itself says it took; all that were planned where it does not say."""
    targets = seen.fault.aim.targets
    if seen.fault.aim.count >= len(targets) or not isinstance(seen.run.output, list):
        return list(targets)
    names = {str(name) for name in seen.run.output}
    return [t for t in targets if t.name in names] or list(targets)


# Pods


def _dying(event: Event) -> bool:
    return event.type == "DELETED" or bool(event.detail.get("deletionTimestamp"))


def _restarts(event: Event) -> int:
    return sum(int(c.get("restarts") or 0) for c in event.detail.get("containers") or [])


def _deaths(seen: Seen, uids: Iterable[str | None], span: Interval) -> dict[str, Event]:
    """First event by uid that shows a pod deleted or one of its containers dead."""
    wanted = {uid for uid in uids if uid}
    restarts: dict[str, int] = {}
    found: dict[str, Event] = {}
    for event in seen.of("Pod"):
        if event.uid not in wanted or event.uid is None:
            continue
        if span.holds(event.time_us) and event.uid not in found:
            died = any(c.get("state") == "terminated" for c in event.detail.get("containers") or [])
            if _dying(event) or died or _restarts(event) > restarts.get(event.uid, _restarts(event)):
                found[event.uid] = event
        restarts[event.uid] = max(restarts.get(event.uid, 0), _restarts(event))
    return found


def _pods_killed(seen: Seen) -> Step | None:
    hit = [t for t in targets_hit(seen) if t.kind == "Pod"]
    wanted = {t.uid for t in hit if t.uid}
    deaths = _deaths(seen, (t.uid for t in seen.fault.aim.targets), seen.during)
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
    gone = _deaths(seen, (p.uid for p in pods), seen.later)
    used: list[Event] = []
    for pod in pods:
        if pod.uid not in owners or pod.uid not in gone:
            return None
        taken = {u.uid for u in used}
        for event in seen.of("Pod", Interval(gone[pod.uid].time_us, seen.after.to_us)):
            fresh = event.uid != pod.uid and first.get(event.uid or "", begun) >= begun and event.uid not in taken
            same = event.uid == pod.uid and not _dying(gone[pod.uid])
            owned = owners.get(event.uid or "") == owners[pod.uid]
            up = bool(event.detail.get("ready")) and not _dying(event)
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


# Workloads


def _workload(kind: str) -> Callable[[Seen, Interval, Callable[[Event], bool]], list[Event] | None]:
    def find(seen: Seen, span: Interval, good: Callable[[Event], bool]) -> list[Event] | None:
        found = []
        for target in seen.fault.aim.targets:
            names = [
                e for e in seen.of(kind, span) if (e.service if kind == "EndpointSlice" else e.name) == target.name
            ]
            event = next((e for e in names if good(e)), None)
            if event is None:
                return None
            found.append(event)
        return found or None

    return find


_deployments, _slices = _workload("Deployment"), _workload("EndpointSlice")


def _step(found: list[Event] | None, text: str, value: float | None = None, unit: str | None = None) -> Step | None:
    if not found:
        return None
    return Step(max(e.time_us for e in found), "watch", f"{text}: {', '.join(str(e.name) for e in found)}",
                tuple(e.id for e in found), value, unit)  # fmt: skip


def _scaled(seen: Seen) -> Step | None:
    wanted, before = int(seen.fault.aim.asked.get("replicas", -1)), seen.fault.aim.asked.get("before")
    if wanted == before:
        return None
    found = _deployments(
        seen, seen.during, lambda e: e.detail.get("replicas") == wanted and e.detail.get("ready") == wanted
    )
    return _step(found, f"{wanted} replica(s)", float(wanted), "replicas")


def _scaled_back(ready: bool) -> Callable[[Seen], Step | None]:
    def rule(seen: Seen) -> Step | None:
        before = seen.fault.aim.asked.get("before")
        found = _deployments(seen, seen.after, lambda e: e.detail.get("replicas") == before
                             and (not ready or e.detail.get("ready") == before))  # fmt: skip
        return _step(found, f"{before} replica(s) {'ready' if ready else 'wanted'} again")

    return rule


def _restarted(seen: Seen) -> Step | None:
    """A rollout: all pods that there were are ending, and the newest version counts no ready pods at first."""
    begun = _step(_deployments(seen, seen.during, lambda e: e.type == "MODIFIED" and 0 <= int(e.detail.get("updated") or 0)
                               < int(e.detail.get("replicas") or 0)), "rolling")  # fmt: skip
    uids = seen.fault.aim.asked.get("uids") or ()
    deaths = _deaths(seen, uids, seen.during)
    if begun is None or set(deaths) != set(uids):
        return None
    last = max([begun.time_us, *(e.time_us for e in deaths.values())])
    return Step(last, "watch", f"{begun.summary}; {len(deaths)} pod(s) replaced", (*begun.events, *(e.id for e in deaths.values())),
                float(len(deaths)), "pods")  # fmt: skip


def _all_updated(seen: Seen) -> Step | None:
    begun = _restarted(seen)
    if begun is None:
        return None
    span = Interval(begun.time_us, seen.after.to_us)
    return _step(_deployments(seen, span, _complete), "all updated and ready")


def _complete(event: Event) -> bool:
    seen = event.detail
    followed = seen.get("generation") == seen.get("observed_generation")
    return followed and seen.get("replicas") == seen.get("updated") == seen.get("ready") == seen.get("available")


def _image_changed(seen: Seen) -> Step | None:
    """A pod that was not there before has the image: it runs with it, or says why it cannot."""
    image = str(seen.fault.aim.asked.get("image"))
    if _deployments(seen, seen.during, lambda e: image in str(e.detail.get("image")).split(", ")) is None:
        return None
    services = {t.service for t in seen.fault.aim.targets}
    known = {e.uid for e in seen.of("Pod") if e.time_us < seen.during.from_us}
    for event in seen.of("Pod", seen.during):
        if event.uid in known or event.service not in services:
            continue
        for container in event.detail.get("containers") or []:
            has = str(container.get("image") or "").endswith(image)
            if has and (container.get("waiting") in NO_IMAGE or container.get("state") == "running"):
                how = container.get("waiting") or "runs"
                return Step(event.time_us, "watch", f"{event.name} with {image}: {how}", (event.id,), 1.0, "pods")
    return None


def _image_back(seen: Seen) -> Step | None:
    """After the undo every pod that counts has the image of before."""
    was = set(seen.fault.aim.asked.get("was") or ())
    if not was or _image_changed(seen) is None:
        return None
    return _step(_deployments(seen, seen.after, lambda e: bool(was & set(str(e.detail.get("image")).split(", "))) and _complete(e)),
                 f"back to {', '.join(sorted(was))}")  # fmt: skip


def _deleted(
    find: Callable[[Seen, Interval, Callable[[Event], bool]], list[Event] | None],
) -> Callable[[Seen], Step | None]:
    return lambda seen: _step(find(seen, seen.during, lambda e: e.type == "DELETED"), "deleted")


def _deployment_gone(seen: Seen) -> Step | None:
    """Deleted, and so are the pods that it had: one whose pods were left alone is missed by nobody."""
    gone = _deleted(_deployments)(seen)
    uids = set(seen.fault.aim.asked.get("uids") or ())
    deaths = _deaths(seen, uids, seen.during)
    if gone is None or set(deaths) != uids:
        return None
    last = max([gone.time_us, *(e.time_us for e in deaths.values())])
    return Step(last, "watch", f"{gone.summary}; its {len(deaths)} pod(s) end", (*gone.events, *(e.id for e in deaths.values())),
                float(len(deaths)), "pods")  # fmt: skip


def _ready_again(
    find: Callable[[Seen, Interval, Callable[[Event], bool]], list[Event] | None],
) -> Callable[[Seen], Step | None]:
    def good(event: Event) -> bool:
        ready = int(event.detail.get("ready") or 0)
        return event.type != "DELETED" and ready > 0 and ready >= int(event.detail.get("replicas") or 0)

    return lambda seen: _step(find(seen, seen.after, good), "ready again")


def _members_gone(seen: Seen) -> Step | None:
    """For a StatefulSet, which is not watched itself: enough of its pods were deleted."""
    aim = seen.fault.aim
    wanted = int(aim.asked["before"]) - int(aim.asked["replicas"]) if "before" in aim.asked else aim.pods
    owners = {f"StatefulSet/{t.name}" for t in aim.targets}
    gone = [e for e in seen.of("Pod", seen.during) if e.type == "DELETED" and e.detail.get("owner") in owners]
    return (
        _step(gone, f"{len(gone)} pod(s) gone", float(len(gone)), "pods")
        if wanted > 0 and len(gone) >= wanted
        else None
    )


def _members_back(seen: Seen) -> Step | None:
    gone = _members_gone(seen)
    if gone is None:
        return None
    owners = {f"StatefulSet/{t.name}" for t in seen.fault.aim.targets}
    missing = {e.name for e in seen.of("Pod", seen.during) if e.id in gone.events}
    back = {e.name: e for e in reversed(seen.of("Pod", seen.after))
            if e.detail.get("owner") in owners and e.detail.get("ready") and not _dying(e)}  # fmt: skip
    return _step([back[name] for name in sorted(missing, key=str)], "ready again") if missing <= set(back) else None


# A crowd


def _crowded(seen: Seen) -> Step | None:
    """The autoscaler itself measured more than it wants to see."""
    wanted = seen.fault.aim.asked.get("utilization")
    names = {f"Deployment/{t.name}" for t in seen.fault.aim.targets}
    for event in seen.of("HorizontalPodAutoscaler", seen.during):
        used = (event.detail.get("utilization") or {}).get("cpu")
        if wanted and used and event.detail.get("target") in names and used > wanted * (1 + TOLERANCE):
            return Step(event.time_us, "watch", f"{event.name} measures {used} % of the CPU asked for, and wants {wanted} %",
                        (event.id,), float(used), "%")  # fmt: skip
    return None


def _grown(seen: Seen) -> Step | None:
    """As many pods are ready as the crowd needs, while it is there; the value is how long that took."""
    wanted = int(seen.fault.aim.asked.get("replicas") or 0)
    found = _deployments(seen, seen.during, lambda e: wanted > 0 and int(e.detail.get("ready") or 0) >= wanted)
    if not found:
        return None
    took_s = (found[-1].time_us - seen.during.from_us) / 1e6
    return Step(
        found[-1].time_us, "watch", f"{wanted} pods ready: {found[-1].name}", tuple(e.id for e in found), took_s, "s"
    )


# Anything else


def _unknown(seen: Seen) -> Step | None:
    """Only what watch events prove of a target that the action itself names."""
    pods = [t for t in seen.fault.aim.targets if t.kind == "Pod"]
    deaths = _deaths(seen, (p.uid for p in pods), seen.during)
    if deaths:
        return _step(
            sorted(deaths.values(), key=lambda e: e.time_us), f"{len(deaths)} pod(s) died", float(len(deaths)), "pods"
        )
    down = _node_state(
        seen, seen.during, lambda e: e.detail.get("ready") != "True" or bool(e.detail.get("unschedulable"))
    )
    return _step(down, "not Ready, or unschedulable", float(len(down)) if down else None, "nodes")


def _unknown_recovered(seen: Seen) -> Step | None:
    pods = [t for t in seen.fault.aim.targets if t.kind == "Pod"]
    if deaths := _deaths(seen, (p.uid for p in pods), seen.during):
        return _replaced(seen, [p for p in pods if p.uid in deaths])
    if _unknown(seen) is None:
        return None
    return _step(_node_state(seen, seen.after, lambda e: e.detail.get("ready") == "True" and not e.detail.get("unschedulable")),
                 "Ready again")  # fmt: skip


def _nothing(seen: Seen) -> None:
    return None


UNKNOWN = Rules(_unknown, _nothing, _unknown_recovered)
RULES: dict[str, Rules] = {
    "pod-kill": Rules(
        _pods_killed, _nothing, lambda seen: _replaced(seen, [t for t in targets_hit(seen) if t.kind == "Pod"])
    ),
    "node-drain": Rules(_drained, _uncordoned, _moved),
    "node-cordon": Rules(_cordoned, _uncordoned, _uncordoned),
    "deployment-scale": Rules(_scaled, _scaled_back(ready=False), _scaled_back(ready=True)),
    "deployment-rollout": Rules(_restarted, recovered=_all_updated),
    "crowd": Rules(_crowded, _nothing, _grown),
    "node-power-off": Rules(_powered_off, _powered_on, _survived),
    "image-change": Rules(_image_changed, recovered=_image_back),
    "deployment-delete": Rules(_deployment_gone, recovered=_ready_again(_deployments)),
    "service-delete": Rules(_deleted(_slices), recovered=_ready_again(_slices)),
    "statefulset-scale": Rules(_members_gone, recovered=_members_back),
    "statefulset-delete": Rules(_members_gone, recovered=_members_back),
    **NETWORK_RULES,
}
