"""What a watch saw happen to pods, nodes and workloads. Reads the `detail` keys that `observe/summary.py` writes, and no others.

Whatever was there when the watch began is no disruption, nor is what makes things better (more replicas, a node ready again). Objects of
chaos tools, the runner's own events and the cluster's Event texts are not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from aftershock.diagnose.case import Disruption

WORKLOADS = ("Deployment", "StatefulSet")
STUCK = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "CrashLoopBackOff",
    "CreateContainerError",
    "CreateContainerConfigError",
)
NOT_READY = 0.1  # a pod that is not ready mostly waits for somebody else
TAINTS = ("NoSchedule", "NoExecute")

Event = Mapping[str, Any]
Detail = Mapping[str, Any]


def disruptions_of(events: Iterable[Event]) -> list[Disruption]:
    """Disruptions in the order of the events; each pod's end and each change once."""
    found: list[Disruption] = []
    before: dict[str, Detail] = {}
    ended: set[str] = set()
    for event in events:
        if event["source"] != "watch" or event["kind"] not in ("Pod", "Node", *WORKLOADS):
            continue
        detail: Detail = event["detail"] or {}
        key = (
            event["uid"]
            if event["kind"] == "Pod" and event["uid"]
            else f"{event['kind']}/{event['namespace']}/{event['name']}"
        )
        known = before.get(key)
        before[key] = {**(known or {}), **detail}  # what a line leaves out did not change
        if detail.get("initial"):
            if detail.get("deletionTimestamp"):
                ended.add(key)
            continue
        now = before[key]
        if event["kind"] == "Pod":
            found.extend(_pod(event, now, known, key, ended))
        elif event["kind"] == "Node":
            found.extend(_node(event, now, known))
        else:
            found.extend(_workload(event, now, known))
    return found


def _pod(event: Event, now: Detail, known: Detail | None, key: str, ended: set[str]) -> Iterator[Disruption]:
    service, node, time = event["service"], event["node"], event["time_us"] / 1e6
    if not service or key in ended:
        return
    if event["type"] == "DELETED" or now.get("deletionTimestamp") or now.get("phase") == "Failed":
        ended.add(key)
        yield Disruption(time, service, "pod ended", node)
        return
    stuck = next((c.get("waiting") for c in now.get("containers") or () if c.get("waiting") in STUCK), None)
    stuck_before = next(
        (c.get("waiting") for c in (known or {}).get("containers") or () if c.get("waiting") in STUCK), None
    )
    if stuck and not stuck_before:
        yield Disruption(time, service, f"container waiting: {stuck}", node)
    if known is None:
        return
    if int(now.get("restarts") or 0) > int(known.get("restarts") or 0):
        yield Disruption(time, service, "container restarted", node)
    elif known.get("ready") is True and now.get("ready") is False:
        dead = any(c.get("state") == "terminated" for c in now.get("containers") or ())
        yield Disruption(
            time, service, "container ended" if dead else "pod not ready", node, 1.0 if dead else NOT_READY
        )


def _node(event: Event, now: Detail, known: Detail | None) -> Iterator[Disruption]:
    name, time, known = event["name"], event["time_us"] / 1e6, known or {}
    if event["type"] == "DELETED":
        yield Disruption(time, name, "node deleted", name)
    elif not known:
        return
    elif now.get("unschedulable") and not known.get("unschedulable"):
        yield Disruption(time, name, "node unschedulable", name)
    elif now.get("ready") is False and known.get("ready") is not False:
        yield Disruption(time, name, "node not ready", name)
    elif [t for t in now.get("taints") or () if t not in (known.get("taints") or ()) and t.endswith(TAINTS)]:
        yield Disruption(time, name, "node tainted", name)


def _workload(event: Event, now: Detail, known: Detail | None) -> Iterator[Disruption]:
    entity, time = event["service"] or event["name"], event["time_us"] / 1e6
    if event["type"] == "DELETED":
        yield Disruption(time, entity, "workload deleted")
        return
    if known is None:
        return
    was, replicas = known.get("replicas"), now.get("replicas")
    if was is not None and replicas is not None and replicas < was:
        yield Disruption(time, entity, "scaled to zero" if replicas == 0 else "scaled down")
    if known.get("image") and now.get("image") and now["image"] != known["image"]:
        yield Disruption(time, entity, "new version")
