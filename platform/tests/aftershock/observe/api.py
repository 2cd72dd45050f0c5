"""A small API server of real sockets: lists, watches with history, and every way in which a server fails."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from aftershock.cluster import Cluster
from aftershock.settings import Settings

Object = dict[str, Any]
Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]
PODS = "/api/v1/namespaces/shop/pods"
RESOURCES = {
    "/api/v1": [
        ("pods", "Pod", True),
        ("nodes", "Node", False),
        ("services", "Service", True),
        ("secrets", "Secret", True),
    ],
    "/apis/apps/v1": [("deployments", "Deployment", True), ("statefulsets", "StatefulSet", True)],
    "/apis/policy/v1": [("poddisruptionbudgets", "PodDisruptionBudget", True)],
    "/apis/autoscaling/v2": [("horizontalpodautoscalers", "HorizontalPodAutoscaler", True)],
    "/apis/discovery.k8s.io/v1": [("endpointslices", "EndpointSlice", True)],
    "/apis/events.k8s.io/v1": [("events", "Event", True)],
}


class Api:
    """Its state; every method may be called from any thread."""

    def __init__(self) -> None:
        self.collections: dict[str, dict[str, Object]] = {}
        self.history: list[tuple[str, str, Object]] = []  # path, type, object; its index + 1 is the resourceVersion
        self.oldest = 0  # resourceVersions below are gone
        self.routes: dict[tuple[str, str], Callable[[Object], Answer]] = {}
        self.requests: list[Object] = []
        self.stopped = threading.Event()  # while set, nothing is answered
        self.changed = threading.Condition()
        self.dropped = 0  # raises to end every watch
        self.watches = 0  # open ones
        self.version = "v1.34.0+test"
        self.ended = False
        self.port = 0
        self._server: ThreadingHTTPServer | None = None
        self.up()

    def up(self) -> None:
        """Listen (again, on the same port)."""
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                api.handle(self)

            do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = handle_any

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # clients that go away are part of the tests

        self._server = Server(("127.0.0.1", self.port), Handler)
        self._server.connections = set()  # type: ignore[attr-defined]
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Stop listening and break every connection."""
        self.drop_watches()
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._server.connections):  # type: ignore[attr-defined]
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def end(self) -> None:
        """For good."""
        self.ended = True
        self.stopped.clear()
        self.down()

    def put(self, path: str, obj: Object, type_: str | None = None) -> None:
        """Create or change an object; `DELETED` removes it."""
        with self.changed:
            name = obj["metadata"]["name"]
            kind = type_ or ("MODIFIED" if name in self.collections.setdefault(path, {}) else "ADDED")
            copy = json.loads(json.dumps(obj))
            copy["metadata"]["resourceVersion"] = str(len(self.history) + 1)
            if kind == "DELETED":
                self.collections[path].pop(name, None)
            else:
                self.collections[path][name] = copy
            self.history.append((path, kind, copy))
            self.changed.notify_all()

    def drop_watches(self) -> None:
        """End every watch now."""
        with self.changed:
            self.dropped += 1
            self.changed.notify_all()

    def forget(self) -> None:
        """No watch can go on from an earlier resourceVersion."""
        with self.changed:
            self.history.append(("", "", {}))
            self.oldest = len(self.history)

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        assert self._server is not None
        self._server.connections.add(request.connection)  # type: ignore[attr-defined]
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length)
        url = urlsplit(request.path)
        seen = {"method": request.command, "path": url.path, "query": dict(parse_qsl(url.query)), "body": body,
                "headers": {k.lower(): v for k, v in request.headers.items()}}  # fmt: skip
        self.requests.append(seen)
        while self.stopped.is_set() and not self.ended:
            time.sleep(0.01)
        if seen["query"].get("watch") == "true" and (request.command, url.path) not in self.routes:
            self.watch(request, url.path, seen["query"])
            return
        status, content, headers = (*self.answer(seen), {})[:3]
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data)

    def answer(self, seen: Object) -> Answer:
        """Status and body of a plain request."""
        path = seen["path"]
        route = self.routes.get((seen["method"], path))
        if route is not None:
            return route(seen)
        if path == "/version":
            return 200, {"gitVersion": self.version}
        if path in RESOURCES:
            return 200, {"resources": [{"name": n, "kind": k, "namespaced": s} for n, k, s in RESOURCES[path]]}
        if seen["method"] == "GET" and path.rsplit("/", 1)[-1] in {
            n for known in RESOURCES.values() for n, _, _ in known
        }:
            with self.changed:
                items = list(self.collections.get(path, {}).values())
                return 200, {"metadata": {"resourceVersion": str(len(self.history))}, "items": items}
        collection, _, name = path.rpartition("/")
        if seen["method"] == "GET" and name in self.collections.get(collection, {}):
            return 200, self.collections[collection][name]
        return 404, {"kind": "Status", "code": 404, "reason": "NotFound", "message": f"{path} not found"}

    def watch(self, request: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> None:
        """Stream changes."""
        at, mine = int(query["resourceVersion"]), self.dropped
        ends = time.monotonic() + float(query.get("timeoutSeconds", "30"))
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()

        def send(event: Object) -> None:
            line = json.dumps(event).encode() + b"\n"
            request.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

        if at < self.oldest:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            send({"type": "ERROR", "object": gone})
            request.wfile.write(b"0\r\n\r\n")
            return
        with self.changed:
            self.watches += 1
        try:
            while True:
                with self.changed:
                    while len(self.history) <= at and self.dropped == mine and time.monotonic() < ends:
                        self.changed.wait(0.05)
                    fresh, dropped = self.history[at:], self.dropped != mine
                for where, type_, obj in fresh:
                    if where == path:
                        send({"type": type_, "object": obj})
                at += len(fresh)
                if dropped or time.monotonic() >= ends:
                    break
        finally:
            with self.changed:
                self.watches -= 1
        request.wfile.write(b"0\r\n\r\n")


@contextmanager
def running() -> Iterator[Api]:
    """One server for the length of a `with`."""
    api = Api()
    try:
        yield api
    finally:
        api.end()


def settings_for(api: Api, folder: Path, **user: Any) -> Settings:
    """Settings whose only context, `test`, is this server."""
    path = folder / "config"
    path.write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{api.port}"}}],
        "users": [{"name": "u", "user": user or {"token": "secret-token"}}],
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
    }))  # fmt: skip
    return Settings(state_home=folder / "state", kubeconfig=str(path), graph_url=None, no_color=True)


@contextmanager
def connected(api: Api, folder: Path) -> Iterator[Cluster]:
    """A cluster on that server."""
    cluster = Cluster.connect("test", settings_for(api, folder))
    try:
        yield cluster
    finally:
        cluster.close()


def pod(name: str, *, app: str = "payments", ready: bool = True, port: int = 7070, **status: Any) -> Object:
    """A Pod as an API serves it."""
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {
        "metadata": {"name": name, "namespace": "shop", "uid": f"uid-{name}", "labels": {"app": app}},
        "spec": {"nodeName": "body", "containers": [{"name": app, "ports": [{"name": "http", "containerPort": port}]}]},
        "status": {"phase": "Running", "podIP": "127.1.2.3", "conditions": [condition], **status},
    }


def secret(name: str, **data: str) -> Object:
    """A Secret as an API serves it."""
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"metadata": {"name": name, "namespace": "shop"}, "data": encoded}
