"""StatefulSets: names, claims, order, updates by partition."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pocketkube.controllers import pods
from pocketkube.scheduler import SELECTED
from pocketkube.storage import Object
from tests.pocketkube.controllers.test_deployment import image
from tests.pocketkube.controllers.world import World, live, template


def stateful_set(w: World, replicas: int = 3, **spec: Any) -> Object:
    labels = {"app": "postgres"}
    return w.create("statefulsets", {
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "postgres"},
        "spec": {"replicas": replicas, "serviceName": "postgres", "selector": {"matchLabels": labels}, "template": template(labels),
                 "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}], **spec},
    })  # fmt: skip


def names(w: World) -> list[str]:
    return [p["metadata"]["name"] for p in w.active()]


def status(w: World) -> Object:
    found: Object = w.get("statefulsets", "postgres")["status"]
    return found


def tags(w: World) -> list[str]:
    return [p["spec"]["containers"][0]["image"].split(":")[1] for p in w.pods()]


def rolled_out(w: World) -> bool:
    found, wanted = w.get("statefulsets", "postgres"), w.get("statefulsets", "postgres")["spec"]["replicas"]
    s = found.get("status", {})
    same = (
        s.get("currentRevision") == s.get("updateRevision")
        and s.get("observedGeneration") == found["metadata"]["generation"]
    )
    return bool(same and s.get("readyReplicas", 0) == wanted == s["replicas"])


def test_pods_come_one_after_the_other_with_names_and_bound_claims() -> None:
    async def test(w: World) -> None:
        w.nodes("memory")
        stateful_set(w)
        await asyncio.sleep(0.4)
        assert names(w) == ["postgres-0"]
        await asyncio.sleep(0.2)
        assert names(w) == ["postgres-0", "postgres-1"]
        await w.until(lambda: rolled_out(w))
        assert names(w) == ["postgres-0", "postgres-1", "postgres-2"]
        claim = w.get("persistentvolumeclaims", "data-postgres-1")
        assert (claim["status"]["phase"], claim["status"]["capacity"]) == ("Bound", {"storage": "1Gi"})
        pod = w.get("pods", "postgres-1")
        assert pod["spec"]["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": "data-postgres-1"}}]
        assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == ("postgres-1", "postgres")
        assert pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"] == "1"
        assert status(w)["availableReplicas"] == status(w)["currentReplicas"] == status(w)["updatedReplicas"] == 3
        assert "create Pod postgres-0 in StatefulSet postgres successful" in w.notes("SuccessfulCreate")

    live(test)


def test_a_pod_that_is_not_ready_holds_the_next_back() -> None:
    async def test(w: World) -> None:
        w.nodes("memory")
        w.kubelets.healthy = lambda pod: pod["metadata"]["name"] != "postgres-1"
        stateful_set(w)
        await asyncio.sleep(30)
        assert names(w) == ["postgres-0", "postgres-1"]

    live(test)


def test_parallel_starts_all_at_once() -> None:
    async def test(w: World) -> None:
        w.nodes("memory")
        stateful_set(w, podManagementPolicy="Parallel", ordinals={"start": 5})
        await asyncio.sleep(0.01)
        assert names(w) == ["postgres-5", "postgres-6", "postgres-7"]

    live(test)


def test_a_deleted_pod_keeps_its_name_and_claim_and_comes_back_only_when_gone() -> None:
    async def test(w: World) -> None:
        w.nodes("memory")
        stateful_set(w, 1)
        await w.until(lambda: rolled_out(w))
        before, claim = w.pods()[0], w.get("persistentvolumeclaims", "data-postgres-0")
        w.kubelets.stop_s = 2
        pods.end(w.store, before, w.clock())
        await asyncio.sleep(1.9)
        assert [p["metadata"]["uid"] for p in w.pods()] == [before["metadata"]["uid"]]
        await asyncio.sleep(0.101)
        after = w.pods()[0]
        assert (after["metadata"]["name"], after["spec"]["nodeName"]) == ("postgres-0", "memory")
        assert after["metadata"]["uid"] != before["metadata"]["uid"]
        assert w.get("persistentvolumeclaims", "data-postgres-0")["metadata"]["uid"] == claim["metadata"]["uid"]
        await w.until(lambda: rolled_out(w))

    live(test)


def test_a_pod_with_data_waits_for_its_node() -> None:
    async def test(w: World) -> None:
        w.nodes("memory", "body")
        stateful_set(w, 1)
        await w.until(lambda: rolled_out(w))
        home = w.pods()[0]["spec"]["nodeName"]
        assert w.get("persistentvolumeclaims", "data-postgres-0")["metadata"]["annotations"] == {SELECTED: home}
        w.store.mutate("nodes", None, home, lambda n: n["spec"].update(unschedulable=True))
        pods.end(w.store, w.pods()[0], w.clock())
        await asyncio.sleep(5)
        assert w.pods()[0]["spec"].get("nodeName") is None
        assert "1 node(s) didn't match PersistentVolume's node affinity" in w.notes("FailedScheduling")[0]
        w.store.mutate("nodes", None, home, lambda n: n["spec"].update(unschedulable=False))
        await w.until(lambda: rolled_out(w))
        assert w.pods()[0]["spec"]["nodeName"] == home

    live(test)


def test_a_pod_on_a_lost_node_is_not_replaced_until_it_is_gone() -> None:
    async def test(w: World) -> None:
        w.nodes("memory")
        soon = [
            {
                "key": "node.kubernetes.io/unreachable",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": 10,
            }
        ]
        stateful_set(w, 1, template=template({"app": "postgres"}, tolerations=soon))
        await w.until(lambda: rolled_out(w))
        before = w.pods()[0]["metadata"]["uid"]
        w.kubelets.dead.add("memory")
        w.nodes("body")
        await asyncio.sleep(60)
        assert [(p["metadata"]["uid"], pods.is_terminating(p)) for p in w.pods()] == [(before, True)]
        w.kubelets.dead.clear()
        w.store.delete("pods", "shop", "postgres-0")  # as the kubelet does once its node is back
        await w.until(lambda: rolled_out(w))
        assert w.pods()[0]["spec"]["nodeName"] == "memory"

    live(test)


def test_scaling_down_ends_the_last_first_and_keeps_claims() -> None:
    async def test(w: World) -> None:
        w.nodes("memory")
        stateful_set(w)
        await w.until(lambda: rolled_out(w))
        w.patch("statefulsets", "postgres", lambda s: s["spec"].update(replicas=1))
        await asyncio.sleep(0.1)
        assert names(w) == ["postgres-0", "postgres-1"]
        await w.until(lambda: rolled_out(w))
        assert names(w) == ["postgres-0"]
        assert len(w.store.list("persistentvolumeclaims")) == 3

    live(test)


def test_a_failed_pod_is_made_anew() -> None:
    async def test(w: World) -> None:
        w.nodes("memory")
        stateful_set(w, 1)
        await w.until(lambda: rolled_out(w))
        w.patch("pods", "postgres-0", lambda p: p["status"].update(phase="Failed"))
        await asyncio.sleep(1)
        assert len(w.ready()) == 1
        assert w.notes("RecreatingFailedPod") == ["StatefulSet shop/postgres is recreating failed Pod postgres-0"]

    live(test)


def test_an_update_walks_from_the_last_to_the_partition() -> None:
    async def test(w: World) -> None:
        w.nodes("memory")
        stateful_set(w, updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 1}})
        await w.until(lambda: rolled_out(w))
        worst = [3]
        w.store.listen(lambda e: worst.append(len(w.ready())) if e.resource == "pods" else None)
        w.patch("statefulsets", "postgres", image("2"))
        await asyncio.sleep(0.3)
        assert tags(w) == ["dev", "dev", "2"]
        await asyncio.sleep(10)
        assert tags(w) == ["dev", "2", "2"]
        assert min(worst) == 2
        s = status(w)
        assert (s["updatedReplicas"], s["currentReplicas"]) == (2, 1)
        assert s["currentRevision"] != s["updateRevision"]
        pods.end(w.store, w.get("pods", "postgres-0"), w.clock())
        await asyncio.sleep(2)
        assert tags(w) == ["dev", "2", "2"]  # below the partition it comes back as it was
        w.patch("statefulsets", "postgres", lambda o: o["spec"]["updateStrategy"]["rollingUpdate"].update(partition=0))
        await asyncio.sleep(5)
        assert tags(w) == ["2", "2", "2"]
        assert rolled_out(w)

    live(test)


def test_an_update_stops_at_a_pod_that_does_not_become_ready() -> None:
    async def test(w: World) -> None:
        w.nodes("memory")
        stateful_set(w)
        await w.until(lambda: rolled_out(w))
        w.kubelets.healthy = lambda pod: not pod["spec"]["containers"][0]["image"].endswith("broken")
        w.patch("statefulsets", "postgres", image("broken"))
        await asyncio.sleep(60)
        assert tags(w) == ["dev", "dev", "broken"]

    live(test)


def test_on_delete_waits_for_the_user() -> None:
    async def test(w: World) -> None:
        w.nodes("memory")
        stateful_set(w, 2, updateStrategy={"type": "OnDelete"})
        await asyncio.sleep(3)
        w.patch("statefulsets", "postgres", image("2"))
        await asyncio.sleep(10)
        assert tags(w) == ["dev", "dev"]
        pods.end(w.store, w.get("pods", "postgres-0"), w.clock())
        await asyncio.sleep(2)
        assert tags(w) == ["2", "dev"]

    live(test)


def test_old_revisions_are_dropped_beyond_the_limit() -> None:
    async def test(w: World) -> None:
        w.nodes("memory")
        stateful_set(w, 1, revisionHistoryLimit=1)
        for tag in "1234":
            w.patch("statefulsets", "postgres", image(tag))
            await asyncio.sleep(3)
        assert sorted(r["revision"] for r in w.store.list("controllerrevisions")) == [3, 4]

    live(test)


@pytest.mark.parametrize(
    ("policy", "scaled", "deleted"),
    [
        ({}, [0, 1, 2], [0, 1, 2]),
        ({"whenScaled": "Delete", "whenDeleted": "Retain"}, [0], [0]),
        ({"whenScaled": "Retain", "whenDeleted": "Delete"}, [0, 1, 2], []),
        ({"whenScaled": "Delete", "whenDeleted": "Delete"}, [0], []),
    ],
)
def test_claims_are_kept_or_go_as_the_policy_says(policy: Object, scaled: list[int], deleted: list[int]) -> None:
    async def test(w: World) -> None:
        def claims() -> list[int]:
            return [int(c["metadata"]["name"][-1]) for c in w.store.list("persistentvolumeclaims")]

        w.nodes("memory")
        stateful_set(w, persistentVolumeClaimRetentionPolicy=policy)
        await w.until(lambda: rolled_out(w))
        w.patch("statefulsets", "postgres", lambda s: s["spec"].update(replicas=1))
        await asyncio.sleep(5)
        assert claims() == scaled
        w.patch("statefulsets", "postgres", lambda s: s["spec"].update(replicas=3))
        await asyncio.sleep(5)
        assert claims() == [0, 1, 2]
        w.patch("statefulsets", "postgres", lambda s: s["spec"].update(replicas=1))
        await asyncio.sleep(5)
        w.store.delete("statefulsets", "shop", "postgres")
        await asyncio.sleep(5)
        assert w.pods() == []
        assert claims() == deleted

    live(test)
