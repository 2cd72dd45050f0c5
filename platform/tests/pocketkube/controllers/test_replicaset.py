"""ReplicaSets: which pod goes first, adoption and release, failures to create."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pocketkube.controllers import pods
from pocketkube.controllers.moments import stamp
from pocketkube.controllers.replicaset import DELETION_COST, deletion_order
from pocketkube.errors import BadRequest
from pocketkube.storage import Object
from tests.pocketkube.controllers.world import World, live, template

NOW_S = 1_800_000_000.0


def pod(name: str, *, node: str | None = "body", phase: str = "Running", ready_for_s: float | None = 100, age_s: float = 200,
        restarts: int = 0, cost: str | None = None) -> Object:  # fmt: skip
    ready = [] if ready_for_s is None else [
        {"type": "Ready", "status": "True", "lastTransitionTime": stamp(NOW_S - ready_for_s)}]  # fmt: skip
    return {
        "metadata": {"name": name, "creationTimestamp": stamp(NOW_S - age_s), "annotations": {DELETION_COST: cost} if cost else {}},
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase, "conditions": ready, "containerStatuses": [{"restartCount": restarts}]},
    }  # fmt: skip


ORDER: dict[str, tuple[Object, Object]] = {
    "without a node before with one": (pod("x", node=None), pod("y", phase="Pending", ready_for_s=None)),
    "pending before unknown": (pod("x", phase="Pending"), pod("y", phase="Unknown")),
    "unknown before running": (pod("x", phase="Unknown"), pod("y")),
    "not ready before ready": (pod("x", ready_for_s=None), pod("y")),
    "cheap before dear": (pod("x", cost="-5"), pod("y")),
    "a cost that is no number is none": (pod("x", ready_for_s=8), pod("y", cost="much", ready_for_s=100)),
    "doubled up before alone": (pod("x", node="crowded"), pod("y")),
    "ready for less time first": (pod("x", ready_for_s=3), pod("y", ready_for_s=100)),
    "restarted before steady": (pod("x", restarts=3), pod("y")),
    "young before old": (pod("x", age_s=101), pod("y", age_s=1000)),
}


@pytest.mark.parametrize("case", ORDER)
def test_deletion_order_is_that_of_kubernetes(case: str) -> None:
    first, second = ORDER[case]
    related = [first, second, pod("z", node="crowded")]
    for given in ([first, second], [second, first]):
        assert [p["metadata"]["name"] for p in deletion_order(given, related, NOW_S)] == ["x", "y"]


def replica_set(w: World, replicas: int = 2, **meta: Any) -> Object:
    labels = {"app": "payments"}
    return w.create("replicasets", {
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "payments", **meta},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template(labels)},
    })  # fmt: skip


def test_pods_are_made_complete() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        rs = replica_set(w, 1)
        await w.until(w.ready)
        made = w.pods()[0]
        assert made["metadata"]["name"].startswith("payments-")
        assert made["metadata"]["ownerReferences"] == [{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "payments", "uid": rs["metadata"]["uid"],
            "controller": True, "blockOwnerDeletion": True}]  # fmt: skip
        assert [(t["key"], t["tolerationSeconds"]) for t in made["spec"]["tolerations"]] == [
            (pods.NOT_READY, 300), (pods.UNREACHABLE, 300)]  # fmt: skip
        assert made["status"]["qosClass"] == "BestEffort"
        assert w.notes("SuccessfulCreate") == [f"Created pod: {made['metadata']['name']}"]

    live(test)


def test_a_pod_that_matches_is_adopted_and_one_that_does_not_any_more_is_released_and_replaced() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        lone = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "lone", "labels": {"app": "payments"}},
            "spec": {"containers": []},
        }
        w.create("pods", lone)
        replica_set(w)
        await w.until(lambda: len(w.ready()) == 2)
        assert w.get("pods", "lone")["metadata"]["ownerReferences"][0]["name"] == "payments"
        w.patch("pods", "lone", lambda p: p["metadata"]["labels"].update(app="quarantine"))
        await w.until(lambda: len(w.ready(app="payments")) == 2)
        assert "ownerReferences" not in w.get("pods", "lone")["metadata"]
        assert len(w.pods()) == 3

    live(test)


def test_a_pod_of_another_controller_is_not_touched() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        owner = w.create("configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}})
        by = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": "other",
            "uid": owner["metadata"]["uid"],
            "controller": True,
        }
        w.create(
            "pods",
            {
                "metadata": {"name": "theirs", "labels": {"app": "payments"}, "ownerReferences": [by]},
                "spec": {"containers": []},
            },
        )
        replica_set(w, 1)
        await asyncio.sleep(2)
        assert len(w.pods()) == 2
        w.patch("replicasets", "payments", lambda o: o["spec"].update(replicas=0))
        await asyncio.sleep(2)
        assert [p["metadata"]["name"] for p in w.pods()] == ["theirs"]

    live(test)


def test_a_refused_pod_is_a_condition_an_event_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        create, refused = w.store.create, [True]

        def refuse(resource: str, obj: Object) -> Object:
            if resource == "pods" and refused[0]:
                raise BadRequest("no pods today")
            return create(resource, obj)

        monkeypatch.setattr(w.store, "create", refuse)
        replica_set(w, 1)
        await asyncio.sleep(0.5)
        found = w.condition("replicasets", "payments", "ReplicaFailure")
        assert (found["reason"], found["message"]) == ("FailedCreate", "no pods today")
        assert w.notes("FailedCreate") == ["Error creating: no pods today"]
        refused[0] = False
        await w.until(w.ready, 3)
        await asyncio.sleep(0.1)
        assert "conditions" not in w.get("replicasets", "payments")["status"]

    live(test)
