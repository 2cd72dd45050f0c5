"""`aftershock demo` as users run it: whole, twice at once, as somebody else, interrupted, killed. Asked for with `make test-demo`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.demo

PROJECT = Path(__file__).parents[2]
DEMO_S = 240
NOBODY = 65534


class Demo:
    """One demo with a state folder and a reports folder of its own."""

    def __init__(self, folder: Path, cwd: Path = PROJECT, user: int | None = None) -> None:
        self.state, self.reports, self.cwd, self.user = folder / "state", folder / "reports", cwd, user
        for path in (folder, self.state, self.reports):
            path.mkdir(exist_ok=True)
            if user is not None:
                os.chown(path, user, user)
        self.env = {**os.environ, "XDG_STATE_HOME": str(self.state), "HOME": str(folder), "NO_COLOR": "1"}
        self.program = [sys.executable, "-m", "aftershock.cli"]
        self.mark = f"XDG_STATE_HOME={self.state}".encode()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [*self.program, "demo", "--json", "--reports", str(self.reports), *arguments]
        more: dict[str, Any] = {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}
        return subprocess.Popen(
            command, env=self.env, cwd=self.cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more
        )

    def finish(self, process: subprocess.Popen[str], code: int = 0) -> list[dict[str, Any]]:
        out, err = process.communicate(timeout=DEMO_S)
        assert process.returncode == code, f"{process.returncode}\n{out}\n{err[-4000:]}"
        rows: list[dict[str, Any]] = json.loads(out) if out.strip() else []
        return rows

    def processes(self) -> list[int]:
        """Everything that was started for this demo and lives."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.mark in (entry / "environ").read_bytes().split(b"\0"):
                    state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
                    found += [int(entry.name)] if state != "Z" else []
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return found

    def gone(self, within_s: float = 5.0) -> None:
        ends = time.monotonic() + within_s
        while (left := self.processes()) and time.monotonic() < ends:
            time.sleep(0.05)
        names = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")[:120] for pid in left]
        assert not left, f"left behind: {names}"


def until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"the demo ended before {text!r}")


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    made = Demo(tmp_path)
    yield made
    for pid in made.processes():
        os.kill(pid, signal.SIGKILL)


def test_four_experiments_come_out_as_they_must(demo: Demo) -> None:
    rows = demo.finish(demo.start())
    assert [(r["verdict"], r["must"], r["as_it_must"]) for r in rows] == [("PASS", "PASS", True)] * 3 + [
        ("FAIL", "FAIL", True)
    ]
    assert [r["root_cause"].split()[0] for r in rows] == ["payments", "body2", "payments", "payments"]
    for row in rows:
        assert Path(row["report"]).is_file()
    demo.gone()


def test_two_checkouts_at_once(tmp_path: Path) -> None:
    other = tmp_path / "checkout"
    other.mkdir()
    for name in ("experiments", "scenarios", "gitops"):
        shutil.copytree(PROJECT / name, other / name)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    both = [Demo(tmp_path / "a"), Demo(tmp_path / "b", cwd=other / "experiments")]
    both[1].env["XDG_STATE_HOME"] = both[0].env["XDG_STATE_HOME"]  # the same user
    started = [d.start("--only", "payments-latency", "--model", "none") for d in both]
    told = [process.communicate(timeout=DEMO_S) for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    assert [r["verdict"] for out, _ in told for r in json.loads(out)] == ["PASS", "PASS"]
    both[0].gone()


def test_the_same_checkout_twice_at_once_is_refused(demo: Demo) -> None:
    first = demo.start("--only", "payments-latency", "--model", "none")
    until(first, "preflight")
    second = demo.start("--only", "payments-latency", "--model", "none")
    _, err = second.communicate(timeout=30)
    assert second.returncode == 2
    assert "is in use" in err
    assert [r["verdict"] for r in demo.finish(first)] == ["PASS"]
    demo.gone()


def readable_python() -> str:
    """An interpreter that everybody may run; root's own may lie below a folder of root's."""
    for candidate in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        command = [candidate, "-c", "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"]
        try:
            done = subprocess.run(
                command, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True, check=False
            )
        except PermissionError:
            continue
        if done.returncode == 0:
            return candidate
    raise AssertionError("there is no Python 3.11 with venv that an ordinary user may run")


def test_a_fresh_clone_as_an_ordinary_user(tmp_path: Path) -> None:
    """Set-up included, since that user cannot use ours."""
    assert os.geteuid() == 0, "run these tests as root: for everybody else, all of them are this one"
    with tempfile.TemporaryDirectory(prefix="aftershock-clone-") as scratch:
        home = Path(scratch)
        clone = home / "clone"
        subprocess.run(["git", "clone", "--quiet", PROJECT, clone], check=True)
        for path in (home, *home.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        as_nobody = Demo(home, cwd=clone, user=NOBODY)
        as_nobody.env["PATH"] = "/usr/local/bin:/usr/bin:/bin"
        subprocess.run(["make", "setup", f"PYTHON={readable_python()}"], cwd=clone, env=as_nobody.env, user=NOBODY, group=NOBODY,
                       extra_groups=[], check=True, timeout=DEMO_S)  # fmt: skip
        as_nobody.program = [str(clone / ".venv/bin/aftershock")]
        assert [r["verdict"] for r in as_nobody.finish(as_nobody.start("--only", "payments-pod-kill"))] == ["PASS"]
        as_nobody.gone()


@pytest.mark.parametrize(
    "step", ["starting four nodes", "pods ready", "starting observers", ": fault", "writing the postmortem"]
)
def test_ctrl_c_leaves_nothing_behind(demo: Demo, step: str) -> None:
    process = demo.start("--only", "payments-pod-kill")
    until(process, step)
    process.send_signal(signal.SIGINT)
    demo.finish(process, 130)
    demo.gone()


def kill_all(demo: Demo, process: subprocess.Popen[str]) -> None:
    for pid in demo.processes():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def kill_one(demo: Demo, process: subprocess.Popen[str]) -> None:
    process.kill()


@pytest.mark.parametrize("kill", [kill_all, kill_one])
def test_after_kill_9_the_next_one_works(demo: Demo, kill: Callable[[Demo, subprocess.Popen[str]], None]) -> None:
    process = demo.start("--only", "payments-latency", "--model", "none")
    until(process, ": fault")
    kill(demo, process)
    process.communicate(timeout=30)
    assert [r["verdict"] for r in demo.finish(demo.start("--only", "payments-latency", "--model", "none"))] == ["PASS"]
    demo.gone()
