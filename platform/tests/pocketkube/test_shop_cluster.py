"""The shop's manifests on a real cluster, as a user deploys them: checkout, a lost pod, latency, a drain."""

from __future__ import annotations

import json
import os
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pocketkube.node.cluster import Cluster, gone

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[3]
PSS_MOST = 1 << 30


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("state"), "shop")
    made.pocketkube(
        "up", "--name", "shop", "--images", str(ROOT / "gitops/apps/pocket/images.yaml"), "--owner", str(os.getpid())
    )
    made.kubectl("create", "namespace", "shop")
    made.kubectl("-n", "shop", "create", "secret", "generic", "postgres", f"--from-literal=password={uuid.uuid4().hex}")
    made.kubectl("-n", "shop", "create", "secret", "generic", "operator", f"--from-literal=token={uuid.uuid4().hex}")
    made.kubectl("apply", "-k", str(ROOT / "gitops/apps/base"))
    made.ready("app.kubernetes.io/part-of=shop", 13, "shop")
    yield made
    running = made.processes()
    made.pocketkube("down", "--name", "shop")
    gone(running)


def call(shop: Cluster, path: str, body: dict[str, Any], **headers: str) -> tuple[int, dict[str, Any], float]:
    ip = shop.get("service", "storefront", "-n", "shop")["spec"]["clusterIP"]
    request = urllib.request.Request(f"http://{ip}:7070{path}", json.dumps(body).encode(),
                                     {"Content-Type": "application/json", **headers})  # fmt: skip
    begun = time.perf_counter()
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.status, json.load(answer), time.perf_counter() - begun


def checkout(shop: Cluster) -> float:
    """Seconds that a checkout took; fails unless it was acknowledged."""
    _, cart, _ = call(shop, "/carts", {"items": [{"sku": "sku-001", "quantity": 1}]})
    key = {"Idempotency-Key": uuid.uuid4().hex}
    status, order, took_s = call(shop, "/checkout", {"cart_id": cart["cart_id"], "customer": "test"}, **key)
    assert (status, order["state"]) == (201, "paid")
    return took_s


def test_a_checkout_works_from_outside(shop: Cluster) -> None:
    checkout(shop)
    assert shop.get("pod", "postgres-0", "-n", "shop")["spec"]["nodeName"] == "memory"


def test_a_lost_payments_pod_is_replaced(shop: Cluster) -> None:
    first, _ = shop.ready("app=payments", 2, "shop")
    shop.kubectl("-n", "shop", "delete", "pod", first["metadata"]["name"], "--wait=false")
    lost = first["metadata"]["name"]
    assert lost not in {p["metadata"]["name"] for p in shop.ready("app=payments", 2, "shop")}
    checkout(shop)
    # Until it is gone it answers on the connections that it has, as its grace allows.
    shop.kubectl("-n", "shop", "wait", f"pod/{lost}", "--for=delete", "--timeout=30s")


def test_latency_from_orders_to_payments_is_felt_in_checkouts_and_goes(shop: Cluster) -> None:
    checkout(shop)  # connections are warm
    part = {"mode": "all", "selector": {"namespaces": ["shop"], "labelSelectors": {"app": "orders"}}}
    payments = {"namespaces": ["shop"], "labelSelectors": {"app": "payments"}}
    spec = {
        "action": "delay",
        "mode": "all",
        "selector": payments,
        "direction": "from",
        "target": part,
        "delay": {"latency": "300ms"},
    }
    meta = {"name": "slow", "namespace": "shop"}
    shop.apply({"apiVersion": "chaos-mesh.org/v1alpha1", "kind": "NetworkChaos", "metadata": meta, "spec": spec})
    shop.kubectl("-n", "shop", "wait", "networkchaos/slow", "--for=condition=AllInjected", "--timeout=10s")
    assert 0.3 <= checkout(shop) < 2.0
    shop.kubectl("-n", "shop", "delete", "networkchaos", "slow")
    assert min(checkout(shop) for _ in range(5)) < 0.3


def test_a_drain_moves_the_pods_within_their_budgets(shop: Cluster) -> None:
    shop.kubectl("drain", "body2", "--timeout=40s")
    pods = shop.ready("app.kubernetes.io/part-of=shop", 13, "shop")
    assert "body2" not in {p["spec"]["nodeName"] for p in pods}
    shop.kubectl("uncordon", "body2")
    checkout(shop)


def test_the_whole_cluster_stays_small(shop: Cluster) -> None:
    assert sum(p.memory_full_info().pss for p in shop.processes()) < PSS_MOST
