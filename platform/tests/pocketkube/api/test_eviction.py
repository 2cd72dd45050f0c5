"""Eviction asks the budget, spends from it, and says no as upstream does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pocketkube.api.cluster import Cluster, pod

BUDGETS = "poddisruptionbudgets"


def budget(api: Cluster, name: str, app: str, allowed: int, **more: Any) -> None:
    spec: dict[str, Any] = {"minAvailable": 1, "selector": {"matchLabels": {"app": app}}, **more.pop("spec", {})}
    status = {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 1 + allowed, "desiredHealthy": 1, "expectedPods": 2,
              "conditions": [{"type": "DisruptionAllowed", "status": "True" if allowed else "False", "reason": ""}], **more}  # fmt: skip
    api.put(BUDGETS, {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name, "namespace": "default"},
                      "spec": spec, "status": status})  # fmt: skip


def evict(api: Cluster, name: str, **options: Any) -> Any:
    body = {"metadata": {"name": name, "namespace": "default"}, **({"deleteOptions": options} if options else {})}
    return api.request("POST", f"/api/v1/namespaces/default/pods/{name}/eviction", body)


def test_an_allowed_eviction_spends_the_budget_and_ends_the_pod(api: Cluster) -> None:
    budget(api, "spend", "spend", 1)
    api.put("pods", pod("one", app="spend"))
    api.put("pods", pod("two", app="spend"))
    assert evict(api, "one", gracePeriodSeconds=5).status_code == 201
    leaving = api.find("pods", "default", "one")
    assert leaving is not None
    assert leaving["metadata"]["deletionGracePeriodSeconds"] == 5
    assert leaving["status"]["conditions"][-1]["reason"] == "EvictionByEvictionAPI"
    spent = api.find(BUDGETS, "default", "spend")
    assert spent is not None
    assert spent["status"]["disruptionsAllowed"] == 0
    assert list(spent["status"]["disruptedPods"]) == ["one"]
    assert spent["status"]["conditions"][0]["reason"] == "InsufficientPods"
    refused = evict(api, "two")
    assert refused.status_code == 429
    told = refused.json()
    assert (told["reason"], told["message"]) == (
        "TooManyRequests",
        "Cannot evict pod as it would violate the pod's disruption budget.",
    )
    assert told["details"]["causes"] == [
        {"reason": "DisruptionBudget", "message": "The disruption budget spend needs 1 healthy pods and has 2 currently"}]  # fmt: skip
    assert evict(api, "one").status_code == 201  # it is going anyway, so it costs nothing


def test_a_budget_that_is_not_yet_counted_says_wait(api: Cluster) -> None:
    budget(api, "fresh", "fresh", 1, observedGeneration=0)
    api.put("pods", pod("fresh", app="fresh"))
    refused = evict(api, "fresh")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")


@pytest.mark.parametrize(
    ("phase", "ready", "spec", "status", "code"),
    [
        ("Pending", "False", {}, {}, 201),
        ("Succeeded", "False", {}, {}, 201),
        ("Running", "False", {}, {"currentHealthy": 1}, 201),
        ("Running", "False", {}, {"currentHealthy": 0}, 429),
        ("Running", "False", {"unhealthyPodEvictionPolicy": "AlwaysAllow"}, {"currentHealthy": 0}, 201),
        ("Running", "True", {"unhealthyPodEvictionPolicy": "AlwaysAllow"}, {}, 429),
    ],
)
def test_pods_that_serve_nobody_may_go(api: Cluster, phase: str, ready: str, spec: Any, status: Any, code: int) -> None:
    budget(api, "idle", "idle", 0, spec=spec, **status)
    obj = pod("idle", app="idle", phase=phase)
    obj["status"]["conditions"][0]["status"] = ready
    api.call(lambda: api.store.find("pods", "default", "idle") and api.store.delete("pods", "default", "idle"))
    api.put("pods", obj)
    assert evict(api, "idle").status_code == code


def test_two_budgets_over_one_pod_are_an_error(api: Cluster) -> None:
    budget(api, "double-a", "double", 1)
    budget(api, "double-b", "double", 1)
    api.put("pods", pod("double", app="double"))
    assert evict(api, "double").status_code == 500
    assert "more than one PodDisruptionBudget" in evict(api, "double").json()["message"]


def test_dry_runs_and_preconditions(api: Cluster) -> None:
    budget(api, "dry", "dry", 1)
    made = api.put("pods", pod("dry", app="dry"))
    assert evict(api, "dry", dryRun=["All"]).status_code == 201
    kept = api.find("pods", "default", "dry")
    assert kept == made
    assert evict(api, "dry", preconditions={"uid": "other"}).status_code == 409
    assert evict(api, "nobody").status_code == 404
