"""The arithmetic of autoscalers: from usage to replicas, and what policies and windows leave of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketkube.admission import defaults
from pocketkube.controllers.moments import stamp
from pocketkube.controllers.scaling import History, NoMetric, grouped, normalized, proposal, quantity
from pocketkube.storage import Object
from pocketkube.usage import Amount, Usage

NOW_S = 1_800_000_000.0
UTILIZATION = {"type": "Utilization", "averageUtilization": 50}


def pod(name: str, *, ready: bool = True, age_s: float = 3600, changed_s: float | None = None, phase: str = "Running",
        request: str | None = "100m", **meta: Any) -> Object:  # fmt: skip
    resources = {"requests": {"cpu": request, "memory": "100Mi"}} if request else {}
    at_s = NOW_S - (age_s if changed_s is None else changed_s)
    return {
        "metadata": {"name": name, **meta},
        "spec": {"containers": [{"name": "main", "resources": resources}]},
        "status": {"phase": phase, "startTime": stamp(NOW_S - age_s), "conditions": [
            {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": stamp(at_s)}]},
    }  # fmt: skip


def used(**cores: float) -> dict[str, Usage]:
    return {name: Usage(NOW_S, 15, {"main": Amount(value, 100 << 20)}) for name, value in cores.items()}


def wanted(every: list[Object], usages: dict[str, Usage], target: Object = UTILIZATION, name: str = "cpu") -> int:
    metric = {"type": "Resource", "resource": {"name": name, "target": target}}
    return proposal(metric, every, usages, len(every), NOW_S).replicas


A, B = pod("a"), pod("b")
IDLE = pod("c", age_s=20, changed_s=5)  # its window reaches back to before it was ready
CASES: list[tuple[str, list[Object], dict[str, Usage], int]] = [
    ("twice the target is twice the pods", [A, B], used(a=0.1, b=0.1), 4),
    ("a fraction is rounded up", [A, B], used(a=0.06, b=0.06), 3),
    ("within the tolerance nothing changes", [A, B], used(a=0.05, b=0.059), 2),
    ("half the target is half the pods", [A, B], used(a=0.02, b=0.03), 1),
    ("a missing pod is idle when it would grow", [A, B], used(a=0.14), 3),
    ("a missing pod is busy when it would shrink", [A, B], used(a=0.01), 2),
    ("a missing pod never turns the direction", [A, B], used(a=0.056), 2),
    ("a young pod that is not ready is idle when it would grow", [A, B, pod("c", age_s=20, ready=False)], used(a=0.1, b=0.1, c=9), 4),
    ("a young pod counts only with a window since it was ready", [A, B, IDLE], used(a=0.1, b=0.1, c=9), 4),
    ("a young ready pod counts", [A, B, pod("c", age_s=60)], used(a=0.1, b=0.1, c=0.1), 6),
    ("an old pod that is not ready now counts", [A, pod("b", ready=False, changed_s=60)], used(a=0.1, b=0.1), 4),
    ("an old pod that was never ready does not", [A, pod("b", ready=False, changed_s=3590)], used(a=0.1, b=9), 2),
    ("a pending pod is idle", [A, pod("b", phase="Pending")], used(a=0.15), 3),
    ("a pod that ends is nobody", [A, B, pod("c", deletionTimestamp="now")], used(a=0.1, b=0.1, c=9), 4),
    ("a failed pod is nobody", [A, B, pod("c", phase="Failed")], used(a=0.1, b=0.1, c=9), 4),
]  # fmt: skip


@pytest.mark.parametrize(("every", "usages", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_replicas_by_utilization(every: list[Object], usages: dict[str, Usage], expected: int) -> None:
    assert wanted(every, usages) == expected


def test_replicas_by_an_average_need_no_requests() -> None:
    every = [pod("a", request=None), pod("b", request=None)]
    assert wanted(every, used(a=0.3, b=0.1), {"type": "AverageValue", "averageValue": "100m"}) == 4
    assert wanted(every, used(a=0.3, b=0.1), {"type": "AverageValue", "averageValue": "50Mi"}, "memory") == 4


@pytest.mark.parametrize(("every", "usages", "why"), [
    ([A], {}, "no metrics returned from resource metrics API"),
    ([pod("a", request=None)], used(a=1), "missing request for cpu in container main of Pod a"),
    ([pod("a", age_s=5, ready=False)], used(a=1), "did not receive metrics for targeted pods (pods might be unready)"),
])  # fmt: skip
def test_a_metric_without_a_value_says_why(every: list[Object], usages: dict[str, Usage], why: str) -> None:
    with pytest.raises(NoMetric) as caught:
        wanted(every, usages)
    assert str(caught.value).startswith("failed to get cpu utilization: ")
    assert str(caught.value).endswith(why)


def test_memory_counts_of_young_pods_too() -> None:
    young = pod("a", age_s=5, ready=False)
    assert grouped([young], used(a=1), "memory", NOW_S).ready == 1
    assert grouped([young], used(a=1), "cpu", NOW_S).unready == {"a"}


@pytest.mark.parametrize(("thousandths", "text"), [(0, "0"), (1000, "1"), (1500, "1500m"), (7, "7m")])
def test_quantities_are_short(thousandths: int, text: str) -> None:
    assert quantity(thousandths) == text


# ---- policies and windows


def spec(behavior: Object | None = None, least: int = 2, most: int = 6) -> Object:
    made: Object = {"spec": {"minReplicas": least, "maxReplicas": most, "behavior": behavior}}
    if behavior is None:
        del made["spec"]["behavior"]
    defaults.fill("HorizontalPodAutoscaler", made)
    done: Object = made["spec"]
    return done


def steps(wishes: list[tuple[float, int]], of: Object, current: int = 2) -> list[tuple[int, str, str]]:
    """Play wishes at times: (size, AbleToScale's reason, ScalingLimited's reason) of each."""
    history, found = History(), []
    for at_s, wish in wishes:
        size, able, (limited, why) = normalized(of, history, current, wish, NOW_S + at_s)
        assert limited == (why[0] in ("TooManyReplicas", "TooFewReplicas", "ScaleUpLimit", "ScaleDownLimit"))
        if size != current:
            history.did(current, size, NOW_S + at_s, 1800)
        current = size
        found.append((size, able[0], why[0]))
    return found


def test_without_a_behavior_growth_doubles_and_shrinking_waits_five_minutes() -> None:
    done = steps([(0, 20), (15, 20), (30, 20), (45, 2), (329, 2), (331, 2)], spec(most=10))
    assert [size for size, _, _ in done] == [4, 8, 10, 10, 10, 2]
    assert [why for _, _, why in done][:3] == ["ScaleUpLimit", "ScaleUpLimit", "TooManyReplicas"]
    assert [able for _, able, _ in done][3:] == ["ScaleDownStabilized", "ScaleDownStabilized", "ReadyForNewScale"]


def rules(kind: str, value: int, period: int = 15, **more: Any) -> Object:
    return {"policies": [{"type": kind, "value": value, "periodSeconds": period}], **more}


def test_a_policy_holds_over_its_period() -> None:
    done = steps([(0, 6), (5, 6), (16, 6)], spec({"scaleUp": rules("Pods", 1)}))
    assert [(size, why) for size, _, why in done] == [(3, "ScaleUpLimit"), (3, "ScaleUpLimit"), (4, "ScaleUpLimit")]


def test_the_default_policies_of_a_behavior_let_four_pods_grow_at_once() -> None:
    assert steps([(0, 20), (1, 20), (16, 20)], spec({"scaleDown": {}}, most=20)) == [
        (6, "ReadyForNewScale", "ScaleUpLimit"), (6, "ReadyForNewScale", "ScaleUpLimit"), (12, "ReadyForNewScale", "ScaleUpLimit"),
    ]  # fmt: skip


def test_policies_are_chosen_by_select_policy() -> None:
    both = [{"type": "Pods", "value": 1, "periodSeconds": 15}, {"type": "Percent", "value": 200, "periodSeconds": 15}]
    for chosen, size in (("Max", 6), ("Min", 3), ("Disabled", 2)):
        assert steps([(0, 6)], spec({"scaleUp": {"policies": both, "selectPolicy": chosen}}))[0][0] == size
    for chosen, size in (("Max", 2), ("Min", 5), ("Disabled", 6)):
        down = {"policies": both, "selectPolicy": chosen, "stabilizationWindowSeconds": 0}
        assert steps([(0, 2)], spec({"scaleDown": down}), current=6)[0][0] == size


def test_windows_take_the_most_careful_wish() -> None:
    of = spec(
        {
            "scaleUp": {"stabilizationWindowSeconds": 30},
            "scaleDown": rules("Percent", 100, stabilizationWindowSeconds=60),
        }
    )
    done = steps([(0, 2), (10, 6), (31, 6), (41, 3), (100, 3)], of)
    assert [(size, able) for size, able, _ in done] == [
        (2, "ReadyForNewScale"), (2, "ScaleUpStabilized"), (6, "ReadyForNewScale"), (6, "ScaleDownStabilized"), (3, "ReadyForNewScale"),
    ]  # fmt: skip


def test_bounds_hold_whatever_is_wished() -> None:
    assert steps([(0, 1)], spec({"scaleDown": {"stabilizationWindowSeconds": 0}}), current=3)[0][::2] == (
        2,
        "TooFewReplicas",
    )
    assert steps([(0, 9)], spec({"scaleUp": rules("Pods", 10)}))[0][::2] == (6, "TooManyReplicas")


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.floats(0, 60), st.integers(0, 40)), max_size=20),
    st.sampled_from([None, {}, {"scaleUp": rules("Pods", 1)}]),
)
def test_no_wish_leads_out_of_the_bounds(wishes: list[tuple[float, int]], behavior: Object | None) -> None:
    at_s, played = 0.0, []
    for later_s, wish in wishes:
        at_s += later_s
        played.append((at_s, wish))
    assert all(2 <= size <= 6 for size, _, _ in steps(played, spec(behavior)))
