"""Own actions and probes against a real API over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from aftershock import actions, probes
from aftershock.cluster import Cluster
from aftershock.errors import BadInput, ClusterError, DeadlineExceeded, NotFound, Refused
from tests.aftershock.small_api import SmallApi, serving

PODS = "/api/v1/namespaces/shop/pods"
CHAOS = "/apis/chaos-mesh.org/v1alpha1/namespaces/shop/networkchaos"
BUDGET = "Cannot evict pod as it would violate the pod's disruption budget."
World = tuple[SmallApi, dict[str, Any]]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Two nodes, and the configuration that points an action at them."""
    with serving(tmp_path) as (api, cluster, _):
        for node in ("body", "body2"):
            api.put(f"/api/v1/nodes/{node}", spec={})
        for name, node in (("payments-a", "body"), ("payments-b", "body2"), ("orders-b", "body2")):
            api.put(f"{PODS}/{name}", metadata={"labels": {"app": name[:-2]}}, spec={"nodeName": node})
        path = cluster.kubeconfig_for_child(tmp_path)
        actions._connect.cache_clear()
        yield (
            api,
            {
                "aftershock_kubeconfig": str(path),
                "aftershock_context": "small",
                "aftershock_run_id": "20260101T000000Z-abcdef",
            },
        )
        for made in [actions.cluster_of({"aftershock_kubeconfig": str(path), "aftershock_context": "small"})]:
            made.close()
        actions._connect.cache_clear()


def pods(api: SmallApi) -> set[str]:
    return {path.rsplit("/", 1)[1] for path in api.objects if "/pods/" in path}


def test_a_drain_cordons_evicts_and_tells_what_stayed(world: World) -> None:
    api, configuration = world
    owner = [{"kind": "DaemonSet", "name": "cni", "controller": True}]
    api.put(f"{PODS}/cni", metadata={"ownerReferences": owner}, spec={"nodeName": "body2"})
    api.put(
        f"{PODS}/static", metadata={"annotations": {"kubernetes.io/config.mirror": "x"}}, spec={"nodeName": "body2"}
    )
    api.put(f"{PODS}/done", spec={"nodeName": "body2"}, status={"phase": "Succeeded"})
    result = actions.drain_node("body2", configuration=configuration)
    assert result["evicted"] == ["shop/orders-b", "shop/payments-b"]
    assert result["skipped"] == [{"pod": "shop/cni", "why": "of a DaemonSet"}, {"pod": "shop/done", "why": "finished"},
                                 {"pod": "shop/static", "why": "mirror pod"}]  # fmt: skip
    assert pods(api) == {"payments-a", "cni", "static", "done"}
    assert api.objects["/api/v1/nodes/body2"]["spec"]["unschedulable"] is True
    assert actions.uncordon_node("body2", configuration=configuration)["unschedulable"] is False
    assert api.objects["/api/v1/nodes/body2"]["spec"]["unschedulable"] is False


class Controllers:
    """Give each evicted pod a successor elsewhere, which is Ready a moment later; `told` is what happened, in order."""

    def __init__(
        self, api: SmallApi, owners: dict[str, str], ready_s: float | None, *, unschedulable: bool = False
    ) -> None:
        self.api, self.owners, self.ready_s, self.told = api, owners, ready_s, list[str]()
        self.unschedulable = unschedulable
        for name in owners:
            self.put(name, "body2", ready=True)
        api.evicted = self.evicted

    def put(self, name: str, node: str, *, ready: bool) -> None:
        owner = [{"kind": "ReplicaSet", "uid": self.owners[name], "controller": True}]
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        if self.unschedulable and node != "body2":
            conditions.append({"type": "PodScheduled", "status": "False", "reason": "Unschedulable"})
        status = {"conditions": conditions}
        meta = {"labels": {"app": self.owners[name]}, "ownerReferences": owner}
        self.api.put(f"{PODS}/{name}", metadata=meta, spec={"nodeName": node}, status=status)

    def evicted(self, path: str) -> None:
        gone = path.rpartition("/")[2]
        came = f"{gone}-new"
        self.told.append(f"{gone} goes")
        if gone not in self.owners:  # nobody keeps up its number
            return
        self.owners[came] = self.owners[gone]
        self.put(came, "body", ready=False)
        if self.ready_s is not None:
            threading.Timer(self.ready_s, self.ready, [came]).start()

    def ready(self, name: str) -> None:
        with self.api.lock:
            self.told.append(f"{name} serves")
            self.put(name, "body", ready=True)


def test_a_drain_of_one_at_a_time_waits_for_each_replacement(world: World) -> None:
    api, configuration = world
    there = Controllers(api, {"orders-b": "orders", "payments-b": "payments"}, 0.4)
    done = actions.drain_node("body2", ns="shop", timeout_s=10, at_once=1, configuration=configuration)
    assert done["evicted"] == ["shop/orders-b", "shop/payments-b"]
    assert there.told[:3] == ["orders-b goes", "orders-b-new serves", "payments-b goes"]


def test_a_drain_takes_no_two_pods_of_one_owner_at_once(world: World) -> None:
    api, configuration = world
    owners = {"orders-b": "orders", "orders-c": "orders", "payments-b": "payments"}
    there = Controllers(api, owners, 0.4)
    actions.drain_node("body2", ns="shop", timeout_s=10, at_once=2, configuration=configuration)
    assert there.told[:2] == ["orders-b goes", "payments-b goes"]
    assert there.told.index("orders-c goes") > there.told.index("orders-b-new serves")


def test_a_drain_without_a_bound_waits_for_no_replacement(world: World) -> None:
    api, configuration = world
    there = Controllers(api, {"orders-b": "orders", "payments-b": "payments"}, None)
    actions.drain_node("body2", ns="shop", timeout_s=10, configuration=configuration)
    assert there.told == ["orders-b goes", "payments-b goes"]


def test_a_drain_whose_replacements_do_not_come_says_who_waits(world: World) -> None:
    api, configuration = world
    there = Controllers(api, {"orders-b": "orders", "payments-b": "payments"}, None)
    with pytest.raises(DeadlineExceeded, match=r"shop/payments-b; 1 wait for the replacements of others"):
        actions.drain_node("body2", ns="shop", timeout_s=0.5, at_once=1, configuration=configuration)
    assert there.told == ["orders-b goes"]
    with pytest.raises(BadInput, match="at_once"):
        actions.drain_node("body2", at_once=0, configuration=configuration)


def test_a_drain_waits_for_no_replacement_that_no_node_takes(world: World) -> None:
    api, configuration = world
    there = Controllers(api, {"orders-b": "orders", "orders-c": "orders"}, None, unschedulable=True)
    actions.drain_node("body2", ns="shop", timeout_s=10, at_once=1, configuration=configuration)
    assert sorted(there.told) == ["orders-b goes", "orders-c goes", "payments-b goes"]


def test_a_drain_of_some_pods_leaves_the_others(world: World) -> None:
    api, configuration = world
    assert actions.drain_node("body2", ns="shop", pod_selector="app=orders", configuration=configuration)[
        "evicted"
    ] == ["shop/orders-b"]
    assert "payments-b" in pods(api)


def test_a_budget_that_gives_way_is_asked_again(world: World) -> None:
    api, configuration = world
    left = iter([1, 1])
    api.refuse = lambda method, path: (
        (429, "TooManyRequests", BUDGET) if path.endswith("payments-b/eviction") and next(left, None) else None
    )
    assert actions.drain_node("body2", timeout_s=10, configuration=configuration)["evicted"] == [
        "shop/orders-b",
        "shop/payments-b",
    ]
    assert [path for _, path in api.seen].count(f"{PODS}/payments-b/eviction") == 3


def test_a_budget_that_holds_refuses_the_drain_with_its_reason(world: World) -> None:
    api, configuration = world
    api.refuse = lambda method, path: (429, "TooManyRequests", BUDGET) if path.endswith("payments-b/eviction") else None
    with pytest.raises(
        Refused, match=r"^429 Cannot evict pod.*shop/payments-b not evicted within 0.3 s; 1 of 2 pods evicted"
    ):
        actions.drain_node("body2", timeout_s=0.3, configuration=configuration)
    assert "payments-b" in pods(api)


def test_a_pod_that_is_gone_already_does_not_fail_the_drain(world: World) -> None:
    api, configuration = world

    def vanish(method: str, path: str) -> None:
        if path == f"{PODS}/payments-b/eviction":
            api.objects.pop(f"{PODS}/payments-b", None)

    api.refuse = vanish
    assert actions.drain_node("body2", configuration=configuration)["evicted"] == ["shop/orders-b", "shop/payments-b"]
    assert pods(api) == {"payments-a"}


def test_a_pod_that_does_not_end_in_time_fails_the_drain(world: World) -> None:
    api, configuration = world
    real = api.answer

    def stuck(
        method: str, path: str, query: dict[str, str], body: Any, content_type: str
    ) -> tuple[int, dict[str, Any]]:
        return (201, {}) if path.endswith("/eviction") else real(method, path, query, body, content_type)

    api.answer = stuck  # type: ignore[method-assign]
    with pytest.raises(DeadlineExceeded, match=r"not gone from body2 within 0.3 s: shop/orders-b, shop/payments-b"):
        actions.drain_node("body2", timeout_s=0.3, configuration=configuration)


def test_another_error_ends_the_drain_at_once(world: World) -> None:
    api, configuration = world
    api.refuse = lambda method, path: (500, "Boom", "two budgets") if path.endswith("/eviction") else None
    with pytest.raises(ClusterError, match="two budgets"):
        actions.drain_node("body2", timeout_s=30, configuration=configuration)
    with pytest.raises(NotFound):
        actions.drain_node("body9", configuration=configuration)


def test_exactly_these_pods_are_deleted_or_none(world: World) -> None:
    api, configuration = world
    uid = api.objects[f"{PODS}/payments-a"]["metadata"]["uid"]
    with pytest.raises(NotFound, match="uid-99"):
        actions.delete_pods("shop", [uid, "uid-99"], configuration=configuration)
    assert "payments-a" in pods(api)
    assert actions.delete_pods("shop", [uid], 0, configuration=configuration) == ["payments-a"]
    assert "payments-a" not in pods(api)


def injecting(api: SmallApi) -> None:
    """Report every NetworkChaos as injected when it is looked at."""
    real = api.answer

    def answer(
        method: str, path: str, query: dict[str, str], body: Any, content_type: str
    ) -> tuple[int, dict[str, Any]]:
        code, value = real(method, path, query, body, content_type)
        if method == "GET" and path.startswith(CHAOS + "/") and code == 200:
            value = {**value, "status": {"conditions": [{"type": "AllInjected", "status": "True"}]}}
        return code, value

    api.answer = answer  # type: ignore[method-assign]


def test_a_network_fault_is_named_after_its_run_and_removed_again(world: World) -> None:
    api, configuration = world
    injecting(api)
    told = actions.network_delay(
        "shop", "app=payments", 300, direction="from", target_selector="app=orders", configuration=configuration
    )
    name = "aftershock-20260101t000000z-abcdef-network-delay"
    assert (told["name"], told["injected"]) == (name, True)
    assert api.objects[f"{CHAOS}/{name}"]["spec"] == {
        "action": "delay", "mode": "all", "direction": "from", "delay": {"latency": "300ms", "jitter": "0ms", "correlation": "0"},
        "selector": {"namespaces": ["shop"], "labelSelectors": {"app": "payments"}},
        "target": {"mode": "all", "selector": {"namespaces": ["shop"], "labelSelectors": {"app": "orders"}}},
    }  # fmt: skip
    actions.network_loss("shop", "app=payments", 20, configuration=configuration)
    actions.network_partition("shop", "app=payments", target_selector="app=orders", configuration=configuration)
    assert len(actions.remove_network_fault("shop", configuration=configuration)) == 3
    assert not [path for path in api.objects if path.startswith(CHAOS)]
    assert actions.remove_network_fault("shop", name, configuration=configuration) == [name]


def test_a_network_fault_that_is_never_injected_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "_INJECT_S", 0.2)
    with pytest.raises(DeadlineExceeded, match="not injected"):
        actions.network_loss("shop", "app=payments", 20, configuration=world[1])


def test_a_cluster_without_chaos_mesh_says_so(world: World) -> None:
    world[0].refuse = lambda method, path: (404, "NotFound", "no") if method == "POST" and path == CHAOS else None
    with pytest.raises(ClusterError, match="fault not available on this cluster"):
        actions.network_loss("shop", "app=payments", 20, configuration=world[1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"latency_ms": 0}, "latency_ms"), ({"jitter_ms": 500}, "jitter_ms"), ({"direction": "up"}, "direction"),
        ({"direction": "both"}, "target_selector"), ({"label_selector": "app in (a)"}, "key=value"), ({"label_selector": ""}, "key=value"),
    ],
)  # fmt: skip
def test_bad_arguments_change_nothing(world: World, arguments: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"ns": "shop", "label_selector": "app=payments", "latency_ms": 300, **arguments}
    with pytest.raises(BadInput, match=said):
        actions.network_delay(**given, configuration=world[1])
    assert "POST" not in {method for method, _ in world[0].seen}


def test_the_current_context_is_the_first_file_that_names_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("{}")
    (tmp_path / "b").write_text("current-context: here")
    assert actions.current_context(f"{tmp_path}/none:{tmp_path}/a:{tmp_path}/b") == "here"
    with pytest.raises(BadInput):
        actions.current_context(f"{tmp_path}/a")


@pytest.mark.parametrize(
    ("status", "enough", "all_"),
    [
        ({"observedGeneration": 1, "readyReplicas": 2, "updatedReplicas": 2}, True, True),
        ({"observedGeneration": 1, "readyReplicas": 1, "updatedReplicas": 2}, True, False),
        ({"observedGeneration": 1, "readyReplicas": 2, "updatedReplicas": 1}, True, False),
        ({"observedGeneration": 0, "readyReplicas": 2, "updatedReplicas": 2}, False, False),
        ({}, False, False),
    ],
)
def test_a_deployment_is_ready_by_its_newest_version(
    world: World, status: dict[str, int], enough: bool, all_: bool
) -> None:
    api, configuration = world
    assert probes.all_deployments_available("shop", configuration=configuration) is None
    assert probes.deployment_ready("shop", "payments", 1, configuration=configuration) is None
    api.put("/apis/apps/v1/namespaces/shop/deployments/payments", spec={"replicas": 2}, status=status)
    assert probes.deployment_ready("shop", "payments", 1, configuration=configuration) is enough
    assert probes.all_deployments_available("shop", configuration=configuration) is all_


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, float]]]:
    """A server that answers with the given (status, delay), reached as the Service."""
    answers: list[tuple[int, float]] = []
    pause = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            status, delay_s = answers.pop(0) if len(answers) > 1 else answers[0]
            pause.wait(delay_s)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setattr(
        Cluster, "service_url", lambda self, ns, service, port: f"http://127.0.0.1:{server.server_port}"
    )
    yield answers
    pause.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ([(200, 0)], 200), ([(503, 0)], 503), ([(200, 0), (500, 0), (200, 0)], 500),
        ([(200, 0.3)], "no answer"),
    ],
)  # fmt: skip
def test_a_service_answers_only_if_every_try_does(
    world: World, shop: list[tuple[int, float]], answers: list[tuple[int, float]], status: Any
) -> None:
    shop += answers
    told = probes.service_answers("shop", "storefront", latency_ms_max=200, configuration=world[1])
    assert told["status"] == status or str(told["status"]).startswith(str(status)), told
    assert told["tries"] == 3
