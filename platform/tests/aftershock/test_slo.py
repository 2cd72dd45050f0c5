"""Journeys, percentiles, outages and recovery as pure arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftershock.experiment import Slo
from aftershock.slo import (
    Interval,
    Iteration,
    Sample,
    iterations,
    measure,
    outage_s_max,
    percentile,
    recovered_s,
    undisturbed,
)

WINDOWS = {"baseline": Interval(0, 1_000_000), "fault": Interval(1_000_000, 2_000_000)}


def journeys(marks: str, step_us: int = 10_000, from_us: int = 1_000_000, took_us: int = 5_000) -> list[Iteration]:
    """`..x.` becomes success, success, failure, success on a steady schedule."""
    return [
        Iteration("checkout", from_us + n * step_us, from_us + n * step_us + took_us, mark == ".")
        for n, mark in enumerate(marks)
    ]


def slo(indicator: str, **bound: float) -> Slo:
    return Slo("slo.1", "checkout", indicator, "fault", bound.get("min"), bound.get("max"))


def test_a_journey_fails_with_any_of_its_requests_and_lasts_to_the_end_of_the_last() -> None:
    joined = iterations(
        [
            Sample(1, "checkout", 100, 300, 201, None),
            Sample(1, "checkout", 100, 900, None, "timeout"),
            Sample(0, "checkout", 50, 90, 201, None),
            Sample(0, "checkout", 50, 200, 302, None),
        ]
    )
    assert joined == [Iteration("checkout", 50, 200, True), Iteration("checkout", 100, 900, False)]


@pytest.mark.parametrize(("status", "error"), [(500, None), (404, None), (None, None), (200, "reset"), (199, None)])
def test_no_answer_and_bad_answers_are_failures(status: int | None, error: str | None) -> None:
    assert not iterations([Sample(0, "checkout", 0, 1, status, error)])[0].ok


def test_success_ratio_counts_only_its_window_and_journey() -> None:
    other = [Iteration("browse", 1_000_000 + n, 1_000_001, False) for n in range(50)]
    measured = measure(
        slo("success_ratio", min=0.9), [*journeys("." * 45 + "x" * 5), *journeys("x" * 30, from_us=0), *other], WINDOWS
    )
    assert (measured.measured, measured.samples, measured.held) == (0.9, 50, True)


def test_too_few_journeys_are_no_measurement() -> None:
    assert measure(slo("success_ratio", min=0.1), journeys("." * 19), WINDOWS).held is None
    assert measure(slo("latency_ms_p95", max=9e9), [], WINDOWS).held is None


def test_latency_starts_when_the_schedule_wanted_it() -> None:
    waiting = [Iteration("checkout", 1_000_000 + n, 1_000_000 + n + 700_000, True) for n in range(40)]
    measured = measure(slo("latency_ms_p95", max=400), waiting, WINDOWS)
    assert (measured.measured, measured.held) == (700.0, False)


def test_outage_runs_from_the_first_failure_to_the_next_success_or_the_end() -> None:
    window = WINDOWS["fault"]
    assert outage_s_max(journeys("..xxx.x."), window) == pytest.approx(0.03)
    assert outage_s_max(journeys("." * 50 + "x" * 10), window) == pytest.approx(0.5)
    assert outage_s_max(journeys("...."), window) == 0


def test_recovery_needs_twenty_in_a_row_after_the_undo() -> None:
    assert recovered_s(journeys("x" * 10 + "." * 20), 1_000_000) == pytest.approx(0.105)
    assert recovered_s(journeys("." * 19 + "x" + "." * 19), 1_000_000) is None
    assert recovered_s(journeys("." * 40), 1_200_000) == pytest.approx(0.005)


def test_percentile_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 95)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.1, 100))
def test_percentile_is_a_value_that_occurred_with_enough_at_or_below(values: list[float], rank: float) -> None:
    got = percentile(values, rank)
    assert got in values
    assert sum(v <= got for v in values) >= rank / 100 * len(values) * (1 - 1e-12)


def test_a_fault_says_nothing_of_the_time_before_it() -> None:
    def journey(intended_s: float, end_s: float) -> Iteration:
        return Iteration(journey="checkout", intended_us=round(intended_s * 1e6), end_us=round(end_s * 1e6), ok=False)

    done, under_way, stuck, later = journey(8.0, 9.9), journey(9.9, 12.0), journey(8.5, 12.0), journey(10.0, 12.0)
    assert undisturbed([done, under_way, stuck, later], 10_000_000) == [done, stuck, later]
