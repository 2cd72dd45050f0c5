"""An API server as clients meet it: real uvicorn with TLS in a thread, nodes played by a small runtime in its event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from pocketkube import certificates
from pocketkube.api.call import parse
from pocketkube.api.listener import listener
from pocketkube.api.resources import Table, load
from pocketkube.api.runtime import ExecSession, Reader, Writer
from pocketkube.api.server import Api, application
from pocketkube.api.wire import Receive, Scope, Send
from pocketkube.errors import ApiError, BadRequest, NotFound
from pocketkube.storage import Object, Store, clone
from pocketkube.usage import Usage

KUBECTL = Path(sys.executable).with_name("kubectl")


class Process:
    """A session around a real process."""

    def __init__(self, process: asyncio.subprocess.Process, stdin: bool) -> None:
        self._process = process
        self.stdin: Writer | None = process.stdin if stdin else None
        self.sizes: list[tuple[int, int]] = []

    @property
    def stdout(self) -> Reader:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def stderr(self) -> Reader | None:
        return self._process.stderr

    async def wait(self) -> int:
        return await self._process.wait()

    def resize(self, columns: int, rows: int) -> None:
        self.sizes.append((columns, rows))

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


class Nodes:
    """Pods that are addresses, lists of lines, and processes started on demand."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.lines: dict[str, list[bytes]] = {}
        self.sessions: list[Process] = []
        self.usages: dict[str, Usage] = {}
        self.off: set[str] = set()

    def address(self, pod: Object) -> str | None:
        return self.addresses.get(pod["metadata"]["name"])

    def service_address(self, service: Object) -> str | None:
        return self.addresses.get(service["metadata"]["name"])

    def usage(self, obj: Object) -> Usage | None:
        return self.usages.get(obj["metadata"]["name"])

    async def power(self, node: str, on: bool) -> None:
        if node == "absent":
            raise NotFound(f'node "{node}" has no machine here')
        (self.off.discard if on else self.off.add)(node)

    async def logs(
        self, pod: Object, container: str, *, follow: bool, tail: int | None, since_s: int | None, previous: bool,
        timestamps: bool,
    ) -> AsyncIterator[bytes]:  # fmt: skip
        if pod["metadata"]["name"] not in self.lines:
            raise BadRequest("the log is gone")
        lines = self.lines[pod["metadata"]["name"]]
        at = max(0, len(lines) - tail) if tail is not None else 0
        while True:
            new = lines[at:]  # what comes while these are sent is the next round's
            at += len(new)
            for line in new:
                yield line
            if not follow:
                return
            await asyncio.sleep(0.01)

    async def exec(self, pod: Object, container: str, argv: list[str], *, stdin: bool, tty: bool) -> ExecSession:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=pipe if stdin else asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )
        session = Process(process, stdin)
        self.sessions.append(session)
        return session


class Cluster:
    """One running server; `call` runs something in its event loop, where the store belongs."""

    def __init__(self, folder: Path) -> None:
        self.nodes = Nodes()
        self.store = Store()
        self.identity = certificates.make(folder, "127.0.0.1")
        self.kubeconfig = folder / "kubeconfig"
        self._loop = asyncio.new_event_loop()
        self._next_ip = 0
        self._table = Table(load())
        self.seen: set[tuple[str, str]] = set()  # (verb, resource) of each request that the table has
        self.app: Api
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._socket.getsockname()[1]}"
        self.kubeconfig.write_bytes(certificates.kubeconfig(self.identity, "test", self.url))
        trust = ssl.create_default_context(cafile=str(self.identity.ca))
        self._client = httpx.Client(
            base_url=self.url, verify=trust, headers={"authorization": f"Bearer {self.identity.token}"}
        )
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._started.wait(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = application(
            self.store, self.identity.token, self.nodes, version="0.1.0", allocate_cluster_ip=self._allocate
        )
        assert isinstance(app, Api)
        self.app = app
        self._server = listener(self._recording, self.identity)
        self._loop.call_soon(self._started.set)
        self._loop.run_until_complete(self._server.serve(sockets=[self._socket]))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _recording(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, with a note of which verbs are used."""
        if scope["type"] in ("http", "websocket"):
            path = scope["raw_path"].decode().partition("?")[0]
            with contextlib.suppress(ApiError):
                call = parse(self._table, scope.get("method", "GET"), path, scope["query_string"], {}, b"")
                self.seen.add(
                    (call.verb, call.resource.qualified + (f"/{call.subresource}" if call.subresource else ""))
                )
        await self.app(scope, receive, send)

    def _allocate(self, service: Object) -> str:
        self._next_ip += 1
        return f"127.9.0.{self._next_ip}"

    def stop(self) -> None:
        self._client.close()
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()

    def call(self, function: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def put(self, resource: str, obj: Object) -> Object:
        """Create or replace an object as a controller would, past admission."""

        def change() -> Object:
            meta = obj["metadata"]
            if self.store.find(resource, meta.get("namespace"), meta["name"]) is None:
                return self.store.create(resource, obj)
            return self.store.update(resource, clone(obj), check_version=False)

        made: Object = self.call(change)
        return made

    def find(self, resource: str, namespace: str | None, name: str) -> Object | None:
        found: Object | None = self.call(lambda: self.store.find(resource, namespace, name))
        return found

    def request(
        self, method: str, path: str, body: Any = None, kind: str = "application/json", **headers: str
    ) -> httpx.Response:
        """One request with the token."""
        content = json.dumps(body).encode() if body is not None else None
        return self._client.request(method, path, content=content, headers={"content-type": kind, **headers})

    @contextlib.contextmanager
    def watch(self, path: str, **headers: str) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of one watch as they come."""
        with self._client.stream("GET", path, headers=headers, timeout=10) as answer:
            assert answer.status_code == 200, answer.read()
            yield (json.loads(line) for line in answer.iter_lines())

    def kubectl(self, *argv: str, code: int | None = 0, stdin: str | None = None, timeout_s: float = 20) -> str:
        """What the real kubectl prints (both streams)."""
        ended = subprocess.run(
            [KUBECTL, "--kubeconfig", str(self.kubeconfig), *argv], input=stdin, text=True, timeout=timeout_s,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={"HOME": str(self.kubeconfig.parent), "KUBE_EDITOR": "true"},
        )  # fmt: skip
        if code is not None:
            assert ended.returncode == code, f"kubectl {' '.join(argv)} ended with {ended.returncode}:\n{ended.stdout}"
        return ended.stdout


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A server for the time of a test module."""
    running = Cluster(folder)
    try:
        yield running
    finally:
        running.stop()


def pod(name: str, namespace: str = "default", *, node: str = "body", phase: str = "Running", **labels: str) -> Object:
    """A pod as a kubelet leaves it: bound and ready."""
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 30, "restartPolicy": "Always",
                 "containers": [{"name": "main", "image": "shop:1", "ports": [{"name": "http", "containerPort": 7070}]}]},
        "status": {"phase": phase, "podIP": "127.9.1.1", "conditions": [{"type": "Ready", "status": "True"}],
                   "containerStatuses": [{"name": "main", "ready": True, "restartCount": 0, "image": "shop:1", "imageID": "",
                                          "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]},
    }  # fmt: skip


def until(condition: Callable[[], Any], what: str, deadline_s: float = 10) -> Any:
    """Wait until something holds."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {deadline_s} s for {what}"
        time.sleep(0.01)
    return value
