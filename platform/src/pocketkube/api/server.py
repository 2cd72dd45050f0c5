"""The ASGI application: who asks, what is asked, who answers. Serve it with `listener.listener`."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from pocketkube.admission import Admission
from pocketkube.api import access, debug, eviction, execute, logs, metrics, openapi, proxy, reads, scale
from pocketkube.api.call import Call, parse
from pocketkube.api.resources import Table, load
from pocketkube.api.runtime import Runtime
from pocketkube.api.wire import (
    JSON,
    Answer,
    Receive,
    Reply,
    Scope,
    Send,
    read_body,
    refusal,
    reply,
    send_answer,
)
from pocketkube.api.writes import Writer
from pocketkube.errors import ApiError, BadRequest, Unauthorized
from pocketkube.storage import Object, Store

log = logging.getLogger(__name__)

KUBERNETES = ("1", "34")  # the version whose behaviour is the reference
NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_HEALTH = frozenset({"/healthz", "/readyz", "/livez"})


def application(
    store: Store, token: str, runtime: Runtime, *, version: str, allocate_cluster_ip: Callable[[Object], str]
) -> Api:
    """The API over `store`, for the bearer of `token`; makes the namespaces that every cluster has."""
    api = Api(store, token, runtime, version, Admission(store, allocate_cluster_ip))
    for name in NAMESPACES:
        if store.find("namespaces", None, name) is None:
            namespace: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            api.admission.admit("Namespace", "", namespace, None)
            store.create("namespaces", namespace)
    return api


class Api:
    """An ASGI application."""

    def __init__(self, store: Store, token: str, runtime: Runtime, version: str, admission: Admission) -> None:
        self.admission = admission
        self.restart: debug.Restart | None = None  # set by whoever can
        self._store = store
        self._expected = f"Bearer {token}".encode()
        self._runtime = runtime
        self._version = version
        self._table = Table(load())
        self._writer = Writer(store, admission)
        self._documents = self._fixed()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        try:
            answer = await self._answer(scope, headers, receive)
        except ApiError as error:
            answer = refusal(error)
        except Exception:  # the one broad catch of a request: the client is told, the log has the trace
            log.exception("%s %s", scope["method"], scope["path"])
            answer = refusal(ApiError(f"Internal error occurred on {scope['method']} {scope['path']}"))
        await send_answer(answer, receive, send)

    async def _answer(self, scope: Scope, headers: Mapping[str, str], receive: Receive) -> Answer:
        path = _path(scope)
        if path in _HEALTH:
            return Reply(b"ok", content_type="text/plain; charset=utf-8")
        self._authorize(headers)
        method = scope["method"]
        if path.startswith(debug.PREFIX):
            query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
            return await debug.answer(self.admission, self._runtime, self.restart, method, path, query)
        if method == "GET" and (fixed := self._discovery(path, headers.get("accept", ""))) is not None:
            return fixed
        body = b"" if method == "GET" else await read_body(receive)
        if body is None:
            raise TooLarge("Request entity too large: limit is 3145728")
        call = parse(self._table, method, path, scope["query_string"], headers, body)
        try:
            return await self._serve(call, scope["query_string"], headers)
        except ApiError as error:
            raise _named(error, call) from None

    async def _serve(self, call: Call, query: bytes, headers: Mapping[str, str]) -> Answer:
        if call.resource.plural == "selfsubjectaccessreviews":
            return access.review(self._table, call)
        if call.resource.group == metrics.GROUP:
            return metrics.metrics(self._store, self._runtime, self._table, call)
        match call.subresource:
            case "log":
                return await logs.logs(self._store, self._runtime, call)
            case "exec":
                raise BadRequest("Upgrade request required: pocketkube streams over WebSocket only")
            case "proxy":
                return await proxy.proxy(self._store, self._runtime, call, query, headers)
            case "eviction":
                return eviction.evict(self._writer, call)
            case "scale":
                return scale.scale(self._store, call)
        match call.verb:
            case "get":
                return reads.get(self._store, call)
            case "list":
                return reads.collection(self._store, call)
            case "watch":
                return reads.watch(self._store, call)
            case "create":
                return self._writer.create(call)
            case "update":
                return self._writer.update(call)
            case "patch":
                return self._writer.patch(call)
            case _:
                return self._writer.delete(call)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        headers = _headers(scope)
        try:
            self._authorize(headers)
            call = parse(self._table, "GET", _path(scope), scope["query_string"], headers, b"")
            if call.subresource != "exec":
                raise BadRequest("only pods/exec is served over WebSocket")
            try:
                await execute.execute(self._store, self._runtime, call, scope, receive, send)
            except ApiError as error:
                raise _named(error, call) from None
        except ApiError as error:
            answer = refusal(error)
            plain = [(b"content-type", JSON.encode()), (b"content-length", str(len(answer.body)).encode())]
            await send({"type": "websocket.http.response.start", "status": answer.status, "headers": plain})
            await send({"type": "websocket.http.response.body", "body": answer.body})

    def _authorize(self, headers: Mapping[str, str]) -> None:
        if not hmac.compare_digest(headers.get("authorization", "").encode(), self._expected):
            raise Unauthorized("Unauthorized")

    def _discovery(self, path: str, accept: str) -> Answer | None:
        """/version and discovery; None if the path is something else."""
        if path in ("/api", "/apis") and "APIGroupDiscoveryList" in accept and "v=v2;" in accept + ";":
            return reply(self._table.aggregated(path == "/api"), content_type=_AGGREGATED)
        return self._documents.get(path.rstrip("/"))

    def _fixed(self) -> dict[str, Reply]:
        major, minor = KUBERNETES
        table, groups = self._table, self._table.groups()
        documents: dict[str, Any] = {
            "/version": {"major": major, "minor": minor, "gitVersion": f"v{major}.{minor}.0+pocketkube-{self._version}",
                         "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "",
                         "compiler": "", "platform": "linux/amd64"},
            "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
            "/apis": groups,
        }  # fmt: skip
        for entry in groups["groups"]:
            documents[f"/apis/{entry['name']}"] = {"kind": "APIGroup", "apiVersion": "v1", **entry}
        for group, group_version in table.group_versions():
            at = f"/apis/{group}/{group_version}" if group else f"/api/{group_version}"
            documents[at] = table.resource_list(group, group_version)
        return {**{path: reply(document) for path, document in documents.items()}, **openapi.documents(table)}


class TooLarge(ApiError):
    """The body is larger than upstream allows."""

    code, reason = 413, "RequestEntityTooLarge"


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _path(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0].decode("latin-1")


def _named(error: ApiError, call: Call) -> ApiError:
    """The store names a resource `deployments`; clients read `deployments.apps`."""
    resource = call.resource
    if not resource.group or error.details.get("kind") != resource.plural:
        return error
    message = str(error).replace(f'{resource.plural} "', f'{resource.qualified} "', 1)
    return type(error)(message, {**error.details, "group": resource.group})
