"""What the API asks of the nodes: addresses, logs, and programs beside a container (`api/runtime.py` is the contract)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from collections.abc import AsyncIterator, Sequence

from pocketkube import logs
from pocketkube.container import Container
from pocketkube.errors import ApiError, BadRequest, NotFound
from pocketkube.kubelet import Kubelet
from pocketkube.pod import Pod
from pocketkube.storage import Object
from pocketkube.supervisor import Process, SpawnError

NOT_FOUND = 127  # as a shell says it


class NodeRuntime:
    """Finds the kubelet's pod for an object of the API."""

    def __init__(self, kubelets: Sequence[Kubelet]) -> None:
        self._kubelets = kubelets

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
            session.fail(f"error executing command in container: {error}\n")
        return session

    def _container(self, pod: Object, name: str) -> Container:
        uid = pod["metadata"]["uid"]
        for kubelet in self._kubelets:
            running: Pod | None = kubelet.pods.get(uid)
            if running is not None:
                for container in (*running.containers, *running.inits):
                    if container.name == name:
                        return container
        raise NotFound(f'container "{name}" of pod "{pod["metadata"]["name"]}" is on no node',
                       {"name": pod["metadata"]["name"], "kind": "pods"})  # fmt: skip


class Session:
    """One exec: pipes, or a terminal of its own."""

    def __init__(self) -> None:
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout = asyncio.StreamReader()
        self.stderr: asyncio.StreamReader | None = None
        self._process: Process | None = None
        self._terminal = -1
        self._transports: list[asyncio.BaseTransport] = []

    async def start(self, container: Container, argv: list[str], *, stdin: bool, tty: bool) -> None:
        """Open the streams and start the program. Raises SpawnError."""
        ours: list[int] = []  # closed here once the program has its copies
        try:
            if tty:
                self._terminal, slave = os.openpty()
                ours.append(slave)
                streams = [slave, slave, slave]
                await self._read(self.stdout, os.dup(self._terminal))
                if stdin:
                    self.stdin = await self._write(os.dup(self._terminal))
            else:
                out, err = os.pipe(), os.pipe()
                ours += [out[1], err[1]]
                streams = [-1, out[1], err[1]]
                self.stderr = asyncio.StreamReader()
                await self._read(self.stdout, out[0])
                await self._read(self.stderr, err[0])
                if stdin:
                    into = os.pipe()
                    ours.append(into[0])
                    streams[0] = into[0]
                    self.stdin = await self._write(into[1])
            self._process = await container.spawn(argv, streams, tty=tty)
        finally:
            for descriptor in ours:
                os.close(descriptor)

    def fail(self, message: str) -> None:
        """Be a program that could not be started."""
        for reader, words in ((self.stderr or self.stdout, message.encode()), (self.stdout, b"")):
            reader.feed_data(words)
            reader.feed_eof()

    async def wait(self) -> int:
        """Its exit code, 128 + signal number if a signal ended it."""
        if self._process is None:
            return NOT_FOUND
        return await asyncio.shield(self._process.exited)

    def resize(self, columns: int, rows: int) -> None:
        """The client's terminal has another size."""
        if self._terminal >= 0:
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def close(self) -> None:
        """End the program if it still runs, release everything."""
        if self._process is not None:
            self._process.kill()
        for transport in self._transports:
            transport.close()
        self._transports.clear()
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1

    async def _read(self, reader: asyncio.StreamReader, descriptor: int) -> None:
        def protocol() -> asyncio.StreamReaderProtocol:
            return _Patient(reader)

        transport, _ = await asyncio.get_running_loop().connect_read_pipe(protocol, os.fdopen(descriptor, "rb", 0))
        self._transports.append(transport)

    async def _write(self, descriptor: int) -> asyncio.StreamWriter:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, os.fdopen(descriptor, "wb", 0)
        )
        self._transports.append(transport)
        return asyncio.StreamWriter(transport, protocol, None, loop)


class _Patient(asyncio.StreamReaderProtocol):
    """A terminal's other end says EIO, not end of file, when the program is gone."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, either way."""
        with contextlib.suppress(RuntimeError):
            super().connection_lost(None if isinstance(exc, OSError) else exc)
