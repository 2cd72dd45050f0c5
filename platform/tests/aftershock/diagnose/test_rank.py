"""The ranking: right on constructed incidents, and silent where nothing happened or nothing was seen."""

from __future__ import annotations

import random

import pytest

from aftershock.diagnose.case import Case, Disruption, Impact, Series, kind_of
from aftershock.diagnose.rank import diagnose

CALLS = frozenset(
    {("front", "orders"), ("front", "catalog"), ("orders", "payments"), ("payments", "db"), ("catalog", "db")}
)
DEPTH = ("db", "payments", "catalog", "orders", "front")  # callees before callers
START, ROWS = 100.0, 40


def series(level: float, extra: float, rng: random.Random, late: float = START) -> Series:
    times = tuple(START - ROWS / 2 + n for n in range(ROWS))
    return Series(times, tuple(level * rng.uniform(0.95, 1.05) + (extra if t >= late else 0.0) for t in times))


def incident(
    own_ms: dict[str, float], errors: dict[str, float] | None = None, *, seed: int = 1, **more: object
) -> Case:
    """Latency and errors that travel from callees to callers, as in a real call graph."""
    rng = random.Random(seed)
    extra: dict[str, float] = {}
    broken: dict[str, float] = {}
    found: dict[tuple[str, str], Series] = {}
    for name in DEPTH:
        callees = [b for a, b in CALLS if a == name]
        extra[name] = own_ms.get(name, 0.0) + sum(extra[c] for c in callees)
        broken[name] = min(1.0, (errors or {}).get(name, 0.0) + sum(broken[c] for c in callees))
        found[name, "latency_ms"] = series(10.0, extra[name], rng)
        found[name, "error_ratio"] = series(0.0, broken[name], rng)
        found[name, "requests"] = series(40.0, 0.0, rng)
    return Case(found, CALLS, Impact("front", None, START), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("culprit", ["db", "payments", "catalog", "orders", "front"])
def test_the_slow_service_is_found_and_the_path_leads_to_it(culprit: str) -> None:
    found = diagnose(incident({culprit: 300.0}))
    assert found.verdict == "root_cause"
    assert found.ranked[0].entity == culprit
    assert found.ranked[0].path[0] == "front"
    assert found.ranked[0].path[-1] == culprit
    assert found.ranked[0].indicator == "latency_ms"
    assert found.onset is not None
    assert abs(found.onset - START) <= 2


@pytest.mark.parametrize("culprit", ["payments", "catalog"])
def test_the_failing_service_is_found(culprit: str) -> None:
    found = diagnose(incident({}, {culprit: 0.3}))
    assert found.ranked[0].entity == culprit
    assert found.ranked[0].indicator == "error_ratio"


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_root_cause(seed: int) -> None:
    assert diagnose(incident({}, seed=seed)).verdict == "no_root_cause"


def test_too_little_is_inconclusive() -> None:
    few = Series((1.0, 2.0), (1.0, 9.0))
    assert diagnose(Case({("a", "latency"): few}, frozenset(), Impact("a", None, 2.0))).verdict == "inconclusive"
    assert diagnose(Case({}, frozenset(), Impact(None, None, None))).verdict == "inconclusive"


def test_nothing_after_the_start_is_inconclusive() -> None:
    case = incident({})
    assert diagnose(Case(case.series, case.calls, Impact("front", None, 1e9))).verdict == "inconclusive"


def test_a_start_that_is_not_given_is_found() -> None:
    case = incident({"payments": 400.0})
    found = diagnose(Case(case.series, case.calls, Impact("front", "latency_ms", None)))
    assert found.ranked[0].entity == "payments"
    assert found.onset == pytest.approx(START, abs=2)


def test_a_node_explains_what_several_services_lost() -> None:
    lost = [
        Disruption(START + 0.1 * n, name, "pod ended", "body2")
        for n, name in enumerate(("orders", "payments", "catalog"))
    ]
    drained = [Disruption(START, "body2", "node unschedulable", "body2"), *lost]
    hosts = {"body2": frozenset({"orders", "payments", "catalog"})}
    found = diagnose(incident({}, disruptions=drained, hosts=hosts))
    assert found.ranked[0].entity == "body2"
    assert found.ranked[0].path == ("front", "catalog", "body2"), "the first service on it, by name"


def test_one_lost_pod_points_to_its_service_and_not_to_its_node() -> None:
    lost = [Disruption(START + 0.2, "payments", "pod ended", "body2")]
    found = diagnose(
        incident({}, {"payments": 0.05}, disruptions=lost, hosts={"body2": frozenset({"payments", "orders"})})
    )
    assert [r.entity for r in found.ranked] == ["payments"]


def test_edges_pass_or_fail_the_three_way_test() -> None:
    found = diagnose(incident({"payments": 300.0}))
    by_pair = {(e.cause, e.effect): e for e in found.edges}
    assert by_pair["payments", "orders"].accepted
    assert by_pair["orders", "front"].accepted
    assert not by_pair["db", "payments"].accepted
    assert "db did not deviate" in by_pair["db", "payments"].why


def test_without_calls_the_robust_scorer_finds_the_resource() -> None:
    rng = random.Random(3)
    metrics = {(e, m): series(50.0, 0.0, rng) for e in ("a", "b", "c") for m in ("cpu", "mem", "latency")}
    metrics["b", "cpu"] = series(50.0, 900.0, rng)
    metrics["a", "latency"] = series(50.0, 60.0, rng)
    found = diagnose(Case(metrics, frozenset(), Impact("a", "latency", START)))
    assert found.ranked[0].entity in ("a", "b")
    assert {r.entity for r in found.ranked} == {"a", "b"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("latency_p95", "latency"), ("p99", "latency"), ("carts_error", "errors"), ("availability_Average", "availability"),
     ("requests_Sum", "requests"), ("workload", "requests"), ("cpu", "resource"), ("container_memory", "resource"), ("map50", "resource")],
)  # fmt: skip
def test_metrics_are_known_by_their_names(name: str, kind: str) -> None:
    assert kind_of(name) == kind
