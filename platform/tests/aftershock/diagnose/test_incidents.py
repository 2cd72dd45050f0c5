"""Incidents in the shop that nobody told of, found from a run folder on a busy machine; and runs in which nothing happened."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from aftershock.diagnose import answer

from . import shop
from .shop import FAULT_FROM_S, Fault, Row, Shop, deployment_event, killed, node_event, pod_event

SOON = FAULT_FROM_S + 0.02
DRAINED = [
    node_event(SOON, "body2", unschedulable=True),
    *(line for n, s in enumerate(shop.NODES["body2"]) for line in killed(s, "body2", SOON + 0.3 * n)),
]
DOWN = [
    node_event(SOON + 1, "body2", ready=False),
    *(pod_event(SOON + 1.1, "MODIFIED", s, "body2", ready=False) for s in shop.NODES["body2"]),
]
PULLING = [{"name": "payments", "state": "waiting", "waiting": "ErrImagePull", "ready": False}]

INCIDENTS: dict[str, tuple[Fault, Sequence[Row], str]] = {
    "300 ms on every call to payments": (Fault("payments", 300), (), "payments"),
    "300 ms on half of the calls to payments": (Fault("payments", 300, share=0.5), (), "payments"),
    "100 ms on the way from cart to catalog": (Fault("catalog", 100, caller="cart"), (), "catalog"),
    "payments loses a third of what it is sent": (Fault("payments", lost=0.33), (), "payments"),
    "nobody reaches payments": (Fault("payments", lost=1), (), "payments"),
    "a payments pod is killed": (Fault("payments", refused=0.5, to_s=SOON + 1), killed("payments", "body"), "payments"),
    "a payments pod is killed and nobody feels it": (Fault(), killed("payments", "body"), "payments"),
    "the only catalog pod is killed": (Fault("catalog", refused=1, to_s=SOON + 2), killed("catalog", "body2"), "catalog"),
    "body2 is drained": (Fault("catalog", refused=1, from_s=SOON + 0.3, to_s=SOON + 2), DRAINED, "body2"),
    "body2 is down": (Fault("catalog", lost=1), DOWN, "body2"),
    "postgres is killed": (Fault("postgres", refused=1, to_s=SOON + 3), killed("postgres", "memory"), "postgres"),
    "postgres is slow": (Fault("postgres", 40), (), "postgres"),
    "cart has no processor": (Fault("cart", times=30), (), "cart"),
    "payments is scaled to zero": (
        Fault("payments", refused=1),
        [deployment_event(SOON, "payments", replicas=0), *killed("payments", "body"), *killed("payments", "body2")],
        "payments",
    ),
    "payments gets an image that does not exist": (
        Fault("payments", refused=0.5),
        [deployment_event(SOON, "payments", image="shop:2"), *killed("payments", "body", SOON + 0.5),
         pod_event(SOON + 1, "MODIFIED", "payments", "body3", phase="Pending", ready=False, containers=PULLING)],
        "payments",
    ),
    "orders is slow while a catalog pod is replaced": (Fault("orders", 300), killed("catalog", "body2", SOON + 4), "orders"),
}  # fmt: skip


@pytest.mark.parametrize("name", INCIDENTS)
def test_the_cause_is_found(name: str, tmp_path: Path) -> None:
    fault, events, culprit = INCIDENTS[name]
    found = answer.answer(Shop(3, fault).write(tmp_path, events).path)
    assert found["verdict"] == "root_cause"
    assert found["ranked"][0]["entity"] == culprit, found["ranked"]
    assert found["ranked"][0]["path"][0] == "storefront"
    assert found["ranked"][0]["path"][-1] == culprit
    assert abs(found["onset"] - shop.BEGIN_US / 1e6 - FAULT_FROM_S) <= 2
    assert any(e["outcome"] == "accepted" for e in found["edges"]) or fault == Fault()


def test_the_path_to_payments(tmp_path: Path) -> None:
    found = answer.answer(Shop(5, Fault("payments", 300)).write(tmp_path).path)
    assert found["ranked"][0]["path"] == ["storefront", "orders", "payments"]
    assert found["ranked"][0]["indicator"] == "latency_ms"
    by_pair = {(e["cause"], e["effect"]): e["outcome"] for e in found["edges"]}
    assert by_pair["payments", "orders"] == by_pair["orders", "storefront"] == "accepted"
    assert by_pair["postgres", "payments"] == by_pair["catalog", "storefront"] == "rejected"


@pytest.mark.parametrize("seed", range(8))
def test_a_control_run_has_no_root_cause(seed: int, tmp_path: Path) -> None:
    """With hiccups of the machine anywhere, and in half of the runs a machine that becomes three times as slow."""
    busy = (lambda at_s: 3.0 if at_s > FAULT_FROM_S - 1 else 1.0) if seed % 2 else (lambda at_s: 1.0)
    found = answer.answer(Shop(seed, busy=busy).write(tmp_path).path)
    assert (found["verdict"], found["ranked"]) == ("no_root_cause", [])


def test_a_pod_that_is_replaced_in_the_baseline_is_no_cause(tmp_path: Path) -> None:
    found = answer.answer(Shop(2).write(tmp_path, killed("cart", "body", FAULT_FROM_S - 4)).path)
    assert found["verdict"] == "no_root_cause"


def test_a_run_that_ended_before_its_fault_is_inconclusive(tmp_path: Path) -> None:
    made = Shop(2)
    made.spans = [s for s in made.spans if s["start_us"] < shop.BEGIN_US + FAULT_FROM_S * shop.SECOND]
    made.samples = [s for s in made.samples if s["start_us"] < shop.BEGIN_US + FAULT_FROM_S * shop.SECOND]
    assert answer.answer(made.write(tmp_path).path)["verdict"] == "inconclusive"


def test_a_run_with_hardly_a_baseline_is_inconclusive(tmp_path: Path) -> None:
    made = Shop(2, Fault("payments", 300))
    late = shop.BEGIN_US + (FAULT_FROM_S - 1) * shop.SECOND
    made.spans = [s for s in made.spans if s["start_us"] >= late]
    made.samples = [s for s in made.samples if s["start_us"] >= late]
    assert answer.answer(made.write(tmp_path).path)["verdict"] == "inconclusive"


def test_two_seconds_of_baseline_are_enough(tmp_path: Path) -> None:
    folder = Shop(2, Fault("payments", 300)).write(tmp_path)
    run = folder.read("run.json")
    run["windows"]["baseline"]["from_us"] += 4 * shop.SECOND
    folder.write("run.json", run)
    assert answer.answer(folder.path)["ranked"][0]["entity"] == "payments"


def test_a_run_is_diagnosed_within_a_second(tmp_path: Path) -> None:
    made = Shop(1, Fault("payments", 300))
    folder = made.write(tmp_path)
    assert len(made.spans) > 10_000
    began = time.process_time()
    answer.answer(folder.path)
    assert time.process_time() - began < 1.0
