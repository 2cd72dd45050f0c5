"""Chaos Toolkit's Kubernetes actions and the Python client, unchanged, against the API."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from chaosk8s.chaosmesh.network.actions import add_latency, delete_network_fault, set_loss
from chaosk8s.deployment.actions import scale_deployment
from chaosk8s.deployment.probes import deployment_available_and_healthy
from chaosk8s.event.probes import get_events
from chaosk8s.node.actions import cordon_node, uncordon_node
from chaosk8s.pod.actions import exec_in_pods, terminate_pods
from chaosk8s.pod.probes import count_pods, pods_in_phase, read_pod_logs
from chaoslib.exceptions import ActivityFailed
from kubernetes import client, config, watch

from tests.pocketkube.api.cluster import Cluster, pod

TEMPLATE = {"metadata": {"labels": {"app": "cart"}}, "spec": {"containers": [{"name": "main", "image": "shop:1"}]}}


@pytest.fixture
def shop(api: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Two pods of a Deployment on a node, and the environment by which chaosk8s finds the cluster."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(api.kubeconfig))
    monkeypatch.setenv("KUBERNETES_CONTEXT", "pocketkube-test")
    config.load_kube_config(str(api.kubeconfig))
    if api.find("nodes", None, "body") is None:
        api.put("nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "body"}, "spec": {}, "status": {}})
        spec = {"replicas": 2, "selector": {"matchLabels": {"app": "cart"}}, "template": TEMPLATE}
        client.AppsV1Api().create_namespaced_deployment("default", {"metadata": {"name": "cart"}, "spec": spec})
    for name in ("cart-1", "cart-2"):
        if api.find("pods", "default", name) is not None:
            api.call(lambda name=name: api.store.delete("pods", "default", name))
        api.put("pods", pod(name, app="cart"))
    yield api
    with warnings.catch_warnings():  # neither chaosk8s nor the client closes what it opened
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_terminate_pods(shop: Cluster) -> None:
    assert terminate_pods(label_selector="app=cart", qty=1, ns="default", grace_period=3) == ["cart-1"]
    ended = shop.find("pods", "default", "cart-1")
    assert ended is not None
    assert ended["metadata"]["deletionGracePeriodSeconds"] == 3
    other = shop.find("pods", "default", "cart-2")
    assert other is not None
    assert "deletionTimestamp" not in other["metadata"]


def test_cordon_and_uncordon(shop: Cluster) -> None:
    cordon_node(name="body")
    node = shop.find("nodes", None, "body")
    assert node is not None
    assert node["spec"]["unschedulable"] is True
    uncordon_node(name="body")
    node = shop.find("nodes", None, "body")
    assert node is not None
    assert not node["spec"].get("unschedulable")


def test_scale_and_probes(shop: Cluster) -> None:
    scale_deployment(name="cart", replicas=5, ns="default")
    cart = shop.find("deployments", "default", "cart")
    assert cart is not None
    assert cart["spec"]["replicas"] == 5
    assert count_pods(label_selector="app=cart", phase="Running", ns="default") == 2
    assert pods_in_phase(label_selector="app=cart", phase="Running", ns="default") is True
    shop.nodes.lines["cart-1"] = shop.nodes.lines["cart-2"] = [b"a line\n"]
    assert (
        read_pod_logs(label_selector="app=cart", last=None, ns="default", container_name="main")["cart-1"] == "a line\n"
    )
    with pytest.raises(ActivityFailed):
        deployment_available_and_healthy(name="cart", ns="default")


def test_exec_in_pods(shop: Cluster) -> None:
    (ran, _) = exec_in_pods(
        cmd="sh -c 'echo hello; exit 3'", label_selector="app=cart", all=True, ns="default", container_name="main"
    )
    assert (ran["stdout"], ran["exit_code"]) == ("hello\n", "3")


def test_eviction_and_its_refusal(shop: Cluster) -> None:
    policy = client.PolicyV1Api()
    policy.create_namespaced_pod_disruption_budget("default", {
        "metadata": {"name": "cart"}, "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "cart"}}}})  # fmt: skip
    counted = {
        "observedGeneration": 1,
        "disruptionsAllowed": 0,
        "currentHealthy": 2,
        "desiredHealthy": 2,
        "expectedPods": 2,
    }
    policy.patch_namespaced_pod_disruption_budget_status("cart", "default", {"status": counted})
    eviction = client.V1Eviction(metadata=client.V1ObjectMeta(name="cart-1", namespace="default"))
    with pytest.raises(client.ApiException) as refused:
        client.CoreV1Api().create_namespaced_pod_eviction("cart-1", "default", eviction)
    assert refused.value.status == 429
    policy.delete_namespaced_pod_disruption_budget("cart", "default")
    assert client.CoreV1Api().create_namespaced_pod_eviction("cart-1", "default", eviction)


def test_network_faults(shop: Cluster) -> None:
    made = add_latency(name="slow", ns="default", label_selectors="app=cart", mode="all", latency="300ms", direction="from",
                       target_mode="all", target_label_selectors="app=orders")  # fmt: skip
    assert made["spec"]["delay"] == {"latency": "300ms"}
    set_loss(name="lossy", ns="default", label_selectors="app=cart", mode="all", loss="50")
    for name in ("slow", "lossy"):
        delete_network_fault(name=name, ns="default")
        assert shop.find("networkchaos", "default", name) is None


def test_events(shop: Cluster) -> None:
    about: Any = shop.find("pods", "default", "cart-2")
    shop.call(lambda: shop.store.record_event(about, "Killing", "Stopping container main"))
    assert "Stopping container main" in [e["note"] for e in get_events()["items"]]


def test_the_clients_own_watch(shop: Cluster) -> None:
    core = client.CoreV1Api()
    since = core.list_namespaced_pod("default").metadata.resource_version
    shop.put("pods", pod("late", app="cart"))
    stream = watch.Watch().stream(core.list_namespaced_pod, "default", resource_version=since, timeout_seconds=5)
    event = next(stream)
    assert (event["type"], event["object"].metadata.name) == ("ADDED", "late")
    stream.close()
