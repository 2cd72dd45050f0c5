"""From a run folder to `verdict.json`: reads what was stored, asks the pure judge, writes its answer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from aftershock import experiment as experiments
from aftershock import slo
from aftershock.experiment import Experiment
from aftershock.folder import RunFolder
from aftershock.slo import Interval, Iteration, Measurement, Sample
from aftershock.verdict import (
    ActivityResult,
    Fault,
    Finding,
    Gap,
    InvariantResult,
    LoadFacts,
    Observed,
    Outcome,
    Verdict,
    judge,
)

Json = Mapping[str, Any]
BLIND_S = 2.0  # a cluster that answers nothing for so long neither heals nor takes a fault back
OBSERVERS = ("watch",)  # without these nothing is proven; the others only enrich the diagnosis


def judge_folder(folder: RunFolder, now_us: int | None = None) -> Verdict:
    """Judge a run that was stored whole. Raises FolderError when a file is missing or broken."""
    run, evidence = folder.read("run.json"), folder.read("evidence.json")
    tested = experiments.parse(folder.path / "experiment.yaml", folder.read_text("experiment.yaml"), stored=True)
    windows = {name: Interval(w["from_us"], w["to_us"]) for name, w in run["windows"].items() if w}
    journeys = journeys_of(folder)
    measured = [slo.measure(objective, journeys, windows) for objective in tested.slos] if windows else []
    before = slo.undisturbed(journeys, windows["fault"].from_us) if windows else []
    usual = [slo.measure(replace(o, window="baseline"), before, windows) for o in tested.slos] if windows else []
    invariants = folder.read("invariants.json")["results"] if folder.has("invariants.json") else []
    seen = observed(tested, evidence, invariants, measured, usual, journeys, windows)
    verdict = judge(seen)
    write(folder, verdict, measured, tested, seen.recovered_s, now_us)
    return verdict


def refuse(folder: RunFolder, findings: Sequence[Finding], tested: Experiment, now_us: int | None = None) -> Verdict:
    """Store the verdict of a run that did not begin."""
    outcome = Outcome.FAIL if any(f.outcome is Outcome.FAIL for f in findings) else Outcome.INCONCLUSIVE
    verdict = Verdict(outcome, tuple(findings))
    write(folder, verdict, [], tested, None, now_us)
    return verdict


def journeys_of(folder: RunFolder) -> list[Iteration]:
    """All iterations of a run, by intended time; none if no sample was stored."""
    if not folder.has("samples.parquet"):
        return []
    columns = ("iteration", "journey", "intended_us", "end_us", "status", "error")
    table = folder.table("samples.parquet", columns).to_pydict()
    rows = zip(*(table[name] for name in columns), strict=True)
    return slo.iterations(Sample(*row) for row in rows)


def observed(
    tested: Experiment, evidence: Json, invariants: Sequence[Json], measured: Sequence[Measurement],
    usual: Sequence[Measurement], journeys: Sequence[Iteration], windows: Mapping[str, Interval],
) -> Observed:  # fmt: skip
    """What the judge may look at."""
    gaps = [Gap(o["name"], g["reason"]) for o in evidence["observers"] if o["name"] in OBSERVERS for g in o["gaps"]]
    seen_by = {o["name"]: o["records"] for o in evidence["observers"]}
    load = evidence["load"]
    return Observed(
        expect=tested.expect,
        activities=[_activity(a) for a in evidence["activities"]],
        faults=[_fault(f) for f in evidence["faults"]],
        steady_before=evidence["steady"]["before"], steady_after=evidence["steady"]["after"],
        load=LoadFacts(load["offered"], load["scheduled"], load["started_on_time"], load["dropped"], load["error"]),
        slos=measured, usual=usual, silent=[name for name in OBSERVERS if not seen_by.get(name)], gaps=gaps,
        recovered_s=recovered_s(evidence, journeys, windows, bool(gaps)),
        recovery_deadline_s=tested.recovery_deadline_s,
        undo_left=[e.get("error") or e["action"] for e in evidence["undo"]["entries"] if e["state"] != "done"],
        undo_pending=evidence["undo"]["pending"], undo_observed=_undo_observed(evidence),
        invariants=[_invariant(i) for i in invariants], invariants_wanted=tested.invariants,
        stopped=(stopped["why"], stopped["hint"]) if (stopped := evidence.get("stopped")) else None,
        blind=frozenset(name for name, window in windows.items() if _blind_us(evidence, window) > BLIND_S * 1e6),
    )  # fmt: skip


def recovered_s(
    evidence: Json, journeys: Sequence[Iteration], windows: Mapping[str, Interval], gaps: bool
) -> float | None:
    """Seconds from the undo until both the customers and the cluster had recovered; None if either was not seen to."""
    if "recovery" not in windows:
        return None
    undone_us = windows["recovery"].from_us
    took = slo.recovered_s(journeys, undone_us)
    for fault in evidence["faults"]:
        step = fault["steps"]["recovered"]
        if step is not None and took is not None:
            took = max(took, (step["time_us"] - undone_us) / 1e6)
        elif fault["steps"]["observed"] is not None and not gaps:
            return None
    return took


def _blind_us(evidence: Json, window: Interval) -> int:
    """The longest time within a window that an observer without which nothing is proven could not see."""
    gaps = [g for o in evidence["observers"] if o["name"] in OBSERVERS for g in o["gaps"]]
    return max((min(g["to_us"], window.to_us) - max(g["from_us"], window.from_us) for g in gaps), default=0)


def _undo_observed(evidence: Json) -> bool:
    entries = evidence["undo"]["entries"]
    undone = all(
        f["steps"]["undone"] or f["steps"]["recovered"] or not f["steps"]["accepted"] for f in evidence["faults"]
    )
    return undone and all(entry["state"] == "done" for entry in entries)


def _activity(stored: Json) -> ActivityResult:
    succeeded = stored["status"] == "succeeded"
    return ActivityResult(stored["name"], stored["phase"], succeeded, stored["error"], stored["tolerance_met"])


def _fault(stored: Json) -> Fault:
    steps = stored["steps"]
    refused = None
    if steps["requested"] and not steps["accepted"]:
        refused = stored.get("refused")
    events = tuple(dict.fromkeys(event for step in steps.values() if step for event in step["events"]))
    return Fault(stored["id"], stored["action"], len(stored["targets"]), bool(steps["accepted"]), bool(steps["observed"]),
                 refused, events[:20])  # fmt: skip


def _invariant(stored: Json) -> InvariantResult:
    outcome = Outcome(stored["outcome"])
    return InvariantResult(stored["name"], outcome, stored["checked"], len(stored["violations"]), stored["summary"])


def write(
    folder: RunFolder, verdict: Verdict, measured: Sequence[Measurement], tested: Experiment, took_s: float | None,
    now_us: int | None = None,
) -> None:  # fmt: skip
    """Store a verdict as `verdict.json`."""
    folder.write("verdict.json", {
        "verdict": verdict.outcome.value,
        "findings": [
            {"id": f"fi-{n:02d}", "rule": f.rule, "outcome": f.outcome.value, "summary": f.summary, "evidence": list(f.evidence),
             "hint": f.hint, "measured": f.measured, "bound": f.bound, "unit": f.unit, "window": f.window}
            for n, f in enumerate(verdict.findings, 1)
        ],
        "slos": [
            {"id": m.slo.id, "journey": m.slo.journey, "indicator": m.slo.indicator, "bound": m.slo.bound, "window": m.slo.window,
             "measured": m.measured, "samples": m.samples, "held": m.held}
            for m in measured
        ],
        "recovery": {"deadline_s": tested.recovery_deadline_s, "recovered_s": took_s},
        "judged_at_us": time.time_ns() // 1000 if now_us is None else now_us,
    })  # fmt: skip
