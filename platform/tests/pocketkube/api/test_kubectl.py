"""The real kubectl on our own manifests: the session that the table of verbs was recorded from."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pocketkube.api.resources import load
from tests.pocketkube.api.cluster import KUBECTL, Cluster, cluster, pod, until

BASE = Path(__file__).parents[4] / "gitops" / "apps" / "base"
MANIFESTS = [
    flag
    for path in sorted(BASE.glob("*.yaml"))
    if path.name not in ("kustomization.yaml", "namespace.yaml")
    for flag in ("-f", str(path))
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Our manifests applied; two pods of cart run on node body."""
    with cluster(tmp_path_factory.mktemp("kubectl")) as api:
        api.kubectl("apply", "-f", str(BASE / "namespace.yaml"))
        api.kubectl("apply", *MANIFESTS)
        api.put("nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "body"}, "spec": {},
                          "status": {"conditions": [{"type": "Ready", "status": "True"}]}})  # fmt: skip
        running(api)
        yield api


def running(api: Cluster) -> None:
    for name in ("cart-1", "cart-2"):
        if api.find("pods", "shop", name) is not None:
            api.call(lambda name=name: api.store.delete("pods", "shop", name))
        api.put("pods", pod(name, "shop", app="cart"))


def budget(api: Cluster, allowed: int) -> None:
    status = {
        "observedGeneration": 1,
        "disruptionsAllowed": allowed,
        "currentHealthy": 2,
        "desiredHealthy": 2 - allowed,
        "expectedPods": 2,
    }
    api.call(lambda: api.store.mutate("poddisruptionbudgets", "shop", "cart", lambda o: o.update(
        status={**status, "observedGeneration": o["metadata"]["generation"]})))  # fmt: skip


def test_apply_is_repeatable_and_strict(shop: Cluster) -> None:
    again = shop.kubectl("apply", *MANIFESTS)
    assert "created" not in again
    assert "service/cart unchanged" in again
    before = shop.store.version
    shop.kubectl("apply", *MANIFESTS)
    assert shop.store.version == before
    assert 'Warning: Deployment "cart": accepted, not enforced: ' in again
    typo = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "typo", "namespace": "shop"}, "datta": {}}
    assert 'unknown field "datta"' in shop.kubectl("apply", "-f", "-", stdin=json.dumps(typo), code=1)
    wrong = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "x"}}
    assert "no matches for kind" in shop.kubectl("apply", "-f", "-", stdin=json.dumps(wrong), code=1)


def test_server_side_apply(shop: Cluster) -> None:
    assert "serverside-applied" in shop.kubectl("apply", "--server-side", *MANIFESTS)
    before = shop.store.version
    shop.kubectl("apply", "--server-side", *MANIFESTS)
    assert shop.store.version == before
    other = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {"minAvailable": 2},
    }
    refused = shop.kubectl(
        "apply", "--server-side", "--field-manager=other", "-f", "-", stdin=json.dumps(other), code=1
    )
    assert 'conflict with "kubectl": .spec.minAvailable' in refused
    shop.kubectl(
        "apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-", stdin=json.dumps(other)
    )
    shop.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(BASE / "cart.yaml"))


def test_get_and_describe(shop: Cluster) -> None:
    assert shop.kubectl("get", "pods", "-n", "shop", "-l", "app=cart").split()[:5] == [
        "NAME",
        "READY",
        "STATUS",
        "RESTARTS",
        "AGE",
    ]
    assert "NOMINATED NODE" in shop.kubectl("get", "pods", "-A", "-o", "wide", "--field-selector", "spec.nodeName=body")
    assert "deployment.apps/cart" in shop.kubectl("get", "all,pdb", "-n", "shop")
    assert shop.kubectl("get", "deploy/cart", "-n", "shop", "-o", "jsonpath={.spec.replicas}") == "2"
    assert json.loads(shop.kubectl("get", "svc", "-n", "shop", "-o", "json"))["kind"] == "List"
    assert 'pods "nobody" not found' in shop.kubectl("get", "pod", "nobody", code=1)
    running_pod = shop.find("pods", "shop", "cart-1")
    assert running_pod is not None
    shop.call(lambda: shop.store.record_event(running_pod, "Started", "Started container main"))
    told = shop.kubectl("describe", "pod", "cart-1", "-n", "shop")
    assert "Started container main" in told
    assert "Rolling" in shop.kubectl("describe", "deploy", "cart", "-n", "shop")
    assert "cart-1" in shop.kubectl("describe", "node", "body")
    assert "TargetPort:" in shop.kubectl("describe", "svc", "cart", "-n", "shop")
    assert "Started container main" in shop.kubectl("get", "events", "-n", "shop")
    assert "Started container main" in shop.kubectl("events", "-n", "shop", "--for", "pod/cart-1")


def test_discovery_explain_and_access(shop: Cluster) -> None:
    listed = shop.kubectl("api-resources")
    assert all(r.plural in listed for r in load())
    assert "apps/v1" in shop.kubectl("api-versions")
    assert "Not supported by pocketkube" in shop.kubectl("explain", "pod.spec.hostNetwork")
    assert "v1.34.0+pocketkube" in shop.kubectl("version")
    assert shop.kubectl("auth", "can-i", "create", "pods/eviction").strip() == "yes"
    assert "no - pocketkube does not serve" in shop.kubectl("auth", "can-i", "create", "daemonsets.apps", code=1)


def test_edits(shop: Cluster) -> None:
    for argv in (["scale", "deploy/cart", "--replicas=3"], ["label", "deploy/cart", "x=y"], ["annotate", "deploy/cart", "x=y"],
                 ["patch", "deploy/cart", "-p", '{"spec":{"replicas":4}}'], ["set", "env", "deploy/cart", "A=B"],
                 ["rollout", "restart", "deploy/cart"],
                 ["rollout", "pause", "deploy/cart"]):  # fmt: skip
        shop.kubectl(*argv, "-n", "shop")
    cart = json.loads(shop.kubectl("get", "deploy/cart", "-n", "shop", "-o", "json"))
    assert (cart["spec"]["replicas"], cart["metadata"]["labels"]["x"], cart["spec"]["paused"]) == (4, "y", True)
    names = [e["name"] for e in cart["spec"]["template"]["spec"]["containers"][0]["env"]]
    assert "A" in names
    shop.kubectl("apply", "-f", str(BASE / "cart.yaml"))
    assert shop.kubectl("get", "deploy/cart", "-n", "shop", "-o", "jsonpath={.spec.replicas}") == "2"
    shop.kubectl("rollout", "resume", "deploy/cart", "-n", "shop")


def test_rollout_status_and_wait(shop: Cluster) -> None:
    def finish(obj: Any) -> None:
        obj["status"] = {"observedGeneration": obj["metadata"]["generation"], "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2,
                         "availableReplicas": 2, "conditions": [{"type": "Available", "status": "True"}]}  # fmt: skip

    timer = threading.Timer(0.3, lambda: shop.call(lambda: shop.store.mutate("deployments", "shop", "cart", finish)))
    timer.start()
    assert "successfully rolled out" in shop.kubectl("rollout", "status", "deploy/cart", "-n", "shop", "--timeout=10s")
    timer.join()
    assert "condition met" in shop.kubectl(
        "wait", "deploy/cart", "--for=condition=Available", "-n", "shop", "--timeout=5s"
    )
    shop.put("pods", pod("leaving", "shop"))
    timer = threading.Timer(0.3, lambda: shop.call(lambda: shop.store.delete("pods", "shop", "leaving")))
    timer.start()
    shop.kubectl("delete", "pod", "leaving", "-n", "shop", "--timeout=10s")
    timer.join()


def test_watching_get(shop: Cluster) -> None:
    watching = subprocess.Popen([KUBECTL, "--kubeconfig", str(shop.kubeconfig), "get", "pods", "-n", "shop", "-w", "--output-watch-events"],
                                stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        assert watching.stdout is not None
        assert watching.stdout.readline().split()[:2] == ["EVENT", "NAME"]
        shop.put("pods", pod("watched", "shop"))
        until(lambda: watching.stdout is not None and "watched" in watching.stdout.readline(), "the new pod")
        shop.call(lambda: shop.store.delete("pods", "shop", "watched"))
        assert watching.stdout.readline().split()[:2] == ["DELETED", "watched"]
    finally:
        watching.kill()
        watching.wait()
        assert watching.stdout is not None
        watching.stdout.close()


def test_logs_and_exec(shop: Cluster) -> None:
    shop.nodes.lines["cart-1"] = [b"one\n", b"two\n"]
    assert shop.kubectl("logs", "cart-1", "-n", "shop", "--tail=1") == "two\n"
    assert shop.kubectl("exec", "cart-1", "-n", "shop", "--", "sh", "-c", "echo hello; exit 3", code=3).startswith(
        "hello\n"
    )
    assert shop.kubectl("exec", "-i", "cart-1", "-n", "shop", "--", "cat", stdin="from stdin") == "from stdin"


def test_drain_waits_for_the_budget(shop: Cluster) -> None:
    running(shop)
    budget(shop, 0)
    draining = subprocess.Popen([KUBECTL, "--kubeconfig", str(shop.kubeconfig), "drain", "body", "--force"],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    assert draining.stdout is not None
    refusal = "Cannot evict pod as it would violate the pod's disruption budget."
    assert next(line for line in draining.stdout if refusal in line)
    draining.kill()
    draining.wait()
    draining.stdout.close()
    assert "SchedulingDisabled" in shop.kubectl("get", "nodes")
    budget(shop, 2)

    def kubelet() -> None:
        for obj in shop.store.list("pods", "shop"):
            if obj["metadata"].get("deletionTimestamp"):
                shop.store.delete("pods", "shop", obj["metadata"]["name"])

    done = threading.Event()

    def play() -> None:
        while not done.wait(0.05):
            shop.call(kubelet)

    thread = threading.Thread(target=play)
    thread.start()
    try:
        assert "drained" in shop.kubectl("drain", "body", "--force", "--timeout=10s")
    finally:
        done.set()
        thread.join()
    shop.kubectl("uncordon", "body")
    running(shop)


def test_typed_commands_send_protobuf(shop: Cluster) -> None:
    shop.kubectl("create", "secret", "generic", "operator", "--from-literal=token=t", "-n", "shop")
    assert shop.kubectl("get", "secret", "operator", "-n", "shop", "-o", "jsonpath={.data.token}") == "dA=="
    shop.kubectl("create", "configmap", "c", "--from-literal=a=b", "-n", "shop")
    shop.kubectl("create", "deployment", "d", "--image=x:1", "--replicas=0", "-n", "shop")
    shop.kubectl("create", "serviceaccount", "robot", "-n", "shop")
    shop.kubectl("create", "pdb", "d", "--selector=app=d", "--max-unavailable=1", "-n", "shop")
    shop.kubectl("autoscale", "deployment", "d", "--max=3", "--cpu=50%", "--memory=64Mi", "-n", "shop")
    scaled = json.loads(shop.kubectl("get", "hpa", "d", "-n", "shop", "-o", "json"))["spec"]
    assert [m["resource"]["target"] for m in scaled["metrics"]] == [
        {"type": "Utilization", "averageUtilization": 50}, {"type": "AverageValue", "averageValue": "64Mi"}]  # fmt: skip
    shop.kubectl("create", "service", "clusterip", "d", "--tcp=80:8080", "-n", "shop")
    assert shop.kubectl("get", "deploy", "d", "-n", "shop", "-o", "jsonpath={.spec.replicas}") == "0"
    assert shop.kubectl("get", "svc", "d", "-n", "shop", "-o", "jsonpath={.spec.ports[0].targetPort}") == "8080"
    assert "send JSON" in shop.kubectl("create", "role", "r", "--verb=get", "--resource=pods", "-n", "shop", code=1)


def test_raw_replace_and_namespaces(shop: Cluster) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c2", "namespace": "shop"},
        "data": {"a": "1"},
    }
    shop.kubectl("create", "-f", "-", stdin=json.dumps(body))
    body["data"] = {"a": "2"}
    assert "replaced" in shop.kubectl("replace", "-f", "-", stdin=json.dumps(body))
    assert json.loads(shop.kubectl("get", "--raw", "/debug/unenforced"))["unenforced"]
    shop.kubectl("create", "namespace", "gone")
    shop.kubectl("delete", "namespace", "gone", "--wait=false")
    assert "Terminating" in shop.kubectl("get", "ns", "gone")


def test_the_session_is_what_the_table_was_recorded_from(shop: Cluster) -> None:
    """Runs last: each verb and each subresource that kubectl knows a command for was really asked for."""
    assert {verb for verb, _ in shop.seen} == {verb for r in load() for verb in r.verbs}
    used = {resource.partition("/")[2] for _, resource in shop.seen} - {""}
    assert used == {"log", "exec", "eviction", "scale"}
    known = {(verb, r.qualified) for r in load() for verb in r.verbs}
    assert {(verb, resource) for verb, resource in shop.seen if "/" not in resource} <= known
