"""Autoscalers over real controllers, in virtual time: sizes, conditions and events as upstream writes them."""

from __future__ import annotations

import asyncio
from typing import Any

from pocketkube.admission import defaults
from pocketkube.controllers import conditions, pods
from pocketkube.storage import Object
from pocketkube.usage import Amount, Usage
from tests.pocketkube.controllers.world import World, live, template


class Load:
    """So many cores over all ready pods; None: nothing is measured."""

    def __init__(self) -> None:
        self.cores: float | None = 0.1
        self.world: World

    def __call__(self, uid: str) -> Usage | None:
        if self.cores is None or not (ready := self.world.ready()):
            return None
        at_s = self.world.clock()
        each = {
            p["metadata"]["uid"]: Usage(at_s, 15, {"main": Amount(self.cores / len(ready), 1 << 20)}) for p in ready
        }
        return each.get(uid)


def autoscaler(w: World, **spec: Any) -> None:
    made: Object = {
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "payments"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "payments"}, "minReplicas": 2,
                 "maxReplicas": 6, "metrics": [{"type": "Resource", "resource": {
                     "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}], **spec},
    }  # fmt: skip
    defaults.fill("HorizontalPodAutoscaler", made)
    w.create("horizontalpodautoscalers", made)


def shop(w: World, replicas: int = 2) -> None:
    w.nodes("body", "body2")
    made = template({"app": "payments"})
    made["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "100m"}}
    w.deployment(replicas=replicas, template=made)


def size(w: World) -> int:
    return int(w.get("deployments", "payments")["spec"]["replicas"])


def reason(w: World, kind: str) -> str:
    found = conditions.find(w.get("horizontalpodautoscalers", "payments"), kind)
    return f"{found['status']} {found['reason']}" if found else ""


def run(test: Any, **settings: Any) -> None:
    load = Load()

    async def play(w: World) -> None:
        load.world = w
        await test(w, load)

    live(play, usage=load, **settings)


def test_load_grows_a_deployment_to_its_most_and_calm_shrinks_it_after_the_window() -> None:
    async def test(w: World, load: Load) -> None:
        shop(w)
        autoscaler(w)
        await asyncio.sleep(320)  # past the time in which CPU of starting pods does not count
        assert (size(w), reason(w, "ScalingActive")) == (2, "True ValidMetricFound")
        load.cores = 1.0
        assert await w.until(lambda: len(w.ready()) == 4) <= 17
        assert reason(w, "ScalingLimited") == "True ScaleUpLimit"
        assert await w.until(lambda: len(w.ready()) == 6) <= 32
        await asyncio.sleep(15)
        assert reason(w, "ScalingLimited") == "True TooManyReplicas"
        status = w.get("horizontalpodautoscalers", "payments")["status"]
        assert (status["currentReplicas"], status["desiredReplicas"]) == (6, 6)
        assert status["currentMetrics"][0]["resource"]["current"] == {"averageUtilization": 167, "averageValue": "167m"}
        above = "reason: cpu resource utilization (percentage of request) above target"
        assert set(w.notes("SuccessfulRescale")) == {f"New size: 4; {above}", f"New size: 6; {above}"}
        load.cores = 0.05
        await asyncio.sleep(290)
        assert (size(w), reason(w, "AbleToScale")) == (6, "True ScaleDownStabilized")
        await w.until(lambda: len(w.active()) == 2, 40)
        assert "New size: 2; reason: All metrics below target" in w.notes("SuccessfulRescale")

    run(test)


def test_it_looks_once_a_period_whatever_changes() -> None:
    async def test(w: World, load: Load) -> None:
        shop(w)
        load.cores = 0.6
        autoscaler(w, behavior={"scaleUp": {}})
        await asyncio.sleep(1)
        assert "status" not in w.get("horizontalpodautoscalers", "payments")
        await w.until(lambda: size(w) > 2, 40)
        looked = w.get("horizontalpodautoscalers", "payments")["status"]["lastScaleTime"]
        w.patch("horizontalpodautoscalers", "payments", lambda a: a["spec"].update(maxReplicas=3))
        await asyncio.sleep(1.5)
        assert size(w) > 3
        await w.until(lambda: size(w) == 3, 4)
        assert w.get("horizontalpodautoscalers", "payments")["status"]["lastScaleTime"] > looked
        assert "New size: 3; reason: Current number of replicas above Spec.MaxReplicas" in w.notes("SuccessfulRescale")

    run(test, autoscaler_sync_s=3)


def test_too_few_are_made_enough_without_any_metric() -> None:
    async def test(w: World, load: Load) -> None:
        load.cores = None
        shop(w, replicas=1)
        autoscaler(w)
        await w.until(lambda: size(w) == 2, 16)
        await asyncio.sleep(30)
        assert reason(w, "ScalingActive") == "False FailedGetResourceMetric"
        assert "no metrics returned from resource metrics API" in w.notes("FailedGetResourceMetric")[0]
        assert w.notes("FailedComputeMetricsReplicas")[0].startswith("invalid metrics (1 invalid out of 1)")
        assert size(w) == 2

    run(test)


def test_a_target_of_zero_is_left_alone_and_an_absent_one_is_told() -> None:
    async def test(w: World, load: Load) -> None:
        autoscaler(w)
        await asyncio.sleep(16)
        assert reason(w, "AbleToScale") == "False FailedGetScale"
        shop(w, replicas=0)
        await asyncio.sleep(16)
        assert reason(w, "AbleToScale") == "True SucceededGetScale"
        assert (size(w), reason(w, "ScalingActive")) == (0, "False ScalingDisabled")
        w.store.delete("horizontalpodautoscalers", "shop", "payments")
        w.patch("deployments", "payments", lambda d: d["spec"].update(replicas=1))
        await asyncio.sleep(40)
        assert size(w) == 1

    run(test)


def test_a_lost_metric_forbids_to_shrink_and_not_to_grow() -> None:
    async def test(w: World, load: Load) -> None:
        shop(w, replicas=4)
        memory = {
            "type": "Resource",
            "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 50}},
        }
        cpu = {
            "type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
        }
        autoscaler(w, metrics=[cpu, memory])  # nothing asks for memory, so that metric never has a value
        await asyncio.sleep(700)
        assert (size(w), reason(w, "ScalingActive")) == (4, "False FailedGetResourceMetric")
        load.cores = 0.3
        await w.until(lambda: size(w) == 6, 40)
        assert {pods.is_ready(p) for p in w.active()} <= {True, False}

    run(test)
