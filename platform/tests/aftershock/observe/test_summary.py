"""What an event line keeps of an object, and what it must never keep."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aftershock.observe.summary import SUMMARIES, TEXT_MAX

from .api import pod


def meta(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "namespace": "shop", "uid": f"uid-{name}", **more}


def test_a_pod_that_is_killed_and_restarted() -> None:
    obj = pod("a", containerStatuses=[{
        "name": "payments", "image": "aftershock/shop:dev", "restartCount": 2, "ready": False,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 137, "signal": 9, "reason": "Error", "message": "long"}},
    }])  # fmt: skip
    obj["metadata"] |= {"deletionTimestamp": "2026-01-15T10:00:00Z", "deletionGracePeriodSeconds": 0}
    seen = SUMMARIES["Pod"](obj)
    assert (seen.service, seen.node, seen.reason) == ("payments", "body", "Deleting")
    assert seen.detail["restarts"] == 2
    assert seen.detail["deletion_grace_s"] == 0
    assert seen.detail["containers"][0]["last"] == {"exitCode": 137, "signal": 9, "reason": "Error"}
    assert seen.detail["containers"][0]["waiting"] == "CrashLoopBackOff"


def test_an_evicted_pod_says_by_whom() -> None:
    conditions = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drain"}]
    assert SUMMARIES["Pod"](pod("a", conditions=conditions)).reason == "EvictionByEvictionAPI"


def test_environment_and_annotations_never_get_into_a_line() -> None:
    obj = pod("a")
    obj["metadata"]["annotations"] = {"note": "s3cret"}
    obj["spec"]["containers"][0]["env"] = [{"name": "SHOP_OPERATOR_TOKEN", "value": "s3cret"}]
    assert "s3cret" not in json.dumps(SUMMARIES["Pod"](obj).detail)


@pytest.mark.parametrize(("status", "ready"), [("True", True), ("False", False), ("Unknown", False), (None, False)])
def test_a_node_is_ready_only_if_it_says_so(status: str | None, ready: bool) -> None:
    conditions = [{"type": "Ready", "status": status, "reason": "why"}] if status else []
    taints = [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]
    obj = {"metadata": {"name": "body2", "uid": "u"}, "spec": {"unschedulable": True, "taints": taints},
           "status": {"conditions": conditions}}  # fmt: skip
    detail = SUMMARIES["Node"](obj).detail
    assert detail == {"unschedulable": True, "ready": ready, "taints": ["node.kubernetes.io/unschedulable=:NoSchedule"]}


def test_endpoints_by_readiness() -> None:
    labels = {"kubernetes.io/service-name": "payments"}
    endpoints = [
        {"addresses": ["10.0.0.2"], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": "b"}},
        {"addresses": ["10.0.0.1"], "conditions": {"ready": False, "terminating": True}},
        {"addresses": ["10.0.0.3"]},  # absent means ready
    ]
    seen = SUMMARIES["EndpointSlice"]({"metadata": meta("payments-x", labels=labels), "endpoints": endpoints})
    assert seen.service == "payments"
    assert seen.detail == {"ready": ["10.0.0.2", "10.0.0.3"], "not_ready": ["10.0.0.1"], "terminating": ["10.0.0.1"],
                           "ready_pods": ["b"]}  # fmt: skip
    assert SUMMARIES["EndpointSlice"]({"metadata": meta("x"), "endpoints": None}).detail["ready"] == []


def test_a_deployment_and_its_image() -> None:
    obj = {"metadata": meta("payments", generation=3), "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "payments"}},
        "template": {"spec": {"containers": [{"image": "aftershock/shop:dev"}]}}}, "status": {"readyReplicas": 1}}  # fmt: skip
    seen = SUMMARIES["Deployment"](obj)
    assert (seen.service, seen.detail["replicas"], seen.detail["ready"]) == ("payments", 2, 1)
    assert (seen.detail["image"], seen.detail["generation"]) == ("aftershock/shop:dev", 3)


def test_long_notes_are_cut() -> None:
    obj = {"metadata": meta("e"), "note": "x" * 5_000, "regarding": {"kind": "Node", "name": "body2"}}
    seen = SUMMARIES["Event"](obj)
    assert len(seen.detail["note"]) == TEXT_MAX
    assert (seen.name, seen.node) == ("body2", "body2")


def test_a_stateful_set_says_which_revision_it_rolls_to() -> None:
    template = {"spec": {"containers": [{"image": "aftershock/postgres:18"}]}}
    obj = {"metadata": meta("postgres", labels={"app": "postgres"}), "spec": {"replicas": 1, "template": template},
           "status": {"readyReplicas": 1, "currentRevision": "a", "updateRevision": "b"}}  # fmt: skip
    seen = SUMMARIES["StatefulSet"](obj)
    assert (seen.service, seen.detail["replicas"], seen.detail["ready"]) == ("postgres", 1, 1)
    assert (seen.detail["image"], seen.detail["revision"], seen.detail["update_revision"]) == (
        "aftershock/postgres:18",
        "a",
        "b",
    )


def test_a_budget_says_how_many_may_go() -> None:
    obj = {"metadata": meta("payments"), "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "payments"}}},
           "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 2,
                      "conditions": [{"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods"}]}}  # fmt: skip
    seen = SUMMARIES["PodDisruptionBudget"](obj)
    assert (seen.service, seen.reason, seen.detail["allowed"]) == ("payments", "InsufficientPods", 0)


def test_an_autoscaler_says_what_it_wants_and_why() -> None:
    obj = {
        "metadata": meta("storefront"),
        "spec": {"minReplicas": 2, "maxReplicas": 6, "scaleTargetRef": {"kind": "Deployment", "name": "storefront"}},
        "status": {
            "currentReplicas": 2,
            "desiredReplicas": 4,
            "conditions": [{"type": "AbleToScale", "status": "True", "reason": "SucceededRescale"}],
            "currentMetrics": [
                {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 140}}}
            ],
        },
    }
    seen = SUMMARIES["HorizontalPodAutoscaler"](obj)
    assert (seen.service, seen.reason) == ("storefront", "SucceededRescale")
    assert (seen.detail["current"], seen.detail["desired"], seen.detail["max"]) == (2, 4, 6)
    assert seen.detail["utilization"] == {"cpu": 140}
    assert SUMMARIES["HorizontalPodAutoscaler"]({"metadata": meta("new")}).detail["desired"] == 0, (
        "before its first look"
    )
