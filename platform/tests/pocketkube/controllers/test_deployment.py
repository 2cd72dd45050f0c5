"""Deployments: rollouts, scaling, rollback, pause, deadlines."""

from __future__ import annotations

from tests.pocketkube.controllers.world import World, live


def test_pods_come_up_and_the_status_says_so() -> None:
    async def test(w: World) -> None:
        w.nodes("body", "body2")
        w.deployment()
        await w.until(lambda: len(w.ready()) == 2)
        await w.until(
            lambda: w.condition("deployments", "payments", "Progressing")["reason"] == "NewReplicaSetAvailable"
        )
        assert w.get("deployments", "payments")["status"]["availableReplicas"] == 2

    live(test)
