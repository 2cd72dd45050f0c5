"""A fixed part of the experiments on a real cluster, and a weak twin: what each must come to, and why.

`payments-pod-kill` itself is run in test_rbac.py, by an account with the least rights; a node loses its power in test_robust.py. All
experiments: `pytest experiments/ --aftershock-on CONTEXT --aftershock-unleash`.
"""

from __future__ import annotations

from typing import Any

import pytest

from aftershock import experiment
from tests.k8s.conftest import PROJECT, Bed


def told(verdict: dict[str, Any]) -> str:
    return "\n".join(
        f"{f['outcome']} {f['rule']}: {f['summary']}" for f in verdict["findings"] if f["outcome"] != "PASS"
    )


def broke(verdict: dict[str, Any], what: str) -> bool:
    """Whether an indicator, an invariant or the recovery is among what failed."""
    failed = [f for f in verdict["findings"] if f["outcome"] == "FAIL"]
    return any(f["rule"] == what or what in f["summary"] for f in failed)


def came_to(bed: Bed, name: str, code: int, *more: str) -> dict[str, Any]:
    """The verdict of a run to its end, which must be the one of this exit code, with nothing left to undo."""
    run = bed.run(PROJECT / f"experiments/{name}.yaml", *more)
    run.wait(200)
    verdict = bed.verdict(name)
    assert run.returncode == code, told(verdict)
    assert bed.document(name, "evidence.json")["undo"]["pending"] == 0
    return verdict


def test_nothing_is_broken_and_the_way_to_the_shop_is_told(bed: Bed) -> None:
    came_to(bed, "control", 0)
    path = bed.document("control", "run.json")["load"]["path"]
    assert path["kind"] in ("node-port", "load-balancer", "ingress")
    assert path["honest"] is True
    assert path["idle_answers"] == 20
    assert path["busy_requests"] > 100
    assert path["text"] in (bed.reports / "control" / "latest" / "report.html").read_text()


def test_a_drain_that_a_budget_refuses(bed: Bed) -> None:
    came_to(bed, "drain-refused", 0)


def test_one_replica_is_not_enough(bed: Bed) -> None:
    name = "payments-pod-kill"
    verdict = came_to(bed, name, 1, "--weak")
    (fault,) = bed.document(name, "evidence.json")["faults"]
    assert fault["steps"]["observed"] is not None
    twin = experiment.load(PROJECT / f"experiments/{name}.yaml").weak_twin
    assert twin is not None
    assert broke(verdict, twin.must_break), told(verdict)


def test_a_fault_that_this_cluster_has_not_is_found_before_load_starts(bed: Bed) -> None:
    if bed.cluster.served("chaos-mesh.org/v1alpha1", "NetworkChaos"):
        pytest.skip("this cluster has Chaos Mesh")
    bed.call(
        "run",
        str(PROJECT / "experiments/payments-latency.yaml"),
        "--on",
        bed.context,
        "--unleash",
        "--model",
        "none",
        code=2,
    )
    (finding,) = bed.verdict("payments-latency")["findings"]
    assert finding["outcome"] == "INCONCLUSIVE"
    assert "fault not available on this cluster" in finding["summary"]
    assert not (bed.reports / "payments-latency/latest/samples.parquet").exists()
