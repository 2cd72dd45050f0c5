"""Proofs of faults of workloads: rollouts, images, scale, deletion, and crowds that make them grow. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aftershock.chain import Rules, Seen, Step, dying, ends_of
from aftershock.slo import Interval

if TYPE_CHECKING:
    from aftershock.events import Event

TOLERANCE = 0.1  # within which an autoscaler does nothing
NO_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"})


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


def step(found: list[Event] | None, text: str, value: float | None = None, unit: str | None = None) -> Step | None:
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
    return step(found, f"{wanted} replica(s)", float(wanted), "replicas")


def _scaled_back(ready: bool) -> Callable[[Seen], Step | None]:
    def rule(seen: Seen) -> Step | None:
        before = seen.fault.aim.asked.get("before")
        found = _deployments(seen, seen.after, lambda e: e.detail.get("replicas") == before
                             and (not ready or e.detail.get("ready") == before))  # fmt: skip
        return step(found, f"{before} replica(s) {'ready' if ready else 'wanted'} again")

    return rule


def _restarted(seen: Seen) -> Step | None:
    """A rollout: all pods that there were are ending, and the newest version counts no ready pods at first."""
    begun = step(_deployments(seen, seen.during, lambda e: e.type == "MODIFIED" and 0 <= int(e.detail.get("updated") or 0)
                               < int(e.detail.get("replicas") or 0)), "rolling")  # fmt: skip
    uids = seen.fault.aim.asked.get("uids") or ()
    deaths = ends_of(seen, uids, seen.during)
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
    return step(_deployments(seen, span, _complete), "all updated and ready")


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
    return step(_deployments(seen, seen.after, lambda e: bool(was & set(str(e.detail.get("image")).split(", "))) and _complete(e)),
                 f"back to {', '.join(sorted(was))}")  # fmt: skip


def _deleted(
    find: Callable[[Seen, Interval, Callable[[Event], bool]], list[Event] | None],
) -> Callable[[Seen], Step | None]:
    return lambda seen: step(find(seen, seen.during, lambda e: e.type == "DELETED"), "deleted")


def _deployment_gone(seen: Seen) -> Step | None:
    """Deleted, and so are the pods that it had: one whose pods were left alone is missed by nobody."""
    gone = _deleted(_deployments)(seen)
    uids = set(seen.fault.aim.asked.get("uids") or ())
    deaths = ends_of(seen, uids, seen.during)
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

    return lambda seen: step(find(seen, seen.after, good), "ready again")


def _members_gone(seen: Seen) -> Step | None:
    """For a StatefulSet, which is not watched itself: enough of its pods were deleted."""
    aim = seen.fault.aim
    wanted = int(aim.asked["before"]) - int(aim.asked["replicas"]) if "before" in aim.asked else aim.pods
    owners = {f"StatefulSet/{t.name}" for t in aim.targets}
    gone = [e for e in seen.of("Pod", seen.during) if e.type == "DELETED" and e.detail.get("owner") in owners]
    return (
        step(gone, f"{len(gone)} pod(s) gone", float(len(gone)), "pods") if wanted > 0 and len(gone) >= wanted else None
    )


def _members_back(seen: Seen) -> Step | None:
    gone = _members_gone(seen)
    if gone is None:
        return None
    owners = {f"StatefulSet/{t.name}" for t in seen.fault.aim.targets}
    missing = {e.name for e in seen.of("Pod", seen.during) if e.id in gone.events}
    back = {e.name: e for e in reversed(seen.of("Pod", seen.after))
            if e.detail.get("owner") in owners and e.detail.get("ready") and not dying(e)}  # fmt: skip
    return step([back[name] for name in sorted(missing, key=str)], "ready again") if missing <= set(back) else None


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


def nothing(seen: Seen) -> None:
    """No proof."""
    return


WORKLOAD_RULES: dict[str, Rules] = {
    "deployment-scale": Rules(_scaled, _scaled_back(ready=False), _scaled_back(ready=True)),
    "deployment-rollout": Rules(_restarted, recovered=_all_updated),
    "crowd": Rules(_crowded, nothing, _grown),
    "image-change": Rules(_image_changed, recovered=_image_back),
    "deployment-delete": Rules(_deployment_gone, recovered=_ready_again(_deployments)),
    "service-delete": Rules(_deleted(_slices), recovered=_ready_again(_slices)),
    "statefulset-scale": Rules(_members_gone, recovered=_members_back),
    "statefulset-delete": Rules(_members_gone, recovered=_members_back),
}
