"""EndpointSlices and Endpoints of Services."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pocketkube.controllers import pods
from pocketkube.controllers.endpointslice import MANAGED_BY, MANAGER, SERVICE_NAME
from pocketkube.storage import Object
from tests.pocketkube.controllers.world import World, live, template


def service(w: World, name: str = "payments", target: Any = "http", **spec: Any) -> Object:
    return w.create("services", {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": target}], **spec},
    })  # fmt: skip


def slices(w: World) -> list[Object]:
    return w.store.list("endpointslices")


def states(w: World) -> dict[str, tuple[bool, bool, bool]]:
    return {
        e["targetRef"]["name"]: (e["conditions"]["ready"], e["conditions"]["serving"], e["conditions"]["terminating"])
        for s in slices(w) for e in s["endpoints"]
    }  # fmt: skip


def test_a_slice_follows_its_pods_from_start_to_end() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        w.kubelets.healthy = lambda pod: False
        service(w)
        await asyncio.sleep(0.01)
        made = slices(w)[0]
        assert (made["endpoints"], made["ports"], made["addressType"]) == ([], [], "IPv4")
        assert made["metadata"]["labels"] == {"app": "payments", SERVICE_NAME: "payments", MANAGED_BY: MANAGER}
        w.deployment(replicas=1)
        await asyncio.sleep(1)
        pod = w.pods()[0]
        name = pod["metadata"]["name"]
        assert states(w) == {name: (False, False, False)}
        w.kubelets.set_ready(pod, True)
        await asyncio.sleep(0.001)
        assert states(w) == {name: (True, True, False)}
        made = slices(w)[0]
        assert made["ports"] == [{"name": "http", "port": 7070, "protocol": "TCP"}]
        assert made["endpoints"][0]["nodeName"] == "body"
        assert made["endpoints"][0]["targetRef"]["uid"] == pod["metadata"]["uid"]
        assert w.get("endpoints", "payments")["subsets"][0]["addresses"][0]["ip"] == pod["status"]["podIP"]
        pods.end(w.store, pod, w.clock())
        await asyncio.sleep(0.001)
        assert states(w)[name] == (False, True, True)
        assert w.get("endpoints", "payments")["subsets"] == []
        await asyncio.sleep(0.3)
        assert name not in states(w)
        assert len(slices(w)) == 1

    live(test)


def test_publish_not_ready_addresses() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        w.kubelets.healthy = lambda pod: False
        service(w, publishNotReadyAddresses=True)
        w.deployment(replicas=1)
        await asyncio.sleep(1)
        assert list(states(w).values()) == [(True, False, False)]
        assert len(w.get("endpoints", "payments")["subsets"][0]["addresses"]) == 1

    live(test)


@pytest.mark.parametrize(
    ("target", "expected"), [("http", [7070]), (7071, [7071]), ("7072", [7072]), (None, [80]), ("absent", [])]
)
def test_target_ports(target: Any, expected: list[int]) -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        service(w, target=target)
        w.deployment(replicas=1)
        await asyncio.sleep(1)
        assert [p["port"] for p in slices(w)[0]["ports"]] == expected

    live(test)


def test_pods_with_other_numbers_for_a_named_port_have_a_slice_of_their_own() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        service(w)
        w.deployment(replicas=2)
        other = template({"app": "payments"})
        other["spec"]["containers"][0]["ports"][0]["containerPort"] = 9090
        w.create(
            "pods", {"metadata": {"name": "other", "labels": {"app": "payments"}}, "spec": other["spec"], "status": {}}
        )
        await asyncio.sleep(1)
        assert sorted((s["ports"][0]["port"], len(s["endpoints"])) for s in slices(w)) == [(7070, 2), (9090, 1)]

    live(test)


def test_more_than_a_hundred_endpoints_are_several_slices() -> None:
    async def test(w: World) -> None:
        w.nodes("body", cpu="64", pods="200")
        service(w)
        w.deployment(replicas=101)
        await w.until(lambda: len(w.ready()) == 101)
        await asyncio.sleep(0.1)
        assert sorted(len(s["endpoints"]) for s in slices(w)) == [1, 100]

    live(test)


def test_a_service_without_selector_and_slices_of_others_are_never_touched() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        service(w, "otel-collector", selector=None)
        service(w)
        theirs = []
        for name, owner in (("a", "otel-collector"), ("b", "payments")):
            meta = {"name": name, "labels": {SERVICE_NAME: owner, MANAGED_BY: "aftershock"}}
            theirs.append(w.create("endpointslices", {"metadata": meta, "endpoints": [], "ports": []}))
        w.deployment("otel-collector", replicas=1)
        await asyncio.sleep(40)
        w.store.delete("services", "shop", "payments")
        await asyncio.sleep(1)
        assert slices(w) == theirs
        assert w.store.find("endpoints", "shop", "otel-collector") is None
        assert w.store.find("endpoints", "shop", "payments") is None

    live(test)


def test_a_slice_that_somebody_changes_or_deletes_is_put_right() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        service(w)
        w.deployment(replicas=1)
        await w.until(w.ready)
        await asyncio.sleep(0.1)
        before = states(w)
        w.patch("endpointslices", slices(w)[0]["metadata"]["name"], lambda s: s.update(endpoints=[]))
        await asyncio.sleep(0.01)
        assert states(w) == before
        w.store.delete("endpointslices", "shop", slices(w)[0]["metadata"]["name"])
        await asyncio.sleep(0.01)
        assert states(w) == before

    live(test)


def test_a_pod_that_loses_the_label_leaves() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        service(w)
        w.create(
            "pods",
            {"metadata": {"name": "lone", "labels": {"app": "payments"}}, "spec": template({})["spec"], "status": {}},
        )
        await asyncio.sleep(1)
        assert list(states(w)) == ["lone"]
        w.patch("pods", "lone", lambda p: p["metadata"].update(labels={"app": "x"}))
        await asyncio.sleep(0.01)
        assert states(w) == {}

    live(test)
