"""Power cuts, an API that goes away, and autoscalers, on a cluster of real processes."""

from __future__ import annotations

import json
import os
import socket
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.pocketkube.node.cluster import BIN, IMAGES, POD_IP, Cluster, gone, is_ready, pod, shell, web

pytestmark = pytest.mark.cluster
SOON = [{"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}
        for key in ("not-ready", "unreachable")]  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("state")
    (home / "images.yaml").write_text(IMAGES)
    made = Cluster(home)
    made.pocketkube("up", "--images", str(home / "images.yaml"), "--nodes", "body,body2", "--node-grace", "4",
                    "--autoscaler-sync", "1", "--owner", str(os.getpid()))  # fmt: skip
    yield made
    running = made.processes()
    made.pocketkube("down")
    gone(running)


def stateful(name: str, node: str) -> list[dict[str, Any]]:
    """A web server that must be on this node, and its Service."""
    container = {"name": "web", "image": "web:1", "env": [POD_IP], "ports": [{"name": "http", "containerPort": 7070}]}
    labels = {"app": name}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
         "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": "http"}]}},
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name, "namespace": "default"},
         "spec": {"serviceName": name, "selector": {"matchLabels": labels}, "template": {
             "metadata": {"labels": labels}, "spec": {"containers": [container], "tolerations": SOON, "terminationGracePeriodSeconds": 2,
                                                      "nodeSelector": {"kubernetes.io/hostname": node}}}}},
    ]  # fmt: skip


def answers(ip: str, timeout_s: float = 0.5) -> str:
    try:
        with urllib.request.urlopen(f"http://{ip}/", timeout=timeout_s) as answer:
            return str(answer.status)
    except (OSError, urllib.error.URLError) as error:
        return type(getattr(error, "reason", error)).__name__


def silent(connection: socket.socket, timeout_s: float = 0.3) -> bool:
    """True if nothing comes, not even the end."""
    connection.settimeout(timeout_s)
    try:
        connection.send(b"GET / HTTP/1.1\r\n\r\n")
        connection.recv(1)
    except TimeoutError:
        return True
    except OSError:
        return False
    return False


def test_a_power_cut_is_silence_then_not_ready_then_eviction_and_ends_with_the_boot(cluster: Cluster) -> None:
    servers = web(2)
    servers[1]["spec"]["template"]["spec"]["tolerations"] = SOON
    stays = pod("stays", shell("cd $HOME && exec sleep 1000", volumeMounts=[{"name": "tmp", "mountPath": tempfile.gettempdir()}]),
                volumes=[{"name": "tmp", "emptyDir": {}}], nodeSelector={"kubernetes.io/hostname": "body2"})  # fmt: skip
    cluster.apply(*servers, *stateful("store", "body2"), stays)
    first = {p["spec"]["nodeName"] for p in cluster.ready("app=web", 2)}
    assert first == {"body", "body2"}
    before = cluster.ready("app=store", 1)[0]["metadata"]["uid"]
    cluster.ready("app=stays", 1)
    ip = cluster.get("service", "store")["spec"]["clusterIP"]
    cluster.wait("the Service answers", lambda: answers(ip) == "200")
    with socket.create_connection((ip, 80), 5) as old:
        cluster.pocketkube("node", "stop", "body2")
        assert is_ready(cluster.get("node", "body2")), "nobody has noticed yet"
        assert silent(old), "who has no power sends no reset"
        assert answers(ip) in ("timeout", "TimeoutError")
        cluster.pocketkube("node", "stop", "body2", "--wait", "15")
        assert [t["key"] for t in cluster.get("node", "body2")["spec"]["taints"]] == [
            "node.kubernetes.io/unreachable"
        ] * 2
        cluster.wait("refused at once, for there is no endpoint", lambda: answers(ip, 2) == "ConnectionRefusedError")
        assert {p["spec"]["nodeName"] for p in cluster.ready("app=web", 2)} == {"body"}
        cluster.kubectl("logs", "stays", code=1)
        lost = cluster.wait("eviction", lambda: [p for p in cluster.get("pods", "-l", "app=store")["items"]
                                                 if "deletionTimestamp" in p["metadata"]])  # fmt: skip
        assert [p["metadata"]["uid"] for p in lost] == [before], (
            "a pod of a StatefulSet has no replacement until it is gone"
        )
        assert len(cluster.get("pods", "-l", "app=store")["items"]) == 1
        cluster.pocketkube("node", "start", "body2", "--wait", "15")
        assert cluster.ready("app=store", 1)[0]["metadata"]["uid"] != before
        assert not silent(old), "the booted node does not know this connection"
    cluster.wait("what was evicted is gone", lambda: len(cluster.get("pods")["items"]) == 4)
    cluster.ready("app=stays", 1)
    status = cluster.pod("stays")["status"]["containerStatuses"][0]
    assert (status["restartCount"], status["lastState"]["terminated"]["exitCode"]) == (1, 255)
    assert {"NodeNotReady", "Rebooted", "NodeReady"} <= {e["reason"] for e in cluster.get("events")["items"]}
    cluster.wait("the Service answers", lambda: answers(ip) == "200")
    cluster.kubectl("delete", "pod/stays", "sts/store", "svc/store")


def test_a_node_that_is_not_there_has_no_power(cluster: Cluster) -> None:
    done = cluster.run([str(BIN / "pocketkube"), "node", "stop", "absent"])
    assert done.returncode == 1
    assert "there are body, body2" in done.stderr
    assert "hint:" in done.stderr
    done = cluster.run([str(BIN / "pocketkube"), "up", "--name", "x", "--node-grace", "1"])
    assert (done.returncode, "between 2 and 3600" in done.stderr) == (1, True)


def test_a_status_that_somebody_else_wrote_is_put_right_at_once(cluster: Cluster) -> None:
    cluster.apply(*web(2))
    name = cluster.ready("app=web", 2)[0]["metadata"]["name"]
    lapsed = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
    cluster.kubectl("patch", "pod", name, "--subresource=status", "--type=strategic", "-p", json.dumps(lapsed))
    cluster.wait("Ready again", lambda: is_ready(cluster.pod(name)), 2)


class Client:
    """One connection to the API at a time, and what comes of it."""

    def __init__(self, cluster: Cluster) -> None:
        found = yaml.safe_load((cluster.folder / "kubeconfig").read_text())
        self._url = cluster.facts["server"]
        self._trust = ssl.create_default_context(cafile=str(cluster.folder / "ca.pem"))
        self._headers = {"Authorization": f"Bearer {found['users'][0]['user']['token']}"}

    def open(self, path: str) -> Any:
        asked = urllib.request.Request(self._url + path, headers=self._headers)
        return urllib.request.urlopen(asked, timeout=5, context=self._trust)

    def answers(self) -> bool:
        try:
            self.open("/readyz").close()
        except (OSError, urllib.error.URLError):
            return False
        return True


@pytest.mark.parametrize("compact", [False, True])
def test_an_api_that_was_away_resumes_watches_unless_its_history_is_gone(cluster: Cluster, compact: bool) -> None:
    client = Client(cluster)
    before = cluster.ready("app=web", 2)
    since = json.load(client.open("/api/v1/pods"))["metadata"]["resourceVersion"]
    with client.open(f"/api/v1/pods?watch=1&resourceVersion={since}") as watch:
        cluster.pocketkube(
            "api", "restart", "--seconds", "1.2" if compact else "0.3", *(["--compact"] if compact else [])
        )
        while watch.readline():  # ends with the connection
            pass
    begun = time.monotonic()
    assert not client.answers()
    cluster.wait("the API is back", client.answers)
    assert time.monotonic() - begun < 3
    after = cluster.ready("app=web", 2)
    assert [p["metadata"]["uid"] for p in after] == [p["metadata"]["uid"] for p in before]
    assert all(c["restartCount"] == 0 for p in after for c in p["status"]["containerStatuses"])
    try:
        client.open(f"/api/v1/pods?watch=1&timeoutSeconds=1&resourceVersion={since}").close()
        code = 200
    except urllib.error.HTTPError as error:
        with error:
            code = error.code
    assert code == (410 if compact else 200)


def test_load_grows_a_deployment_and_kubectl_top_shows_it(cluster: Cluster) -> None:
    burn = shell("while :; do :; done", resources={"requests": {"cpu": "50m"}})
    labels = {"app": "burn"}
    cluster.apply(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "burn", "namespace": "default"},
         "spec": {"selector": {"matchLabels": labels}, "template": {
             "metadata": {"labels": labels}, "spec": {"containers": [burn], "terminationGracePeriodSeconds": 1}}}},
        {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "burn", "namespace": "default"},
         "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "burn"}, "maxReplicas": 2}},
    )  # fmt: skip
    cluster.ready("app=burn", 2)
    status = cluster.get("hpa", "burn")["status"]
    assert (status["desiredReplicas"], {c["type"]: c["status"] for c in status["conditions"]}["ScalingActive"]) == (
        2,
        "True",
    )
    assert status["currentMetrics"][0]["resource"]["current"]["averageUtilization"] > 80
    assert "SuccessfulRescale" in {e["reason"] for e in cluster.get("events")["items"]}
    shown = cluster.wait(
        "both are measured", lambda: (t := cluster.kubectl("top", "pods", "-l", "app=burn")).count("burn-") == 2 and t
    )
    assert max(int(line.split()[1].removesuffix("m")) for line in shown.splitlines()[1:]) > 50
    cluster.kubectl("delete", "hpa/burn", "deployment/burn")
