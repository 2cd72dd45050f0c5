"""Weak twins are switched on and exactly off again; against a real API over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aftershock import experiment, weakness
from aftershock.cluster import Cluster
from aftershock.errors import BadInput, ClusterError, DeadlineExceeded, Refused
from aftershock.experiment import Experiment
from aftershock.undo import UndoJournal
from tests.aftershock.small_api import SmallApi, serving

PROJECT = Path(__file__).parents[3]
EXPERIMENT = experiment.load(PROJECT / "experiments/payments-pod-kill.yaml")
DEPLOYMENT = "/apis/apps/v1/namespaces/shop/deployments/payments"
AUTOSCALER = "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers/payments"
World = tuple[SmallApi, Cluster, UndoJournal]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A Deployment whose controller is at once done."""
    with serving(tmp_path) as (api, cluster, settings), UndoJournal.of(settings) as journal:
        api.put(DEPLOYMENT, spec={"replicas": 2, "selector": {"matchLabels": {"app": "payments"}}}, status={})
        api.put(AUTOSCALER, spec={"minReplicas": 2})
        real = api.answer

        def controlled(
            method: str, path: str, query: dict[str, str], body: Any, content_type: str
        ) -> tuple[int, dict[str, Any]]:
            code, value = real(method, path, query, body, content_type)
            if path == DEPLOYMENT and code == 200:
                live = api.objects[DEPLOYMENT]
                count = live["spec"]["replicas"]
                live["status"] = {"observedGeneration": live["metadata"]["generation"], "replicas": count,
                                  "updatedReplicas": count, "readyReplicas": count}  # fmt: skip
                for number in range(3):
                    at = f"/api/v1/namespaces/shop/pods/payments-{number}"
                    if number < count:
                        api.put(at, metadata={"labels": {"app": "payments"}})
                    else:
                        api.objects.pop(at, None)
            return code, value

        api.answer = controlled  # type: ignore[method-assign]
        yield api, cluster, journal


def served(api: SmallApi) -> None:
    """Let discovery know Deployments and their autoscalers."""
    real = api.answer

    def answer(
        method: str, path: str, query: dict[str, str], body: Any, content_type: str
    ) -> tuple[int, dict[str, Any]]:
        if path == "/apis/apps/v1":
            return 200, {"resources": [{"name": "deployments", "kind": "Deployment", "namespaced": True}]}
        if path == "/apis/autoscaling/v2":
            name = "horizontalpodautoscalers"
            return 200, {"resources": [{"name": name, "kind": "HorizontalPodAutoscaler", "namespaced": True}]}
        return real(method, path, query, body, content_type)

    api.answer = answer  # type: ignore[method-assign]


def test_on_and_off_again(world: World) -> None:
    api, cluster, journal = world
    served(api)
    told: list[str] = []
    weakness.apply(cluster, journal, "r1", EXPERIMENT, "payments-single-replica", told.append)
    assert api.objects[AUTOSCALER]["spec"] == {"minReplicas": 1}
    assert api.objects[DEPLOYMENT]["spec"]["replicas"] == 1
    pending = journal.pending()
    assert {e.action for e in pending} == {"weakness"}
    assert sorted(bool(e.inverse.check.get("rolled_out")) for e in pending) == [False, True]
    assert [u.state for u in weakness.lift(cluster, journal, "r1")] == ["done", "done"]
    assert api.objects[AUTOSCALER]["spec"] == {"minReplicas": 2}
    assert api.objects[DEPLOYMENT]["spec"] == {"replicas": 2, "selector": {"matchLabels": {"app": "payments"}}}
    assert weakness.lift(cluster, journal, "r1") == []


def test_the_inverse_is_on_disk_before_the_patch(world: World) -> None:
    api, cluster, journal = world
    served(api)
    api.refuse = lambda method, path: (500, "Boom", str(len(journal.pending()))) if method == "PATCH" else None
    with pytest.raises(ClusterError, match="500 1"):
        weakness.apply(cluster, journal, "r1", EXPERIMENT, "payments-single-replica")


def test_a_shop_that_does_not_follow_is_not_waited_for_for_ever(world: World) -> None:
    api, cluster, journal = world
    served(api)
    api.put("/api/v1/namespaces/shop/pods/payments-9", metadata={"labels": {"app": "payments"}})  # one that does not go
    with pytest.raises(DeadlineExceeded, match="2 pods, 1 wanted"):
        weakness.apply(cluster, journal, "r1", EXPERIMENT, "payments-single-replica", deadline_s=0.2)
    assert len(journal.pending()) == 2


def test_a_capped_autoscaler_is_on_when_there_are_no_more_pods_than_that(world: World) -> None:
    """Whoever came before may have left more of them."""
    api, cluster, journal = world
    served(api)
    scaler, target = AUTOSCALER.replace("payments", "storefront"), DEPLOYMENT.replace("payments", "storefront")
    api.put(scaler, spec={"maxReplicas": 6, "scaleTargetRef": {"kind": "Deployment", "name": "storefront"}})
    api.put(target, spec={"replicas": 6, "selector": {"matchLabels": {"app": "storefront"}}}, status={})
    with pytest.raises(DeadlineExceeded, match="6 of at most 2"):
        weakness.apply(cluster, journal, "r1", EXPERIMENT, "autoscaler-capped", deadline_s=0.2)
    status = {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2}
    told: list[str] = []

    def autoscaled(text: str) -> None:
        told.append(text)
        live = api.put(target, spec={"replicas": 2, "selector": {"matchLabels": {"app": "storefront"}}}, status={})
        live["status"] = {**status, "observedGeneration": live["metadata"]["generation"]}
        for number in range(2):
            api.put(f"/api/v1/namespaces/shop/pods/storefront-{number}", metadata={"labels": {"app": "storefront"}})

    weakness.apply(cluster, journal, "r2", EXPERIMENT, "autoscaler-capped", autoscaled)
    assert told == ["autoscaler-capped: storefront 6 pods, at most 2 allowed"]


def test_a_name_that_there_is_not_lists_those_there_are(world: World) -> None:
    with pytest.raises(BadInput, match="no weakness 'laziness'") as error:
        weakness.apply(world[1], world[2], "r1", EXPERIMENT, "laziness")
    assert "payments-single-replica" in str(error.value.hint)
    assert "laziness" not in str(error.value.hint)


def test_every_weakness_of_the_project_can_be_read_and_is_described() -> None:
    from shop.weakness import TABLE

    folder = weakness.folder_of(EXPERIMENT.path)
    names = weakness.known(folder)
    assert set(names) == set(TABLE)
    for name in names:
        for patch in weakness.patches(folder, name):
            assert patch["metadata"]["namespace"] == "shop"


@pytest.mark.parametrize("path", sorted((PROJECT / "experiments").glob("*.yaml")), ids=lambda p: str(p.stem))
def test_every_weak_twin_names_a_weakness_that_there_is(path: Path) -> None:
    twin = experiment.load(path).weak_twin
    assert twin is None or twin.weakness in weakness.known(weakness.folder_of(path))


def project(tmp_path: Path, kustomization: str, patch: str = "") -> Experiment:
    """An experiment in a project of its own with one weakness, `w`."""
    import dataclasses

    folder = tmp_path / "p/gitops/apps/weak/w"
    folder.mkdir(parents=True)
    (folder / "kustomization.yaml").write_text(kustomization)
    (folder / "patch.yaml").write_text(patch)
    return dataclasses.replace(EXPERIMENT, path=tmp_path / "p/experiments/e.yaml")


@pytest.mark.parametrize(
    ("kustomization", "patch", "said"),
    [
        ("patches: [{path: patch.yaml, target: {kind: x}}]", "", "has a path and nothing else"),
        ("patches: [{path: none.yaml}]", "", "cannot be read"),
        ("patches: [{path: patch.yaml}]", "kind: Deployment", "names apiVersion, kind and metadata.name"),
        ("resources: []", "", "has no patches"),
        ("- a list", "", "cannot be read"),
    ],
)
def test_a_weakness_that_cannot_be_read_changes_nothing(
    world: World, tmp_path: Path, kustomization: str, patch: str, said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        weakness.apply(world[1], world[2], "r1", project(tmp_path, kustomization, patch), "w")
    assert world[2].pending() == []


def test_a_weakness_outside_of_the_blast_radius_is_refused(world: World, tmp_path: Path) -> None:
    patch = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: x, namespace: kube-system}, spec: {replicas: 0}}"
    with pytest.raises(Refused, match="outside of the blast radius"):
        weakness.apply(world[1], world[2], "r1", project(tmp_path, "patches: [{path: patch.yaml}]", patch), "w")
