"""The scheduler over the store: binding, refusing, trying again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pocketkube.controllers import conditions, pods
from pocketkube.storage import Object
from tests.pocketkube.controllers.world import World, live, template


def pod(w: World, name: str = "p", cpu: str = "1", **spec: Any) -> Object:
    made = template({"app": name})
    made["spec"]["containers"][0]["resources"] = {"requests": {"cpu": cpu}}
    return w.create("pods", {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {**made["spec"], **spec}, "status": {"phase": "Pending"},
    })  # fmt: skip


def where(w: World, name: str = "p") -> str | None:
    found: str | None = w.get("pods", name)["spec"].get("nodeName")
    return found


def test_a_pod_is_bound_and_told_so() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        pod(w)
        await asyncio.sleep(0.01)
        assert where(w) == "body"
        assert conditions.is_true(w.get("pods", "p"), "PodScheduled")
        assert w.notes("Scheduled") == ["Successfully assigned shop/p to body"]

    live(test)


def cordon(w: World, cordoned: bool) -> None:
    w.store.mutate("nodes", None, "body", lambda n: n["spec"].update(unschedulable=cordoned))


@pytest.mark.parametrize("remedy", ["uncordon", "another node", "label", "room", "a pod ends"])
def test_a_refused_pod_is_tried_again_when_something_changes(remedy: str) -> None:
    async def test(w: World) -> None:
        w.nodes("body", cpu="4")
        pod(w, "large", cpu="4")
        await asyncio.sleep(1)
        if remedy in ("uncordon", "another node"):
            pods.end(w.store, w.get("pods", "large"), w.clock(), grace_s=0)
            cordon(w, True)
        if remedy == "label":
            pod(w, cpu="0", nodeSelector={"disk": "ssd"})
        else:
            pod(w)
        await asyncio.sleep(5)
        assert where(w) is None
        found = conditions.find(w.get("pods", "p"), "PodScheduled")
        assert found is not None
        assert (found["status"], found["reason"]) == ("False", "Unschedulable")
        assert found["message"].startswith("0/1 nodes are available: 1 ")
        assert w.notes("FailedScheduling") == [found["message"]]
        if remedy == "uncordon":
            cordon(w, False)
        elif remedy == "another node":
            w.nodes("body2")
        elif remedy == "label":
            w.store.mutate("nodes", None, "body", lambda n: n["metadata"]["labels"].update(disk="ssd"))
        elif remedy == "room":
            w.store.mutate("nodes", None, "body", lambda n: n["status"]["allocatable"].update(cpu="8"))
        else:
            w.patch("pods", "large", lambda p: p["status"].update(phase="Succeeded"))
        await asyncio.sleep(0.01)
        assert where(w) is not None
        assert conditions.is_true(w.get("pods", "p"), "PodScheduled")

    live(test)


def test_heartbeats_are_no_reason_to_try_again() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        pod(w, cpu="64")
        await asyncio.sleep(20)
        event = next(e for e in w.store.list("events") if e["reason"] == "FailedScheduling")
        assert event["deprecatedCount"] == 1

    live(test)


@pytest.mark.parametrize("spec", [{"schedulingGates": [{"name": "wait"}]}, {"schedulerName": "another"}])
def test_gated_pods_and_those_of_another_scheduler_are_left_alone(spec: Object) -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        pod(w, **spec)
        await asyncio.sleep(40)
        assert where(w) is None
        assert w.notes("FailedScheduling") == []

    live(test)


def test_drain_moves_pods_and_nothing_comes_back_to_a_cordoned_node() -> None:
    async def test(w: World) -> None:
        w.nodes("body", "body2")
        w.deployment(replicas=4)
        await w.until(lambda: len(w.ready()) == 4)
        cordon(w, True)
        for p in w.pods():
            if p["spec"]["nodeName"] == "body":
                pods.end(w.store, p, w.clock())
        await asyncio.sleep(3)
        assert {p["spec"]["nodeName"] for p in w.ready()} == {"body2"}
        assert len(w.ready()) == 4

    live(test)
