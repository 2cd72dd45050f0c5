"""Children of aftershock: each in a process group of its own, recorded before it runs, ended with its parent.

A child writes its record (pid, start time) between fork and exec, so there is no moment in which it runs unrecorded. It gets
SIGKILL when the spawning *thread* ends (PR_SET_PDEATHSIG, prctl(2)), which is why only the main thread may spawn. What survives
that (grandchildren, a child that was just being born) is found by `sweep` of the next run: by pid and start time, never by name.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from aftershock.settings import settings

Stream = int | IO[Any] | None
MARK = "AFTERSHOCK_CHILD_OF"  # in every child's environment: tells our groups from strangers whose number was reused
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded here, because between fork and exec nothing may be imported
_POLL_S = 0.02
_run: str | None = None


@dataclass(frozen=True)
class Record:
    """One child; `outlives` is True for the watchdog, which must not die with its run."""

    run: str
    name: str
    pid: int
    started: int
    outlives: bool


def start_time(pid: int) -> int | None:
    """Start of a process in clock ticks since boot (proc(5), stat field 22); None if there is no such process or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def alive(pid: int, started: int) -> bool:
    """True while exactly this process runs."""
    return start_time(pid) == started


def begin(run_id: str) -> None:
    """Name the run that owns the children spawned from now on; without it they belong to this process."""
    global _run
    _run = run_id
    _folder()


def _root() -> Path:
    return settings().state_folder / "processes"


def _folder() -> Path:
    run = _run or f"pid-{os.getpid()}-{start_time(os.getpid())}"
    folder = _root() / run
    if not folder.is_dir():
        _root().mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
    owner = folder / "owner"
    # Written anew by whoever spawns: a run's folder belongs to the process that is running it now.
    content = json.dumps({"pid": os.getpid(), "started": start_time(os.getpid())})
    if not owner.is_file() or owner.read_text() != content:
        owner.write_text(content)
    return folder


def scratch() -> Path:
    """A folder for this run's temporary files (mode 0700): `finish` deletes it, and `sweep` once the run is dead."""
    folder = _folder() / "scratch"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _birth(folder: Path, name: str, outlives: bool) -> Callable[[], None]:
    """What the child does between fork and exec: ask to die with its parent, and write its record."""
    parent = os.getpid()
    head = json.dumps({"name": name, "outlives": outlives})[:-1].encode()
    prefix = str(folder).encode() + b"/child-"

    def child() -> None:
        if not outlives:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it died before we asked
                os._exit(1)
        pid = b"%d" % os.getpid()
        stat_fd = os.open(b"/proc/self/stat", os.O_RDONLY)
        stat = os.read(stat_fd, 4096)
        os.close(stat_fd)
        started = stat[stat.rindex(b")") + 2 :].split()[19]
        record_fd = os.open(prefix + pid, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(record_fd, head + b', "pid": ' + pid + b', "started": ' + started + b"}")
        os.close(record_fd)

    return child


def spawn(
    argv: Sequence[str | Path], *, name: str, scratch: Path, env: Mapping[str, str] | None = None,
    stdin: Stream = subprocess.DEVNULL, stdout: Stream = subprocess.DEVNULL, stderr: Stream = subprocess.DEVNULL,
    outlives: bool = False, pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start a child in `scratch` with its own process group, recorded before it runs.

    `env` replaces the environment whole (None: ours). `outlives` makes a session of its own that does not die with us.
    Raises FileNotFoundError for a missing program.
    """
    assert threading.current_thread() is threading.main_thread(), "PR_SET_PDEATHSIG follows the spawning thread"
    folder = _folder()
    environment = {**(os.environ if env is None else env), MARK: folder.name}
    extra: dict[str, Any] = {"start_new_session": True} if outlives else {"process_group": 0}
    return subprocess.Popen(
        [str(part) for part in argv], cwd=scratch, env=environment, stdin=stdin, stdout=stdout, stderr=stderr,
        pass_fds=tuple(pass_fds), preexec_fn=_birth(folder, name, outlives), **extra,
    )  # fmt: skip


def end(process: subprocess.Popen[Any], grace_s: float) -> int:
    """End a child and its whole group: SIGTERM, up to `grace_s` seconds, SIGKILL; returns its exit code. Idempotent."""
    path = _folder() / f"child-{process.pid}"
    if process.returncode is None:  # not reaped by us, so the number is still its own
        _signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while not _ended(process.pid) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        _signal_group(process.pid, signal.SIGKILL)  # also what its leader left behind
    elif (record := _record(path)) is not None:
        _end_left(record, signal.SIGKILL)
    code = process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    path.unlink(missing_ok=True)
    return code


def _ended(pid: int) -> bool:
    """True once a child of ours has ended; it stays a zombie, so that its number cannot be reused yet."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def line(stream: IO[bytes], deadline_s: float) -> bytes:
    """One line of a pipe, what came of it at the deadline, b"" at the end."""
    ends, line = time.monotonic() + deadline_s, b""
    while not line.endswith(b"\n"):
        left = ends - time.monotonic()
        if left <= 0 or not select.select([stream], [], [], left)[0]:
            break
        byte = os.read(stream.fileno(), 1)
        if not byte:
            break
        line += byte
    return line


def finish() -> None:
    """Forget this run's records; call when every child was ended."""
    global _run
    shutil.rmtree(_folder(), ignore_errors=True)
    _run = None


def records() -> list[Record]:
    """Every recorded child of every run on this machine's state folder."""
    return [r for folder in _run_folders() for r in _records(folder)]


def sweep(grace_s: float = 1.0) -> list[Record]:
    """End what dead runs left running, and return it; runs that still live and watchdogs at work are left alone."""
    found: list[Record] = []
    for folder in _run_folders():
        owner = _read(folder / "owner")
        if owner is not None and alive(int(owner["pid"]), int(owner["started"])):
            continue
        children = _records(folder)
        left = [r for r in children if not r.outlives and (alive(r.pid, r.started) or _members(r))]
        found += left
        for record in left:
            _end_left(record, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while any(_members(r) for r in left) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        for record in left:
            _end_left(record, signal.SIGKILL)
        if not any(r.outlives and alive(r.pid, r.started) for r in children):
            shutil.rmtree(folder, ignore_errors=True)
    return found


def _end_left(record: Record, with_signal: signal.Signals) -> None:
    for pid in _members(record):
        try:
            os.kill(pid, with_signal)
        except (ProcessLookupError, PermissionError):
            continue


def _members(record: Record) -> list[int]:
    """Processes of a record's group that carry its run's mark; a reused number does not."""
    wanted = f"{MARK}={record.run}".encode()
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        try:
            if os.getpgid(pid) != record.pid or start_time(pid) is None:
                continue
            environ = (entry / "environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if wanted in environ or (pid == record.pid and start_time(pid) == record.started):
            members.append(pid)
    return members


def _signal_group(group: int, with_signal: signal.Signals) -> None:
    try:
        os.killpg(group, with_signal)
    except (ProcessLookupError, PermissionError):
        return


def _run_folders() -> list[Path]:
    root = _root()
    return sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []


def _records(folder: Path) -> list[Record]:
    return [record for path in sorted(folder.glob("child-*")) if (record := _record(path)) is not None]


def _record(path: Path) -> Record | None:
    r = _read(path)
    if r is None:
        return None
    return Record(path.parent.name, r["name"], int(r["pid"]), int(r["started"]), bool(r["outlives"]))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # half-written by a child that was killed while it wrote
        return None
    return value if isinstance(value, dict) else None
