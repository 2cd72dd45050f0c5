"""Owners and dependents, namespaces and what is in them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pocketkube.controllers import owners
from pocketkube.controllers.garbage import FOREGROUND, ORPHAN
from pocketkube.controllers.moments import stamp
from pocketkube.storage import Object
from tests.pocketkube.controllers.world import World, live


def delete(w: World, resource: str, name: str, finalizer: str | None = None) -> None:
    """As the API does, by propagation policy."""
    if finalizer is not None:
        w.patch(resource, name, lambda o: o["metadata"].setdefault("finalizers", []).append(finalizer))
    w.store.delete(resource, "shop", name)


def kinds(w: World) -> set[str]:
    return {r for r in ("deployments", "replicasets", "pods") if w.store.list(r, "shop")}


async def deployed(w: World) -> None:
    w.nodes("body")
    w.deployment()
    await w.until(lambda: len(w.ready()) == 2)


def test_background_the_owner_goes_first() -> None:
    async def test(w: World) -> None:
        await deployed(w)
        delete(w, "deployments", "payments")
        await asyncio.sleep(0.01)
        assert kinds(w) == {"pods"}
        assert w.active() == []
        await asyncio.sleep(1)
        assert kinds(w) == set()

    live(test)


def test_foreground_the_owner_goes_last() -> None:
    async def test(w: World) -> None:
        await deployed(w)
        w.kubelets.stop_s = 5
        delete(w, "deployments", "payments", FOREGROUND)
        await asyncio.sleep(4)
        assert kinds(w) == {"deployments", "replicasets", "pods"}
        assert w.active() == []
        await asyncio.sleep(2)
        assert kinds(w) == set()

    live(test)


def test_orphans_stay_and_are_adopted_by_the_next() -> None:
    async def test(w: World) -> None:
        await deployed(w)
        before = {p["metadata"]["uid"] for p in w.pods()}
        delete(w, "deployments", "payments", ORPHAN)
        await asyncio.sleep(2)
        assert kinds(w) == {"replicasets", "pods"}
        assert "ownerReferences" not in w.store.list("replicasets")[0]["metadata"]
        w.deployment()
        await asyncio.sleep(2)
        assert {p["metadata"]["uid"] for p in w.pods()} == before
        assert owners.controls(w.get("deployments", "payments"), w.store.list("replicasets")[0])

    live(test)


def owned(w: World, name: str, *by: Object, block: bool = False) -> Object:
    references = [
        {**owners.reference(o, "v1", "ConfigMap"), "controller": False, "blockOwnerDeletion": block} for o in by
    ]
    meta = {"name": name, **({"ownerReferences": references} if references else {})}
    return w.create("configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})


def names(w: World) -> list[str]:
    return [o["metadata"]["name"] for o in w.store.list("configmaps", "shop")]


def test_an_object_stays_while_one_owner_does() -> None:
    async def test(w: World) -> None:
        first, second = owned(w, "first"), owned(w, "second")
        owned(w, "child", first, second)
        await asyncio.sleep(0.1)
        delete(w, "configmaps", "first")
        await asyncio.sleep(0.1)
        assert [r["name"] for r in w.get("configmaps", "child")["metadata"]["ownerReferences"]] == ["second"]
        delete(w, "configmaps", "second")
        await asyncio.sleep(0.1)
        assert names(w) == []

    live(test)


def test_what_is_created_with_an_owner_that_is_gone_goes_too() -> None:
    async def test(w: World) -> None:
        gone = owned(w, "gone")
        delete(w, "configmaps", "gone")
        owned(w, "late", gone)
        owned(w, "later", owned(w, "alive"))
        await asyncio.sleep(0.1)
        assert names(w) == ["alive", "later"]

    live(test)


def test_an_owner_of_the_same_name_is_not_the_same() -> None:
    async def test(w: World) -> None:
        owned(w, "child", owned(w, "owner"))
        await asyncio.sleep(0.1)
        w.store.delete("configmaps", "shop", "owner")
        owned(w, "owner")
        await asyncio.sleep(0.1)
        assert names(w) == ["owner"]

    live(test)


@pytest.mark.parametrize("block", [True, False])
def test_foreground_waits_only_for_those_that_block(block: bool) -> None:
    async def test(w: World) -> None:
        child = owned(w, "child", owned(w, "owner"), block=block)
        w.patch(
            "configmaps", child["metadata"]["name"], lambda o: o["metadata"].update(finalizers=["example.com/wait"])
        )
        await asyncio.sleep(0.1)
        delete(w, "configmaps", "owner", FOREGROUND)
        await asyncio.sleep(0.1)
        assert names(w) == (["child", "owner"] if block else ["child"])
        w.patch("configmaps", "child", lambda o: o["metadata"].update(finalizers=[]))
        await asyncio.sleep(0.1)
        assert names(w) == []

    live(test)


def test_objects_from_before_the_controllers_are_known() -> None:
    """The index is made from the store when the controllers start."""

    async def test(w: World) -> None:
        from pocketkube.controllers.loop import Controllers

        owned(w, "child", owned(w, "owner"))
        late = asyncio.get_running_loop().create_task(Controllers(w.store, clock=w.clock).run())
        await asyncio.sleep(0.1)
        delete(w, "configmaps", "owner")
        await asyncio.sleep(0.1)
        late.cancel()
        assert names(w) == []

    live(test, reconcilers=[])


def end_namespace(w: World, name: str = "shop") -> None:
    w.store.mutate("namespaces", None, name, lambda n: n["metadata"].update(deletionTimestamp=stamp(w.clock())))


def namespace(w: World, name: str = "shop") -> None:
    w.store.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
                                  "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})  # fmt: skip


def left(w: World, name: str = "shop") -> list[Any]:
    return [(r, o["metadata"]["name"]) for r in w.store.resources() for o in w.store.list(r, name)]


def test_a_namespace_ends_with_all_that_is_in_it() -> None:
    async def test(w: World) -> None:
        namespace(w)
        await deployed(w)
        w.create(
            "services",
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "payments"},
                "spec": {"selector": {"app": "payments"}},
            },
        )
        w.create(
            "poddisruptionbudgets", {"metadata": {"name": "payments"}, "spec": {"minAvailable": 1, "selector": {}}}
        )
        owned(w, "settings")
        await asyncio.sleep(0.1)
        w.kubelets.stop_s = 3
        end_namespace(w)
        await asyncio.sleep(2)
        assert w.store.get("namespaces", None, "shop")["status"]["phase"] == "Terminating"
        assert {r for r, _ in left(w)} <= {"pods", "events"}
        assert w.active() == []
        await asyncio.sleep(2)
        assert w.store.find("namespaces", None, "shop") is None
        assert left(w) == []
        await asyncio.sleep(60)
        assert left(w) == []

    live(test)


def test_a_finalizer_in_a_namespace_holds_it() -> None:
    async def test(w: World) -> None:
        namespace(w)
        held = owned(w, "held")
        w.patch("configmaps", held["metadata"]["name"], lambda o: o["metadata"].update(finalizers=["example.com/wait"]))
        end_namespace(w)
        w.nodes("body")
        await asyncio.sleep(60)
        assert ("configmaps", "held") in left(w)
        w.patch("configmaps", "held", lambda o: o["metadata"].update(finalizers=[]))
        await asyncio.sleep(0.1)
        assert w.store.find("namespaces", None, "shop") is None

    live(test)


def test_system_namespaces_and_default_accounts_are_made_and_made_anew() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        namespace(w)
        await asyncio.sleep(0.1)
        made = {n["metadata"]["name"] for n in w.store.list("namespaces")}
        assert made == {"default", "kube-system", "kube-public", "kube-node-lease", "shop"}
        assert {o["metadata"]["namespace"] for o in w.store.list("serviceaccounts")} == made
        w.store.delete("serviceaccounts", "shop", "default")
        await asyncio.sleep(0.01)
        assert w.store.find("serviceaccounts", "shop", "default") is not None

    live(test)
