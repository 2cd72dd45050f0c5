"""What the API asks of the nodes: addresses, logs, and programs beside a container (`api/runtime.py` is the contract)."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
import termios
from collections.abc import AsyncIterator, Callable, Sequence

from pocketkube import logs
from pocketkube.container import Container
from pocketkube.errors import ApiError, BadRequest, NotFound
from pocketkube.kubelet import Kubelet
from pocketkube.pod import Pod
from pocketkube.storage import Object
from pocketkube.supervisor import Process, SpawnError
from pocketkube.usage import Meter, Usage

NOT_FOUND = 127  # as a shell says it
CHUNK = 1 << 16


class NodeRuntime:
    """Finds the kubelet's pod for an object of the API."""

    def __init__(self, kubelets: Sequence[Kubelet], meter: Meter) -> None:
        self._kubelets = kubelets
        self._meter = meter

    def usage(self, obj: Object) -> Usage | None:
        """What a pod or node uses; a node that is off tells nothing."""
        meta = obj["metadata"]
        if obj.get("kind") != "Node":
            return self._meter.pod(meta["uid"])
        running = any(kubelet.name == meta["name"] and not kubelet.off for kubelet in self._kubelets)
        return self._meter.node(meta["name"]) if running else None

    async def power(self, node: str, on: bool) -> None:
        """Switch a node off or on. Raises NotFound."""
        for kubelet in self._kubelets:
            if kubelet.name == node:
                if on:
                    kubelet.power_on()
                else:
                    await kubelet.power_off()
                return
        known = ", ".join(kubelet.name for kubelet in self._kubelets)
        raise NotFound(f'node "{node}" has no machine here; there are {known}', {"name": node, "kind": "nodes"})

    def address(self, pod: Object) -> str | None:
        """The pod's IP; None if it is not running."""
        status = pod.get("status") or {}
        return status.get("podIP") if status.get("phase") == "Running" else None

    def service_address(self, service: Object) -> str | None:
        """The cluster IP; None for a headless Service."""
        ip = service["spec"].get("clusterIP")
        return None if ip in (None, "", "None") else str(ip)

    async def logs(
        self, pod: Object, container: str, *, follow: bool, tail: int | None, since_s: int | None, previous: bool,
        timestamps: bool,
    ) -> AsyncIterator[bytes]:  # fmt: skip
        """The container's log in pieces; with `follow` until the container ends."""
        found = self._container(pod, container)
        live = None if previous else found.log
        path = found.log_path(found.restarts - 1 if previous else found.restarts)
        if not path.exists() and not previous and found.restarts:
            path = found.log_path(found.restarts - 1)  # it waits for its next start
        if not path.exists():
            raise BadRequest(
                f'previous terminated container "{container}" in pod "{pod["metadata"]["name"]}" not found'
            )
        async for part in logs.read(path, live, follow=follow, tail=tail, since_s=since_s, timestamps=timestamps):
            yield part

    async def exec(self, pod: Object, container: str, argv: list[str], *, stdin: bool, tty: bool) -> Session:
        """Start a program in the container's surroundings. Raises ApiError.

        What cannot be executed is a session that says so and ends with 127: clients take a refusal for a server without WebSocket.
        """
        found = self._container(pod, container)
        session = Session()
        try:
            await session.start(found, argv, stdin=stdin, tty=tty)
        except SpawnError as error:
            if found.process is None or not found.process.running:
                await session.close()
                raise ApiError(f"Internal error occurred: error executing command in container: {error}") from None
            await session.fail(f"error executing command in container: {error}\n")
        return session

    def _container(self, pod: Object, name: str) -> Container:
        uid = pod["metadata"]["uid"]
        for kubelet in self._kubelets:
            running: Pod | None = None if kubelet.off else kubelet.pods.get(uid)
            if running is not None:
                for container in (*running.containers, *running.inits):
                    if container.name == name:
                        return container
        raise NotFound(f'container "{name}" of pod "{pod["metadata"]["name"]}" is on no node',
                       {"name": pod["metadata"]["name"], "kind": "pods"})  # fmt: skip


class Session:
    """One exec: pipes, or a terminal of its own."""

    def __init__(self) -> None:
        self.stdin: DescriptorWriter | None = None
        self.stdout: DescriptorReader | Words = Words(b"")
        self.stderr: DescriptorReader | Words | None = None
        self._process: Process | None = None
        self._terminal = -1

    async def start(self, container: Container, argv: list[str], *, stdin: bool, tty: bool) -> None:
        """Open the streams and start the program. Raises SpawnError."""
        ours: list[int] = []  # closed here once the program has its copies
        try:
            if tty:
                self._terminal, slave = os.openpty()
                ours.append(slave)
                streams = [slave, slave, slave]
                self.stdout = DescriptorReader(os.dup(self._terminal))
                if stdin:
                    self.stdin = DescriptorWriter(os.dup(self._terminal))
            else:
                (out, out_end), (err, err_end) = os.pipe(), os.pipe()
                ours += [out_end, err_end]
                streams = [-1, out_end, err_end]
                self.stdout, self.stderr = DescriptorReader(out), DescriptorReader(err)
                if stdin:
                    in_end, into = os.pipe()
                    ours.append(in_end)
                    streams[0] = in_end
                    self.stdin = DescriptorWriter(into)
            self._process = await container.spawn(argv, streams, tty=tty)
        finally:
            for descriptor in ours:
                os.close(descriptor)

    async def fail(self, message: str) -> None:
        """Be a program that could not be started."""
        await self.close()
        words = Words(message.encode())
        self.stdout, self.stderr = (words, None) if self.stderr is None else (Words(b""), words)

    async def wait(self) -> int:
        """Its exit code, 128 + signal number if a signal ended it."""
        return NOT_FOUND if self._process is None else await asyncio.shield(self._process.exited)

    def resize(self, columns: int, rows: int) -> None:
        """The client's terminal has another size."""
        if self._terminal >= 0:
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def close(self) -> None:
        """End the program if it still runs, release everything."""
        if self._process is not None:
            self._process.kill()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1


class Words:
    """A reader of what is known already."""

    def __init__(self, words: bytes) -> None:
        self._words = words

    async def read(self, n: int = -1) -> bytes:
        """All of it, once."""
        words, self._words = self._words, b""
        return words

    def close(self) -> None:
        """Nothing to close."""


class _Descriptor:
    """A descriptor that is waited for; event loops know pipes but not terminals."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None

    def close(self) -> None:
        """Close it; who waits sees the end."""
        if self._descriptor < 0:
            return
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _wait(self, add: Callable[[int, Callable[[], None]], None], remove: Callable[[int], object]) -> None:
        self._waiting = self._loop.create_future()
        descriptor = self._descriptor
        add(descriptor, self._wake)
        try:
            await self._waiting
        finally:
            if self._descriptor >= 0:
                remove(descriptor)


class DescriptorReader(_Descriptor):
    """Reads when somebody asks, so that a slow client slows the program."""

    async def read(self, n: int = -1) -> bytes:
        """Up to n bytes, b"" at the end."""
        while self._descriptor >= 0:
            try:
                return os.read(self._descriptor, CHUNK if n < 0 else n)
            except BlockingIOError:
                await self._wait(self._loop.add_reader, self._loop.remove_reader)
            except OSError as error:
                if error.errno == errno.EIO:  # how a terminal says that the program is gone
                    return b""
                raise
        return b""


class DescriptorWriter(_Descriptor):
    """Writes in `drain`."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._rest = b""

    def write(self, data: bytes) -> None:
        """Queue bytes."""
        self._rest += data

    async def drain(self) -> None:
        """Write all that is queued. Raises ConnectionError if nobody reads any more."""
        while self._rest and self._descriptor >= 0:
            try:
                self._rest = self._rest[os.write(self._descriptor, self._rest) :]
            except BlockingIOError:
                await self._wait(self._loop.add_writer, self._loop.remove_writer)
