"""What the proxy should do, from pods, Services and EndpointSlices, and the channel on which it is told."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import socket
import sys
from typing import Any

from pocketkube.addresses import Addresses
from pocketkube.flow import Disturbance, Rule
from pocketkube.proxy import LENGTH
from pocketkube.storage import Event, Object, Store
from pocketkube.supervisor import Process, Supervisor

COALESCE_S = 0.002
ANSWER_S = 10.0
RETRY_S = 0.1
_MATTERS = frozenset({"services", "endpointslices"})


class ProxyControl:
    """Keeps one proxy process running and up to date."""

    def __init__(self, store: Store, supervisor: Supervisor, addresses: Addresses) -> None:
        self._store = store
        self._supervisor = supervisor
        self._addresses = addresses
        self._faults: tuple[Rule, ...] = ()
        self._unpowered: dict[str, frozenset[str]] = {}  # node to the pods that it had when it lost its power
        self._seq = 0
        self._wanted = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._callers: dict[str, str] = {}  # pod uid to namespace
        self.process: Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Start the proxy, tell it every change, and start it anew when it dies. Until cancelled."""
        self._store.listen(self._changed)
        self._wanted.set()
        try:
            while True:
                await self._wanted.wait()
                await asyncio.sleep(COALESCE_S)
                self._wanted.clear()
                waiting, self._waiting = self._waiting, []
                try:
                    await self._tell()
                except (OSError, asyncio.IncompleteReadError) as error:  # TimeoutError is an OSError
                    print(f"proxy: started anew: {error!r}", file=sys.stderr)
                    self._disconnect()
                    self._waiting += waiting
                    self._wanted.set()
                    await asyncio.sleep(RETRY_S)
                    continue
                for future in waiting:
                    if not future.done():
                        future.set_result(None)
        finally:
            self._disconnect()

    async def settled(self) -> None:
        """Return once the proxy works by the state of now."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._wanted.set()
        await future

    async def disturb(self, rules: tuple[Rule, ...]) -> None:
        """Put exactly these faults in force; returns when they are."""
        self._faults = rules
        await self.settled()

    async def unpower(self, node: str, pods: frozenset[str]) -> None:
        """Let nothing pass to or from these pods: who has no power sends no reset. Returns when it is so."""
        self._unpowered[node] = self._unpowered.get(node, frozenset()) | pods
        await self.settled()

    def power(self, node: str) -> None:
        """The node has power again: whoever still waits for one of its old pods learns that it is gone."""
        if self._unpowered.pop(node, None) is not None:
            self._wanted.set()

    @property
    def _rules(self) -> tuple[Rule, ...]:
        made: list[Rule] = []
        for node, pods in self._unpowered.items():
            made += [Rule(f"{node}/to", "partition", None, pods), Rule(f"{node}/from", "partition", pods, None)]
        return (*self._faults, *made)

    def disturbance(self, source: str | None, target: str | None) -> Disturbance | None:
        """What the faults do to packets that do not pass the proxy, such as those of probes."""
        rules = tuple(r for r in self._rules if r.covers(source, target))
        return Disturbance(rules) if rules else None

    def add_caller(self, pod: str, namespace: str) -> None:
        """Give a pod addresses for the Services of its namespace."""
        self._callers[pod] = namespace
        self._wanted.set()

    def remove_caller(self, pod: str) -> None:
        """The pod is gone."""
        if self._callers.pop(pod, None) is not None:
            self._wanted.set()

    def state(self) -> dict[str, Any]:
        """The whole state, as `proxy.py` describes it."""
        services: dict[str, list[list[Any]]] = {}
        listeners: list[list[Any]] = []
        slices: dict[tuple[str, str], list[Object]] = {}
        for found in self._store.list("endpointslices"):
            name = (found["metadata"].get("labels") or {}).get("kubernetes.io/service-name", "")
            slices.setdefault((found["metadata"]["namespace"], name), []).append(found)
        for service in self._store.list("services"):
            meta, spec = service["metadata"], service["spec"]
            namespace, ip = meta["namespace"], spec.get("clusterIP")
            if spec.get("type") == "ExternalName" or not ip or ip == "None":
                continue
            for port in spec.get("ports") or []:
                identity = f"{namespace}/{meta['name']}/{port['port']}"
                services[identity] = endpoints(slices.get((namespace, meta["name"]), []), port.get("name") or "")
                listeners.append([ip, port["port"], identity, None, None])
                for pod, home in self._callers.items():
                    own = self._addresses.service(pod, meta["uid"]) if home == namespace else None
                    if own is not None:
                        listeners.append([own, port["port"], identity, pod, self._addresses.pod(pod)])
        return {"services": services, "listeners": listeners, "rules": [_plain(rule) for rule in self._rules]}

    def _changed(self, event: Event) -> None:
        if event.resource in _MATTERS:
            self._wanted.set()

    async def _tell(self) -> None:
        if self._writer is None or self._reader is None:
            await self._connect()
        assert self._writer is not None
        assert self._reader is not None
        self._seq += 1
        data = json.dumps({"seq": self._seq, **self.state()}).encode()
        self._writer.write(LENGTH.pack(len(data)) + data)
        async with asyncio.timeout(ANSWER_S):
            (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            answer = json.loads(await self._reader.readexactly(length))
        for address, port, error in answer["failed"]:
            print(f"proxy: cannot listen on {address}:{port}: {error}", file=sys.stderr)

    async def _connect(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = self._supervisor.own("pocketkube.proxy", "proxy", [str(os.getpid())], theirs)
        self.process.exited.add_done_callback(lambda _: self._died())
        self._reader, self._writer = await asyncio.open_connection(sock=ours)

    def _died(self) -> None:
        self._disconnect()
        self._wanted.set()

    def _disconnect(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(RuntimeError):
                self._writer.close()
        self._reader = self._writer = None
        if self.process is not None:
            self.process.kill()


def endpoints(slices: list[Object], port_name: str) -> list[list[Any]]:
    """[address, port, pod uid] of a Service's ready endpoints; without any, of those that still serve while they end (KEP-1669)."""
    ready: list[list[Any]] = []
    serving: list[list[Any]] = []
    for found in slices:
        port = next((p.get("port") for p in found.get("ports") or [] if (p.get("name") or "") == port_name), None)
        if port is None:
            continue
        for endpoint in found.get("endpoints") or []:
            conditions = endpoint.get("conditions") or {}
            target = endpoint.get("targetRef") or {}
            uid = target.get("uid") if target.get("kind") == "Pod" else None
            into = [[address, port, uid] for address in endpoint["addresses"]]
            if conditions.get("ready", True) is not False:
                ready += into
            elif conditions.get("serving") and conditions.get("terminating"):
                serving += into
    return ready or serving


def _plain(rule: Rule) -> dict[str, Any]:
    return {**dataclasses.asdict(rule), "sources": None if rule.sources is None else sorted(rule.sources),
            "targets": None if rule.targets is None else sorted(rule.targets)}  # fmt: skip
