"""New versions of a Deployment, crowds, and how they are taken back; against a real API over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aftershock import crowd, faults, rollouts, targets, undo
from aftershock.cluster import Cluster
from aftershock.errors import BadInput, ClusterError, DeadlineExceeded
from aftershock.experiment import Activity
from tests.aftershock.small_api import SmallApi, serving

AT = "/apis/apps/v1/namespaces/shop/deployments/orders"
SCALER = "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers/orders"
World = tuple[SmallApi, Cluster]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A Deployment of two pods."""
    with serving(tmp_path) as (api, cluster, _):
        containers = [{"name": "orders", "image": "shop:1"}]
        api.put(AT, spec={"replicas": 2, "selector": {"matchLabels": {"app": "orders"}}, "template": {"spec": {"containers": containers}}},
                status={})  # fmt: skip
        for letter in "ab":
            api.put(f"/api/v1/namespaces/shop/pods/orders-{letter}", metadata={"labels": {"app": "orders"}})
        yield api, cluster


def settled(api: SmallApi) -> None:
    """Every change is followed at once."""
    real = api.answer

    def answer(
        method: str, path: str, query: dict[str, str], body: Any, content_type: str
    ) -> tuple[int, dict[str, Any]]:
        code, value = real(method, path, query, body, content_type)
        if path == AT and code == 200:
            live = api.objects[AT]
            live["status"] = {"observedGeneration": live["metadata"]["generation"],
                              **dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), 2)}  # fmt: skip
        return code, value

    api.answer = answer  # type: ignore[method-assign]


def inverse(cluster: Cluster, func: str, **arguments: Any) -> undo.Inverse:
    """What takes an action on orders back."""
    given = {"ns": "shop", "name": "orders", **arguments}
    (found,) = faults.inverse_of(
        Activity("hit", "action", "python", "aftershock.actions", func, given, {}), cluster, "run-1"
    )
    return found


def test_a_roll_is_waited_for_and_taken_back_exactly(world: World) -> None:
    api, cluster = world
    back = inverse(cluster, "roll_deployment")
    settled(api)
    before = dict(api.objects[AT]["spec"]["template"])
    done = rollouts.roll(cluster, "shop", "orders", "run-1", 5)
    assert done["deployment"] == "orders"
    assert api.objects[AT]["spec"]["template"]["metadata"]["annotations"] == {rollouts.ROLLED: "run-1"}
    assert "was" in str(undo.unmet(cluster, back))
    assert undo.apply(cluster, back, 5) is None
    assert api.objects[AT]["spec"]["template"]["spec"] == before["spec"]
    assert not api.objects[AT]["spec"]["template"].get("metadata")


def test_a_roll_that_stands_still_says_where(world: World) -> None:
    with pytest.raises(DeadlineExceeded, match=r"not complete within 0\.1 s: the change has not been looked at"):
        rollouts.roll(world[1], "shop", "orders", "run-1", 0.1)


def test_an_image_is_set_and_taken_back(world: World) -> None:
    api, cluster = world
    back = inverse(cluster, "set_image", image="shop:none")
    settled(api)
    assert rollouts.set_image(cluster, "shop", "orders", "shop:none", None)["was"] == "shop:1"
    assert api.objects[AT]["spec"]["template"]["spec"]["containers"][0]["image"] == "shop:none"
    assert undo.apply(cluster, back, 5) is None
    assert api.objects[AT]["spec"]["template"]["spec"]["containers"] == [{"name": "orders", "image": "shop:1"}]
    with pytest.raises(ClusterError, match="runs shop:1 already"):
        rollouts.set_image(cluster, "shop", "orders", "shop:1", None)


def test_which_container_is_never_guessed(world: World) -> None:
    api, cluster = world
    api.objects[AT]["spec"]["template"]["spec"]["containers"].append({"name": "helper", "image": "helper:1"})
    with pytest.raises(BadInput, match="containers orders, helper"):
        rollouts.set_image(cluster, "shop", "orders", "shop:2", None)
    aim = targets.of_image(cluster, {"ns": "shop", "name": "orders", "image": "shop:2", "container": "helper"})
    assert aim.asked["was"] == ["helper:1"]
    assert aim.pods == 2


def test_a_crowd_needs_an_autoscaler_to_ask_something_of(world: World) -> None:
    api, cluster = world
    arguments = {"ns": "shop", "name": "orders", "replicas": 6}
    assert targets.of_crowd(cluster, arguments).targets == ()
    resource = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
    api.put(SCALER, kind="HorizontalPodAutoscaler", spec={"scaleTargetRef": {"kind": "Deployment", "name": "orders"},
                                                          "metrics": [{"type": "Resource", "resource": resource}]})  # fmt: skip
    aim = targets.of_crowd(cluster, arguments)
    assert [t.name for t in aim.targets] == ["orders"]
    assert aim.asked == {"replicas": 6, "utilization": 80}
    assert aim.pods == 0


@pytest.mark.parametrize(("rate", "seconds"), [(0, 5), (-1, 5), (6000, 5), (10, 0), (10, 4000)])
def test_a_crowd_has_bounds(world: World, rate: float, seconds: float) -> None:
    with pytest.raises(BadInput, match="rate_per_s takes"):
        crowd.send(world[1], "shop", "orders", "http", "/", rate, seconds)
