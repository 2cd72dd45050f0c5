"""metrics.k8s.io: what kubectl top and autoscalers of others read."""

from __future__ import annotations

import pytest

from pocketkube.usage import Amount, Usage
from tests.pocketkube.api.cluster import Cluster, pod

ROOT = "/apis/metrics.k8s.io/v1beta1"


@pytest.fixture
def measured(api: Cluster) -> Cluster:
    for name in ("m-1", "m-2"):
        api.put("pods", pod(name, app="m"))
    api.put("nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "body"}, "spec": {},
                      "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}, "conditions": []}})  # fmt: skip
    api.nodes.usages = {"m-1": Usage(1.8e9, 15, {"b": Amount(0.0125, 3 << 20), "a": Amount(0.25, 64 << 20)}),
                        "body": Usage(1.8e9, 15, {"m-1/a": Amount(0.5, 128 << 20)})}  # fmt: skip
    return api


def test_a_pod_and_a_node_as_a_metrics_server_tells_them(measured: Cluster) -> None:
    listed = measured.request("GET", f"{ROOT}/namespaces/default/pods?labelSelector=app%3Dm").json()
    assert (listed["kind"], listed["apiVersion"]) == ("PodMetricsList", "metrics.k8s.io/v1beta1")
    (only,) = listed["items"]  # the other one has no samples yet
    assert (only["metadata"]["name"], only["metadata"]["labels"], only["window"]) == ("m-1", {"app": "m"}, "15.000s")
    assert only["timestamp"] == "2027-01-15T08:00:00Z"
    assert only["containers"] == [{"name": "a", "usage": {"cpu": "250000000n", "memory": "65536Ki"}},
                                  {"name": "b", "usage": {"cpu": "12500000n", "memory": "3072Ki"}}]  # fmt: skip
    assert measured.request("GET", f"{ROOT}/namespaces/default/pods/m-1").json() == only
    node = measured.request("GET", f"{ROOT}/nodes/body").json()
    assert (node["kind"], node["usage"]) == ("NodeMetrics", {"cpu": "500000000n", "memory": "131072Ki"})


def test_what_is_not_measured_is_not_found_and_metrics_are_not_written(measured: Cluster) -> None:
    missing = measured.request("GET", f"{ROOT}/namespaces/default/pods/m-2")
    assert (missing.status_code, missing.json()["reason"]) == (404, "NotFound")
    refused = measured.request("DELETE", f"{ROOT}/namespaces/default/pods/m-1")
    assert (refused.status_code, "delete pods.metrics.k8s.io" in refused.json()["message"]) == (501, True)


def test_kubectl_top_and_get_all_know_them_apart(measured: Cluster) -> None:
    assert measured.kubectl("top", "pods", "-l", "app=m").split()[-3:] == ["m-1", "263m", "67Mi"]
    assert measured.kubectl("top", "nodes").split()[-5:] == ["body", "500m", "25%", "128Mi", "12%"]
    assert measured.kubectl("get", "all", "-l", "app=m").count("m-1") == 1
