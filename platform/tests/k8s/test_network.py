"""Who may talk to whom: nothing that the shop does not need, and all that it does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from aftershock.cluster import Cluster

from .conftest import until
from .kubectl import apply, guest, kubectl, pod_of

OURS = {"app.kubernetes.io/part-of": "aftershock"}
STAY = ["python", "-c", "import time; time.sleep(300)"]
LISTEN = ["python", "-m", "http.server", "4318"]
# Bash, since PostgreSQL's image of the user's choice need not have a Python; an answer in 2 s, or it is closed.
TRY = (
    'for t in "$@"; do (if timeout 2 bash -c "</dev/tcp/${t%:*}/${t#*:}" 2>/dev/null; then echo "$t"; fi) & done; wait'
)
SERVICES = ("storefront", "catalog", "cart", "orders", "payments", "shipping")
WITHOUT_DATABASE = {"storefront"}
CALLS = {
    "storefront": {"catalog", "cart", "orders"},
    "catalog": set[str](),
    "cart": {"catalog"},
    "orders": {"cart", "payments", "shipping"},
    "payments": set[str](),
    "shipping": set[str](),
}


@dataclass(frozen=True)
class Town:
    """Where everybody is: a pod to try from, and an address to try."""

    context: str
    pods: dict[str, tuple[str, str]]  # who: namespace and pod
    doors: dict[str, str]  # whom: address and port

    def reached(self, who: str) -> set[str]:
        """All doors that open to one of them; its own says nothing, since nobody is kept from himself."""
        namespace, pod = self.pods[who]
        said = kubectl(
            self.context, "-n", namespace, "exec", pod, "--", "bash", "-c", TRY, "try", *self.doors.values()
        ).split()
        return {whom for whom, door in self.doors.items() if door in said and whom != who}


@pytest.fixture(scope="module")
def town(cluster_context: str, cluster: Cluster) -> Iterator[Town]:
    """The shop, with a stranger in its namespace, one in another, and pods that look like aftershock's own."""
    guests = {
        "lodger": guest("test-lodger", "shop", {}, STAY),
        "stranger": guest("test-stranger", "default", {}, STAY),
        "load": guest("test-load", "shop", {**OURS, "aftershock.dev/component": "load"}, STAY),
        "collector": guest("test-collector", "shop", {**OURS, "aftershock.dev/component": "collector"}, LISTEN),
    }
    paths = {
        who: f"/api/v1/namespaces/{g['metadata']['namespace']}/pods/{g['metadata']['name']}"
        for who, g in guests.items()
    }
    try:
        apply(cluster_context, *guests.values())
        for path in paths.values():
            until(lambda path=path: cluster.request("GET", path)["status"].get("podIP"), 60)  # type: ignore[misc]
        until(lambda: cluster.request("GET", paths["collector"])["status"]["phase"] == "Running", 60)
        service = "/api/v1/namespaces/shop/services/"
        ports = {**dict.fromkeys(SERVICES, 7070), "postgres": 6432}
        doors = {
            who: f"{cluster.request('GET', service + who)['spec']['clusterIP']}:{port}" for who, port in ports.items()
        }
        doors["collector"] = f"{cluster.request('GET', paths['collector'])['status']['podIP']}:4318"
        pods = {who: ("shop", pod_of(cluster_context, who)) for who in (*SERVICES, "postgres")}
        pods |= {who: (g["metadata"]["namespace"], g["metadata"]["name"]) for who, g in guests.items()}
        yield Town(cluster_context, pods, doors)
    finally:
        for namespace in ("shop", "default"):
            names = [g["metadata"]["name"] for g in guests.values() if g["metadata"]["namespace"] == namespace]
            kubectl(cluster_context, "-n", namespace, "delete", "pod", *names,
                    "--ignore-not-found", "--wait=true", "--grace-period=0")  # fmt: skip


def test_every_edge_is_open_and_every_other_shut(town: Town) -> None:
    expected = {who: {*CALLS[who], "collector"} | ({"postgres"} - ({"postgres"} if who in WITHOUT_DATABASE else set()))
                for who in SERVICES}  # fmt: skip
    expected |= {
        "postgres": {"collector"}, "lodger": set(), "stranger": {"storefront"}, "load": {"storefront"}, "collector": set(),
    }  # fmt: skip
    until(lambda: "collector" in town.reached("orders"), 20)  # the controller has seen the new pods
    with ThreadPoolExecutor(4) as pool:
        reached = dict(zip(expected, pool.map(town.reached, expected), strict=True))
    assert reached == expected


def test_names_are_answered_and_the_world_is_not(town: Town) -> None:
    namespace, pod = town.pods["orders"]
    code = "import socket; print(socket.gethostbyname('payments.shop.svc.cluster.local'))"
    said = kubectl(town.context, "-n", namespace, "exec", pod, "--", "python", "-c", code).strip()
    assert f"{said}:7070" == town.doors["payments"]
    host = kubectl(town.context, "get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}")
    tried = kubectl(town.context, "-n", namespace, "exec", pod, "--", "bash", "-c", TRY, "try", f"{host}:443")
    assert tried == "", "no pod of the shop talks to the API server"


@pytest.mark.usefixtures("healthy")
def test_the_api_server_reaches_what_aftershock_asks_for(cluster: Cluster) -> None:
    for service in SERVICES:
        path = f"/api/v1/namespaces/shop/services/{service}:http/proxy/healthz"
        status, said = cluster.raw("GET", path)
        assert status == 200, f"{service}: {said[:300]!r}"
    for pod in cluster.list("/api/v1/namespaces/shop/pods", label_selector="app.kubernetes.io/part-of=shop"):
        if pod["metadata"]["labels"]["app"] in SERVICES:
            path = f"/api/v1/namespaces/shop/pods/{pod['metadata']['name']}:7070/proxy/metrics"
            assert b"http_requests_total" in cluster.raw("GET", path)[1]


def test_no_pod_of_the_shop_can_act_as_the_cluster(cluster: Cluster) -> None:
    pods = cluster.list("/api/v1/namespaces/shop/pods", label_selector="app.kubernetes.io/part-of=shop")
    accounts = {p["spec"]["serviceAccountName"] for p in pods if p["metadata"]["labels"]["app"] != "secrets"}
    assert accounts == {*SERVICES, "postgres"}
    mounted = [p["metadata"]["name"] for p in pods if "kube-api-access" in json.dumps(p["spec"].get("volumes") or [])]
    assert all(name.startswith("secrets-") for name in mounted)
