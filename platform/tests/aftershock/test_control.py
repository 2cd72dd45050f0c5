"""The control under a real `chaos run` on a real pocketkube cluster of small web servers, and faults against the same cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock import actions, activities
from aftershock.cluster import Cluster
from aftershock.folder import validate
from aftershock.settings import read
from aftershock.undo import UndoJournal

pytestmark = pytest.mark.cluster

IMAGES = """\
images:
  web:1:
    entrypoint: [python, -m, http.server]
    command: [--bind, $(POD_IP), "7070"]
    preload: [http.server]
"""
CHAOS = "/apis/chaos-mesh.org/v1alpha1/namespaces/web/networkchaos"


class Bed:
    """A cluster of its own, and Chaos Toolkit's command line pointed at it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        self.env = {**os.environ, "XDG_STATE_HOME": str(self.state), "KUBECONFIG": str(self.state / "pocketkube/faults/kubeconfig"),
                    "HOME": str(folder)}  # fmt: skip
        self.env.pop("KUBERNETES_CONTEXT", None)

    def pocketkube(self, *arguments: str) -> None:
        done = subprocess.run([sys.executable, "-m", "pocketkube.cli", *arguments, "--name", "faults"], env=self.env,
                              capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr

    def chaos(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Chaos Toolkit's own command line."""
        chaos = Path(sys.executable).parent / "chaos"
        return subprocess.Popen([chaos, "--no-version-check", *arguments], env=self.env, cwd=self.folder,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip

    def experiment(self, name: str, method: list[dict[str, Any]], **more: Any) -> Path:
        """An ordinary Chaos Toolkit file with our control."""
        arguments = {"namespaces": ["web"], "reports": str(self.folder / "reports")}
        provider = {"type": "python", "module": "aftershock.control", "arguments": arguments}
        document = {"title": name, "description": "d", "method": method, "rollbacks": [],
                    "controls": [{"name": "aftershock", "provider": provider}], **more}  # fmt: skip
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    def evidence(self, name: str) -> dict[str, Any]:
        """What the last run of an experiment left."""
        folder = self.folder / "reports" / name / "latest"
        validate("journal", json.loads((folder / "journal.json").read_text()), "journal.json")
        found: dict[str, Any] = json.loads((folder / "evidence.json").read_text())
        validate("evidence", found, "evidence.json")
        return found


def web(name: str, replicas: int) -> list[dict[str, Any]]:
    """A Deployment of web servers with a budget of one."""
    labels = {"app": name}
    address = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    probe = {"tcpSocket": {"port": 7070}, "periodSeconds": 1}
    container = {
        "name": "web",
        "image": "web:1",
        "env": [address],
        "ports": [{"containerPort": 7070}],
        "readinessProbe": probe,
    }
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
              "labelSelector": {"matchLabels": labels}}  # fmt: skip
    pod = {"containers": [container], "terminationGracePeriodSeconds": 1, "topologySpreadConstraints": [spread]}
    meta = {"name": name, "namespace": "web"}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}},
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": {
            "minAvailable": 1, "selector": {"matchLabels": labels}}},
    ]  # fmt: skip


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bed, Cluster]]:
    made = Bed(tmp_path_factory.mktemp("faults"))
    (made.folder / "images.yaml").write_text(IMAGES)
    try:
        made.pocketkube(
            "up",
            "--images",
            str(made.folder / "images.yaml"),
            "--nodes",
            "body,body2,memory",
            "--owner",
            str(os.getpid()),
        )
        cluster = Cluster.connect("pocket:faults", read(made.env))
        namespace = {"apiVersion": "v1", "kind": "Namespace",
                     "metadata": {"name": "web", "labels": {"aftershock.dev/chaos": "allowed"}}}  # fmt: skip
        cluster.apply([namespace, *web("front", 2), *web("back", 1)], "test")
        until(lambda: ready(cluster, "front") == 2 and ready(cluster, "back") == 1, "the pods are ready")
        yield made, cluster
        cluster.close()
    finally:
        made.pocketkube("down")


def ready(cluster: Cluster, name: str) -> int:
    status = cluster.request("GET", f"/apis/apps/v1/namespaces/web/deployments/{name}").get("status") or {}
    return int(status.get("readyReplicas") or 0)


def until(condition: Callable[[], object], what: str, deadline_s: float = 20.0) -> float:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + deadline_s, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - begun


def action(module: str, func: str, **arguments: Any) -> dict[str, Any]:
    return {
        "type": "action",
        "name": func,
        "provider": {"type": "python", "module": module, "func": func, "arguments": arguments},
    }


def test_chaos_run_leaves_evidence_and_undoes_what_the_file_forgets(bed: tuple[Bed, Cluster]) -> None:
    made, cluster = bed
    kill = action("chaosk8s.pod.actions", "terminate_pods", ns="web", label_selector="app=front", qty=1, grace_period=0)
    scale = action("chaosk8s.deployment.actions", "scale_deployment", ns="web", name="back", replicas=0)
    scale["pauses"] = {"after": 1}
    assert made.chaos("run", str(made.experiment("forgetful", [kill, scale]))).wait(60) == 0
    evidence = made.evidence("forgetful")
    for fault in evidence["faults"]:
        assert all(fault["steps"][step] for step in ("requested", "accepted", "observed")), fault
    assert evidence["observers"][0]["records"] > 0
    assert [e["state"] for e in evidence["undo"]["entries"]] == ["done", "done"]
    assert cluster.request("GET", "/apis/apps/v1/namespaces/web/deployments/back")["spec"]["replicas"] == 1
    assert cluster.list("/apis/coordination.k8s.io/v1/namespaces/web/leases") == []
    until(lambda: ready(cluster, "front") == 2 and ready(cluster, "back") == 1, "all pods are back")


def test_kill_9_of_chaos_run_is_undone_within_two_seconds(bed: tuple[Bed, Cluster]) -> None:
    made, cluster = bed
    delay = action("aftershock.actions", "network_delay", ns="web", label_selector="app=front", latency_ms=50)
    wait = {"type": "action", "name": "wait", "provider": {"type": "process", "path": "sleep", "arguments": "60"}}
    run = made.chaos("run", str(made.experiment("delay", [{**delay, "pauses": {"after": 60}}, wait])))
    until(lambda: cluster.list(CHAOS), "the fault is in place")
    run.kill()
    run.wait()
    assert until(lambda: not cluster.list(CHAOS), "the fault is undone") < 2.0
    with UndoJournal.of(read(made.env)) as journal:
        until(lambda: not journal.pending(), "the journal says so")
    until(lambda: not cluster.list("/apis/coordination.k8s.io/v1/namespaces/web/leases"), "the lease is let go")


def test_an_action_that_nothing_takes_back_stops_the_experiment(bed: tuple[Bed, Cluster]) -> None:
    made, cluster = bed
    foreign = action("chaosk8s.node.actions", "delete_nodes", label_selector="kubernetes.io/hostname=memory")
    assert made.chaos("run", str(made.experiment("foreign", [foreign]))).wait(60) != 0
    assert cluster.request("GET", "/api/v1/nodes/memory")["metadata"]["name"] == "memory"


def test_own_drain_moves_pods_and_is_refused_by_a_budget(bed: tuple[Bed, Cluster], tmp_path: Path) -> None:
    _, cluster = bed
    path = cluster.kubeconfig_for_child(tmp_path)
    configuration = {
        activities.KUBECONFIG: str(path),
        activities.CONTEXT: cluster.identity.context,
        activities.RUN_ID: "r",
    }
    node = cluster.list("/api/v1/namespaces/web/pods", "app=back")[0]["spec"]["nodeName"]
    raw = action("aftershock.actions", "drain_node", name=node, ns="web", pod_selector="app=back", timeout_s=0.5)
    run = activities.execute(activities.activity_of(raw), "method", configuration, {}, 20)
    assert run.status == "failed"
    assert "429 Cannot evict pod as it would violate the pod's disruption budget" in str(run.error)
    raw = action("aftershock.actions", "drain_node", name=node, ns="web", pod_selector="app=front", timeout_s=15)
    run = activities.execute(activities.activity_of(raw), "method", configuration, {}, 20)
    assert run.succeeded, run.error
    assert all(p["spec"].get("nodeName") != node for p in cluster.list("/api/v1/namespaces/web/pods", "app=front"))
    raw = action("aftershock.actions", "uncordon_node", name=node)
    assert activities.execute(activities.activity_of(raw), "rollback", configuration, {}, 20).succeeded
    actions.cluster_of(configuration).close()
    actions._connect.cache_clear()
