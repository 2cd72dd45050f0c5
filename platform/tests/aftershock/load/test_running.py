"""Both load tools for real, against a server that stalls, refuses, drops connections and fails."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from aftershock import processes, settings, slo
from aftershock.errors import LoadError, Refused
from aftershock.folder import RunFolder
from aftershock.load import LoadPlan, RunningLoad, start
from aftershock.load.plan import ON_TIME_S
from tests.aftershock.load.server import Server

SCENARIOS = Path(__file__).parents[4] / "scenarios"
BEGIN_S, END_S = 20.0, 25.0
Tool = Literal["k6", "locust"]
TOOLS: tuple[Tool, ...] = ("k6", "locust")


class Bench:
    """Starts loads in folders of their own and ends what a test leaves running."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: list[RunningLoad] = []

    def start(self, tool: Tool, url: str, rate: float = 40, total_s: float = 1.0, **more: Any) -> RunningLoad:
        """A load of the scenario `checkout`."""
        folder = self.path / f"run{len(self.runs)}"
        folder.mkdir()
        scenario = more.pop("scenario", SCENARIOS / f"checkout.{'js' if tool == 'k6' else 'py'}")
        plan = LoadPlan(tool, scenario, url, rate, total_s, seed=7, **more)
        self.runs.append(start(plan, RunFolder(folder), folder))
        return self.runs[-1]

    def samples(self, run: RunningLoad) -> list[dict[str, Any]]:
        """Rows of a finished run."""
        folder = RunFolder(self.path / f"run{self.runs.index(run)}")
        rows: list[dict[str, Any]] = folder.table("samples.parquet").to_pylist()
        return rows

    def journeys(self, run: RunningLoad) -> list[slo.Iteration]:
        """Iterations of a finished run, as the judge sees them."""
        names = slo.Sample.__dataclass_fields__
        return slo.iterations(slo.Sample(**{n: row[n] for n in names}) for row in self.samples(run))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench with a state folder of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    settings.settings.cache_clear()
    processes.begin("run-1")
    made = Bench(tmp_path)
    yield made
    for run in made.runs:
        run.stop()
    assert processes.records() == []
    processes.finish()
    settings.settings.cache_clear()


def until(condition: Callable[[], bool], what: str, deadline_s: float = 20.0) -> None:
    """Wait for a condition, or fail saying which."""
    ends = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < ends, f"not within {deadline_s} s: {what}"
        time.sleep(0.005)


def test_every_request_is_kept_with_its_order_key_and_trace(bench: Bench) -> None:
    with Server() as k6, Server() as locust:
        servers = (k6, locust)
        runs = [bench.start(tool, server.url, total_s=1.5) for tool, server in zip(TOOLS, servers, strict=True)]
        begun = [run.begun_us(BEGIN_S) for run in runs]
        facts = [run.finish(END_S) for run in runs]
    for run, server, begun_us, fact in zip(runs, servers, begun, facts, strict=True):
        rows = bench.samples(run)
        late_us = {n: min(r["start_us"] - r["intended_us"] for r in rows if r["iteration"] == n) for n in range(60)}
        on_time = sum(
            late <= ON_TIME_S * 1e6 for late in late_us.values()
        )  # all of them, where nothing else takes the cores
        assert on_time <= fact["started_on_time"] <= 60, "an arrival starts before its first request"
        assert fact | {"late_max_us": 0, "started_on_time": 60} == {
            "offered": True, "scheduled": 60, "started_on_time": 60, "late_max_us": 0, "dropped": 0, "exit_code": 0, "error": None,
        }  # fmt: skip
        assert abs(begun_us / 1e6 - time.time()) < 15
        assert len(rows) == len(server.seen)
        assert {r["journey"] for r in rows} == {"checkout", "browse"}
        assert {r["step"] for r in rows} == {"products", "product", "cart", "checkout"}
        assert {r["idempotency_key"]: r["order_id"] for r in rows if r["step"] == "checkout"} == server.orders
        assert all(r["order_id"] is None for r in rows if r["step"] != "checkout")
        sent = {s.headers["traceparent"].split("-")[1]: s.path for s in server.seen}
        assert len(sent) == len(rows)
        assert all(sent[r["trace_id"]].startswith("/" + r["step"].rstrip("s")) for r in rows)
        for row in rows:
            assert row["intended_us"] <= row["start_us"] + 1000
            assert abs(row["end_us"] - row["start_us"] - row["latency_us"]) <= 1
            assert row["error"] is None
        intended = sorted({r["iteration"]: r["intended_us"] for r in rows}.items())
        assert [n for n, _ in intended] == list(range(60))
        assert all(n / 40 * 1e6 - 1 <= at - begun_us < (n + 1) / 40 * 1e6 for n, at in intended)
        assert server.connections == 60, "each customer has a connection of its own, and keeps it"


def test_the_schedule_does_not_wait_for_a_shop_that_stalls(bench: Bench) -> None:
    with Server() as k6, Server() as locust:
        runs = [bench.start(t, s.url, total_s=1.5, timeout_s=0.6) for t, s in zip(TOOLS, (k6, locust), strict=True)]
        for run, server in zip(runs, (k6, locust), strict=True):
            run.begun_us(BEGIN_S)
            server.set("stall", 0.3)
            server.set("ok", 1.4)
        facts = [run.finish(END_S) for run in runs]
    for run, fact in zip(runs, facts, strict=True):
        assert (fact["scheduled"], fact["dropped"], fact["error"], fact["offered"]) == (60, 0, None, True)
        assert fact["started_on_time"] > 45, (
            "a schedule that waits would be late with all that come while the shop stalls"
        )
        latencies = [j.latency_ms for j in bench.journeys(run)]
        assert len(latencies) == 60
        assert 590 < slo.percentile(latencies, 95) < 1100, "the stall is in the figures of those who had to wait"
        assert slo.percentile(latencies, 50) > 100, "of those too who came while it stalled"
        timed_out = [r for r in bench.samples(run) if r["error"] == "timeout"]
        assert 10 <= len(timed_out) <= 40
        assert all(r["status"] is None and 0.59e6 < r["latency_us"] < 0.9e6 for r in timed_out)


def test_what_the_shop_does_wrong_is_kept_and_is_valid_load(bench: Bench) -> None:
    with Server() as gone, Server(mode="error") as failing, Server(mode="drip") as dripping:
        gone.close()
        runs = {
            (tool, what): bench.start(tool, url, rate=20, total_s=0.5, timeout_s=0.5 if what == "drip" else 5.0)
            for what, url in (("refused", gone.url), ("500", failing.url), ("drip", dripping.url))
            for tool in TOOLS
        }
        facts = {name: run.finish(END_S) for name, run in runs.items()}
    expected = {"refused": ("connection_refused", None), "500": (None, 500), "drip": ("timeout", None)}
    for (tool, what), fact in facts.items():
        assert (fact["offered"], fact["scheduled"], fact["error"]) == (True, 10, None), (tool, what)
        rows = bench.samples(runs[tool, what])
        assert {(r["error"], r["status"]) for r in rows} == {expected[what]}, (tool, what)
        assert len(rows) == 10
        assert not any(j.ok for j in bench.journeys(runs[tool, what]))


def test_a_checkout_whose_connection_broke_is_kept_with_its_key(bench: Bench) -> None:
    with Server() as k6, Server() as locust:
        servers = (k6, locust)
        runs = [bench.start(tool, server.url, total_s=1.0) for tool, server in zip(TOOLS, servers, strict=True)]
        for run, server in zip(runs, servers, strict=True):
            run.begun_us(BEGIN_S)
            server.drop_checkouts = True
        assert all(run.finish(END_S)["offered"] for run in runs)
    for run, server in zip(runs, servers, strict=True):
        checkouts = [r for r in bench.samples(run) if r["step"] == "checkout"]
        assert {r["idempotency_key"] for r in checkouts} == {
            s.headers["idempotency-key"] for s in server.seen if s.path == "/checkout"
        }
        assert {r["idempotency_key"]: r["order_id"] for r in checkouts if r["order_id"]} == server.orders
        broken = [r for r in checkouts if r["error"]]
        assert {(r["error"], r["status"], r["order_id"]) for r in broken} == {("connection_reset", None, None)}
        assert len(broken) >= 25


def test_a_generator_that_is_stopped_is_late_and_says_so(bench: Bench) -> None:
    with Server() as server:
        runs = [bench.start(tool, server.url, total_s=3.0) for tool in TOOLS]
        for run in runs:
            run.begun_us(BEGIN_S)
            os.kill(run.pid, signal.SIGSTOP)
        time.sleep(1.2)  # how long they stand still, not a wait for something
        for run in runs:
            os.kill(run.pid, signal.SIGCONT)
        facts = [run.finish(END_S) for run in runs]
    for run, fact in zip(runs, facts, strict=True):
        assert fact["late_max_us"] > 600_000
        assert fact["started_on_time"] < 0.8 * fact["scheduled"]
        assert any(j.latency_ms > 500 for j in bench.journeys(run)), "its own delay is not hidden either"


def test_too_few_virtual_users_drop_arrivals(bench: Bench) -> None:
    with Server(mode="stall") as server:
        facts = bench.start("k6", server.url, rate=40, total_s=1.0, vus=4, timeout_s=1.0).finish(END_S)
    assert facts["dropped"] >= 30
    assert facts["started_on_time"] <= 4 + 2


def test_a_generator_that_dies_leaves_honest_facts_and_what_was_measured(bench: Bench) -> None:
    with Server() as k6, Server() as locust:
        for tool, server in zip(TOOLS, (k6, locust), strict=True):
            run = bench.start(tool, server.url, total_s=30)
            run.begun_us(BEGIN_S)
            assert run.failed() is None
            server.set("stall", 0.1)
            until(lambda run=run: run.started >= 10, "ten arrivals")  # type: ignore[misc]
            os.kill(run.pid, signal.SIGKILL)
            facts = run.finish(END_S)
            assert (facts["offered"], facts["exit_code"], facts["scheduled"]) == (False, -9, 1200)
            assert facts["error"].startswith(f"{tool} ended with -9 after ")
            assert facts["dropped"] > 1100
            assert run.failed() == facts["error"]
            rows = bench.samples(run)
            lost = [r for r in rows if r["step"] == "unfinished"]
            assert lost
            assert all(r["error"] and r["status"] is None for r in lost)
            assert len({r["iteration"] for r in rows}) == 1200 - facts["dropped"]


def test_journeys_under_way_at_the_deadline_are_kept_as_failed(bench: Bench) -> None:
    with Server(mode="stall") as server:
        runs = [bench.start(tool, server.url, rate=20, total_s=0.5) for tool in TOOLS]
        for run in runs:
            until(lambda run=run: run.started == 10, "ten arrivals")  # type: ignore[misc]
            facts = run.finish(0.1)
            assert facts["error"] == f"{'k6' if run is runs[0] else 'locust'} had not ended after 0.1 s"
            assert facts["dropped"] == 0
            assert {(r["step"], r["status"]) for r in bench.samples(run)} == {("unfinished", None)}
            assert len(bench.samples(run)) == 10


def test_stop_is_at_once_and_twice_the_same(bench: Bench) -> None:
    with Server() as server:
        run = bench.start("k6", server.url, rate=40, total_s=600)
        run.begun_us(BEGIN_S)
        began = time.monotonic()
        facts = run.stop()
        assert time.monotonic() - began < 2
    assert not facts["offered"]
    assert facts["error"] == "stopped before the schedule's end"
    assert run.stop() is facts
    assert run.finish(1) is facts
    assert len(bench.samples(run)) >= 0


K6 = (
    "import {journeys, options, setup} from 'AFTERSHOCK'; export {options, setup};"
    "export default journeys({a: {weight: 1, run: () => {BODY}}});"
)
LOCUST = "from locust import FastHttpUser, task\nclass U(FastHttpUser):\n    @task\n    def a(self):\n        BODY\n"
BROKEN = (
    ("k6", "export default function ( {", "Unexpected end of input"),
    ("k6", K6.replace("BODY", "throw new Error('my fault');"), "my fault"),
    ("k6", K6.replace("BODY", ""), "sent no request"),
    ("k6", "export default function () {}", "no arrival was started"),
    ("locust", "def x(:", "invalid syntax"),
    ("locust", "x = 1", "no user class"),
    ("locust", LOCUST.replace("BODY", "raise ValueError('my fault')"), "my fault"),
    ("locust", LOCUST.replace("FastHttpUser", "HttpUser").replace("BODY", "pass"), "must derive from FastHttpUser"),
)


def test_a_broken_scenario_is_the_generators_fault(bench: Bench) -> None:
    runs = []
    for n, (tool, text, _) in enumerate(BROKEN):
        scenario = bench.path / f"broken{n}.{'js' if tool == 'k6' else 'py'}"
        scenario.write_text(text.replace("AFTERSHOCK", str(SCENARIOS / "aftershock.js")))
        runs.append(bench.start(tool, "http://127.0.0.1:9", rate=20, total_s=0.2, scenario=scenario))  # type: ignore[arg-type]
    with pytest.raises(LoadError, match=r"k6 ended with 107 after 0 of 4 arrivals: .*Unexpected end of input"):
        runs[0].begun_us(BEGIN_S)
    for run, (tool, text, said) in zip(runs, BROKEN, strict=True):
        facts = run.finish(END_S)
        assert not facts["offered"], text
        assert said in facts["error"], (tool, text)


def test_a_rate_of_zero_is_refused_and_nothing_is_started(bench: Bench) -> None:
    with pytest.raises(Refused, match="no load to offer"):
        bench.start("k6", "http://127.0.0.1:9", rate=0)
    assert processes.records() == []
    assert list((bench.path / "run0").iterdir()) == []
