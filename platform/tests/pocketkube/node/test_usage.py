"""Usage of processes: measured on real ones, and what two samples make of it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pocketkube import usage
from pocketkube.usage import Amount, Meter, Metered

BUSY = "import os,time\nif os.fork():\n while True: pass\nwhile True: time.sleep(1)"


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True)
    yield process
    subprocess.run(["kill", "-9", "--", f"-{process.pid}"], check=True)
    process.wait()


def test_cpu_and_memory_of_a_process_and_its_children_are_counted(busy: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while len(usage.descendants(busy.pid)) < 2 or usage.read(busy.pid)[0] < 0.05:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    cpu_s, memory = usage.read(busy.pid)
    assert cpu_s < 10
    assert 1 << 20 < memory < 200 << 20
    assert usage.read(2**22 + 1) == (0.0, 0)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_pod_is_known_after_two_samples_of_all_its_containers() -> None:
    clock, cpu, running = Clock(), dict.fromkeys((1, 2, 3), 0.0), [Metered("p", "body", "a", 1, 1)]
    meter = Meter(lambda: running, 15, measure=lambda pid: (cpu[pid], 1000 * pid), wall=clock, clock=clock)
    assert meter.node("body") is None
    meter.sample()
    assert meter.pod("p") is None
    clock.now_s, cpu[1] = 10, 5
    meter.sample()
    found = meter.pod("p")
    assert found is not None
    assert (found.at_s, found.window_s, found.containers) == (10, 10, {"a": Amount(0.5, 1000)})
    assert meter.node("body") == usage.Usage(10, 10, {"p/a": Amount(0.5, 1000)})
    assert meter.node("memory") == usage.Usage(10, 10, {})
    running.append(Metered("p", "body", "b", 2, 1))
    clock.now_s, cpu[1], cpu[2] = 20, 6, 9
    meter.sample()
    assert meter.pod("p") is None, "the second container has one sample only"
    clock.now_s, cpu[1], cpu[2] = 30, 7, 19
    meter.sample()
    found = meter.pod("p")
    assert found is not None
    assert found.total == Amount(1.1, 3000)


def test_a_container_that_was_started_anew_begins_anew_and_a_gone_one_is_forgotten() -> None:
    clock, running = Clock(), [Metered("p", "body", "a", 1, 1)]
    meter = Meter(lambda: running, 15, measure=lambda pid: (clock.now_s, 1), wall=clock, clock=clock)
    for clock.now_s in (0, 1):
        meter.sample()
    assert meter.pod("p") is not None
    running[0] = Metered("p", "body", "a", 7, 2)
    clock.now_s = 2
    meter.sample()
    assert meter.pod("p") is None
    running.clear()
    clock.now_s = 3
    meter.sample()
    assert meter.pod("p") is None
