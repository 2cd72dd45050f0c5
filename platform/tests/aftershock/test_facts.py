"""The ledger says what the run folder says, the same each time, and where each fact comes from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from aftershock import facts, graph
from aftershock.facts import Fact
from aftershock.folder import RunFolder
from tests.aftershock import runs

GOLDEN = Path(__file__).parent / "golden" / "payments-pod-kill"


def known(ledger: list[Fact]) -> dict[tuple[str, str], Any]:
    return {(f.subject, f.predicate): f.value if f.value is not None else f.object or f.time_us for f in ledger}


def test_ids_are_numbered_and_places_are_unique(ledger: list[Fact]) -> None:
    assert [f.id for f in ledger] == [f"F{n:03d}" for n in range(1, len(ledger) + 1)]
    assert len(known(ledger)) == len(ledger)


EXPECTED: list[tuple[str, str, Any]] = [
    ("run", "verdict", "FAIL"),
    ("run", "title", "Checkout survives the loss of one payments pod"),
    ("run", "seed", 7),
    ("cluster", "nodes", 4),
    ("load", "tool", "k6"),
    ("load", "rate", 40.0),
    ("load", "scheduled", 880),
    ("load", "started_on_time", 879),
    ("window.fault", "begins", runs.T0 + 8 * runs.S),
    ("window.fault", "length", 8.0),
    ("journey.checkout.fault", "journeys", 160),
    ("journey.checkout.fault", "failed", 8),
    ("journey.checkout.fault", "success_ratio", 0.95),
    ("journey.checkout.fault", "latency_ms_p95", 10.6),
    ("journey.checkout.fault", "outage_s_max", 0.05),
    ("journey.checkout.baseline", "failed", 0),
    ("customers", "journeys", 400),
    ("customers", "failed", 8),
    ("slo.1", "missed_by", 4.0),
    ("f1", "action", "pod-kill"),
    ("f1", "targets_count", 1),
    ("f1.target.1", "name", runs.POD),
    ("f1.target.1", "node", "body"),
    ("f1", "observed", 0.25),
    ("f1", "recovered", 1.34),
    ("f1", "undone.missing", "undone"),
    ("slo.1", "measured", 0.95),
    ("slo.1", "bound", 0.99),
    ("slo.1", "held", "no"),
    ("slo.2", "held", "yes"),
    ("invariant.no_lost_order", "checked", 880),
    ("invariant.no_lost_order", "violations", 0),
    ("orders", "failed", 8),
    ("orders", "touched", 27),
    ("orders", "state.pending", 1),
    ("recovery", "recovered", 1.34),
    ("recovery", "deadline", 15.0),
    ("undo", "pending", 0),
    ("steady", "before", "yes"),
    ("fi-03", "rule", "slo"),
    ("fi-03", "outcome", "FAIL"),
    ("diagnosis", "verdict", "root_cause"),
    ("diagnosis", "truth", 1),
    ("hypothesis.1", "entity", "payments"),
    ("hypothesis.1", "score", 0.91),
    ("hypothesis.1", "path", "storefront > orders > payments"),
    ("caused.1", "cause", "payments"),
    ("rejected.1", "cause", "shipping"),
    ("file.metrics.parquet", "missing", "metrics.parquet"),
    ("unenforced.1", "field", "spec.containers[0].resources.limits.memory"),
]


@pytest.mark.parametrize(("subject", "predicate", "wanted"), EXPECTED)
def test_a_fact(ledger: list[Fact], subject: str, predicate: str, wanted: Any) -> None:
    got = known(ledger)[subject, predicate]
    assert got == (pytest.approx(wanted) if isinstance(wanted, float) else wanted)


def test_times_are_absolute_and_relative(ledger: list[Fact]) -> None:
    observed = next(f for f in ledger if (f.subject, f.predicate) == ("f1", "observed"))
    assert (observed.time_us, observed.value, observed.unit) == (runs.T0 + 8_250_000, 0.25, "s")


def test_every_fact_says_where_it_comes_from(ledger: list[Fact], folder: RunFolder) -> None:
    for fact in ledger:
        assert fact.query in graph.catalogue.names()
        assert fact.ref
        assert fact.file
        assert folder.has(fact.file), fact


def test_the_same_folder_gives_the_same_ledger_in_memory_and_in_a_file_of_many_runs(
    folder: RunFolder, ledger: list[Fact], tmp_path: Path
) -> None:
    other = runs.write(tmp_path, runs.passed, run_id="20260301T130000Z-ffffff")
    with graph.open(tmp_path / "graph.lbug") as held:
        graph.ingest(held, other)
        graph.ingest(held, folder)
        assert facts.facts(held, runs.RUN_ID) == ledger
        assert known(facts.facts(held, "20260301T130000Z-ffffff"))["run", "verdict"] == "PASS"
        assert facts.facts(held, "20260301T140000Z-000000") == []


def test_stored_as_the_contract_says(folder: RunFolder, ledger: list[Fact]) -> None:
    facts.write(folder, ledger)
    assert folder.read("facts.json") == [fact.as_row() for fact in ledger]
    assert set(folder.read("facts.json")[0]) == {
        "id",
        "subject",
        "predicate",
        "object",
        "value",
        "unit",
        "time_us",
        "provenance",
    }


def test_a_success_of_another_journey_ends_no_outage(tmp_path: Path) -> None:
    folder = runs.write(tmp_path)
    table = folder.table("samples.parquet").to_pylist()
    fault_us = runs.T0 + 8 * runs.S
    for row in table:
        if fault_us <= row["intended_us"] < fault_us + 2 * runs.S:
            row |= {"journey": "browse", "status": 200, "error": None} if row["iteration"] % 2 else {"status": 503}
    with folder.writer("samples.parquet") as writer:
        writer.append(table)
    figures = known(facts.of(folder))
    assert figures["journey.checkout.fault", "outage_s_max"] == pytest.approx(2.0, abs=0.1)
    assert figures["journey.checkout.fault", "failed"] == 20
    assert ("journey.browse.fault", "failed") not in figures  # no objective names it
    assert figures["customers", "failed"] == 20


def test_a_refused_run_has_a_ledger_too(tmp_path: Path) -> None:
    refused = known(facts.of(runs.write(tmp_path, runs.refused)))
    assert refused["run", "verdict"] == "INCONCLUSIVE"
    assert refused["file.evidence.json", "missing"] == "evidence.json"
    assert ("journey.checkout.fault", "journeys") not in refused
    assert ("orders", "failed") not in refused


def test_the_golden_run(tmp_path: Path) -> None:
    golden = facts.of(RunFolder.open(GOLDEN))
    assert known(golden)["journey.checkout.fault", "success_ratio"] == 0.99375
    copy = shutil.copytree(GOLDEN, tmp_path / "copy")
    verdict = json.loads((copy / "verdict.json").read_text())
    verdict["slos"][0]["measured"] = 0.5
    (copy / "verdict.json").write_text(json.dumps(verdict))
    changed = facts.of(RunFolder.open(copy))
    differing = [(a.subject, a.predicate) for a, b in zip(golden, changed, strict=True) if a != b]
    assert differing == [("slo.1", "measured")]
