"""NetworkChaos objects: whom they choose, which rules they make, what their status says."""

from __future__ import annotations

from typing import Any

import pytest

from pocketkube.flow import Rule
from pocketkube.network_chaos import rules_of, seconds, select, some, status_of
from pocketkube.storage import Store

A, B = [("shop/a", "ua")], [("shop/b", "ub")]


def pod(
    name: str, namespace: str = "shop", phase: str = "Running", ip: str = "127.1.2.1", **meta: Any
) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace, "labels": {"app": name[0]}, **meta}, "spec": {"nodeName": "body"},
            "status": {"phase": phase, "podIP": ip}}  # fmt: skip


def chaos(action: str = "delay", direction: str = "to", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"uid": "c", "namespace": "shop"}, "spec": {
        "action": action, "direction": direction, "delay": {"latency": "300ms", "jitter": "50ms", "correlation": "25"},
        "loss": {"loss": "12.5"}, **spec}}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"), [("300ms", 0.3), ("1m30s", 90), ("1.5h", 5400), ("0", 0), ("10us", 1e-5)]
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("direction", "pairs"),
    [("to", [("ua", "ub")]), ("from", [("ub", "ua")]), ("both", [("ua", "ub"), ("ub", "ua")])],
)
def test_directions(direction: str, pairs: list[tuple[str, str]]) -> None:
    rules = rules_of(chaos(direction=direction), A, B)
    assert [(*(r.sources or ()), *(r.targets or ())) for r in rules] == pairs
    assert rules[0].latency_s == pytest.approx(0.3)
    assert rules[0].jitter_s == pytest.approx(0.05)
    assert rules[0].correlation == pytest.approx(0.25)


def test_without_target_the_other_side_is_anybody_also_outside() -> None:
    (rule,) = rules_of(chaos("loss"), A, None)
    assert rule == Rule("c/to", "loss", frozenset({"ua"}), None, loss=0.125)
    assert rule.covers("ua", None)
    assert rule.covers("ua", "ub")
    assert not rule.covers("ub", "ua")
    assert not rule.covers(None, "ua")


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ({"namespaces": ["shop"], "labelSelectors": {"app": "a"}}, ["a1", "a2"]),
        ({"labelSelectors": {"app": "a"}}, ["a1", "a2"]),
        ({"namespaces": ["other"]}, ["a3"]),
        ({"pods": {"shop": ["a2", "b1"]}}, ["a2", "b1"]),
        ({"expressionSelectors": [{"key": "app", "operator": "NotIn", "values": ["a"]}]}, ["b1"]),
        ({"nodes": ["memory"]}, []),
        ({"annotationSelectors": {"x": "y"}}, []),
        ({"labelSelectors": {"app": "absent"}}, []),
    ],
)
def test_who_is_selected(selector: dict[str, Any], names: list[str]) -> None:
    store = Store()
    for made in (pod("a1"), pod("a2"), pod("b1"), pod("a3", "other"), pod("a4", phase="Pending"), pod("a5", ip=""),
                 pod("a6", deletionTimestamp="2026-01-01T00:00:00Z")):  # fmt: skip
        store.create("pods", made)
    assert [p["metadata"]["name"] for p in select(store, selector, "shop")] == names


@pytest.mark.parametrize(
    ("mode", "value", "count"),
    [("all", "", 4), ("one", "", 1), ("fixed", "3", 3), ("fixed", "9", 4), ("fixed-percent", "50", 2)],
)
def test_modes(mode: str, value: str, count: int) -> None:
    pods = [pod(f"a{n}") for n in range(4)]
    chosen = some(pods, mode, value, "seed")
    assert len(chosen) == count
    assert chosen == some(pods, mode, value, "seed"), "the same object chooses the same pods"


def conditions(status: dict[str, Any]) -> dict[str, str]:
    return {c["type"]: c["status"] for c in status["conditions"]}


def test_status_from_injection_to_recovery() -> None:
    injected = status_of(chaos(), A, B, True, {})
    assert conditions(injected) == {
        "Selected": "True",
        "AllInjected": "True",
        "AllRecovered": "False",
        "Paused": "False",
    }
    assert [(r["id"], r["selectorKey"], r["phase"]) for r in injected["experiment"]["containerRecords"]] == [
        ("shop/a", ".", "Injected"), ("shop/b", ".Target", "Injected")]  # fmt: skip
    assert status_of(chaos(), A, B, True, injected) == injected, "nothing new is nothing written"
    recovered = status_of(chaos(), A, B, False, injected)
    assert conditions(recovered) == {
        "Selected": "True",
        "AllInjected": "False",
        "AllRecovered": "True",
        "Paused": "False",
    }
    record = recovered["experiment"]["containerRecords"][0]
    assert (record["injectedCount"], record["recoveredCount"], recovered["experiment"]["desiredPhase"]) == (
        1,
        1,
        "Stop",
    )


def test_nothing_selected_is_not_injected() -> None:
    status = status_of(chaos(), [], None, False, {})
    assert conditions(status)["Selected"] == "False"
    assert conditions(status)["AllInjected"] == "False"
    assert status["experiment"] == {"desiredPhase": "Run", "containerRecords": []}
