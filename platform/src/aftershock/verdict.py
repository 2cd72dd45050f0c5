"""The verdict: a pure function of what was measured.

PASS needs every rule to hold; FAIL needs a proven violation by the system under test, in a valid window after a proven
steady state; anything else is INCONCLUSIVE and says what was missing. The worst finding wins: FAIL over INCONCLUSIVE over PASS.
A violation that was not proven to be the system's own (no steady state, invalid load) is INCONCLUSIVE, never FAIL.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from aftershock.slo import MIN_ITERATIONS, Measurement

LATE_RATIO_MAX = 0.05  # share of scheduled arrivals that may start late before the load counts as not offered


class Outcome(StrEnum):
    """Three values; there is no fourth."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"

    @property
    def exit_code(self) -> int:
        """0, 1 or 2 for the shell."""
        return {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 2}[self.value]


@dataclass(frozen=True)
class Finding:
    """One rule and what it saw; `evidence` holds ids of the run folder."""

    rule: str
    outcome: Outcome
    summary: str
    evidence: tuple[str, ...] = ()
    hint: str | None = None
    measured: float | None = None
    bound: float | None = None
    unit: str | None = None
    window: str | None = None


@dataclass(frozen=True)
class Fault:
    """A fault's chain, as far as it was seen."""

    id: str
    action: str
    targets: int
    accepted: bool
    observed: bool
    refused: str | None  # the cluster's reason, if it refused
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class ActivityResult:
    """An activity that ran; `tolerance_met` only for probes with a tolerance."""

    name: str
    phase: Literal["before", "method", "rollback", "after"]
    succeeded: bool
    error: str | None = None
    tolerance_met: bool | None = None


@dataclass(frozen=True)
class LoadFacts:
    """What the generator did, whatever the shop answered."""

    offered: bool
    scheduled: int
    started_on_time: int
    dropped: int
    error: str | None


@dataclass(frozen=True)
class Gap:
    """A time in which an observer saw nothing."""

    observer: str
    reason: str


@dataclass(frozen=True)
class InvariantResult:
    """A business rule, checked from the ledger as a stranger would."""

    name: str
    outcome: Outcome
    checked: int
    violations: int
    summary: str


@dataclass(frozen=True)
class Observed:
    """All that the judge may look at."""

    expect: Literal["fault", "refused", "none"]
    activities: Sequence[ActivityResult]
    faults: Sequence[Fault]
    steady_before: bool | None
    steady_after: bool | None
    load: LoadFacts
    slos: Sequence[Measurement]
    usual: Sequence[
        Measurement
    ]  # the same objectives in the baseline: what did not hold then was not broken by the fault
    silent: Sequence[str]  # observers that recorded nothing at all
    gaps: Sequence[Gap]
    recovered_s: float | None
    recovery_deadline_s: float
    undo_pending: int
    undo_observed: bool
    invariants: Sequence[InvariantResult]
    invariants_wanted: Sequence[str]
    undo_left: Sequence[str] = ()  # what is not undone, each with the reason
    stopped: tuple[str, str | None] | None = None  # why the run ended before its time, and a hint
    blind: frozenset[str] = frozenset()  # windows in which the cluster itself could not be seen for long
    refusals: Sequence[Finding] = field(default_factory=tuple)


@dataclass(frozen=True)
class Verdict:
    """The worst of the findings, and all of them."""

    outcome: Outcome
    findings: tuple[Finding, ...]


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """FAIL over INCONCLUSIVE over PASS; nothing at all is INCONCLUSIVE."""
    seen = set(outcomes)
    if not seen:
        return Outcome.INCONCLUSIVE
    return next(o for o in (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS) if o in seen)


def judge(seen: Observed) -> Verdict:
    """Apply every rule; a run that was refused has only its refusals."""
    if seen.refusals:
        findings = tuple(seen.refusals)
        return Verdict(worst(f.outcome for f in findings), findings)
    proven = _steady(seen).outcome is Outcome.PASS and _load(seen).outcome is Outcome.PASS
    kept = seen.undo_pending > 0  # nothing recovers from a fault that is still there
    findings = (
        *_targets(seen), *_activities(seen), _steady(seen), _load(seen), *_faults(seen), *_observers(seen),
        *(_slo(m, proven and not (kept and m.slo.window == "recovery"), m.slo.window in seen.blind) for m in seen.slos),
        _recovery(seen, proven and not kept and not seen.blind & {"fault", "recovery"}), _undo(seen),
        *(_invariant(seen, name, proven) for name in seen.invariants_wanted),
    )  # fmt: skip
    return Verdict(worst(f.outcome for f in findings), findings)


def _no(rule: str, summary: str, hint: str | None = None, evidence: tuple[str, ...] = ()) -> Finding:
    return Finding(rule, Outcome.INCONCLUSIVE, summary, evidence, hint)


def _ok(rule: str, summary: str, evidence: tuple[str, ...] = ()) -> Finding:
    return Finding(rule, Outcome.PASS, summary, evidence)


def _targets(seen: Observed) -> list[Finding]:
    if seen.expect == "none":
        if seen.faults:
            return [
                _no(
                    "targets",
                    f"a control run injected {len(seen.faults)} fault(s)",
                    "remove the action or say expect: fault",
                )
            ]
        return [_ok("control", "control run: nothing was injected")]
    if not seen.faults:
        return [_no("targets", "no fault was requested", "the run stopped before the method, see the other findings")]
    return [
        _ok("targets", f"{f.action} had {f.targets} target(s)", (f.id,))
        if f.targets
        else _no(
            "targets", f"{f.action} matched nothing", "check namespace and selector with `aftershock check`", (f.id,)
        )
        for f in seen.faults
    ]


def _activities(seen: Observed) -> list[Finding]:
    early = [_no("activities", f"the run stopped early: {seen.stopped[0]}", seen.stopped[1])] if seen.stopped else []
    done = _ran(seen)
    return early if early and done.outcome is Outcome.PASS else [*early, done]


def _ran(seen: Observed) -> Finding:
    refused_as_wanted = seen.expect == "refused" and any(f.refused for f in seen.faults)
    failed = [a for a in seen.activities if not a.succeeded and not (refused_as_wanted and a.phase == "method")]
    if failed:
        what = "; ".join(f"{a.name}: {a.error or 'failed'}" for a in failed[:3])
        return _no(
            "activities", f"{len(failed)} of {len(seen.activities)} activities failed: {what}", "see journal.json"
        )
    if not seen.activities:
        return _no("activities", "no activity ran")
    return _ok("activities", f"all {len(seen.activities)} activities did what they should")


def _steady(seen: Observed) -> Finding:
    if seen.steady_before:
        unusual = [m for m in seen.usual if m.held is not True]
        if not unusual:
            return _ok("steady_before", "the steady state held before the fault, and so did every objective")
        text = "; ".join(
            f"{m.slo.describe()} had too few journeys ({m.samples})" if m.measured is None
            else f"{m.slo.describe()} did not hold: {m.measured:.4g}" for m in unusual
        )  # fmt: skip
        return _no("steady_before", f"the steady state was not proven before the fault: {text}",
                   "the shop was broken or slow already, or the machine is busy; nothing later can be blamed on the fault")  # fmt: skip
    missed = [a.name for a in seen.activities if a.phase == "before" and (not a.succeeded or a.tolerance_met is False)]
    why = f": {', '.join(missed)}" if missed else ""
    return _no("steady_before", f"the steady state was not proven before the fault{why}",
               "the shop was already broken, or the probe cannot reach it; nothing after this can be blamed on the fault")  # fmt: skip


def _load(seen: Observed) -> Finding:
    load = seen.load
    if not load.offered or load.scheduled <= 0:
        return _no(
            "load", f"no load was offered: {load.error or 'nothing was scheduled'}", "check rate, scenario and target"
        )
    missing = (load.scheduled - load.started_on_time) / load.scheduled
    if missing > LATE_RATIO_MAX:
        return _no("load", f"{missing:.1%} of {load.scheduled} scheduled arrivals did not start on time ({load.dropped} dropped)",
                   "the generator was too slow: lower the rate or free the machine")  # fmt: skip
    return _ok("load", f"{load.started_on_time} of {load.scheduled} scheduled arrivals started on time")


def _faults(seen: Observed) -> list[Finding]:
    findings = []
    for fault in seen.faults:
        if seen.expect == "refused":
            good = fault.refused is not None
            text = f"{fault.action} was refused: {fault.refused}" if good else f"{fault.action} was not refused"
        else:
            good = fault.observed
            text = f"{fault.action} was observed" if good else (
                f"{fault.action} was accepted but its effect was never observed" if fault.accepted
                else f"{fault.action} was not accepted{': ' + fault.refused if fault.refused else ''}"
            )  # fmt: skip
        findings.append(_ok("observed", text, (fault.id, *fault.evidence)) if good
                        else _no("observed", text, "an answer of the API is no proof; see evidence.json", (fault.id,)))  # fmt: skip
    return findings


def _observers(seen: Observed) -> list[Finding]:
    findings = [_no("observers", f"{name} recorded nothing", "no data is never a pass") for name in seen.silent]
    findings += [_no("observers", f"{gap.observer} has a gap: {gap.reason}") for gap in seen.gaps]
    return findings or [_ok("observers", "all observers recorded without a gap")]


def _slo(measurement: Measurement, proven: bool, blind: bool) -> Finding:
    slo = measurement.slo
    unit = {"success_ratio": "ratio", "outage_s_max": "s"}.get(slo.indicator, "ms")

    def finding(outcome: Outcome, summary: str, hint: str | None = None) -> Finding:
        return Finding("slo", outcome, summary, (slo.id,), hint, measurement.measured, slo.bound, unit, slo.window)

    if measurement.held is None or measurement.measured is None:
        return finding(Outcome.INCONCLUSIVE, f"{slo.describe()}: only {measurement.samples} journeys, {MIN_ITERATIONS} are needed",
                       "raise the rate or the window")  # fmt: skip
    text = f"{slo.describe()}: measured {measurement.measured:.4g} over {measurement.samples} journeys"
    if measurement.held:
        return finding(Outcome.PASS, text)
    if blind:
        return finding(
            Outcome.INCONCLUSIVE,
            f"{text}; not proven to be the fault's doing, since the API server was away meanwhile",
            "a cluster without its API server neither heals nor takes a fault back; see observers",
        )
    if not proven:
        return finding(
            Outcome.INCONCLUSIVE, f"{text}; not proven to be the fault's doing", "see steady_before and load"
        )
    return finding(Outcome.FAIL, text)


def _recovery(seen: Observed, proven: bool) -> Finding:
    took, deadline = seen.recovered_s, seen.recovery_deadline_s
    if took is not None and took <= deadline and seen.steady_after:
        return Finding(
            "recovery",
            Outcome.PASS,
            f"recovered {took:.2f} s after the undo",
            (),
            None,
            took,
            deadline,
            "s",
            "recovery",
        )
    late = (
        f"{took:.2f} s after the undo, deadline {deadline:g} s"
        if took is not None
        else f"not seen within {deadline:g} s"
    )
    if took is not None and took <= deadline:
        text = "journeys recovered, but the steady state was not proven afterwards" if seen.steady_after is None else (
            "journeys recovered, but the steady state did not hold afterwards")  # fmt: skip
        outcome = Outcome.FAIL if proven and seen.steady_after is False else Outcome.INCONCLUSIVE
        return Finding("recovery", outcome, text, (), None, took, deadline, "s", "recovery")
    outcome = Outcome.FAIL if proven else Outcome.INCONCLUSIVE
    return Finding("recovery", outcome, f"recovery: {late}", (), None, took, deadline, "s", "recovery")


def _undo(seen: Observed) -> Finding:
    if seen.undo_pending:
        what = f": {'; '.join(seen.undo_left[:3])}" if seen.undo_left else ""
        return _no("undo", f"{seen.undo_pending} fault(s) are not undone{what}",
                   "put right what kept it (an API server that answers, fresh credentials, a node that is back), then run"
                   " `aftershock undo`; until then no run starts here")  # fmt: skip
    if not seen.undo_observed:
        return _no(
            "undo", "the undo was not observed to have worked", "look at the cluster, then run `aftershock undo`"
        )
    return _ok("undo", "every fault was undone, and seen to be")


def _invariant(seen: Observed, name: str, proven: bool) -> Finding:
    result = next((r for r in seen.invariants if r.name == name), None)
    if result is None or result.checked == 0:
        return _no(
            "invariants",
            f"{name} was not checked{': ' + result.summary if result else ''}",
            "the ledger could not be read",
        )
    if result.outcome is Outcome.FAIL and not proven:
        return _no("invariants", f"{name}: {result.summary}; not proven to be the fault's doing")
    return Finding("invariants", result.outcome, f"{name}: {result.summary}", (f"invariant.{name}",), None,
                   float(result.violations), 0.0, "orders")  # fmt: skip
