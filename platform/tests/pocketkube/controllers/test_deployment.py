"""Deployments: rollouts, scaling, rollback, pause, deadlines."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketkube.controllers import conditions, pods, rollout
from pocketkube.controllers.rollout import REVISION
from pocketkube.storage import Object
from tests.pocketkube.controllers.world import World, live


def image(tag: str) -> Any:
    return lambda d: d["spec"]["template"]["spec"]["containers"][0].update(image=f"aftershock/shop:{tag}")


def progress(w: World) -> str:
    found = conditions.find(w.get("deployments", "payments"), "Progressing")
    return str(found["reason"]) if found else ""


def rolled_out(w: World) -> bool:
    """As `kubectl rollout status` decides."""
    d = w.get("deployments", "payments")
    status, wanted = d.get("status", {}), d["spec"]["replicas"]
    return bool(
        status.get("observedGeneration", 0) >= d["metadata"]["generation"]
        and status.get("updatedReplicas", 0)
        == status.get("replicas", 0)
        == status.get("availableReplicas", 0)
        == wanted
    )


def tags(w: World) -> set[str]:
    return {p["spec"]["containers"][0]["image"].split(":")[1] for p in w.active()}


def revisions(w: World) -> dict[str, str]:
    return {
        rs["metadata"]["annotations"][REVISION]: rs["spec"]["template"]["spec"]["containers"][0]["image"].split(":")[1]
        for rs in w.store.list("replicasets")
    }


def test_pods_come_up_and_the_status_says_so() -> None:
    async def test(w: World) -> None:
        w.nodes("body", "body2")
        w.deployment()
        await asyncio.sleep(0.1)
        d = w.get("deployments", "payments")
        assert d["status"]["unavailableReplicas"] == 2
        assert w.condition("deployments", "payments", "Available")["reason"] == "MinimumReplicasUnavailable"
        assert progress(w) == "ReplicaSetUpdated"
        await w.until(lambda: rolled_out(w))
        rs = w.store.list("replicasets")[0]
        d = w.get("deployments", "payments")
        assert d["metadata"]["annotations"][REVISION] == "1"
        assert {k: v for k, v in d["status"].items() if k != "conditions"} == {
            "observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}  # fmt: skip
        found = w.condition("deployments", "payments", "Progressing")
        assert found["message"] == f'ReplicaSet "{rs["metadata"]["name"]}" has successfully progressed.'
        assert w.notes("ScalingReplicaSet") == [f"Scaled up replica set {rs['metadata']['name']} from 0 to 2"]
        assert rs["metadata"]["annotations"] == {REVISION: "1", rollout.DESIRED: "2", rollout.MAX: "3"}
        digest = rs["metadata"]["labels"][rollout.HASH_LABEL]
        assert rs["spec"]["selector"]["matchLabels"] == {"app": "payments", rollout.HASH_LABEL: digest}

    live(test)


def test_a_deleted_pod_is_replaced_while_it_still_ends() -> None:
    async def test(w: World) -> None:
        w.nodes("body", "body2")
        w.deployment()
        await w.until(lambda: rolled_out(w))
        w.kubelets.stop_s = 20
        pods.end(w.store, w.ready()[0], w.clock())
        await asyncio.sleep(0.001)
        assert len(w.pods()) == 3
        assert all(p["spec"].get("nodeName") for p in w.active())
        assert len(w.ready()) == 1
        await w.until(lambda: len(w.ready()) == 2, 1)

    live(test)


def test_a_new_template_is_rolled_out_and_undone() -> None:
    async def test(w: World) -> None:
        w.nodes("body", "body2")
        w.deployment(replicas=3)
        await w.until(lambda: rolled_out(w))
        first = w.get("deployments", "payments")["spec"]["template"]
        w.patch("deployments", "payments", image("2"))
        await asyncio.sleep(0.01)
        assert not rolled_out(w)
        assert len(w.ready()) == 3
        assert len(w.active()) == 4
        await w.until(lambda: rolled_out(w))
        assert (tags(w), revisions(w)) == ({"2"}, {"1": "dev", "2": "2"})
        assert progress(w) == "NewReplicaSetAvailable"
        w.patch("deployments", "payments", lambda d: d["spec"].update(template=first))  # what `rollout undo` patches
        await asyncio.sleep(0.01)
        await w.until(lambda: rolled_out(w))
        assert (tags(w), revisions(w)) == ({"dev"}, {"3": "dev", "2": "2"})
        assert w.get("deployments", "payments")["metadata"]["annotations"][REVISION] == "3"
        assert next(
            rs["metadata"]["annotations"][rollout.REVISION_HISTORY] for rs in w.store.list("replicasets")
            if rs["metadata"]["annotations"][REVISION] == "3"
        ) == "1"  # fmt: skip

    live(test)


def test_restart_by_annotation_replaces_all_pods() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        w.deployment()
        await w.until(lambda: rolled_out(w))
        before = {p["metadata"]["uid"] for p in w.active()}
        w.patch("deployments", "payments", lambda d: d["spec"]["template"]["metadata"].update(
            annotations={"kubectl.kubernetes.io/restartedAt": "now"}))  # fmt: skip
        await asyncio.sleep(0.01)
        await w.until(lambda: rolled_out(w))
        assert not before & {p["metadata"]["uid"] for p in w.active()}

    live(test)


def test_recreate_starts_the_new_only_when_the_old_are_gone() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        w.deployment(strategy={"type": "Recreate"})
        await w.until(lambda: rolled_out(w))
        w.kubelets.stop_s = 5
        w.patch("deployments", "payments", image("2"))
        await asyncio.sleep(4)
        assert w.active() == []
        assert {p["spec"]["containers"][0]["image"] for p in w.pods()} == {"aftershock/shop:dev"}
        await w.until(lambda: rolled_out(w))
        assert tags(w) == {"2"}

    live(test)


def test_scaling_up_down_and_to_zero() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        w.deployment()
        await w.until(lambda: rolled_out(w))
        for wanted in (5, 1, 0, 2):
            w.patch("deployments", "payments", lambda d, n=wanted: d["spec"].update(replicas=n))  # type: ignore[misc]
            await asyncio.sleep(2)
            assert rolled_out(w) or wanted == 0
            assert len(w.ready()) == wanted
        assert len(w.store.list("replicasets")) == 1
        assert any(note.endswith("from 2 to 5") for note in w.notes("ScalingReplicaSet"))

    live(test)


def test_a_paused_deployment_scales_but_does_not_roll() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        w.deployment()
        await w.until(lambda: rolled_out(w))
        w.patch("deployments", "payments", lambda d: d["spec"].update(paused=True))
        w.patch("deployments", "payments", image("2"))
        w.patch("deployments", "payments", lambda d: d["spec"].update(replicas=3))
        await asyncio.sleep(5)
        assert (tags(w), len(w.ready()), progress(w)) == ({"dev"}, 3, "DeploymentPaused")
        w.patch("deployments", "payments", lambda d: d["spec"].update(paused=False))
        await asyncio.sleep(5)
        assert (tags(w), len(w.ready()), progress(w)) == ({"2"}, 3, "NewReplicaSetAvailable")

    live(test)


def test_a_bad_rollout_misses_its_deadline_and_keeps_the_old_pods() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        w.deployment(progressDeadlineSeconds=20, strategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})
        await w.until(lambda: rolled_out(w))
        w.kubelets.healthy = lambda pod: pod["spec"]["containers"][0]["image"].endswith("dev")
        w.patch("deployments", "payments", image("broken"))
        await asyncio.sleep(15)
        assert progress(w) == "ReplicaSetUpdated"
        await asyncio.sleep(10)
        found = w.condition("deployments", "payments", "Progressing")
        assert (found["status"], found["reason"]) == ("False", "ProgressDeadlineExceeded")
        assert len(w.ready()) == 2
        assert w.condition("deployments", "payments", "Available")["status"] == "True"
        w.patch("deployments", "payments", image("dev"))
        await asyncio.sleep(3)
        assert (tags(w), progress(w)) == ({"dev"}, "NewReplicaSetAvailable")

    live(test)


def test_min_ready_seconds_delay_availability() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        w.deployment(minReadySeconds=10)
        await w.until(lambda: len(w.ready()) == 2)
        await asyncio.sleep(5)
        assert not rolled_out(w)
        await asyncio.sleep(7)
        assert rolled_out(w)

    live(test)


def test_history_is_kept_up_to_its_limit() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        w.deployment(revisionHistoryLimit=2)
        for tag in "12345":
            w.patch("deployments", "payments", image(tag))
            await asyncio.sleep(5)
        assert sorted(revisions(w)) == ["3", "4", "5"]

    live(test)


def test_orphans_are_adopted_and_strangers_are_not() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        w.deployment()
        await w.until(lambda: rolled_out(w))
        rs = w.store.list("replicasets")[0]
        w.patch("replicasets", rs["metadata"]["name"], lambda o: o["metadata"].pop("ownerReferences"))
        await asyncio.sleep(1)
        assert w.store.list("replicasets")[0]["metadata"]["ownerReferences"][0]["name"] == "payments"
        w.deployment("other")
        await asyncio.sleep(3)
        assert len(w.store.list("replicasets")) == 2
        assert len(w.ready(app="payments")) == 2

    live(test)


@pytest.mark.parametrize("kind", ["maxSurge", "maxUnavailable"])
def test_a_value_that_is_no_percentage_is_an_error_not_the_end(kind: str) -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        w.deployment("bad", strategy={"rollingUpdate": {kind: "lots"}})
        w.deployment()
        await asyncio.sleep(2)
        assert rolled_out(w)

    live(test, errors=True)


@settings(max_examples=25)
@given(
    st.integers(1, 6), st.integers(0, 3), st.integers(0, 3), st.lists(st.sampled_from("1234"), min_size=1, max_size=4),
    st.lists(st.floats(0.05, 3), min_size=8, max_size=8),
)  # fmt: skip
def test_a_rollout_never_leaves_its_bounds(
    replicas: int, surge: int, unavailable: int, changes: list[str], starts: list[float]
) -> None:
    """Whatever the pods' start times, and with new templates on top of unfinished rollouts."""

    async def test(w: World) -> None:
        w.nodes("body", "body2")
        rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
        d: Object = w.deployment(replicas=replicas, strategy={"rollingUpdate": rolling})
        await w.until(lambda: rolled_out(w))
        most, least = (replicas + rollout.bounds(d)[0], replicas - rollout.bounds(d)[1])
        worst = {"active": 0, "ready": replicas}

        def watch(event: Any) -> None:
            if event.resource == "pods":
                worst["active"] = max(worst["active"], len(w.active()))
                worst["ready"] = min(worst["ready"], len(w.ready()))

        w.store.listen(watch)
        for n, tag in enumerate(changes):
            w.kubelets.start_s = starts[n]
            w.patch("deployments", "payments", image(tag))
            await asyncio.sleep(starts[-1 - n])
        await w.until(lambda: rolled_out(w))
        assert worst["active"] <= most
        assert worst["ready"] >= least
        assert tags(w) == {changes[-1]}

    live(test)
