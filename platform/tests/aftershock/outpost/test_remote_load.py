"""Load in pods, over a real API, with real generators, and every way in which it is no load."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from aftershock.cluster import Cluster
from aftershock.errors import BadInput, LoadError
from aftershock.folder import RunFolder
from aftershock.load import scenario
from aftershock.load.plan import LoadPlan
from aftershock.load.remote import RemoteLoad, inner_url
from aftershock.outpost.post import ImageMissing
from tests.aftershock.load.server import Server
from tests.aftershock.observe.api import Object, connected
from tests.aftershock.outpost import machine as machines
from tests.aftershock.outpost.machine import PODS, Machine

SCENARIOS = Path(__file__).parents[4] / "scenarios"
SKEWED = Path(__file__).with_name("skewed.py")
RUN = "20261125T012206Z-abc123"
POD = "aftershock-load-abc123"
AHEAD_US = 3_600_000_000


class Bench:
    """One load on one machine."""

    def __init__(self, folder: Path, machine: Machine, cluster: Cluster) -> None:
        self.folder, self.machine, self.cluster = folder, machine, cluster
        self.loads: list[RemoteLoad] = []

    def load(self, tool: Literal["k6", "locust"] = "k6", rate: float = 20, total_s: float = 1.0) -> RemoteLoad:
        """Made, not started."""
        path = SCENARIOS / f"checkout.{'js' if tool == 'k6' else 'py'}"
        plan = LoadPlan(tool, path, "http://storefront.shop", rate, total_s, seed=7)
        self.loads.append(RemoteLoad(self.cluster, "shop", plan, "storefront", "http", RUN, "aftershock/runner:dev"))
        return self.loads[-1]

    def begin(self, load: RemoteLoad) -> int:
        """Start it; when its schedule began."""
        load.start(RunFolder(self.folder), lambda text: None)
        return load.begun_us(20.0)

    def samples(self) -> list[dict[str, Any]]:
        """What came home."""
        rows: list[dict[str, Any]] = RunFolder(self.folder).table("samples.parquet").to_pylist()
        return rows


def skewed(ahead_us: int, step_us: int = 0, seconds: float = 0.5) -> machines.Command:
    """A pod on a machine with another clock, whose generator is only quick to start."""

    def command(name: str, container: Object, folder: Path) -> list[str]:
        return [sys.executable, str(SKEWED), str(ahead_us), RUN, str(step_us), str(seconds)]

    return command


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A machine with a shop; parametrize indirectly with another command for its pods."""
    folder, work = tmp_path / "run", tmp_path / "pods"
    folder.mkdir()
    work.mkdir()
    command = getattr(request, "param", machines.outpost)
    with (
        Server() as shop,
        machines.running(work, shop.port, command) as machine,
        connected(machine, tmp_path) as cluster,
    ):
        made = Bench(folder, machine, cluster)
        made.shop = shop  # type: ignore[attr-defined]
        yield made
        for load in made.loads:
            load.stop()


def until(condition: Callable[[], bool], what: str, deadline_s: float = 20.0) -> None:
    """Wait for a condition, or fail saying which."""
    ends = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < ends, f"not within {deadline_s} s: {what}"
        time.sleep(0.005)


def left(machine: Machine) -> list[str]:
    """Objects that are still there."""
    return [name for path in (PODS, PODS.replace("pods", "configmaps")) for name in machine.collections.get(path, {})]


@pytest.mark.parametrize(("tool", "pods"), [("k6", 1), ("locust", 3)])
def test_every_request_comes_home_and_nothing_stays(bench: Bench, tool: Literal["k6", "locust"], pods: int) -> None:
    load = bench.load(tool, rate=30)
    begun_us = bench.begin(load)
    assert len(bench.machine.collections[PODS]) == pods
    assert {i.path.rpartition("/")[2] for i in load.inverses()} == set(left(bench.machine))
    assert all(i.method == "DELETE" and i.check == {"absent": True} for i in load.inverses())
    facts = load.finish(25)
    rows = bench.samples()
    assert facts | {"late_max_us": 0} == {
        "offered": True, "scheduled": 30, "started_on_time": 30, "late_max_us": 0, "dropped": 0, "exit_code": 0, "error": None,
        "made": len(rows), "arrived": len(rows),
    }  # fmt: skip
    assert len(rows) == len(bench.shop.seen)  # type: ignore[attr-defined]
    assert {r["iteration"] for r in rows} == set(range(30))
    assert all(r["intended_us"] >= begun_us - 50_000 for r in rows)
    assert {r["idempotency_key"]: r["order_id"] for r in rows if r["order_id"]} == bench.shop.orders  # type: ignore[attr-defined]
    assert left(bench.machine) == []
    assert [c["node"] for c in load.clocks] == ["memory"] * pods
    assert all(abs(c["offset_us"]) <= c["uncertainty_us"] + 1000 for c in load.clocks), "one machine, one clock"


def test_the_scenario_is_handed_over_byte_for_byte(bench: Bench) -> None:
    bench.load()
    files = scenario.files(SCENARIOS / "checkout.js")
    assert files == {n: (SCENARIOS / n).read_text() for n in ("checkout.js", "aftershock.js")}


def test_a_scenario_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.js"
    large.write_text("//" + "x" * scenario.BYTES_MAX)
    with pytest.raises(BadInput, match="too large"):
        scenario.files(large)
    lonely = tmp_path / "lonely.js"
    lonely.write_text("import { a } from './b.js';")
    with pytest.raises(BadInput, match=r"b\.js cannot be read"):
        scenario.files(lonely)


@pytest.mark.parametrize("bench", [skewed(0, seconds=20)], indirect=True)
@pytest.mark.parametrize("reason", ["Evicted", "deleted"])
def test_a_generator_that_falls_is_no_load(bench: Bench, reason: str) -> None:
    load = bench.load(total_s=30)
    bench.begin(load)
    if reason == "deleted":
        bench.machine.remove(f"{PODS}/{POD}")
    else:
        bench.machine.fail(POD, reason)
    until(lambda: load.failed() is not None, "the fall is seen")
    assert reason in str(load.failed())
    facts = load.finish(5)
    assert (facts["offered"], facts["scheduled"]) == (False, 600)
    assert reason in facts["error"]
    assert len([r for r in bench.samples() if r["step"] != "unfinished"]) == facts["arrived"]


@pytest.mark.parametrize("bench", [skewed(0, seconds=1.0)], indirect=True)
def test_an_api_server_that_is_away_costs_nothing(bench: Bench) -> None:
    load = bench.load(rate=40)
    bench.begin(load)
    bench.machine.down()
    spool = bench.machine.folder / POD / "spool"
    until(lambda: b'["b",39' in spool.read_bytes(), "the rest is measured meanwhile")
    bench.machine.up()
    facts = load.finish(25)
    assert (facts["error"], facts["made"]) == (None, facts["arrived"])
    assert {r["iteration"] for r in bench.samples()} == set(range(40))


@pytest.mark.parametrize("bench", [skewed(0)], indirect=True)
def test_samples_that_were_lost_are_told(bench: Bench) -> None:
    def forget(pod: str, seen: Object) -> Any:
        """A proxy that loses one sample of the first answer that has any."""
        status, content = bench.machine.proxy(pod, "spool", seen["query"])[:2] if "spool" in seen["path"] else (0, b"")
        head, _, data = content.partition(b"\n") if isinstance(content, bytes) else (b"", b"", b"")
        lines = data.split(b"\n")
        at = next((n for n, line in enumerate(lines) if line.startswith(b'["s"')), None)
        if status != 200 or at is None:
            return None
        bench.machine.behave = lambda pod, seen: None
        lines[at] = b" " * len(lines[at])  # as many bytes, one line less
        return 200, head + b"\n" + b"\n".join(lines)

    bench.machine.behave = forget
    load = bench.load()
    bench.begin(load)
    facts = load.finish(25)
    assert facts["offered"] is False
    assert "samples were lost" in facts["error"]


@pytest.mark.parametrize("bench", [skewed(0)], indirect=True)
def test_a_tool_that_made_more_than_has_come_is_told(bench: Bench) -> None:
    load = bench.load()
    bench.begin(load)
    load.finish(25)
    load._streams[0].ended = {**(load._streams[0].ended or {}), "made": {"requests": 10_000}}
    assert "says that it made 10000 requests" in str(load._missing())


@pytest.mark.parametrize("bench", [skewed(AHEAD_US), skewed(-AHEAD_US)], indirect=True)
def test_times_of_another_clock_are_brought_onto_ours(bench: Bench) -> None:
    before_us = time.time_ns() // 1000
    load = bench.load()
    begun_us = bench.begin(load)
    facts = load.finish(25)
    after_us = time.time_ns() // 1000
    assert (facts["error"], facts["arrived"]) == (None, 20)
    assert before_us < begun_us < after_us
    assert all(before_us < r["intended_us"] <= r["start_us"] < r["end_us"] < after_us for r in bench.samples())
    (clock,) = load.clocks
    assert abs(abs(clock["offset_us"]) - AHEAD_US) <= clock["uncertainty_us"] + 1000


@pytest.mark.parametrize("bench", [skewed(0, 2_000_000)], indirect=True)
def test_a_clock_that_is_set_meanwhile_makes_times_worthless(bench: Bench) -> None:
    load = bench.load()
    bench.begin(load)
    until(lambda: load._streams[0].post.clock.disagreement_us > 1_000_000, "the step is seen")
    facts = load.finish(25)
    assert facts["offered"] is False
    assert "its clock went" in facts["error"]


def test_a_missing_image_says_what_to_load(bench: Bench) -> None:
    bench.machine.waiting = "ErrImageNeverPull"
    with pytest.raises(ImageMissing, match=r"no image aftershock/runner:dev") as error:
        bench.begin(bench.load())
    assert "load aftershock/runner:dev into every node" in str(error.value.hint)


def test_a_pod_that_may_not_be_made_is_an_error(bench: Bench) -> None:
    bench.machine.routes["POST", PODS] = lambda _: (403, {"message": "violates PodSecurity"})
    answer = bench.machine.answer
    bench.machine.answer = (  # type: ignore[method-assign]
        lambda seen: (
            (403, {"message": "violates PodSecurity"})
            if (seen["method"], seen["path"]) == ("POST", PODS)
            else answer(seen)
        )
    )
    with pytest.raises(LoadError, match="violates PodSecurity"):
        bench.begin(bench.load())


def test_addresses_inside_follow_the_service_environment() -> None:
    assert inner_url("web-shop", "http") == "http://$(WEB_SHOP_SERVICE_HOST):$(WEB_SHOP_SERVICE_PORT_HTTP)"
    assert inner_url("web", 80) == "http://$(WEB_SERVICE_HOST):$(WEB_SERVICE_PORT)"
