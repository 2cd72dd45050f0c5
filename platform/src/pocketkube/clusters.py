"""The clusters of this user, as their state folders tell; started, ended and swept from outside.

`$XDG_STATE_HOME/pocketkube/NAME` (or below ~/.local/state) holds all of a cluster. A lock on the folder above it lets one start or
end at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pocketkube import processes
from pocketkube.errors import StartError

CLUSTER = "cluster.json"
NODES = ("brain", "body", "body2", "memory")
UP_S, DOWN_S, LOCK_S = 30.0, 6.0, 60.0
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")


@dataclass(frozen=True)
class Timing:
    """How fast a cluster notices; shorter than upstream, so that an experiment takes seconds."""

    node_grace_s: float = 4.0  # a silent node is NotReady after this (upstream 40 to 50)
    autoscaler_sync_s: float = 15.0  # as upstream

    @property
    def metrics_s(self) -> float:
        """How often usage is sampled: no more seldom than autoscalers look."""
        return min(15.0, self.autoscaler_sync_s)

    def check(self) -> None:
        """Raises StartError for what cannot work."""
        if not 2 <= self.node_grace_s <= 3600:
            raise StartError(f"a node's grace of {self.node_grace_s:g} s is not between 2 and 3600",
                             "kubelets renew their lease each second")  # fmt: skip
        if not 1 <= self.autoscaler_sync_s <= 3600:
            raise StartError(f"a sync period of {self.autoscaler_sync_s:g} s is not between 1 and 3600")


@dataclass(frozen=True)
class Order:
    """What a daemon is told: the cluster to be, and a descriptor for its progress."""

    name: str
    folder: str
    nodes: list[str]
    images: str | None
    report: int
    owner: int | None  # the cluster ends when this process does
    timing: Timing = Timing()

    @classmethod
    def read(cls, text: str) -> Order:
        """From its JSON."""
        value = json.loads(text)
        return cls(**{**value, "timing": Timing(**value["timing"])})


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs."""

    name: str
    folder: Path
    facts: dict[str, Any]


def base() -> Path:
    """Where all clusters of this user are."""
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "pocketkube"


def find(name: str) -> Cluster | None:
    """The running cluster of this name."""
    folder = base() / checked(name)
    try:
        facts = json.loads((folder / CLUSTER).read_text())
    except (OSError, ValueError):
        return None
    alive = processes.is_alive(facts["pid"], facts["started"])
    return Cluster(name, folder, facts) if alive else None


def running() -> list[Cluster]:
    """All clusters that run."""
    names = sorted(p.name for p in base().glob("*") if p.is_dir() and _NAME.fullmatch(p.name))
    return [found for name in names if (found := find(name)) is not None]


def up(
    name: str, nodes: list[str], image_file: Path | None, tell: Callable[[str], None], owner: int | None = None,
    timing: Timing = Timing(),
) -> tuple[Cluster, bool]:  # fmt: skip
    """Start a cluster and wait until it is ready; False if it ran already. Raises StartError."""
    timing.check()
    for node in nodes:
        if not _NAME.fullmatch(node) or nodes.count(node) > 1:
            raise StartError(
                f"{node!r} is no name for a node, or is there twice", "names such as brain,body,body2,memory"
            )
    with _locked():
        if (found := find(name)) is not None:
            return found, False
        for swept in sweep():
            tell(f"ended what a killed cluster had left: {swept}")
        folder = base() / name
        folder.mkdir(mode=0o700)
        reading, writing = os.pipe()
        images = str(image_file.resolve()) if image_file else None
        return _start(Order(name, str(folder), nodes, images, writing, owner, timing), reading, tell), True


def down(name: str) -> bool:
    """End a cluster, or what a killed one has left; False if there was nothing. Raises StartError."""
    folder = base() / checked(name)
    with _locked():
        if not folder.exists():
            return False
        found = find(name)
        if found is not None:
            _end(found.facts["pid"], found.facts["started"])
        _clear(folder)
        return True


def sweep() -> list[str]:
    """End what clusters with a dead daemon have left, and remove their folders; names of both."""
    ended: list[str] = []
    for folder in sorted(p for p in base().glob("*") if p.is_dir() and _NAME.fullmatch(p.name)):
        if find(folder.name) is None:
            ended += [f"{folder.name}: {what}" for what in _clear(folder)] or [folder.name]
    return ended


def checked(name: str) -> str:
    """The name, if it is one. Raises StartError."""
    if not _NAME.fullmatch(name):
        raise StartError(f"{name!r} is no name for a cluster", "lower-case letters, digits and dashes, 40 at most")
    return name


def _start(order: Order, reading: int, tell: Callable[[str], None]) -> Cluster:
    folder = Path(order.folder)
    log = folder / "daemon.log"
    with log.open("ab") as output:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "pocketkube.daemon", json.dumps(asdict(order))], stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, start_new_session=True, pass_fds=[order.report], cwd="/",
        )  # fmt: skip
    os.close(order.report)
    ready = False
    try:
        facts = _follow(reading, log, tell)
        ready = True
    finally:
        os.close(reading)
        if not ready:
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(DOWN_S)
            daemon.kill()
            daemon.wait()
            _clear(folder)
    daemon.returncode = 0  # it is not waited for
    return Cluster(order.name, folder, facts)


def _follow(reading: int, log: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Read the daemon's reports until it is ready. Raises StartError."""
    deadline, text = time.monotonic() + UP_S, b""
    while True:
        if not select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise StartError(
                f"the cluster was not ready within {UP_S:g} s{_words(log)}", "the machine may be overloaded"
            )
        data = os.read(reading, 65536)
        if not data:
            raise StartError(f"the daemon ended{_words(log)}", "this may be a bug of pocketkube")
        *lines, text = (text + data).split(b"\n")
        for line in lines:
            report = json.loads(line)
            if "ready" in report:
                facts: dict[str, Any] = report["ready"]
                return facts
            if "error" in report:
                raise StartError(report["error"] + _words(log), report["hint"])
            tell(report["stage"])


def _words(log: Path) -> str:
    words = log.read_text(errors="replace").strip() if log.exists() else ""
    return f"; its last words:\n{words[-2000:]}" if words else ""


def _end(pid: int, started: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_S
    while processes.is_alive(pid, started):
        if time.monotonic() > deadline:
            processes.end([pid])
        time.sleep(0.01)


def _clear(folder: Path) -> list[str]:
    """Names of the processes that a cluster has left and that are ended now. Raises StartError if the folder cannot go."""
    ended = processes.Record(folder / "processes.jsonl").sweep() if folder.exists() else []
    deadline = time.monotonic() + DOWN_S
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)  # again, if a process that just ended had written
    if folder.exists():
        raise StartError(f"cannot remove {folder}", "look who writes there, then run `pocketkube down` again")
    return ended


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    base().mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(base(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StartError(f"another pocketkube has been starting or ending for {LOCK_S:g} s",
                                     f"it holds a lock on {base()}") from None  # fmt: skip
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)
