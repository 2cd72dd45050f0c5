"""The shop's manifests as they are, on the four nodes: where everything runs, and what a drain does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import yaml

from pocketkube.admission import defaults
from pocketkube.controllers import pods
from pocketkube.storage import Object
from tests.pocketkube.controllers.world import World, live

BASE = Path(__file__).parents[4] / "gitops" / "apps" / "base"
PLURAL = {
    "Service": "services",
    "Deployment": "deployments",
    "StatefulSet": "statefulsets",
    "PodDisruptionBudget": "poddisruptionbudgets",
}
ROLE = "aftershock.dev/role"


def deploy(w: World) -> dict[str, int]:
    """Create the four nodes and all that the manifests hold; the answer is how many pods each app wants."""
    w.nodes("brain", taints={"brain": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]})
    w.nodes("body", "body2", "memory", cpu="1")
    for node, role in (("body", "body"), ("body2", "body"), ("memory", "memory")):
        w.store.mutate("nodes", None, node, lambda n, r=role: n["metadata"]["labels"].update({ROLE: r}))  # type: ignore[misc]
    wanted: dict[str, int] = {}
    for path in sorted(BASE.glob("*.yaml")):
        for obj in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if (resource := PLURAL.get(obj["kind"])) is not None:
                defaults.fill(obj["kind"], obj)
                w.create(resource, obj)
                if "template" in obj["spec"]:
                    wanted[obj["spec"]["template"]["metadata"]["labels"]["app"]] = obj["spec"]["replicas"]
    return wanted


def up(w: World, wanted: dict[str, int]) -> bool:
    return all(len(w.ready(app=app)) == count for app, count in wanted.items())


def where(found: list[Object]) -> list[str]:
    return sorted(p["spec"]["nodeName"] for p in found)


def test_services_run_on_both_bodies_and_the_database_on_memory() -> None:
    async def test(w: World) -> None:
        wanted = deploy(w)
        assert len(wanted) == 7
        await w.until(lambda: up(w, wanted), 5)
        await asyncio.sleep(0.01)
        assert where(w.pods(app="postgres")) == ["memory"]
        for app, count in wanted.items():
            if app != "postgres":
                assert set(where(w.pods(app=app))) <= {"body", "body2"}
                assert count < 2 or where(w.pods(app=app)) == ["body", "body2"]
        assert w.get("poddisruptionbudgets", "payments")["status"]["disruptionsAllowed"] == 1

    live(test)


def test_a_drain_of_one_body_leaves_a_whole_shop() -> None:
    async def test(w: World) -> None:
        wanted = deploy(w)
        await w.until(lambda: up(w, wanted), 5)
        w.store.mutate("nodes", None, "body2", lambda n: n["spec"].update(unschedulable=True))
        for _ in range(60):  # as `kubectl drain` evicts: what a budget refuses is tried again
            for pod in w.active():
                budget = w.store.find("poddisruptionbudgets", "shop", pod["metadata"]["labels"]["app"])
                if pod["spec"]["nodeName"] == "body2" and (
                    budget is None or budget["status"]["disruptionsAllowed"] > 0
                ):
                    pods.end(w.store, pod, w.clock())
                    await asyncio.sleep(0.001)
            await asyncio.sleep(1)
        assert up(w, wanted)
        assert set(where(w.pods())) <= {"body", "memory"}

    live(test)
