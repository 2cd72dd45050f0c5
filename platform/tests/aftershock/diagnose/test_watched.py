"""What counts as a disruption, from objects as Kubernetes has them through the summaries that observers really write."""

from __future__ import annotations

from typing import Any

import pytest

from aftershock.diagnose.watched import disruptions_of
from aftershock.observe.summary import SUMMARIES

Row = dict[str, Any]
RUNNING = {"name": "pay", "image": "i", "ready": True, "restartCount": 0, "state": {"running": {"startedAt": "t"}}}


def pod(*, ready: bool = True, deleting: bool = False, phase: str = "Running", **container: Any) -> Row:
    meta = {"name": "payments-1", "namespace": "shop", "uid": "u1", "labels": {"app": "payments"}}
    if deleting:
        meta |= {"deletionTimestamp": "t", "deletionGracePeriodSeconds": 0}
    return {
        "metadata": meta,
        "spec": {"nodeName": "body"},
        "status": {
            "phase": phase,
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{**RUNNING, **container}],
        },
    }


def node(*, ready: bool = True, cordoned: bool = False, taint: str | None = None) -> Row:
    taints = [{"key": taint, "effect": "NoExecute"}] if taint else []
    return {
        "metadata": {"name": "body", "uid": "n1"},
        "spec": {"unschedulable": cordoned, "taints": taints},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def deployment(replicas: int = 2, image: str = "shop:1", available: int = 2) -> Row:
    template = {"spec": {"containers": [{"image": image}]}}
    return {
        "metadata": {"name": "payments", "namespace": "shop", "uid": "d1", "labels": {"app": "payments"}},
        "spec": {"replicas": replicas, "template": template},
        "status": {"readyReplicas": available, "availableReplicas": available},
    }


def lines(kind: str, *steps: tuple[str, Row]) -> list[Row]:
    """Event lines as the watch writes them: the first is the initial state, if it is an ADDED."""
    made = []
    for n, (type_, obj) in enumerate(steps):
        seen = SUMMARIES[kind](obj)
        detail = {**seen.detail, **({"initial": True} if n == 0 and type_ == "ADDED" else {})}
        made.append(
            {
                "id": f"ev-{n:06d}",
                "time_us": (n + 1) * 1_000_000,
                "source": "watch",
                "type": type_,
                "kind": kind,
                "namespace": seen.namespace,
                "name": seen.name,
                "uid": seen.uid,
                "node": seen.node,
                "service": seen.service,
                "reason": seen.reason,
                "detail": detail,
            }
        )
    return made


EXITED = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
CASES: dict[str, tuple[str, list[tuple[str, Row]], list[tuple[float, str, str]]]] = {
    "all is there": ("Pod", [("ADDED", pod())], []),
    "a pod is deleted": (
        "Pod",
        [("ADDED", pod()), ("MODIFIED", pod(deleting=True)), ("DELETED", pod(deleting=True))],
        [(2, "payments", "pod ended")],
    ),
    "a pod is gone at once": ("Pod", [("ADDED", pod()), ("DELETED", pod())], [(2, "payments", "pod ended")]),
    "a pod that was going when the watch began": (
        "Pod",
        [("ADDED", pod(deleting=True)), ("DELETED", pod(deleting=True))],
        [],
    ),
    "a pod failed": (
        "Pod",
        [("ADDED", pod()), ("MODIFIED", pod(phase="Failed", ready=False))],
        [(2, "payments", "pod ended")],
    ),
    "a container restarted": (
        "Pod",
        [("ADDED", pod()), ("MODIFIED", pod(restartCount=1))],
        [(2, "payments", "container restarted")],
    ),
    "a container that had restarted": (
        "Pod",
        [("ADDED", pod(restartCount=3)), ("MODIFIED", pod(restartCount=3, ready=True))],
        [],
    ),
    "a container is killed": (
        "Pod",
        [("ADDED", pod()), ("MODIFIED", pod(ready=False, state=EXITED))],
        [(2, "payments", "container ended")],
    ),
    "a pod is not ready": (
        "Pod",
        [("ADDED", pod()), ("MODIFIED", pod(ready=False))],
        [(2, "payments", "pod not ready")],
    ),
    "a pod becomes ready": ("Pod", [("ADDED", pod(ready=False)), ("MODIFIED", pod())], []),
    "an image that is not there": (
        "Pod",
        [
            ("MODIFIED", pod(ready=False, phase="Pending")),
            ("MODIFIED", pod(ready=False, phase="Pending", state={"waiting": {"reason": "ErrImagePull"}})),
            ("MODIFIED", pod(ready=False, phase="Pending", state={"waiting": {"reason": "ImagePullBackOff"}})),
        ],
        [(2, "payments", "container waiting: ErrImagePull")],
    ),
    "a node is cordoned": (
        "Node",
        [
            ("ADDED", node()),
            ("MODIFIED", node(cordoned=True)),
            ("MODIFIED", node(cordoned=True, taint="unschedulable")),
        ],
        [(2, "body", "node unschedulable"), (3, "body", "node tainted")],
    ),
    "a node was cordoned before": (
        "Node",
        [("ADDED", node(cordoned=True)), ("MODIFIED", node(cordoned=True, ready=True))],
        [],
    ),
    "a node is uncordoned": ("Node", [("ADDED", node(cordoned=True)), ("MODIFIED", node())], []),
    "a node is lost and found": (
        "Node",
        [("ADDED", node()), ("MODIFIED", node(ready=False)), ("MODIFIED", node())],
        [(2, "body", "node not ready")],
    ),
    "a node is tainted": (
        "Node",
        [("ADDED", node()), ("MODIFIED", node(taint="unreachable"))],
        [(2, "body", "node tainted")],
    ),
    "scaled to zero": (
        "Deployment",
        [("ADDED", deployment()), ("MODIFIED", deployment(0))],
        [(2, "payments", "scaled to zero")],
    ),
    "scaled down and back": (
        "Deployment",
        [("ADDED", deployment(3)), ("MODIFIED", deployment(1)), ("MODIFIED", deployment(3))],
        [(2, "payments", "scaled down")],
    ),
    "scaled up": ("Deployment", [("ADDED", deployment()), ("MODIFIED", deployment(4))], []),
    "another image": (
        "Deployment",
        [("ADDED", deployment()), ("MODIFIED", deployment(image="shop:2"))],
        [(2, "payments", "new version")],
    ),
    "fewer are available": ("Deployment", [("ADDED", deployment()), ("MODIFIED", deployment(available=1))], []),
    "a workload is deleted": (
        "Deployment",
        [("ADDED", deployment()), ("DELETED", deployment())],
        [(2, "payments", "workload deleted")],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_watch_saw(name: str) -> None:
    kind, steps, wanted = CASES[name]
    assert [(d.time, d.entity, d.what) for d in disruptions_of(lines(kind, *steps))] == wanted


def test_a_pod_that_is_not_ready_weighs_little_and_one_that_ended_much() -> None:
    waiting = disruptions_of(lines("Pod", ("ADDED", pod()), ("MODIFIED", pod(ready=False))))
    ended = disruptions_of(lines("Pod", ("ADDED", pod()), ("DELETED", pod())))
    assert waiting[0].weight < 0.5 <= ended[0].weight
    assert ended[0].node == "body"


@pytest.mark.parametrize("source", ["runner", "evidence", ""])
def test_only_what_a_watch_saw_counts(source: str) -> None:
    told = [{**line, "source": source} for line in lines("Pod", ("ADDED", pod()), ("DELETED", pod()))]
    assert disruptions_of(told) == []
