"""The one place that starts and ends processes: on the daemon's main thread, each recorded before anybody hears of it.

Programs and pods are forked by parents (`preload.py`) that are children of the daemon like everything else. A dead parent is started
anew; the pods that it forked live on, because they are the daemon's children.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pocketkube import preload, processes
from pocketkube.errors import PocketError

PR_SET_CHILD_SUBREAPER = 36
UNCLAIMED = 256  # exits remembered of processes whose start was not yet told
UNCLAIMED_S = 2.0  # after this a child that nobody asked for is ended
STOP_S = 5.0
OWN = "own"  # the serial of processes of pocketkube itself, and so of what is forked from them
Key = tuple[str, ...]  # () is the root parent, (image,) a preloaded one, (image, node) a node's own


class SpawnError(PocketError):
    """The program could not be started; `number` is the errno."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


@dataclass(eq=False)
class Process:
    """One started process; `exited` gets its wait status as an exit code (128 + number for a signal)."""

    pid: int
    started: int
    name: str
    exited: asyncio.Future[int] = field(repr=False)
    serial: str = ""  # in its mark

    @property
    def running(self) -> bool:
        """True until it has been waited for."""
        return not self.exited.done()

    def signal(self, number: int) -> None:
        """Send to the process alone."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to it, its session and its descendants."""
        if self.running:
            processes.end(processes.tree(self.pid))


@dataclass(eq=False)
class _Parent:
    process: Process
    channel: socket.socket
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Supervisor:
    """Starts processes; `start` once, in the running loop of the main thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._record = processes.Record(folder / "processes.jsonl")
        self._serial = 0
        self._serials: set[str] = set()  # of what runs or is being started
        self._known: dict[int, Process] = {}
        self._unclaimed: dict[int, int] = {}
        self._strays: dict[tuple[int, int], float] = {}
        self._parents: dict[Key, _Parent] = {}
        self._modules: dict[str, Sequence[str]] = {}
        self._making = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping = False

    @property
    def living(self) -> list[Process]:
        """Every process that runs now."""
        return list(self._known.values())

    async def start(self) -> None:
        """Adopt what descends from us, and start the root parent."""
        self._loop = asyncio.get_running_loop()
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        # Not loop.add_signal_handler: uvloop keeps SIGCHLD for itself there.
        signal.signal(signal.SIGCHLD, lambda *_: self._loop.call_soon_threadsafe(self._reap))
        await self._parent(())

    async def preloaded(self, image: str, modules: Sequence[str]) -> None:
        """Prepare a parent for an image; its pods fork faster then."""
        self._modules[image] = modules
        await self._parent((image,))

    def own(
        self, module: str, name: str, arguments: Sequence[str] = (), channel: socket.socket | None = None
    ) -> Process:
        """Start a module of this package with this daemon's environment; it finds the channel at descriptor 3 and ends with us."""
        actions = [(os.POSIX_SPAWN_DUP2, channel.fileno(), 3)] if channel else []
        argv = [sys.executable, "-m", module, *arguments]
        env = {**os.environ, processes.MARK: f"{self._folder}:{OWN}"}
        pid = os.posix_spawn(sys.executable, argv, env, file_actions=actions, setsid=True)
        return self._adopt(pid, name)

    async def program(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, streams: Sequence[int], name: str, *, tty: bool = False
    ) -> Process:  # fmt: skip
        """Execute a program with these as standard streams. Raises SpawnError."""
        program = _lookup(argv[0], env.get("PATH", os.defpath), cwd)
        return await self._ask((), {"do": "exec", "program": program, "argv": list(argv), "env": dict(env), "cwd": str(cwd),
                                    "name": name, "tty": tty}, streams)  # fmt: skip

    async def module(
        self, image: str, node: str, module: str, argv: Sequence[str], env: Mapping[str, str], cwd: Path,
        streams: Sequence[int], name: str,
    ) -> Process:  # fmt: skip
        """Run a module in a fork of the image's parent on this node. Raises SpawnError."""
        return await self._ask((image, node), {"do": "module", "module": module, "argv": list(argv), "env": dict(env),
                                               "cwd": str(cwd), "name": name}, streams)  # fmt: skip

    async def stop(self) -> None:
        """End everything at once; returns when nothing is left. Raises SpawnError naming what will not end."""
        self._stopping = True
        deadline = self._loop.time() + STOP_S
        for parent in self._parents.values():
            parent.channel.close()
        while True:
            mine = [p.pid for p in processes.everything() if p.parent == os.getpid() and p.alive]
            processes.end([member for pid in mine for member in processes.tree(pid)])
            if not mine and not self._known:
                return
            if self._loop.time() > deadline:
                raise SpawnError(f"will not end: {sorted(p.name for p in self._known.values())}")
            await asyncio.sleep(0.01)

    async def _ask(self, key: Key, request: preload.Request, descriptors: Sequence[int]) -> Process:
        self._serial += 1
        serial = str(self._serial)
        request["env"][processes.MARK] = f"{self._folder}:{serial}"
        data = json.dumps(request).encode()
        if len(data) > preload.LARGEST:
            raise SpawnError(
                f"environment and arguments of {request['name']} exceed {preload.LARGEST} bytes", errno.E2BIG
            )
        self._serials.add(serial)
        # The exchange is finished even if the asker is cancelled, or the next one would read its answer.
        copies = [os.dup(descriptor) for descriptor in descriptors]
        task = self._loop.create_task(self._send(key, data, copies, request["name"]))
        task.add_done_callback(lambda done: self._sent(done, serial, copies))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_kill)
            raise

    def _sent(self, done: asyncio.Task[Process], serial: str, copies: list[int]) -> None:
        for descriptor in copies:
            os.close(descriptor)
        if done.cancelled() or done.exception() is not None:
            self._serials.discard(serial)
            return
        process = done.result()
        process.serial = serial
        process.exited.add_done_callback(lambda _: self._serials.discard(serial))

    async def _send(self, key: Key, data: bytes, descriptors: Sequence[int], name: str) -> Process:
        for last in (False, True):
            parent = await self._parent(key)
            try:
                async with parent.lock:
                    socket.send_fds(parent.channel, [data], descriptors)
                    answer = await self._answer(parent.channel)
            except (ConnectionError, OSError) as error:
                self._drop(key, parent)
                if last or self._stopping:
                    raise SpawnError(f"the forking parent of {key or 'the cluster'} died: {error}") from None
                continue
            if "error" in answer:
                raise SpawnError(answer["error"], answer["errno"] or 0)
            return self._adopt(answer["pid"], name)
        raise AssertionError("unreachable")

    async def _answer(self, channel: socket.socket) -> dict[str, Any]:
        readable: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(channel, lambda: None if readable.done() else readable.set_result(None))
        try:
            await readable
        finally:
            self._loop.remove_reader(channel)
        data = channel.recv(4096)
        if not data:
            raise ConnectionResetError("end of file")
        answer: dict[str, Any] = json.loads(data)
        return answer

    async def _parent(self, key: Key) -> _Parent:
        if (found := self._parents.get(key)) and found.process.running:
            return found
        async with self._making:
            return await self._make(key)

    async def _make(self, key: Key) -> _Parent:
        if (found := self._parents.get(key)) and found.process.running:
            return found
        if self._stopping:
            raise SpawnError("the cluster is ending")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        name = "parent-" + "-".join(key or ("root",))
        with theirs:
            if not key:
                process = self.own("pocketkube.preload", name, ["3", str(os.getpid())], theirs)
            else:
                above = await self._make(key[:-1])
                request = {
                    "do": "parent",
                    "name": name,
                    "modules": list(self._modules.get(key[0], ())) if len(key) == 1 else [],
                }
                async with above.lock:
                    socket.send_fds(above.channel, [json.dumps(request).encode()], [theirs.fileno()])
                    answer = await self._answer(above.channel)
                if "error" in answer:
                    raise SpawnError(answer["error"])
                process = self._adopt(answer["pid"], name)
        made = self._parents[key] = _Parent(process, ours)
        process.exited.add_done_callback(lambda _: self._again(key, made))
        return made

    def _again(self, key: Key, parent: _Parent) -> None:
        self._drop(key, parent)
        if not self._stopping:
            task = self._loop.create_task(self._restart(key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _restart(self, key: Key) -> None:
        with contextlib.suppress(SpawnError, OSError):  # whoever needs the parent tries again, and tells
            await self._parent(key)

    def _drop(self, key: Key, parent: _Parent) -> None:
        if self._parents.get(key) is parent:
            del self._parents[key]
            parent.process.kill()
            self._loop.call_later(
                0 if self._stopping else 1.0, parent.channel.close
            )  # whoever waits for its answer reads the end first

    def _adopt(self, pid: int, name: str) -> Process:
        found = processes.stat(pid)
        process = Process(pid, found.started if found else 0, name, self._loop.create_future())
        if (code := self._unclaimed.pop(pid, None)) is not None:
            process.exited.set_result(code)
            return process
        self._known[pid] = process
        self._record.add(pid, process.started, name)
        return process

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            code = 128 - code if code < 0 else code
            process = self._known.pop(pid, None)
            if process is None:
                self._unclaimed[pid] = code
                while len(self._unclaimed) > UNCLAIMED:
                    del self._unclaimed[next(iter(self._unclaimed))]
                continue
            if not process.exited.done():
                process.exited.set_result(code)
            for delay_s in (0, UNCLAIMED_S + 0.5):
                self._loop.call_later(delay_s, self._orphans)

    def _orphans(self) -> None:
        """End what outlived its session leader (in a container nothing outlives its first process), and children nobody claims."""
        me, home, at = os.getpid(), os.getsid(0), self._loop.time()
        unknown = [p for p in processes.everything() if p.parent == me and p.pid not in self._known and p.alive]
        self._strays = {(p.pid, p.started): self._strays.get((p.pid, p.started), at) for p in unknown}
        for found in unknown:
            mark = processes.mark_of(found.pid)
            if mark is not None and mark[0] == str(self._folder) and mark[1] != OWN:
                left = mark[1] not in self._serials
            elif found.session in self._known or found.session == home:
                left = False
            else:  # a process that is being started has no record for a moment, and is its own session's leader
                left = found.session != found.pid or at - self._strays[found.pid, found.started] > UNCLAIMED_S
            if left:
                processes.end(processes.tree(found.pid))


def _kill(done: asyncio.Task[Process]) -> None:
    """Nobody wants this process any more."""
    if not done.cancelled() and done.exception() is None:
        done.result().kill()


def _lookup(program: str, path: str, cwd: Path) -> str:
    """Where the program is, as execvp finds it. Raises SpawnError."""
    places = [cwd / program] if "/" in program else [Path(folder) / program for folder in path.split(":") if folder]
    for place in places:
        if place.is_file() and os.access(place, os.X_OK):
            return str(place)
    where = "" if "/" in program else " in $PATH"
    raise SpawnError(f'exec: "{program}": executable file not found{where}', 2)
