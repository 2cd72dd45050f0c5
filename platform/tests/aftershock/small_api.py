"""A small real API server over HTTP for tests: enough of the Kubernetes conventions for objects, selectors, evictions and reviews."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from aftershock.cluster import Cluster
from aftershock.settings import Settings, read

Object = dict[str, Any]
KINDS = {
    "pods": "Pod", "nodes": "Node", "namespaces": "Namespace", "services": "Service", "deployments": "Deployment",
    "statefulsets": "StatefulSet", "leases": "Lease", "networkchaos": "NetworkChaos", "endpointslices": "EndpointSlice",
    "poddisruptionbudgets": "PodDisruptionBudget", "horizontalpodautoscalers": "HorizontalPodAutoscaler",
}  # fmt: skip


class SmallApi:
    """Objects by path; `refuse` says which (method, path) get an error; `seen` is every request in order."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.refuse: Callable[[str, str], tuple[int, str, str] | None] = lambda method, path: None
        self.denied: set[tuple[str, str]] = set()  # (verb, resource[/subresource]) that a review answers no to
        self.groups = {"apps/v1", "chaos-mesh.org/v1alpha1", "discovery.k8s.io/v1", "coordination.k8s.io/v1"}
        self.seen: list[tuple[str, str]] = []
        self.evicted: Callable[[str], None] = lambda path: None
        self.lock = threading.RLock()
        self.count = 0

    def put(self, path: str, **fields: Any) -> Object:
        """Store an object at `path`; labels and so on as in the API."""
        with self.lock:
            self.count += 1
            parts = path.strip("/").split("/")
            fields.setdefault("kind", KINDS[parts[-2]])
            meta = fields.setdefault("metadata", {})
            meta.setdefault("name", parts[-1])
            if len(parts) > 4 and parts[-4] == "namespaces":
                meta.setdefault("namespace", parts[-3])
            meta.setdefault("uid", f"uid-{self.count}")
            meta["resourceVersion"] = str(self.count)
            meta.setdefault("generation", 1)
            self.objects[path] = fields
            return fields

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, content_type: str) -> tuple[int, Object]:
        """One request."""
        with self.lock:
            self.seen.append((method, path))
            if refused := self.refuse(method, path):
                return _status(*refused)
            if path == "/version":
                return 200, {"gitVersion": "v1.34.0+small"}
            if path.startswith("/apis/") and path.count("/") == 3:
                group = path.removeprefix("/apis/")
                names = {
                    "chaos-mesh.org/v1alpha1": ("networkchaos", "stresschaos"),
                    "apps/v1": ("deployments", "statefulsets"),
                    "autoscaling/v2": ("horizontalpodautoscalers",),
                }.get(group, ())
                entries = [{"name": n, "kind": KINDS.get(n, "StressChaos"), "namespaced": True} for n in names]
                return (
                    (200, {"resources": entries}) if group in self.groups else _status(404, "NotFound", "no such group")
                )
            if path.endswith("/selfsubjectaccessreviews"):
                asked = body["spec"]["resourceAttributes"]
                sub = f"/{asked['subresource']}" if asked.get("subresource") else ""
                return 201, {"status": {"allowed": (asked["verb"], asked["resource"] + sub) not in self.denied}}
            if path.endswith("/eviction"):
                pod = path.removesuffix("/eviction")
                if pod not in self.objects:
                    return _status(404, "NotFound", "no such pod")
                del self.objects[pod]
                self.evicted(pod)
                return 201, {"kind": "Status", "status": "Success"}
            return self._object(method, path, query, body)

    def _object(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Object]:
        if method == "POST":
            at = f"{path}/{body['metadata']['name']}"
            if at in self.objects:
                return _status(409, "AlreadyExists", "already exists")
            return 201, self.put(at, **body)
        if method == "GET" and path not in self.objects:
            parts = path.strip("/").split("/")
            if parts[-1] in KINDS:
                return 200, {"items": self._list(path, query), "metadata": {"resourceVersion": str(self.count)}}
        if path not in self.objects:
            return _status(404, "NotFound", f"{path} not found")
        if method == "DELETE":
            wanted = ((body or {}).get("preconditions") or {}).get("uid")
            if wanted and wanted != self.objects[path]["metadata"]["uid"]:
                return _status(409, "Conflict", "uid differs")
            return 200, self.objects.pop(path)
        if method == "PATCH":
            merged = _merge(self.objects[path], body)
            merged["metadata"]["generation"] += 1
            return 200, self.put(path, **merged)
        if method == "PUT":
            if body["metadata"].get("resourceVersion") not in (None, self.objects[path]["metadata"]["resourceVersion"]):
                return _status(409, "Conflict", "object has been modified")
            return 200, self.put(path, **body)
        return 200, self.objects[path]

    def _list(self, path: str, query: dict[str, str]) -> list[Object]:
        plural = path.rsplit("/", 1)[1]
        namespaced = "/namespaces/" in path
        root = path.rsplit("/", 1)[0]
        found = []
        for at, obj in sorted(self.objects.items()):
            parent, _, _ = at.rpartition("/")
            if parent != path and (namespaced or not (parent.endswith(f"/{plural}") and parent.startswith(root))):
                continue
            labels = obj["metadata"].get("labels") or {}
            wanted = [w.split("=", 1) for w in query.get("labelSelector", "").replace("==", "=").split(",") if w]
            if any(labels.get(k) != v for k, v in wanted):
                continue
            node = query.get("fieldSelector", "").partition("spec.nodeName=")[2]
            if node and (obj.get("spec") or {}).get("nodeName") != node:
                continue
            found.append(obj)
        return found


def _merge(old: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged


def _status(code: int, reason: str, message: str) -> tuple[int, Object]:
    return code, {"kind": "Status", "code": code, "reason": reason, "message": message}


@contextmanager
def serving(folder: Path) -> Iterator[tuple[SmallApi, Cluster, Settings]]:
    """A server with a kubeconfig in `folder`, and aftershock's own client of it."""
    api = SmallApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

        def _do(self) -> None:
            url = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            code, value = api.answer(
                self.command, url.path, dict(parse_qsl(url.query)), body, self.headers.get("Content-Type", "")
            )
            content = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _do

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "small",
        "clusters": [{"name": "small", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "small", "user": {"token": "t"}}],
        "contexts": [{"name": "small", "context": {"cluster": "small", "user": "small"}}],
    }  # fmt: skip
    path = folder / "small-kubeconfig"
    path.write_text(yaml.safe_dump(config))
    settings = read({"XDG_STATE_HOME": str(folder / "state"), "KUBECONFIG": str(path), "HOME": str(folder)})
    cluster = Cluster.connect("small", settings)
    try:
        yield api, cluster, settings
    finally:
        cluster.close()
        server.shutdown()
        server.server_close()
        thread.join()
