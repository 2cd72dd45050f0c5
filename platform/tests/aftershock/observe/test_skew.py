"""Clocks of nodes from the calls between them, and what the way to the shop costs: right clocks, wrong ones, one set meanwhile."""

from __future__ import annotations

import random
from typing import Any

import pytest

from aftershock.observe import overhead, skew
from aftershock.observe.clock import STEP_US_MAX, Comparison, Exchange
from aftershock.slo import Interval

BEGIN_US = 1_000_000_000


def calls(count: int = 200, seed: int = 7, **ahead_us: int) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Spans and samples of a shop on two nodes whose clocks are ahead of the generator's by so much; every tenth end is noted late."""
    rng = random.Random(seed)
    spans: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for n in range(count):
        trace, at_us = f"{n:032x}".replace("0", "a", 8), BEGIN_US + n * 20_000
        way_us, own_us, inner_us = rng.randint(200, 3000), rng.randint(500, 4000), rng.randint(300, 2000)
        begun_us = at_us + way_us
        late_us = rng.randint(0, 15_000) if n % 10 == 0 else 0
        total_us = own_us + 2 * way_us + inner_us
        shared = {"trace_id": trace}
        spans += [
            {**shared, "span_id": f"e{n}", "parent_span_id": trace[8:24], "node": "body", "kind": "SERVER",
             "start_us": begun_us + ahead_us.get("body", 0), "duration_us": total_us + late_us},
            {**shared, "span_id": f"c{n}", "parent_span_id": f"e{n}", "node": "body", "kind": "CLIENT",
             "start_us": begun_us + own_us + ahead_us.get("body", 0), "duration_us": inner_us + 2 * way_us},
            {**shared, "span_id": f"s{n}", "parent_span_id": f"c{n}", "node": "memory", "kind": "SERVER",
             "start_us": begun_us + own_us + way_us + ahead_us.get("memory", 0), "duration_us": inner_us},
        ]  # fmt: skip
        latency_us = total_us + 2 * way_us
        samples.append({"trace_id": trace, "start_us": at_us, "end_us": at_us + latency_us, "intended_us": at_us,
                        "latency_us": latency_us, "error": None})  # fmt: skip
    return _columns(spans), _columns(samples)


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize(("body_us", "memory_us"), [(0, 0), (3_000_000, 0), (0, -250_000), (-40_000, 60_000_000)])
def test_offsets_are_found_within_what_is_claimed(body_us: int, memory_us: int) -> None:
    found = {c.node: c for c in skew.clocks(*calls(body=body_us, memory=memory_us), 1000)}
    assert set(found) == {"body", "memory"}
    for node, ahead_us in (("body", body_us), ("memory", memory_us)):
        clock = found[node]
        assert clock.offset_us is not None
        assert clock.uncertainty_us is not None
        assert abs(clock.offset_us - ahead_us) <= clock.uncertainty_us < 10_000
        assert clock.wrong == (abs(ahead_us) > 20_000)


def test_wrong_clocks_are_corrected_and_right_ones_left_alone() -> None:
    right = calls()[0]
    assert skew.corrected(right, skew.clocks(right, calls()[1], 1000)) is None
    spans, samples = calls(body=3_000_000)
    better = skew.corrected(spans, skew.clocks(spans, samples, 1000))
    assert better is not None
    assert all(abs(a - b) < 10_000 for a, b in zip(better["start_us"], right["start_us"], strict=True))
    assert better["duration_us"] == right["duration_us"]
    memory = [n for n, node in enumerate(spans["node"]) if node == "memory"]
    assert [better["start_us"][n] for n in memory] == [right["start_us"][n] for n in memory]


def test_a_clock_that_was_set_meanwhile_is_not_known() -> None:
    spans, samples = calls()
    half = len(spans["start_us"]) // 2
    spans["start_us"] = [
        at + (2_000_000 if n > half and node == "body" else 0)
        for n, (at, node) in enumerate(zip(spans["start_us"], spans["node"], strict=True))
    ]
    found = {c.node: c for c in skew.clocks(spans, samples, 1000)}
    assert found["body"].offset_us is None
    assert "contradict" in found["body"].as_run()["source"]
    assert not found["body"].wrong


def test_without_calls_nothing_is_known() -> None:
    empty: dict[str, list[Any]] = {name: [] for name in (*skew.SPAN_COLUMNS, *skew.SAMPLE_COLUMNS)}
    assert skew.clocks(empty, empty, 0) == []


def test_what_the_way_costs_is_what_the_entry_does_not_explain() -> None:
    spans, samples = calls(body=3_000_000)
    cost = overhead.busy(spans, samples, Interval(BEGIN_US, BEGIN_US + 2_000_000))
    assert cost["busy_requests"] == 100
    assert 0.4 <= cost["busy_ms_p50"] <= 6.0
    assert overhead.busy(spans, samples, Interval(0, 1)) == {
        "busy_ms_p50": None,
        "busy_ms_p95": None,
        "busy_requests": 0,
    }


@pytest.mark.parametrize("ahead_us", [0, 5_000_000, -77_000])
def test_exchanges_bound_another_clock(ahead_us: int) -> None:
    rng, clock = random.Random(3), Comparison()
    assert "never compared" in str(clock.trouble(50_000))
    for n in range(40):
        sent_us = BEGIN_US + n * 100_000
        there_us, work_us, back_us = rng.randint(300, 9000), rng.randint(10, 400), rng.randint(300, 9000)
        received_us = sent_us + there_us
        clock.take(
            Exchange(sent_us, received_us + ahead_us, received_us + work_us + ahead_us, received_us + work_us + back_us)
        )
    assert clock.uncertainty_us is not None
    assert abs(clock.offset_us - ahead_us) <= clock.uncertainty_us
    assert clock.trouble(50_000) is None
    assert "is known to" in str(clock.trouble(10))


def test_a_step_between_exchanges_is_trouble() -> None:
    clock = Comparison()
    for n in range(12):
        ahead_us = 0 if n < 10 else STEP_US_MAX * 2
        clock.take(Exchange(n * 1000, n * 1000 + 100 + ahead_us, n * 1000 + 110 + ahead_us, n * 1000 + 200))
    assert "its clock went 100 ms" in str(clock.trouble(50_000))
    assert clock.uncertainty_us is not None
    assert clock.uncertainty_us >= STEP_US_MAX
