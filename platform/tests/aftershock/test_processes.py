"""Real children, really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aftershock import processes, settings

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder of this test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    settings.settings.cache_clear()
    processes.begin("run-1")
    yield tmp_path / "state/aftershock/processes"
    processes.finish()
    settings.settings.cache_clear()


def until(condition: Callable[[], bool], what: str, deadline_s: float = 10.0) -> None:
    """Wait for a condition, or fail saying which."""
    ends = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < ends, f"not within {deadline_s} s: {what}"
        time.sleep(0.01)


def test_a_child_is_recorded_with_its_start_time_and_forgotten_when_ended(tmp_path: Path) -> None:
    child = processes.spawn(SLEEP, name="sleeper", scratch=tmp_path)
    (record,) = processes.records()
    assert (record.run, record.name, record.pid, record.outlives) == ("run-1", "sleeper", child.pid, False)
    assert processes.alive(record.pid, record.started)
    assert not processes.alive(record.pid, record.started + 1)
    assert os.getpgid(child.pid) == child.pid
    assert processes.end(child, 5.0) == -signal.SIGTERM
    assert processes.end(child, 5.0) == -signal.SIGTERM
    assert processes.records() == []


def test_end_kills_what_ignores_the_request_and_its_grandchildren(tmp_path: Path) -> None:
    code = """if True:
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, 1); print(1, flush=True); time.sleep(60)"])
        print(child.pid, flush=True)
        time.sleep(60)
    """
    child = processes.spawn([sys.executable, "-c", code], name="stubborn", scratch=tmp_path, stdout=subprocess.PIPE)
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    assert processes.end(child, 0.1) == -signal.SIGKILL
    until(lambda: processes.start_time(grandchild) is None, "the grandchild is gone")


def test_only_the_main_thread_may_spawn(tmp_path: Path) -> None:
    seen: list[BaseException] = []

    def attempt() -> None:
        try:
            processes.spawn(SLEEP, name="no", scratch=tmp_path)
        except AssertionError as error:
            seen.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert len(seen) == 1
    assert processes.records() == []


OWNER = """if True:
    import sys, time
    from aftershock import processes
    processes.begin("run-dead")
    sleep = "import time; time.sleep(60)"
    parent = f"import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', '{sleep}']).pid, flush=True); {sleep}"
    here = processes.scratch()
    child = processes.spawn([sys.executable, "-c", parent], name="load", scratch=here, stdout=-1)
    reader = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    keeper = processes.spawn(reader, name="watchdog", scratch=here, stdin=-1, outlives=True)
    print(child.pid, int(child.stdout.readline()), keeper.pid, flush=True)
    time.sleep(60)
"""


def test_children_die_with_a_killed_run_and_sweep_ends_the_rest(tmp_path: Path, state: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, cwd=tmp_path)
    assert owner.stdout is not None
    child, grandchild, keeper = (int(n) for n in owner.stdout.readline().split())
    owner.stdout.close()
    assert processes.sweep() == [], "the run lives, so its children are left alone"
    owner.kill()
    owner.wait()
    until(lambda: processes.start_time(child) is None, "the child died with its parent")
    until(lambda: processes.start_time(keeper) is None, "the watchdog saw end-of-file")
    assert processes.start_time(grandchild) is not None
    assert (state / "run-dead" / "scratch").is_dir()
    (left,) = processes.sweep()
    assert (left.run, left.name, left.pid) == ("run-dead", "load", child)
    until(lambda: processes.start_time(grandchild) is None, "sweep ended the grandchild")
    assert not (state / "run-dead").exists()
    assert processes.sweep() == []


def test_sweep_does_not_touch_a_reused_number(tmp_path: Path, state: Path) -> None:
    stranger = subprocess.Popen(SLEEP, process_group=0)
    folder = state / "run-old"
    folder.mkdir()
    (folder / "owner").write_text('{"pid": 1, "started": -1}')
    (folder / f"child-{stranger.pid}").write_text(
        f'{{"name": "load", "outlives": false, "pid": {stranger.pid}, "started": 1}}'
    )
    (folder / "child-77").write_text('{"name": "half wri')
    assert processes.sweep() == []
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
