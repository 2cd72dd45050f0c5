"""A fixed part of the experiments on a real cluster, and weak twins: what each must come to, and why.

All of them: `pytest experiments/ --aftershock-on CONTEXT --aftershock-unleash`.
"""

from __future__ import annotations

from typing import Any

import pytest

from aftershock import experiment
from tests.k8s.conftest import PROJECT, Bed

PARTS = [
    # experiment, its weak twin, exit code, a step of the fault that must have been seen
    ("control", False, 0, None),
    ("drain-refused", False, 0, None),
    ("payments-pod-kill", False, 0, "recovered"),
    ("payments-pod-kill", True, 1, "observed"),
    ("postgres-kill", False, 0, "recovered"),
    ("bad-image", False, 0, "recovered"),
    ("shipping-delete", True, 1, "recovered"),
]


def told(verdict: dict[str, Any]) -> str:
    return "\n".join(
        f"{f['outcome']} {f['rule']}: {f['summary']}" for f in verdict["findings"] if f["outcome"] != "PASS"
    )


def broke(verdict: dict[str, Any], what: str) -> bool:
    """Whether an indicator, an invariant or the recovery is among what failed."""
    failed = [f for f in verdict["findings"] if f["outcome"] == "FAIL"]
    return any(f["rule"] == what or what in f["summary"] for f in failed)


@pytest.mark.parametrize(
    ("name", "weak", "code", "step"), PARTS, ids=[f"{n}{'-weak' if w else ''}" for n, w, *_ in PARTS]
)
def test_experiment(bed: Bed, name: str, weak: bool, code: int, step: str | None) -> None:
    run = bed.run(PROJECT / f"experiments/{name}.yaml", *(["--weak"] if weak else []))
    run.wait(200)
    verdict = bed.verdict(name)
    assert run.returncode == code, told(verdict)
    evidence = bed.document(name, "evidence.json")
    assert evidence["undo"]["pending"] == 0
    if step:
        assert [f["steps"][step] is not None for f in evidence["faults"]] == [True]
    if weak:
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


def test_a_node_without_power(bed: Bed) -> None:
    """Load from inside, since the way from outside may lead through the node that is lost."""
    if "AFTERSHOCK_NODE_POWER" not in bed.programs:
        pytest.skip("AFTERSHOCK_NODE_POWER names no program that cuts a node's power")
    run = bed.run(PROJECT / "experiments/node-loss.yaml", "--load-on", "cluster")
    run.wait(290)
    assert run.returncode == 0, told(bed.verdict("node-loss"))
    (fault,) = bed.document("node-loss", "evidence.json")["faults"]
    assert all(fault["steps"].values())
