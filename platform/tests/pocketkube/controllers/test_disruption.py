"""PodDisruptionBudgets: arithmetic, status, granted evictions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkube.controllers import pods
from pocketkube.controllers.disruption import Budget, desired
from pocketkube.controllers.moments import stamp
from pocketkube.storage import Object
from tests.pocketkube.controllers.world import World, live, template


@pytest.mark.parametrize(
    ("spec", "pods_found", "scale", "expected"),
    [
        ({"minAvailable": 1}, 2, 2, (2, 1)),
        ({"minAvailable": "50%"}, 3, 3, (3, 2)),
        ({"minAvailable": "50%"}, 3, 7, (7, 4)),  # of what the controllers want, not of what is there
        ({"maxUnavailable": 1}, 2, 2, (2, 1)),
        ({"maxUnavailable": 5}, 2, 2, (2, 0)),
        ({"maxUnavailable": "30%"}, 5, 5, (5, 3)),
        ({"maxUnavailable": 0}, 2, 2, (2, 2)),
        ({"maxUnavailable": "0%"}, 2, 2, (2, 2)),
        ({}, 2, 2, (2, 1)),
    ],
)
def test_desired(spec: Object, pods_found: int, scale: int, expected: tuple[int, int]) -> None:
    assert desired(spec, pods_found, scale) == expected


@given(
    st.integers(0, 20), st.integers(0, 20), st.one_of(st.integers(0, 25), st.integers(0, 100).map(lambda n: f"{n}%")),
    st.sampled_from(["minAvailable", "maxUnavailable"]),
)  # fmt: skip
def test_what_is_allowed_never_breaks_the_budget(scale: int, healthy: int, value: Any, kind: str) -> None:
    expected, least = desired({kind: value}, scale, scale)
    allowed = Budget(expected, healthy, least).allowed
    assert 0 <= allowed <= healthy
    assert allowed == 0 or healthy - allowed >= least
    if kind == "maxUnavailable":
        assert least <= scale


def budget(w: World, selector: Object | None = None, **spec: Any) -> Object:
    return w.create("poddisruptionbudgets", {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "payments"},
        "spec": {"selector": {"matchLabels": {"app": "payments"}} if selector is None else selector, **spec},
    })  # fmt: skip


def numbers(w: World) -> tuple[int, int, int, int]:
    s = w.get("poddisruptionbudgets", "payments")["status"]
    return s["expectedPods"], s["currentHealthy"], s["desiredHealthy"], s["disruptionsAllowed"]


def allowed(w: World) -> tuple[str, str]:
    found = w.condition("poddisruptionbudgets", "payments", "DisruptionAllowed")
    return found["status"], found["reason"]


def test_a_budget_follows_its_pods() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        budget(w, minAvailable=1)
        w.deployment()
        await asyncio.sleep(0.1)
        assert (numbers(w), allowed(w)) == ((2, 0, 1, 0), ("False", "InsufficientPods"))
        await asyncio.sleep(1)
        assert (numbers(w), allowed(w)) == ((2, 2, 1, 1), ("True", "SufficientPods"))
        pods.end(w.store, w.ready()[0], w.clock())
        await asyncio.sleep(0.001)
        assert numbers(w)[1:] == (1, 1, 0)
        await asyncio.sleep(2)
        assert (numbers(w), allowed(w)) == ((2, 2, 1, 1), ("True", "SufficientPods"))
        assert w.get("poddisruptionbudgets", "payments")["status"]["observedGeneration"] == 1

    live(test)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"maxUnavailable": "50%"}, (4, 4, 2, 2)),
        ({"minAvailable": "100%"}, (4, 4, 4, 0)),
        ({"maxUnavailable": 0}, (4, 4, 4, 0)),
        ({"minAvailable": 9}, (4, 4, 9, 0)),
    ],
)
def test_shares_are_of_what_the_deployment_wants(spec: Object, expected: tuple[int, int, int, int]) -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        budget(w, **spec)
        w.deployment(replicas=4)
        await asyncio.sleep(2)
        assert numbers(w) == expected
        w.patch("deployments", "payments", lambda d: d["spec"].update(paused=True))
        assert numbers(w) == expected

    live(test)


def test_a_scaled_deployment_changes_its_budget() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        budget(w, maxUnavailable="50%")
        w.deployment(replicas=4)
        await asyncio.sleep(2)
        w.patch("deployments", "payments", lambda d: d["spec"].update(replicas=8))
        await asyncio.sleep(0.01)
        assert numbers(w) == (8, 4, 4, 0)
        await asyncio.sleep(2)
        assert numbers(w) == (8, 8, 4, 4)

    live(test)


def grant(w: World, name: str) -> None:
    """As the eviction API writes it."""
    w.patch("poddisruptionbudgets", "payments", lambda b: b["status"].update(
        disruptionsAllowed=b["status"]["disruptionsAllowed"] - 1, disruptedPods={name: stamp(w.clock())}))  # fmt: skip


def test_a_granted_eviction_counts_until_the_pod_ends_or_two_minutes_pass() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        budget(w, minAvailable=1)
        w.deployment()
        await asyncio.sleep(2)
        name = w.ready()[0]["metadata"]["name"]
        grant(w, name)
        await asyncio.sleep(100)
        assert numbers(w) == (2, 1, 1, 0)
        await asyncio.sleep(25)
        assert numbers(w) == (2, 2, 1, 1)
        assert "disruptedPods" not in w.get("poddisruptionbudgets", "payments")["status"]
        assert w.notes("NotDeleted") == ["Pod was expected by PDB shop/payments to be deleted but it wasn't"]
        grant(w, name)
        pods.end(w.store, w.get("pods", name), w.clock())
        await asyncio.sleep(0.01)
        assert "disruptedPods" not in w.get("poddisruptionbudgets", "payments")["status"]

    live(test)


@pytest.mark.parametrize("selector", [None, {}])
def test_an_empty_selector_takes_all_pods_of_the_namespace(selector: Object | None) -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        budget(w, selector=selector, minAvailable=1)
        w.deployment()
        w.deployment("other")
        await asyncio.sleep(2)
        assert numbers(w) == ((2, 2, 1, 1) if selector is None else (4, 4, 1, 3))

    live(test)


def test_without_pods_nothing_is_allowed() -> None:
    async def test(w: World) -> None:
        budget(w, minAvailable=0)
        w.nodes("body")
        await asyncio.sleep(1)
        assert numbers(w) == (0, 0, 0, 0)
        assert w.notes("NoPods") == ["No matching pods found"]

    live(test)


def test_a_pod_of_an_unknown_controller_blocks_shares() -> None:
    async def test(w: World) -> None:
        w.nodes("body")
        by = {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "1", "controller": True}
        owner = w.create("configmaps", {"metadata": {"name": "j"}})
        by["uid"] = owner["metadata"]["uid"]
        made = template({"app": "payments"})
        w.create(
            "pods",
            {
                "metadata": {"name": "x", "labels": {"app": "payments"}, "ownerReferences": [by]},
                "spec": made["spec"],
                "status": {},
            },
        )
        budget(w, maxUnavailable=1)
        await asyncio.sleep(1)
        assert allowed(w) == ("False", "SyncFailed")
        assert numbers(w)[3] == 0

    live(test)
