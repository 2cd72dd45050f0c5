"""The Kubernetes API as plain dictionaries.

Every call has a deadline. Only requests that change nothing are tried again. An error says whether the request may have been carried
out all the same (`definite`).
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ProxyError, SSLError

from aftershock import answers, connection, kubeconfig
from aftershock.answers import Object, Watch
from aftershock.errors import BadInput, ClusterError, ClusterUnreachable, Forbidden, NotFound
from aftershock.kubeconfig import Access
from aftershock.settings import Settings

Objects = list[Object]
Texts = list[str]
Query = Mapping[str, str | int | bool | None]
TIMEOUT_S = 10.0
CONNECT_S = 3.0
HURRY_S = 1.0
TRIES = 3
BACKOFF_S = 0.1
PAGE = 500
PAGES_MAX = 200
WATCH_GRACE_S = 5.0  # how much later than asked for a server may end a watch before it counts as gone
APPLY = "application/apply-patch+yaml"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_UNSURE = frozenset({408, 500, 502, 503, 504})  # answers after which a change may have been made all the same


@dataclass(frozen=True)
class ClusterIdentity:
    """Which cluster this is, as run.json keeps it."""

    kind: str  # pocket | kubernetes
    context: str
    server_version: str
    fingerprint: str
    nodes: tuple[str, ...]
    own: bool  # this user started it; False where we cannot tell


@dataclass(frozen=True)
class Resource:
    """One kind as the API serves it."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool

    def path(self, namespace: str | None = None) -> str:
        """Path of the collection, in one namespace or in all."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        within = f"/namespaces/{quote(namespace, safe='')}" if self.namespaced and namespace else ""
        return f"{root}{within}/{self.plural}"


class Cluster:
    """One cluster; safe for several threads."""

    def __init__(self, access: Access, settings: Settings) -> None:
        self._access = access
        self.settings = settings
        self._pool, self._credentials = connection.of(access)
        self._lock = threading.Lock()
        self._served: dict[str, dict[str, Resource]] = {}
        self._identity: ClusterIdentity | None = None
        self._hurry_s: float | None = None

    @classmethod
    def connect(cls, on: str, settings: Settings) -> Self:
        """Connect to `pocket`, `pocket:NAME` or a kubeconfig context, and see that it answers.

        Raises BadInput, ClusterUnreachable, Forbidden.
        """
        if on == "pocket" and settings.pocket is None:
            return cls._only_pocket(settings)
        if on == "pocket" or on.startswith("pocket:"):
            name = on.partition(":")[2] or settings.pocket or ""
            access, hint = kubeconfig.of_pocket(name, settings), f"pocketkube up --name {name}"
        else:
            access, hint = kubeconfig.of_context(on, settings), f"kubectl --context {on} version"
        cluster = cls(access, settings)
        try:
            assert cluster.identity
        except ClusterUnreachable as error:
            cluster.close()
            raise ClusterUnreachable(str(error), hint=error.hint or hint) from None
        except BaseException:
            cluster.close()
            raise
        return cluster

    @classmethod
    def _only_pocket(cls, settings: Settings) -> Self:
        running: dict[str, Self] = {}
        for name in kubeconfig.pockets(settings):
            cluster = cls(kubeconfig.of_pocket(name, settings), settings)
            try:
                cluster.request("GET", "/version", timeout_s=CONNECT_S)
                assert cluster.identity
            except ClusterError:
                cluster.close()
                continue
            running[name] = cluster
        if len(running) == 1:
            return next(iter(running.values()))
        for cluster in running.values():
            cluster.close()
        if running:
            raise BadInput(f"several pocketkube clusters run: {', '.join(running)}",
                           hint="--on pocket:NAME, or set AFTERSHOCK_POCKET")  # fmt: skip
        raise ClusterUnreachable("no pocketkube cluster runs", hint="pocketkube up")

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()

    @property
    def identity(self) -> ClusterIdentity:
        """Which cluster this is; asked once."""
        if self._identity is None:
            version = self.server_version()
            try:
                nodes = tuple(sorted(node["metadata"]["name"] for node in self.list("/api/v1/nodes")))
            except Forbidden:
                nodes = ()
            kind = "pocket" if "pocketkube" in version else "kubernetes"
            access = self._access
            own = kind == "pocket" and access.own(self.settings)
            self._identity = ClusterIdentity(kind, access.context, version, access.fingerprint, nodes, own)
        return self._identity

    @property
    def server(self) -> str:
        """URL of the API server."""
        return self._access.server

    @property
    def namespace(self) -> str:
        """The context's own namespace."""
        return self._access.namespace

    def answers(self, timeout_s: float = 2.0) -> bool:
        """True if an API server answers now, whatever it says; while none does, no request waits for longer than `HURRY_S`."""
        self._hurry_s = timeout_s
        try:
            self.raw("GET", "/version", timeout_s=timeout_s)
        except ClusterUnreachable:
            self._hurry_s = HURRY_S
            return False
        self._hurry_s = None
        return True

    def kubeconfig_for_child(self, folder: Path) -> Path:
        """A copy of exactly this context that needs no other file, readable by its owner only."""
        return self._access.copy_to(folder)

    def server_version(self) -> str:
        """`gitVersion` of the API server."""
        return str(self.request("GET", "/version").get("gitVersion", ""))

    def unenforced(self) -> Texts:
        """Fields that the cluster accepted and cannot enforce; only pocketkube tells."""
        status, content = self.raw("GET", "/debug/unenforced")
        if status != 200:
            return []
        told = json.loads(content)
        entries = told.get("unenforced") or [] if isinstance(told, dict) else told
        return [entry if isinstance(entry, str) else f"{entry['kind']} {entry['field']}" for entry in entries]

    def request(
        self, method: str, path: str, *, query: Query | None = None, body: Any = None,
        content_type: str = "application/json", headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S, safe: bool | None = None,
    ) -> Object:  # fmt: skip
        """Send a request and return the parsed answer; what changes nothing (`safe`) is tried again within the deadline.

        Raises NotFound, Forbidden, ClusterError with status, reason and Status body, ClusterUnreachable.
        """
        again = method in _SAFE if safe is None else safe
        timeout_s = min(timeout_s, self._hurry_s or timeout_s)
        ends, wait_s = time.monotonic() + timeout_s, BACKOFF_S
        for left in reversed(range(TRIES if again else 1)):
            error: ClusterError
            try:
                status, content, said = self._exchange(
                    method, path, query, body, content_type, headers, ends - time.monotonic()
                )
            except ClusterUnreachable as unreachable:
                error = unreachable
            else:
                if 200 <= status < 300:
                    return answers.parsed(content, method, path)
                error = answers.refused(method, path, status, content, definite=again or status not in _UNSURE)
                if status not in (429, 503):
                    raise error
                wait_s = max(wait_s, _seconds(said.get("retry-after")))
            if not left or time.monotonic() + wait_s >= ends:
                break
            time.sleep(wait_s)
            wait_s *= 2
        raise error

    def raw(
        self, method: str, path: str, *, query: Query | None = None, body: Any = None,
        content_type: str = "application/json", headers: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S,
    ) -> tuple[int, bytes]:  # fmt: skip
        """Send a request once and return status and body as they came. Raises ClusterUnreachable only."""
        status, content, _ = self._exchange(method, path, query, body, content_type, headers, timeout_s)
        return status, content

    def date(self, timeout_s: float = 2.0) -> str | None:
        """The Date header of one small answer, for comparing clocks."""
        return self._exchange("GET", "/version", None, None, "application/json", None, timeout_s)[2].get("date")

    def list(self, path: str, label_selector: str | None = None, field_selector: str | None = None) -> Objects:
        """All objects of a collection."""
        return self.list_at(path, label_selector, field_selector)[0]

    def list_at(
        self,
        path: str,
        label_selector: str | None = None,
        field_selector: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> tuple[Objects, str]:
        """All objects of a collection, page by page, and the resourceVersion from which a watch goes on."""
        items: Objects = []
        following, ends = "", time.monotonic() + timeout_s
        for _ in range(PAGES_MAX):
            query: Query = {"labelSelector": label_selector, "fieldSelector": field_selector, "limit": PAGE,
                            "continue": following or None}  # fmt: skip
            page = self.request("GET", path, query=query, timeout_s=max(0.1, ends - time.monotonic()))
            items += page.get("items") or []
            meta = page.get("metadata") or {}
            following = str(meta.get("continue") or "")
            if not following:
                return items, str(meta.get("resourceVersion") or "")
        raise ClusterError(f"GET {path}: more than {PAGE * PAGES_MAX} objects")

    def watch(self, path: str, resource_version: str, timeout_s: float, label_selector: str | None = None) -> Watch:
        """Changes after `resource_version` for up to `timeout_s`, bookmarks included; established when this returns.

        Raises as `request`; a resourceVersion that is too old is a ClusterError with status 410, here or while iterating.
        """
        query: Query = {"watch": True, "resourceVersion": resource_version, "allowWatchBookmarks": True,
                        "timeoutSeconds": max(1, int(timeout_s)), "labelSelector": label_selector}  # fmt: skip
        response = self._open("GET", path, query, None, "application/json", None, timeout_s + WATCH_GRACE_S)
        if response.status != 200:
            content = answers.read(response, time.monotonic() + TIMEOUT_S, f"GET {path}")
            raise answers.refused("GET", path, response.status, content, definite=True)
        return Watch(response, path)

    def allowed(
        self, verb: str, group: str, resource: str, namespace: str | None, subresource: str = "", name: str = ""
    ) -> bool:
        """True if these credentials may do this, by SelfSubjectAccessReview."""
        attributes = {"verb": verb, "group": group, "resource": resource, "namespace": namespace or "",
                      "subresource": subresource, "name": name}  # fmt: skip
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                  "spec": {"resourceAttributes": {k: v for k, v in attributes.items() if v}}}  # fmt: skip
        answer = self.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=review, safe=True)
        return (answer.get("status") or {}).get("allowed") is True

    def served(self, api_version: str, kind: str) -> Resource | None:
        """The resource behind a kind, from discovery; None if the cluster does not serve it."""
        for fresh in (False, True):  # a kind may have been added since
            known = self._discover(api_version, fresh)
            if kind in known:
                return known[kind]
        return None

    def _discover(self, api_version: str, fresh: bool) -> dict[str, Resource]:
        if not fresh and api_version in self._served:
            return self._served[api_version]
        root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        try:
            told = self.request("GET", root)
        except NotFound:
            told = {}
        found = {
            str(entry["kind"]): Resource(api_version, str(entry["kind"]), str(entry["name"]), bool(entry["namespaced"]))
            for entry in told.get("resources") or []
            if "/" not in entry["name"]
        }
        self._served[api_version] = found
        return found

    def object_path(self, obj: Mapping[str, Any]) -> str:
        """Path of an object, from its apiVersion, kind and metadata. Raises ClusterError if its kind is not served."""
        resource = self.served(str(obj["apiVersion"]), str(obj["kind"]))
        if resource is None:
            raise ClusterError(f"the cluster does not serve {obj['apiVersion']} {obj['kind']}",
                               hint="is its CustomResourceDefinition installed?", status=404, reason="NotFound")  # fmt: skip
        meta = obj.get("metadata") or {}
        namespace = meta.get("namespace") or self._access.namespace
        return f"{resource.path(namespace)}/{quote(str(meta['name']), safe='')}"

    def apply(self, objects: Sequence[Mapping[str, Any]], manager: str) -> Objects:
        """Server-side apply in the given order, taking over fields of other managers; returns what the cluster has now."""
        query: Query = {"fieldManager": manager, "force": True}
        return [
            self.request("PATCH", self.object_path(obj), query=query, body=obj, content_type=APPLY) for obj in objects
        ]

    def delete(self, obj: Mapping[str, Any]) -> bool:
        """Delete an object and what it owns; False if it was not there."""
        try:
            self.request("DELETE", self.object_path(obj), query={"propagationPolicy": "Background"})
        except NotFound:
            return False
        return True

    def wire(self) -> tuple[str, int, ssl.SSLContext | None, dict[str, str]]:
        """For a connection that is no request (a port-forward): host and port of the API server, TLS, and headers with credentials."""
        url = urlsplit(self._access.server)
        with self._lock:
            headers = dict(self._credentials.headers())
        secure = url.scheme == "https"
        context = self._pool.connection_pool_kw.get("ssl_context") if secure else None
        return url.hostname or "", url.port or (443 if secure else 80), context, headers

    def service_url(self, namespace: str, service: str, port: str | int) -> str:
        """Where a load generator on this machine reaches a Service. Raises ClusterError with a hint if nowhere."""
        from aftershock.observe.reach import service_url

        return service_url(self, namespace, service, port)

    def _exchange(
        self, method: str, path: str, query: Query | None, body: Any, content_type: str,
        headers: Mapping[str, str] | None, timeout_s: float,
    ) -> tuple[int, bytes, Mapping[str, str]]:  # fmt: skip
        timeout_s = min(timeout_s, self._hurry_s or timeout_s)
        ends = time.monotonic() + timeout_s
        response = self._open(method, path, query, body, content_type, headers, max(0.01, timeout_s))
        content = answers.read(response, ends, f"{method} {path}", definite=method in _SAFE)
        return response.status, content, {name.lower(): value for name, value in response.headers.items()}

    def _open(
        self, method: str, path: str, query: Query | None, body: Any, content_type: str,
        headers: Mapping[str, str] | None, timeout_s: float,
    ) -> urllib3.BaseHTTPResponse:  # fmt: skip
        given = {k: _text(v) for k, v in (query or {}).items() if v is not None}
        url = self._access.server + path + (f"?{urlencode(given)}" if given else "")
        sent = {"Accept": "application/json", "User-Agent": "aftershock", **(headers or {})}
        content = None
        if body is not None:
            sent["Content-Type"] = content_type
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
        timeout = urllib3.Timeout(connect=min(timeout_s, CONNECT_S), read=timeout_s)

        def send() -> tuple[urllib3.BaseHTTPResponse, Mapping[str, str]]:
            with self._lock:  # an exec plugin may be asked again
                proof = dict(self._credentials.headers())
            response = self._pool.request(
                method, url, body=content, headers=sent | proof, timeout=timeout, preload_content=False, retries=False,
                redirect=False,
            )  # fmt: skip
            return response, proof

        try:
            response, proof = send()
            if response.status == 401 and self._renewed(proof):  # it was not carried out, so it may be sent again
                response.drain_conn()
                response, _ = send()
            return response
        except (NewConnectionError, ConnectTimeoutError, SSLError, ProxyError) as error:
            raise ClusterUnreachable(f"no connection to {self._access.server}: {answers.cause(error)}") from None
        except HTTPError as error:
            raise answers.silent(f"{method} {path}", error, method in _SAFE) from None

    def _renewed(self, proof: Mapping[str, str]) -> bool:
        """Whether there are other credentials than those that were not believed."""
        with self._lock:
            return self._credentials.renew(proof)


def _text(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _seconds(header: str | None) -> float:
    return float(header) if header and header.isdigit() else 0.0
