"""The known fault is looked up after the ranking, and gives the entities that count as right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock.diagnose import truth
from aftershock.diagnose.case import Diagnosis, Ranked
from aftershock.folder import RunFolder

from ..golden.make import GOLDEN
from .shop import Fault, Shop


def target(kind: str, name: str, service: str | None, node: str | None = "body") -> dict[str, Any]:
    return {"kind": kind, "namespace": "shop", "name": name, "uid": "u", "node": node, "service": service}


def folder(path: Path, action: str, *targets: dict[str, Any], arguments: dict[str, Any] | None = None) -> RunFolder:
    evidence = json.loads((GOLDEN / "evidence.json").read_text())
    evidence["faults"][0].update(action=action, activity="break-it", targets=list(targets))
    made = RunFolder(path)
    made.write("evidence.json", evidence)
    provider = {"type": "python", "module": "aftershock.actions", "func": "x", "arguments": arguments or {}}
    made.write_text("experiment.yaml", yaml.safe_dump({"method": [{"name": "break-it", "provider": provider}]}))
    return made


@pytest.mark.parametrize(
    ("action", "targets", "arguments", "right"),
    [
        ("pod-kill", [target("Pod", "payments-1", "payments")], {}, {"payments"}),
        ("pod-kill", [target("Pod", "lonely", None)], {}, {"lonely"}),
        ("node-drain", [target("Node", "body2", None), target("Pod", "cart-1", "cart")], {}, {"body2"}),
        ("network-delay", [target("Pod", "payments-1", "payments")], {}, {"payments"}),
        (
            "network-delay",
            [target("Pod", "payments-1", "payments")],
            {"target_selector": "app=orders"},
            {"payments", "orders"},
        ),
        (
            "network-loss",
            [target("Pod", "p", "payments")],
            {"target_selector": "tier==x,app==orders"},
            {"payments", "orders"},
        ),
        ("deployment-scale", [target("Deployment", "payments", "payments", None)], {}, {"payments"}),
    ],
)
def test_what_counts_as_right(
    action: str, targets: list[dict[str, Any]], arguments: dict[str, Any], right: set[str], tmp_path: Path
) -> None:
    assert truth.culprits(folder(tmp_path, action, *targets, arguments=arguments)) == right


def test_the_best_ranked_of_them_is_told() -> None:
    names = ("cart", "orders", "payments")
    found = Diagnosis("root_cause", 1.0, tuple(Ranked(n, "latency", 1.0, (n,)) for n in names))
    assert truth.rank_of(found, frozenset({"payments", "orders"})) == {"entity": "orders", "rank": 2}
    assert truth.rank_of(found, frozenset({"shipping", "catalog"})) == {"entity": "catalog", "rank": None}
    assert truth.rank_of(found, frozenset()) is None


def test_a_run_without_evidence_or_without_a_fault_has_no_truth(tmp_path: Path) -> None:
    made = Shop(1, Fault("payments", 300)).write(tmp_path)
    assert truth.culprits(made) == frozenset()
    evidence = json.loads((GOLDEN / "evidence.json").read_text())
    made.write("evidence.json", {**evidence, "faults": []})
    assert truth.culprits(made) == frozenset()
