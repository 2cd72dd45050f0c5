"""Nodes that fall silent, come back, are cordoned or vanish, and what becomes of their pods."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from pocketkube.controllers import conditions, pods
from pocketkube.controllers.eviction import leaves_at_s
from pocketkube.controllers.moments import stamp
from pocketkube.storage import Object
from tests.pocketkube.controllers.world import World, live


def ready(w: World, node: str = "body") -> tuple[str, str]:
    found = conditions.find(w.store.get("nodes", None, node), "Ready")
    assert found is not None
    return found["status"], found.get("reason", "")


def taints(w: World, node: str = "body") -> list[str]:
    found = w.store.get("nodes", None, node)["spec"].get("taints") or []
    return [f"{t['key'].removeprefix('node.kubernetes.io/')}:{t['effect']}" for t in found]


def on(w: World, node: str) -> list[Object]:
    return [p for p in w.pods() if p["spec"].get("nodeName") == node]


def test_a_silent_node_is_unknown_within_its_grace_and_back_with_its_lease() -> None:
    async def test(w: World) -> None:
        w.nodes("body", "body2")
        w.deployment(replicas=4)
        await asyncio.sleep(10)
        assert (ready(w)[0], taints(w)) == ("True", [])
        w.kubelets.dead.add("body")
        assert 2.9 <= await w.until(lambda: ready(w)[0] != "True") <= 5.1
        await asyncio.sleep(0.01)
        assert ready(w) == ("Unknown", "NodeStatusUnknown")
        assert taints(w) == ["unreachable:NoSchedule", "unreachable:NoExecute"]
        assert {pods.is_ready(p) for p in on(w, "body")} == {False}
        assert {pods.is_ready(p) for p in on(w, "body2")} == {True}
        assert len(on(w, "body")) == 2  # they stay until their toleration ends
        assert w.notes("NodeNotReady").count("Node body status is now: NodeNotReady") == 1
        w.kubelets.dead.clear()
        await asyncio.sleep(1.1)
        assert (ready(w), taints(w)) == (("True", "KubeletReady"), [])

    live(test)


def test_pods_of_a_dead_node_are_replaced_after_their_toleration_and_gone_with_the_node() -> None:
    async def test(w: World) -> None:
        w.nodes("body", "body2")
        w.deployment(replicas=2)
        await asyncio.sleep(2)
        w.kubelets.dead.add("body")
        await asyncio.sleep(300)
        assert len(on(w, "body2")) == 1
        await asyncio.sleep(10)
        assert len([p for p in on(w, "body2") if pods.is_ready(p)]) == 2
        assert [pods.is_terminating(p) for p in on(w, "body")] == [True]
        assert conditions.is_true(on(w, "body")[0], "DisruptionTarget")
        w.store.delete("nodes", None, "body")
        await asyncio.sleep(10)
        assert on(w, "body") == []

    live(test)


def test_a_node_back_in_time_keeps_its_pods() -> None:
    async def test(w: World) -> None:
        w.nodes("body", "body2")
        w.deployment(replicas=2)
        await asyncio.sleep(2)
        before = {p["metadata"]["uid"] for p in w.pods()}
        w.kubelets.dead.add("body")
        await asyncio.sleep(200)
        w.kubelets.dead.clear()
        await asyncio.sleep(400)
        assert {p["metadata"]["uid"] for p in w.pods()} == before
        assert any(
            note.startswith("Cancelling deletion of Pod shop/payments-") for note in w.notes("TaintManagerEviction")
        )

    live(test)


def test_a_node_that_never_reported_is_unknown_after_its_grace() -> None:
    async def test(w: World) -> None:
        w.store.create("nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "body"}})
        await asyncio.sleep(3)
        assert conditions.find(w.store.get("nodes", None, "body"), "Ready") is None
        assert taints(w) == ["unreachable:NoSchedule", "unreachable:NoExecute"]  # nothing runs where nobody answers
        await asyncio.sleep(3)
        assert ready(w) == ("Unknown", "NodeStatusNeverUpdated")

    live(test)


def test_when_this_process_itself_stood_still_no_node_is_blamed() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        await asyncio.sleep(5)
        w._epoch += 3600  # a stopped process, a sleeping laptop
        await asyncio.sleep(5)
        assert ready(w)[0] == "True"
        w.kubelets.dead.add("body")
        await asyncio.sleep(6)
        assert ready(w)[0] == "Unknown"

    live(test)


def test_a_kubelet_that_says_not_ready_is_believed() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        w.deployment(replicas=1)
        await asyncio.sleep(2)
        lame = {"type": "Ready", "status": "False", "reason": "KubeletNotReady"}
        w.kubelets.dead.add("body")
        w.store.mutate("nodes", None, "body", lambda n: n["status"].update(conditions=[lame]))
        await asyncio.sleep(0.01)
        assert taints(w) == ["not-ready:NoSchedule", "not-ready:NoExecute"]
        assert w.ready() == []

    live(test)


def test_cordon_and_pressure_are_taints_and_taints_of_others_stay() -> None:
    async def test(w: World) -> None:
        w.nodes("body", taints={"body": [{"key": "mine", "effect": "NoSchedule"}]})
        w.store.mutate("nodes", None, "body", lambda n: n["spec"].update(unschedulable=True))
        w.store.mutate(
            "nodes",
            None,
            "body",
            lambda n: n["status"]["conditions"].append({"type": "MemoryPressure", "status": "True"}),
        )
        await asyncio.sleep(0.01)
        assert taints(w) == ["mine:NoSchedule", "unschedulable:NoSchedule", "memory-pressure:NoSchedule"]
        w.store.mutate("nodes", None, "body", lambda n: n["spec"].update(unschedulable=False))
        await asyncio.sleep(0.01)
        assert taints(w) == ["mine:NoSchedule", "memory-pressure:NoSchedule"]

    live(test)


def test_cordoned_pods_stay() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        w.deployment()
        await asyncio.sleep(1)
        w.store.mutate("nodes", None, "body", lambda n: n["spec"].update(unschedulable=True))
        await asyncio.sleep(600)
        assert len(w.ready()) == 2

    live(test)


def test_pods_stay_while_a_node_registers_anew() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        w.deployment(replicas=1)
        await asyncio.sleep(1)
        node = w.store.get("nodes", None, "body")
        w.kubelets.stop()
        w.store.delete("nodes", None, "body")
        await asyncio.sleep(2)
        w.store.create("nodes", node)
        await asyncio.sleep(1)
        assert len(w.active()) == 1
        await asyncio.sleep(3)
        assert len(w.active()) == 1

    live(test)


def test_an_out_of_service_node_lets_its_ending_pods_go() -> None:
    async def test(w: World) -> None:
        w.nodes("body", "body2")
        w.deployment(replicas=2)
        await asyncio.sleep(2)
        w.kubelets.dead.add("body")
        await asyncio.sleep(6)
        pods.end(w.store, on(w, "body")[0], w.clock())
        await asyncio.sleep(60)
        assert len(on(w, "body")) == 1
        out = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}
        w.store.mutate("nodes", None, "body", lambda n: n["spec"]["taints"].append(out))
        await asyncio.sleep(0.1)
        assert on(w, "body") == []

    live(test)


EXECUTE = {"key": "k", "effect": "NoExecute"}
STAY: list[tuple[list[Any], list[Any], float | None]] = [
    ([], [], None),
    ([], [{"key": "k", "effect": "NoSchedule"}], None),
    ([], [EXECUTE], 50),
    ([{"key": "k", "operator": "Exists"}], [EXECUTE], None),
    ([{"key": "k", "operator": "Exists", "tolerationSeconds": 30}], [EXECUTE], 80),
    ([{"key": "k", "operator": "Exists", "tolerationSeconds": 30}], [{**EXECUTE, "timeAdded": stamp(40)}], 70),
    ([{"key": "k", "operator": "Exists", "tolerationSeconds": -5}], [{**EXECUTE, "timeAdded": stamp(40)}], 40),
    (
        [{"operator": "Exists", "tolerationSeconds": 30}, {"key": "k", "operator": "Exists", "tolerationSeconds": 10}],
        [EXECUTE],
        60,
    ),
    ([{"key": "k", "operator": "Exists"}], [EXECUTE, {"key": "other", "effect": "NoExecute"}], 50),
]


@pytest.mark.parametrize(
    ("tolerations", "found", "expected"), STAY, ids=[str(n) for n in itertools.islice(itertools.count(), len(STAY))]
)
def test_how_long_a_pod_may_stay(tolerations: list[Any], found: list[Any], expected: float | None) -> None:
    assert leaves_at_s({"spec": {"tolerations": tolerations}}, found, 50) == expected
