"""The judge says PASS once, and no in every other row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftershock.experiment import Slo
from aftershock.slo import Measurement
from aftershock.verdict import (
    ActivityResult,
    Fault,
    Finding,
    Gap,
    InvariantResult,
    LoadFacts,
    Observed,
    Outcome,
    judge,
    worst,
)

SLO = Slo("slo.1", "checkout", "success_ratio", "fault", 0.99, None)
HELD = Measurement(SLO, 1.0, 300, True)
BROKEN = Measurement(SLO, 0.5, 300, False)
THIN = Measurement(SLO, None, 3, None)
USUAL = Measurement(replace(SLO, window="baseline"), 1.0, 200, True)
FAULT = Fault("f1", "pod-kill", 1, accepted=True, observed=True, refused=None)
GOOD = Observed(
    expect="fault",
    activities=(ActivityResult("reachable", "before", True, None, True), ActivityResult("kill", "method", True)),
    faults=(FAULT,),
    steady_before=True,
    steady_after=True,
    load=LoadFacts(True, 800, 799, 0, None),
    slos=(HELD,),
    usual=(USUAL,),
    silent=(),
    gaps=(),
    recovered_s=0.4,
    recovery_deadline_s=15,
    undo_pending=0,
    undo_observed=True,
    invariants=(InvariantResult("no_lost_order", Outcome.PASS, 300, 0, "none of 300 lost"),),
    invariants_wanted=("no_lost_order",),
)


def test_everything_proven_is_pass() -> None:
    verdict = judge(GOOD)
    assert verdict.outcome is Outcome.PASS
    assert {f.outcome for f in verdict.findings} == {Outcome.PASS}
    assert {f.rule for f in verdict.findings} == {
        "targets", "activities", "steady_before", "load", "observed", "observers", "slo", "recovery", "undo", "invariants",
    }  # fmt: skip


LOST = InvariantResult("no_lost_order", Outcome.FAIL, 300, 2, "2 of 300 lost")
SAYS_NO: list[tuple[str, dict[str, Any], Outcome, str]] = [
    ("no fault", {"faults": ()}, Outcome.INCONCLUSIVE, "targets"),
    ("selector matches nothing", {"faults": (replace(FAULT, targets=0),)}, Outcome.INCONCLUSIVE, "targets"),
    ("accepted is not observed", {"faults": (replace(FAULT, observed=False),)}, Outcome.INCONCLUSIVE, "observed"),
    (
        "action crashed",
        {"activities": (ActivityResult("kill", "method", False, "404"),)},
        Outcome.INCONCLUSIVE,
        "activities",
    ),
    ("nothing ran", {"activities": ()}, Outcome.INCONCLUSIVE, "activities"),
    ("not steady before", {"steady_before": False}, Outcome.INCONCLUSIVE, "steady_before"),
    ("steady unknown", {"steady_before": None}, Outcome.INCONCLUSIVE, "steady_before"),
    ("no load", {"load": LoadFacts(False, 0, 0, 0, "rate is 0")}, Outcome.INCONCLUSIVE, "load"),
    ("late load", {"load": LoadFacts(True, 800, 700, 100, None)}, Outcome.INCONCLUSIVE, "load"),
    ("too few journeys", {"slos": (THIN,)}, Outcome.INCONCLUSIVE, "slo"),
    ("silent observer", {"silent": ("traces",)}, Outcome.INCONCLUSIVE, "observers"),
    ("gap", {"gaps": (Gap("watch", "410"),)}, Outcome.INCONCLUSIVE, "observers"),
    ("undo left", {"undo_pending": 1}, Outcome.INCONCLUSIVE, "undo"),
    ("undo unseen", {"undo_observed": False}, Outcome.INCONCLUSIVE, "undo"),
    ("ledger unread", {"invariants": ()}, Outcome.INCONCLUSIVE, "invariants"),
    ("ledger empty", {"invariants": (replace(LOST, checked=0),)}, Outcome.INCONCLUSIVE, "invariants"),
    ("after unknown", {"steady_after": None}, Outcome.INCONCLUSIVE, "recovery"),
    ("slo broken", {"slos": (BROKEN,)}, Outcome.FAIL, "slo"),
    ("no recovery", {"recovered_s": None}, Outcome.FAIL, "recovery"),
    ("late recovery", {"recovered_s": 20.0}, Outcome.FAIL, "recovery"),
    ("not steady after", {"steady_after": False}, Outcome.FAIL, "recovery"),
    ("order lost", {"invariants": (LOST,)}, Outcome.FAIL, "invariants"),
    ("broken without a steady state", {"slos": (BROKEN,), "steady_before": False}, Outcome.INCONCLUSIVE, "slo"),
    (
        "broken without load",
        {"slos": (BROKEN,), "load": LoadFacts(False, 0, 0, 0, "killed")},
        Outcome.INCONCLUSIVE,
        "slo",
    ),
    (
        "no recovery from what is still there",
        {"recovered_s": None, "undo_pending": 1},
        Outcome.INCONCLUSIVE,
        "recovery",
    ),
    ("stopped early", {"stopped": ("another run took the lease", "run it again")}, Outcome.INCONCLUSIVE, "activities"),
    ("broken without an API server", {"slos": (BROKEN,), "blind": frozenset({"fault"})}, Outcome.INCONCLUSIVE, "slo"),
    (
        "late without an API server",
        {"recovered_s": 20.0, "blind": frozenset({"recovery"})},
        Outcome.INCONCLUSIVE,
        "recovery",
    ),
    ("broken while all else was seen", {"slos": (BROKEN,), "blind": frozenset({"recovery"})}, Outcome.FAIL, "slo"),
    ("lost without an API server", {"invariants": (LOST,), "blind": frozenset({"fault"})}, Outcome.FAIL, "invariants"),
    ("lost without a steady state", {"invariants": (LOST,), "steady_before": None}, Outcome.INCONCLUSIVE, "invariants"),
    (
        "customers failed before",
        {"usual": (replace(USUAL, measured=0.4, held=False),)},
        Outcome.INCONCLUSIVE,
        "steady_before",
    ),
    ("nothing measured before", {"usual": (THIN,)}, Outcome.INCONCLUSIVE, "steady_before"),
    (
        "broken as before",
        {"slos": (BROKEN,), "usual": (replace(USUAL, measured=0.4, held=False),)},
        Outcome.INCONCLUSIVE,
        "slo",
    ),
    ("fault in a control run", {"expect": "none"}, Outcome.INCONCLUSIVE, "targets"),
    ("wanted a refusal", {"expect": "refused"}, Outcome.INCONCLUSIVE, "observed"),
]


@pytest.mark.parametrize(("change", "outcome", "rule"), [row[1:] for row in SAYS_NO], ids=[row[0] for row in SAYS_NO])
def test_says_no(change: dict[str, Any], outcome: Outcome, rule: str) -> None:
    verdict = judge(replace(GOOD, **change))
    assert verdict.outcome is outcome
    assert any(f.rule == rule and f.outcome is outcome for f in verdict.findings)
    assert all(f.summary for f in verdict.findings)


def test_a_wanted_refusal_passes_although_the_action_failed() -> None:
    fault = replace(FAULT, accepted=False, observed=False, refused="disruption budget")
    failed = ActivityResult("drain", "method", False, "429")
    verdict = judge(replace(GOOD, expect="refused", faults=(fault,), activities=(failed,)))
    assert verdict.outcome is Outcome.PASS


def test_a_control_run_passes_without_a_fault() -> None:
    verdict = judge(replace(GOOD, expect="none", faults=()))
    assert verdict.outcome is Outcome.PASS


def test_a_refused_run_has_only_its_refusals() -> None:
    refusal = Finding("refused", Outcome.INCONCLUSIVE, "namespace shop is not labelled")
    assert judge(replace(GOOD, refusals=(refusal,))).findings == (refusal,)


@given(st.lists(st.sampled_from(Outcome)))
def test_the_worst_wins(outcomes: list[Outcome]) -> None:
    got = worst(outcomes)
    if Outcome.FAIL in outcomes:
        assert got is Outcome.FAIL
    else:
        assert (got is Outcome.PASS) == (bool(outcomes) and set(outcomes) == {Outcome.PASS})
    assert got.exit_code in (0, 1, 2)
