"""The last way to a Service: a port-forward through the API server, one WebSocket for each connection, to its ready pods in turn.

`python -m aftershock.observe.forward --context C --namespace N --service S --port P` prints {"port"} and relays until its standard input
ends. It is no honest way for load: the API server and this relay carry every byte, a Service is not asked, and a half-closed connection is
a closed one. Protocol: RFC 6455 with the subprotocol v4.channel.k8s.io, two channels (data, errors) that each begin with the port's number.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftershock import processes
from aftershock.errors import AftershockError, ClusterError, ClusterUnreachable
from aftershock.observe.reach import Way, described, timed

if TYPE_CHECKING:
    from aftershock.cluster import Cluster

BEGIN_S, CONNECT_S, PODS_S = 15.0, 3.0, 1.0
CHUNK, FRAME_MAX, HEAD_MAX = 1 << 15, 1 << 22, 1 << 14
PROTOCOL = "v4.channel.k8s.io"
BINARY, CLOSE, PING, PONG = 2, 8, 9, 10
Ready = list[tuple[str, int]]  # pods that answer for the Service, and at which port


class Forward:
    """The relay's process, from this side; `start` on the main thread, then `stop`."""

    def __init__(self, cluster: Cluster, namespace: str, service: str, port: str | int, scratch: Path) -> None:
        self._cluster, self._namespace, self._service, self._port = cluster, namespace, service, port
        self._scratch = scratch
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Way:
        """Start it. Raises ClusterError, ClusterUnreachable if it does not begin."""
        described(self._cluster, self._namespace, self._service, self._port)
        folder = self._scratch / "forward"
        folder.mkdir(mode=0o700)
        command = [sys.executable, "-m", "aftershock.observe.forward", "--context", self._cluster.identity.context,
                   "--namespace", self._namespace, "--service", self._service, "--port", str(self._port)]  # fmt: skip
        env = {**os.environ, "KUBECONFIG": str(self._cluster.kubeconfig_for_child(folder))}
        with (self._scratch / "forward.err").open("wb") as errors:
            self._process = processes.spawn(command, name="forward", scratch=self._scratch, env=env, stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=errors)  # fmt: skip
        assert self._process.stdout is not None
        try:
            port = int(json.loads(processes.line(self._process.stdout, BEGIN_S))["port"])
            if not timed("127.0.0.1", port, "/healthz", 2, CONNECT_S).ms:
                raise ValueError("nothing answers")
        except (ValueError, KeyError):
            self.stop()
            said = (self._scratch / "forward.err").read_text("utf-8", "replace").strip().splitlines()
            raise ClusterUnreachable(f"no port-forward to {self._namespace}/{self._service}: {said[-1] if said else 'silent'}",
                                     hint="the pods must listen on localhost too; or --load-on cluster") from None  # fmt: skip
        text = f"port-forward through the API server to pods of {self._service}"
        return Way(f"http://127.0.0.1:{port}", "port-forward", text, honest=False)

    def stop(self) -> None:
        """End it. Idempotent."""
        if self._process is not None:
            processes.end(self._process, 1.0)
            self._process = None


class Relay:
    """Connections in, WebSockets out."""

    def __init__(self, cluster: Cluster, namespace: str, ready: Callable[[], Ready]) -> None:
        self._cluster, self._namespace, self._ready = cluster, namespace, ready
        self._pods: Ready = []
        self._seen = -PODS_S
        self._turn = 0
        self._asking = asyncio.Lock()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its beginning to its end."""
        far: asyncio.StreamWriter | None = None
        try:
            pod, port = await self._next()
            back, opened = await asyncio.wait_for(self._open(pod, port), CONNECT_S)
            far = opened
            ways = [asyncio.ensure_future(_out(reader, opened)), asyncio.ensure_future(_in(back, opened, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            for result in await asyncio.gather(*ways, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result
        except (OSError, AftershockError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            print(f"forward: {error or type(error).__name__}", file=sys.stderr, flush=True)
            _reset(writer)  # the customer must not take it for an answer
        finally:
            for end in (far, writer):
                if end is not None:
                    end.close()

    async def _next(self) -> tuple[str, int]:
        async with self._asking:
            if time.monotonic() - self._seen > PODS_S:
                self._pods = await asyncio.to_thread(self._ready)
                self._seen = time.monotonic()
        if not self._pods:
            raise ClusterError("no pod is ready")
        self._turn += 1
        return self._pods[self._turn % len(self._pods)]

    async def _open(self, pod: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, number, tls, headers = await asyncio.to_thread(self._cluster.wire)
        reader, writer = await asyncio.open_connection(
            host, number, ssl=tls, server_hostname=host if tls else None, limit=FRAME_MAX
        )
        path = f"/api/v1/namespaces/{self._namespace}/pods/{pod}/portforward?ports={port}"
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{number}", "Connection: Upgrade", "Upgrade: websocket",
                 "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", f"Sec-WebSocket-Protocol: {PROTOCOL}",
                 *(f"{name}: {value}" for name, value in headers.items())]  # fmt: skip
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            writer.close()
            raise ClusterError(f"pod {pod}: the API server does not forward: {head.splitlines()[0].decode('latin-1')}")
        return reader, writer


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection so that the other side sees an error, and not the end of an answer."""
    found = writer.get_extra_info("socket")
    if found is not None and not writer.is_closing():
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _out(reader: asyncio.StreamReader, far: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        far.write(frame(BINARY, b"\0" + data))
        await far.drain()
    far.write(frame(CLOSE, b""))


async def _in(back: asyncio.StreamReader, far: asyncio.StreamWriter, writer: asyncio.StreamWriter) -> None:
    begun: set[int] = set()
    while True:
        opcode, data = await _frame(back)
        if opcode == CLOSE:
            return
        if opcode == PING:
            far.write(frame(PONG, data))
        if opcode != BINARY or not data:
            continue
        channel, payload = data[0], data[1:]
        if channel not in begun:  # each channel's first frame is the port's number
            begun.add(channel)
        elif channel == 0:
            writer.write(payload)
            await writer.drain()
        elif payload:
            raise ClusterError(payload[:200].decode("utf-8", "replace"))


async def _frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """One frame of the API server, which sends them unmasked and, as Go's library does, unfragmented."""
    first, second = await reader.readexactly(2)
    if not first & 0x80 or not first & 0x0F:
        raise ValueError("a message in several frames")
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", await reader.readexactly(2))
    elif length == 127:
        (length,) = struct.unpack(">Q", await reader.readexactly(8))
    if length > FRAME_MAX:
        raise ValueError(f"a frame of {length} bytes")
    return first & 0x0F, await reader.readexactly(length)


def frame(opcode: int, data: bytes) -> bytes:
    """One masked frame, as a client must send it."""
    length = len(data)
    if length < 126:
        head = bytes([0x80 | opcode, 0x80 | length])
    elif length < 1 << 16:
        head = bytes([0x80 | opcode, 0xFE]) + struct.pack(">H", length)
    else:
        head = bytes([0x80 | opcode, 0xFF]) + struct.pack(">Q", length)
    mask = secrets.token_bytes(4)
    cover = (mask * (length // 4 + 1))[:length]
    masked = (int.from_bytes(data, "big") ^ int.from_bytes(cover, "big")).to_bytes(length, "big")
    return head + mask + masked


def ready_pods(cluster: Cluster, namespace: str, service: str, port: str | int) -> Ready:
    """Pods behind a Service that are ready now, with the port at which they listen. Raises ClusterError."""
    _, entry = described(cluster, namespace, service, port)
    slices = cluster.list(f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices",
                          label_selector=f"kubernetes.io/service-name={service}")  # fmt: skip
    found: Ready = []
    for piece in slices:
        ports: list[dict[str, Any]] = piece.get("ports") or []
        number = next((p["port"] for p in ports if (p.get("name") or "") == (entry.get("name") or "")), None)
        for endpoint in piece.get("endpoints") or []:
            reference = endpoint.get("targetRef") or {}
            if (
                number
                and reference.get("kind") == "Pod"
                and (endpoint.get("conditions") or {}).get("ready") is not False
            ):
                found.append((str(reference["name"]), int(number)))
    return sorted(found)


async def _serve(relay: Relay) -> None:
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0, backlog=1000)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, lambda: None if os.read(0, 4096) else ended.set())
    await ended.wait()
    asyncio.get_running_loop().remove_reader(0)
    server.close()


def main(arguments: list[str] | None = None) -> int:
    """Entry of the process."""
    from aftershock.cluster import Cluster
    from aftershock.settings import settings

    parser = argparse.ArgumentParser(prog="aftershock.observe.forward")
    for name in ("--context", "--namespace", "--service", "--port"):
        parser.add_argument(name, required=True)
    given = parser.parse_args(arguments)
    port: str | int = int(given.port) if given.port.isdigit() else given.port
    try:
        cluster = Cluster.connect(given.context, settings())
        asyncio.run(
            _serve(Relay(cluster, given.namespace, lambda: ready_pods(cluster, given.namespace, given.service, port)))
        )
    except AftershockError as error:
        print(f"forward: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
