"""The service proxy, a process of its own: `python -m pocketkube.proxy DAEMON`, told the whole state at descriptor 3.

It listens on each Service's address as each pod sees it and on the cluster IPs, passes connections to ready endpoints in turn, and puts
network faults (`flow.py`) on the bytes between pods. Established connections stay when their endpoint is no longer ready.

A message is 4 bytes of length and JSON:
    {"seq": 1, "services": {ID: [[address, port, pod uid or null], ...]},
     "listeners": [[address, port, ID, caller's uid or null, source address or null], ...], "rules": [Rule as JSON, ...]}
It is answered, once in force, by {"seq": 1, "failed": [[address, port, error], ...]}.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import struct
import sys
from dataclasses import dataclass, field
from typing import Any, cast

import uvloop

from pocketkube.flow import Disturbance, Flow, Rule, abort
from pocketkube.preload import end_with

LENGTH = struct.Struct(">I")
CONNECT_S = 10.0
BACKLOG = 512
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; the port is chosen at connect, so that one source has 28000 per target


@dataclass(frozen=True)
class Endpoint:
    """Where a Service leads; `pod` is None outside the cluster."""

    address: str
    port: int
    pod: str | None


@dataclass(eq=False)
class Listener:
    """One address of a Service, as one caller sees it."""

    address: str
    port: int
    service: str
    caller: str | None
    source: str | None
    turn: int = 0
    server: asyncio.Server | None = field(default=None, repr=False)


class Proxy:
    """All listeners and connections."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._services: dict[str, list[Endpoint]] = {}
        self._listeners: dict[tuple[str, int], Listener] = {}
        self._rules: tuple[Rule, ...] = ()
        self._disturbances: dict[tuple[str | None, str | None], Disturbance | None] = {}
        self.connections: set[Connection] = set()
        self.changed = asyncio.Event()

    async def apply(self, state: dict[str, Any]) -> list[list[Any]]:
        """Make this the state; listeners that could not be opened, with the reason."""
        self._services = {name: [Endpoint(*e) for e in found] for name, found in state["services"].items()}
        rules = tuple(rule_of(r) for r in state["rules"])
        if rules != self._rules:
            self._rules, self._disturbances = rules, {}
            for connection in list(self.connections):
                connection.disturb()
            self.changed.set()
            self.changed.clear()
        # Without an endpoint nobody listens: connections are refused at once, as kube-proxy does.
        wanted = {(a, p): (s, c, f) for a, p, s, c, f in state["listeners"] if self._services.get(s)}
        for key, listener in list(self._listeners.items()):
            if wanted.get(key) != (listener.service, listener.caller, listener.source):
                del self._listeners[key]
                if listener.server:
                    listener.server.close()
        failed: list[list[Any]] = []
        for (address, port), (service, caller, source) in wanted.items():
            if (address, port) not in self._listeners:
                try:
                    await self._listen(Listener(address, port, service, caller, source, turn=hash((address, service))))
                except OSError as error:
                    failed.append([address, port, str(error)])
        return failed

    def close(self) -> None:
        """Close all listeners and break all connections off."""
        for listener in self._listeners.values():
            if listener.server:
                listener.server.close()
        for connection in list(self.connections):
            connection.close()

    def disturbance(self, source: str | None, target: str | None) -> Disturbance | None:
        """What the faults do to bytes from source to target."""
        key = (source, target)
        if key not in self._disturbances:
            rules = tuple(r for r in self._rules if r.covers(source, target))
            self._disturbances[key] = Disturbance(rules) if rules else None
        return self._disturbances[key]

    def in_turn(self, listener: Listener) -> list[Endpoint]:
        """The endpoints to try for a new connection, in this order."""
        found = self._services.get(listener.service, [])
        if not found:
            return []
        listener.turn += 1
        at = listener.turn % len(found)
        return found[at:] + found[:at]

    async def _listen(self, listener: Listener) -> None:
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((listener.address, listener.port))
        except OSError:
            bound.close()
            raise
        self._listeners[listener.address, listener.port] = listener
        listener.server = await self._loop.create_server(
            lambda: Connection(self, listener).client, sock=bound, backlog=BACKLOG
        )


class End(asyncio.Protocol):
    """One side of a connection: what it receives goes into `out`, `into` writes to it."""

    def __init__(self, connection: Connection, out: Flow, into: Flow) -> None:
        self._connection = connection
        self._out = out
        self._into = into
        self.transport: asyncio.Transport | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Both flows get their end."""
        self.transport = stream = cast("asyncio.Transport", transport)
        self._out.attach(source=stream)
        self._into.attach(sink=stream)
        self._connection.made(self)

    def data_received(self, data: bytes) -> None:
        """Bytes."""
        self._out.feed(data)

    def eof_received(self) -> bool:
        """Half closed: the other direction goes on."""
        self._out.finish()
        return True

    def pause_writing(self) -> None:
        """Back-pressure on the other side."""
        self._into.sink_full(True)

    def resume_writing(self) -> None:
        """Room again."""
        self._into.sink_full(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed by us or broken off by the peer."""
        self.lost = True
        if not self._out.finished or exc is not None:
            self._out.reset()
        self._connection.lost()


class Connection:
    """One client, and the endpoint found for it."""

    def __init__(self, proxy: Proxy, listener: Listener) -> None:
        self._proxy = proxy
        self._loop = proxy._loop
        self._listener = listener
        self._pod: str | None = None
        self._chosen = False
        self._forward = Flow(self._loop, self._ended)
        self._backward = Flow(self._loop, self._ended)
        self.client = End(self, self._forward, self._backward)
        self._server = End(self, self._backward, self._forward)
        self._task: asyncio.Task[None] | None = None

    def made(self, end: End) -> None:
        """The client is here: find an endpoint."""
        if end is self.client:
            self._proxy.connections.add(self)
            self._task = self._loop.create_task(self._connect())

    def close(self) -> None:
        """Break it off."""
        if self._task is not None:
            self._task.cancel()
        for end in (self.client, self._server):
            if end.transport is not None:
                abort(end.transport)

    def disturb(self) -> None:
        """The faults have changed."""
        if self._chosen:
            self._forward.disturb(self._proxy.disturbance(self._listener.caller, self._pod))
            self._backward.disturb(self._proxy.disturbance(self._pod, self._listener.caller))

    def lost(self) -> None:
        """One side is gone for good; when both are, or the other never came, forget it all."""
        if self.client.lost and self._task is not None and not self._task.done():
            self._task.cancel()
        if self.client.lost and (self._server.lost or self._server.transport is None):
            self._proxy.connections.discard(self)

    async def _connect(self) -> None:
        disturbed = False
        for endpoint in self._proxy.in_turn(self._listener):
            self._pod, self._chosen = endpoint.pod, True
            disturbed = await self._handshake() or disturbed
            if disturbed and self._forward.finished:
                break  # the client gave up before its connection was there: nothing of it arrives
            try:
                upstream = await self._open(endpoint)
            except (OSError, TimeoutError):
                continue
            self.disturb()
            await self._loop.create_connection(lambda: self._server, sock=upstream)
            return
        if self.client.transport is not None:
            abort(self.client.transport)

    async def _handshake(self) -> bool:
        """Wait as long as the faults hold a handshake up; True if they do."""
        disturbed, waited = False, False
        while True:
            there = self._proxy.disturbance(self._listener.caller, self._pod)
            back = self._proxy.disturbance(self._pod, self._listener.caller)
            faults = [d for d in (there, back) if d]
            disturbed = disturbed or bool(faults)
            if any(d.blocked for d in faults):
                await self._proxy.changed.wait()
            elif faults and not waited:
                waited = True
                await asyncio.sleep(sum(d.handshake_s() for d in faults))
            else:
                return disturbed

    async def _open(self, endpoint: Endpoint) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._listener.source:
                made.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                made.bind((self._listener.source, 0))
            async with asyncio.timeout(CONNECT_S):
                await self._loop.sock_connect(made, (endpoint.address, endpoint.port))
        except BaseException:
            made.close()
            raise
        return made

    def _ended(self) -> None:
        if self._forward.ended and self._backward.ended:
            for end in (self.client, self._server):
                if end.transport is not None and not end.transport.is_closing():
                    end.transport.close()


def rule_of(value: dict[str, Any]) -> Rule:
    """A rule from its JSON."""
    sides = {k: None if value[k] is None else frozenset(value[k]) for k in ("sources", "targets")}
    return Rule(**{**value, **sides})


async def serve(daemon: int) -> None:
    """Apply states until the daemon closes the channel."""
    proxy = Proxy()
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=3))
    while True:
        try:
            (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
            state = json.loads(await reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        answer = json.dumps({"seq": state["seq"], "failed": await proxy.apply(state)}).encode()
        writer.write(LENGTH.pack(len(answer)) + answer)


def main() -> None:
    """Run until the daemon is gone."""
    daemon = int(sys.argv[1])
    end_with(daemon)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvloop.run(serve(daemon))


if __name__ == "__main__":
    main()
