"""Scalars of a run as Observations: windows, fault steps, load, observers, undo, recovery, and what nobody checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aftershock import slo
from aftershock.folder import RunFolder
from aftershock.graph.business import columns
from aftershock.graph.rows import Json, Rows

STEPS = ("requested", "accepted", "observed", "undone", "recovered")
EXPECTED = ("evidence.json", "samples.parquet", "traces.parquet", "metrics.parquet", "events.jsonl", "ledger.ndjson",
            "invariants.json", "diagnosis.json")  # fmt: skip
PERCENTILES = (50, 95, 99)
UNENFORCED_MAX = 5


def observe(rows: Rows, folder: RunFolder, run: Json, verdict: Json, evidence: Json) -> None:
    """Add every scalar that a postmortem may cite."""
    _journeys(rows, folder, run, verdict)
    _steps(rows, run, evidence)
    _load(rows, evidence)
    _health(rows, evidence)
    _recovery(rows, verdict)
    _missed(rows, verdict)
    _diagnosis(rows, folder)
    _unchecked(rows, folder, run, verdict)


def _add(
    rows: Rows, kind: str, subject: str, metric: str, file: str, ref: str | None = None, **properties: Any
) -> None:
    local = f"{subject}.{metric}"
    rows.node("Observation", local, file, ref or local, kind=kind, subject=subject, metric=metric, **properties)
    rows.edge("OBSERVED", ("Run", "run"), ("Observation", local))
    if properties.get("window"):
        rows.edge("MEASURED_IN", ("Observation", local), ("Window", properties["window"]))


def _journeys(rows: Rows, folder: RunFolder, run: Json, verdict: Json) -> None:
    """Figures of each kind of journey that an objective names, in each window: a success of one kind ends no outage of another."""
    samples = columns(folder, "samples.parquet", ("iteration", "journey", "intended_us", "end_us", "status", "error"))
    if not samples:
        return
    journeys = slo.iterations(slo.Sample(*sample) for sample in samples)
    windows = {name: slo.Interval(window["from_us"], window["to_us"])
               for name, window in (run.get("windows") or {}).items() if window and name != "warm_up"}  # fmt: skip
    counted = [journey for journey in journeys if any(window.holds(journey.intended_us) for window in windows.values())]
    _add(rows, "requests", "requests", "total", "samples.parquet", value=len(samples), unit="requests")
    for metric, number in (("journeys", len(counted)), ("failed", sum(not journey.ok for journey in counted))):
        _add(rows, "requests", "customers", metric, "samples.parquet", value=number, unit="journeys")
    kinds = dict.fromkeys(objective["journey"] for objective in verdict.get("slos") or [])
    for kind in kinds or sorted({journey.journey for journey in counted}):
        for name, window in windows.items():
            _measure(
                rows, kind, name, window, [j for j in counted if j.journey == kind and window.holds(j.intended_us)]
            )


def _measure(rows: Rows, kind: str, name: str, window: slo.Interval, inside: Sequence[slo.Iteration]) -> None:
    def add(metric: str, value: float, unit: str, text: str | None = None) -> None:
        _add(
            rows,
            "window",
            f"journey.{kind}.{name}",
            metric,
            "samples.parquet",
            window=name,
            value=value,
            unit=unit,
            text=text,
        )

    add("journeys", len(inside), "journeys", kind)
    if inside:
        failed = sum(not journey.ok for journey in inside)
        add("failed", failed, "journeys", name)
        add("success_ratio", (len(inside) - failed) / len(inside), "ratio")
        for rank in PERCENTILES:
            add(f"latency_ms_p{rank}", slo.percentile([journey.latency_ms for journey in inside], rank), "ms")
        add("outage_s_max", slo.outage_s_max(inside, window), "s")


def _steps(rows: Rows, run: Json, evidence: Json) -> None:
    for fault in evidence.get("faults") or []:
        steps = fault.get("steps") or {}
        begun = (steps.get("requested") or {}).get("time_us")
        for name in STEPS:
            step = steps.get(name)
            if step is None:
                _add(rows, "step", fault["id"], f"{name}.missing", "evidence.json", f"{fault['id']}.{name}", text=name)
                continue
            after_s = (step["time_us"] - begun) / 1e6 if begun is not None else None
            _add(rows, "step", fault["id"], name, "evidence.json", time_us=step["time_us"], value=after_s,
                 unit="s" if after_s is not None else None, text=step.get("source"))  # fmt: skip
            if step.get("value") is not None:
                _add(rows, "step", fault["id"], f"{name}.measured", "evidence.json", f"{fault['id']}.{name}", value=step["value"],
                     unit=step.get("unit"), time_us=step["time_us"])  # fmt: skip


def _load(rows: Rows, evidence: Json) -> None:
    load = evidence.get("load")
    if not load:
        return
    _add(rows, "load", "load", "offered", "evidence.json", text="yes" if load.get("offered") else "no")
    for metric in ("scheduled", "started_on_time", "dropped"):
        _add(rows, "load", "load", metric, "evidence.json", value=load.get(metric), unit="arrivals")
    if load.get("late_max_us") is not None:
        _add(rows, "load", "load", "late_max", "evidence.json", value=load["late_max_us"] / 1000, unit="ms")
    if load.get("error"):
        _add(rows, "load", "load", "error", "evidence.json", text=load["error"])


def _health(rows: Rows, evidence: Json) -> None:
    for phase in ("before", "after"):
        if "steady" in evidence:
            held = {True: "yes", False: "no", None: "unknown"}[evidence["steady"].get(phase)]
            _add(rows, "steady", "steady", phase, "evidence.json", text=held)
    for activity in evidence.get("activities") or []:
        if activity["status"] == "failed":
            _add(rows, "activity", f"activity.{activity['name']}", "failed", "evidence.json", f"activities.{activity['name']}",
                 text=activity.get("error") or "failed", time_us=activity.get("time_us"))  # fmt: skip
    for observer in evidence.get("observers") or []:
        subject = f"observer.{observer['name']}"
        _add(rows, "observer", subject, "records", "evidence.json", value=observer.get("records"), unit="records")
        gaps: Sequence[Json] = observer.get("gaps") or []
        if gaps:
            blind_s = sum(gap["to_us"] - gap["from_us"] for gap in gaps) / 1e6
            _add(rows, "observer", subject, "gap", "evidence.json", value=blind_s, unit="s", text=gaps[0]["reason"],
                 time_us=gaps[0]["from_us"])  # fmt: skip
    undo = evidence.get("undo")
    if undo:
        states = [entry["state"] for entry in undo.get("entries") or []]
        _add(rows, "undo", "undo", "pending", "evidence.json", value=undo.get("pending"), unit="entries")
        _add(rows, "undo", "undo", "done", "evidence.json", value=states.count("done"), unit="entries")
        _add(rows, "undo", "undo", "failed", "evidence.json", value=states.count("failed"), unit="entries")


def _missed(rows: Rows, verdict: Json) -> None:
    """By how much each broken objective was missed; a ratio in percentage points."""
    for objective in verdict.get("slos") or []:
        if objective.get("held") is False and objective.get("measured") is not None:
            ratio = objective["indicator"] == "success_ratio"
            missed = round(abs(objective["measured"] - objective["bound"]) * (100 if ratio else 1), 6)
            unit = "points" if ratio else "s" if objective["indicator"] == "outage_s_max" else "ms"
            _add(rows, "missed", objective["id"], "missed_by", "verdict.json", value=missed, unit=unit)


def _recovery(rows: Rows, verdict: Json) -> None:
    recovery = verdict.get("recovery") or {}
    if recovery.get("recovered_s") is not None:
        _add(rows, "recovery", "recovery", "recovered", "verdict.json", value=recovery["recovered_s"], unit="s")
    if recovery.get("deadline_s") is not None:
        _add(rows, "recovery", "recovery", "deadline", "verdict.json", value=recovery["deadline_s"], unit="s")


def _diagnosis(rows: Rows, folder: RunFolder) -> None:
    if not folder.has("diagnosis.json"):
        return
    found = folder.read("diagnosis.json")
    _add(rows, "diagnosis", "diagnosis", "verdict", "diagnosis.json", "verdict", text=found["verdict"])
    if found.get("onset") is not None:
        _add(rows, "diagnosis", "diagnosis", "onset", "diagnosis.json", "onset", time_us=round(found["onset"] * 1e6))
    truth = found.get("truth")
    if truth:
        _add(rows, "diagnosis", "diagnosis", "truth", "diagnosis.json", "truth", text=truth["entity"], value=truth.get("rank"),
             unit="rank" if truth.get("rank") is not None else None)  # fmt: skip


def _unchecked(rows: Rows, folder: RunFolder, run: Json, verdict: Json) -> None:
    for name in EXPECTED:
        if not folder.has(name):
            _add(rows, "unchecked", f"file.{name}", "missing", "run.json", name, text=name)
    for finding in verdict.get("findings") or []:
        if finding["outcome"] == "INCONCLUSIVE":
            _add(
                rows,
                "unchecked",
                f"rule.{finding['id']}",
                "undecided",
                "verdict.json",
                finding["id"],
                text=finding["rule"],
            )
    unenforced = run.get("unenforced") or []
    if unenforced:
        _add(
            rows, "unenforced", "unenforced", "total", "run.json", "unenforced", value=len(unenforced), unit="settings"
        )
    for number, what in enumerate(unenforced[:UNENFORCED_MAX], 1):
        text = what if isinstance(what, str) else " ".join(str(v) for v in what.values())
        _add(rows, "unenforced", f"unenforced.{number}", "field", "run.json", "unenforced", text=text)
