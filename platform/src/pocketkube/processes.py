"""Processes by (pid, start time), which no other process ever has on this boot: looked at, recorded, ended.

Source: proc(5), `stat` field 22 is the start time in clock ticks since boot, field 6 the session, field 4 the parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")
MARK = "POCKETKUBE_PROCESS"  # environment variable of all that a cluster starts: FOLDER:SERIAL
COMPACT = 500  # lines of a record after which the dead are dropped


@dataclass(frozen=True)
class Stat:
    """What /proc says of one process; `state` Z and X are dead."""

    pid: int
    state: str
    parent: int
    session: int
    started: int

    @property
    def alive(self) -> bool:
        """False for a zombie."""
        return self.state not in "ZX"


def stat(pid: int) -> Stat | None:
    """A process, or None if there is none of this number."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    rest = text[text.rindex(")") + 2 :].split()
    return Stat(pid, rest[0], int(rest[1]), int(rest[3]), int(rest[19]))


def everything() -> Iterator[Stat]:
    """All processes that can be seen."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := stat(int(name))) is not None:
            yield found


def is_alive(pid: int, started: int) -> bool:
    """True if exactly this process runs."""
    found = stat(pid)
    return found is not None and found.started == started and found.alive


def tree(*pids: int) -> list[int]:
    """The processes, what descends from them, and what is in their sessions."""
    below: dict[int, list[int]] = {}
    members = list(pids)
    for found in everything():
        below.setdefault(found.parent, []).append(found.pid)
        if found.session in pids and found.pid not in pids:
            members.append(found.pid)
    for member in members:
        members += [child for child in below.get(member, []) if child not in members]
    return members


def mark_of(pid: int) -> tuple[str, str] | None:
    """(folder, serial) of the mark that a process was executed with; forks of a parent have the parent's."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    for variable in variables:
        if variable.startswith(MARK.encode() + b"="):
            folder, _, serial = os.fsdecode(variable[len(MARK) + 1 :]).rpartition(":")
            return folder, serial
    return None


def marked(folder: Path) -> list[int]:
    """All processes with this cluster's mark, except the caller."""
    me = os.getpid()
    return [found.pid for found in everything()
            if found.alive and found.pid != me and (mark := mark_of(found.pid)) and mark[0] == str(folder)]  # fmt: skip


def end(pids: list[int]) -> None:
    """SIGKILL to each that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


class Record:
    """A file of the processes that a daemon started, one JSON line each, for whoever comes after its death."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._boot = BOOT.read_text().strip()
        self._lines = 0

    def add(self, pid: int, started: int, name: str) -> None:
        """Write a process down, at once."""
        line = json.dumps({"pid": pid, "started": started, "boot": self._boot, "name": name})
        with self._path.open("a") as file:
            file.write(line + "\n")
        self._lines += 1
        if self._lines > COMPACT:
            self._compact()

    def living(self) -> list[tuple[int, str]]:
        """(pid, name) of the recorded processes that still run."""
        found: list[tuple[int, str]] = []
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:  # the last line of a killed writer
                continue
            if entry["boot"] == self._boot and is_alive(entry["pid"], entry["started"]):
                found.append((entry["pid"], entry["name"]))
        return found

    def sweep(self, deadline_s: float = 5.0) -> list[str]:
        """End all recorded that still runs, what descends from it, and all with the cluster's mark; names of what was ended."""
        ended: list[str] = []
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline:
            alive, others = self.living(), marked(self._path.parent)
            if not alive and not others:
                break
            recorded = {pid for pid, _ in alive}
            ended += [name for _, name in alive if name not in ended]
            ended += [f"process {pid}" for pid in others if pid not in recorded and f"process {pid}" not in ended]
            end([*others, *(member for pid in recorded for member in tree(pid))])
            time.sleep(0.01)
        return ended

    def _compact(self) -> None:
        lines = [
            line
            for line in self._path.read_text().splitlines()
            if (e := json.loads(line)) and is_alive(e["pid"], e["started"])
        ]
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in lines))
        partial.replace(self._path)
        self._lines = len(lines)
