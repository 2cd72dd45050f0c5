"""What a person reads in `kubectl get`."""

from __future__ import annotations

from typing import Any

import pytest

from pocketkube.api import tables
from pocketkube.api.resources import Table, load
from pocketkube.storage import Object
from tests.pocketkube.api.cluster import pod

TABLE = Table(load())


def row(group: str, plural: str, obj: Object) -> dict[str, Any]:
    resource = TABLE.find(group, "v1", plural)
    assert resource is not None
    made = tables.table(resource, [obj], "7", "None")
    return dict(zip([c["name"] for c in made["columnDefinitions"]], made["rows"][0]["cells"], strict=True))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "<unknown>"), (-3, "0s"), (5, "5s"), (119, "119s"), (120, "2m"), (130, "2m10s"), (601, "10m"), (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"), (8 * 3600 + 60, "8h"), (47 * 3600, "47h"), (49 * 3600, "2d1h"), (48 * 3600, "2d"), (9 * 86400, "9d"),
        (800 * 86400, "2y"),
    ],
)  # fmt: skip
def test_ages_are_short(seconds: float | None, expected: str) -> None:
    assert tables.duration(seconds) == expected


@pytest.mark.parametrize(
    ("state", "ready", "deleted", "expected"),
    [
        ({"running": {}}, True, False, "Running"),
        ({"running": {}}, True, True, "Terminating"),
        ({"waiting": {"reason": "ErrImagePull"}}, False, False, "ErrImagePull"),
        ({"terminated": {"exitCode": 1, "reason": "Error"}}, False, False, "Error"),
        ({"terminated": {"exitCode": 2}}, False, False, "ExitCode:2"),
        ({"terminated": {"signal": 9}}, False, False, "Signal:9"),
    ],
)
def test_the_status_of_a_pod_is_what_matters_most(state: Any, ready: bool, deleted: bool, expected: str) -> None:
    obj = pod("a")
    obj["status"]["containerStatuses"][0].update(state=state, ready=ready)
    if deleted:
        obj["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    shown = row("", "pods", obj)
    assert (shown["Status"], shown["Ready"]) == (expected, f"{int(ready)}/1")


def test_an_autoscaler_shows_what_is_and_what_should_be() -> None:
    def metric(name: str, **target: Any) -> Object:
        return {"type": "Resource", "resource": {"name": name, "target": target}}

    current = {
        "type": "Resource",
        "resource": {"name": "cpu", "current": {"averageUtilization": 82, "averageValue": "82m"}},
    }
    resource = TABLE.find("autoscaling", "v2", "horizontalpodautoscalers")
    assert resource is not None
    metrics = [
        metric("cpu", type="Utilization", averageUtilization=60),
        metric("memory", type="AverageValue", averageValue="64Mi"),
    ]
    made = tables.table(resource, [{
        "metadata": {"name": "a"}, "status": {"currentReplicas": 3, "currentMetrics": [current]},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "a"}, "minReplicas": 2, "maxReplicas": 6, "metrics": metrics},
    }], "7", "None")  # fmt: skip
    assert made["rows"][0]["cells"][:6] == ["a", "Deployment/a", "cpu: 82%/60%,memory: <unknown>/64Mi", 2, 6, 3]


def test_restarts_say_when() -> None:
    obj = pod("a")
    obj["status"]["containerStatuses"][0].update(
        restartCount=3, lastState={"terminated": {"finishedAt": "2020-01-01T00:00:00Z"}}
    )
    assert row("", "pods", obj)["Restarts"].startswith("3 (")


def test_nodes_services_and_events() -> None:
    node = {"metadata": {"name": "brain", "labels": {"node-role.kubernetes.io/control-plane": ""}}, "spec": {"unschedulable": True},
            "status": {"conditions": [{"type": "Ready", "status": "False"}]}}  # fmt: skip
    shown = row("", "nodes", node)
    assert (shown["Status"], shown["Roles"]) == ("NotReady,SchedulingDisabled", "control-plane")
    service = {
        "metadata": {"name": "s"},
        "spec": {"type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP"}], "selector": {"a": "b"}},
    }
    shown = row("", "services", service)
    assert (shown["Port(s)"], shown["Selector"], shown["Cluster-IP"]) == ("80/TCP", "a=b", "<none>")
    event = {"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p"}, "note": " x ", "reason": "R", "type": "Normal",
             "deprecatedCount": 2, "deprecatedFirstTimestamp": None, "eventTime": "2020-01-01T00:00:00.000000Z"}  # fmt: skip
    shown = row("events.k8s.io", "events", event)
    assert (shown["Object"], shown["Message"]) == ("pod/p", "x")
    assert "(x2 over " in shown["Last Seen"]


def test_endpoints_are_cut_short() -> None:
    endpoints = [{"addresses": [f"127.0.0.{n}"]} for n in range(5)]
    shown = row(
        "discovery.k8s.io", "endpointslices", {"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": endpoints}
    )
    assert shown["Endpoints"] == "127.0.0.0,127.0.0.1,127.0.0.2 + 2 more..."
    assert shown["Ports"] == "<unset>"
