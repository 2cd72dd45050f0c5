"""What pods and nodes use of the machine: CPU time and memory of their processes, sampled as a metrics server does.

A rate needs two samples, so a container that has just started has none yet. Memory is what the processes do not share with files.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pocketkube import processes

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
HAS_CHILDREN = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists()  # CONFIG_PROC_CHILDREN


@dataclass(frozen=True)
class Metered:
    """One container's first process; `run` is another for each start."""

    pod: str
    node: str
    container: str
    pid: int
    run: int


@dataclass(frozen=True)
class Amount:
    """CPU in cores over the window, memory in bytes."""

    cpu: float
    memory: int


@dataclass(frozen=True)
class Usage:
    """One pod or node; `at_s` is Unix time at the end of the window."""

    at_s: float
    window_s: float
    containers: dict[str, Amount]

    @property
    def total(self) -> Amount:
        """All containers together."""
        return Amount(sum(a.cpu for a in self.containers.values()), sum(a.memory for a in self.containers.values()))


@dataclass(frozen=True)
class _Sample:
    clock_s: float
    cpu_s: float
    memory: int


Read = Callable[[int], tuple[float, int]]  # pid to CPU seconds and bytes


def read(pid: int) -> tuple[float, int]:
    """CPU seconds and bytes of a process and its descendants; those that it has waited for count, too. (0, 0) if it is gone."""
    cpu_s, memory = 0.0, 0
    for member in descendants(pid) if HAS_CHILDREN else processes.tree(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            stat = Path(f"/proc/{member}/stat").read_text()
            resident, shared = Path(f"/proc/{member}/statm").read_text().split()[1:3]
            cpu_s += sum(map(int, stat[stat.rindex(")") + 2 :].split()[11:15])) * TICK_S  # utime, stime, cutime, cstime
            memory += (int(resident) - int(shared)) * PAGE
    return cpu_s, memory


def descendants(pid: int) -> list[int]:
    """The process and what descends from it, without a look at all processes of the machine."""
    members = [pid]
    for member in members:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in os.listdir(f"/proc/{member}/task"):
                members += map(int, Path(f"/proc/{member}/task/{thread}/children").read_text().split())
    return members


class Meter:
    """Samples every `every_s`; the answers are of the newest two samples of a container's present run."""

    def __init__(self, metered: Callable[[], Iterable[Metered]], every_s: float, *, measure: Read = read,
                 wall: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic) -> None:  # fmt: skip
        self._metered, self._every_s, self._measure, self._wall, self._clock = metered, every_s, measure, wall, clock
        self._last: dict[Metered, _Sample] = {}
        self._pods: dict[str, Usage] = {}
        self._nodes: dict[str, Usage] = {}
        self._nothing: Usage | None = None

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(self._every_s)

    def sample(self) -> None:
        """Look once at all containers."""
        newest: dict[Metered, _Sample] = {}
        pods: dict[str, dict[str, Amount]] = {}
        nodes: dict[str, dict[str, Amount]] = {}
        window_s = self._every_s
        for one in self._metered():
            sample = newest[one] = _Sample(self._clock(), *self._measure(one.pid))
            if (before := self._last.get(one)) is None or sample.clock_s <= before.clock_s:
                pods[one.pod] = {}  # a pod is known whole or not at all
                continue
            window_s = sample.clock_s - before.clock_s
            used = Amount(max(0.0, sample.cpu_s - before.cpu_s) / window_s, sample.memory)
            nodes.setdefault(one.node, {})[f"{one.pod}/{one.container}"] = used
            if pods.setdefault(one.pod, {one.container: used}):
                pods[one.pod][one.container] = used
        at_s, self._last = self._wall(), newest
        self._pods = {pod: Usage(at_s, window_s, found) for pod, found in pods.items() if found}
        self._nothing = Usage(at_s, window_s, {})
        self._nodes = {node: Usage(at_s, window_s, found) for node, found in nodes.items()}

    def pod(self, uid: str) -> Usage | None:
        """The pod of this uid; None until all its containers were sampled twice."""
        return self._pods.get(uid)

    def node(self, name: str) -> Usage | None:
        """All pods of the node of this name; None before the first sample."""
        return self._nodes.get(name) or self._nothing
