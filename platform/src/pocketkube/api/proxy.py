"""pods/proxy and services/proxy: GET on to what listens in a pod."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import yarl

from pocketkube.api.call import Call
from pocketkube.api.runtime import Runtime
from pocketkube.api.wire import Answer, Stream
from pocketkube.errors import ApiError, BadRequest, ServiceUnavailable
from pocketkube.storage import Object, Store

CONNECT_S = 5.0
ANSWER_S = 60.0
CHUNK = 64 * 1024
# Connection headers are each hop's own (RFC 9110 7.6.1), and the token is for this server alone.
_NOT_PASSED = frozenset({"authorization", "host", "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
                         "transfer-encoding", "upgrade", "content-length"})  # fmt: skip


async def proxy(store: Store, runtime: Runtime, call: Call, query: bytes, headers: Mapping[str, str]) -> Answer:
    """Pass one GET on. Raises NotFound, BadRequest, ServiceUnavailable."""
    scheme, name, port = _split(call.name or "")
    if call.resource.plural == "pods":
        host, number = _pod(store.get("pods", call.namespace, name), port, runtime)
    else:
        service = store.get("services", call.namespace, name)
        host, number = _endpoint(store, service, port)
    target = f"{scheme}://{host}:{number}/{call.tail}{'?' + query.decode('latin-1') if query else ''}"
    return await _fetch(target, {k: v for k, v in headers.items() if k not in _NOT_PASSED}, f"{host}:{number}")


def _split(text: str) -> tuple[str, str, str]:
    """`name`, `name:port` or `scheme:name:port`."""
    parts = text.split(":")
    if len(parts) == 1:
        return "http", parts[0], ""
    if len(parts) == 2:
        return "http", parts[0], parts[1]
    if len(parts) == 3 and parts[0] in ("", "http", "https"):
        return parts[0] or "http", parts[1], parts[2]
    raise BadRequest(f'invalid proxy request "{text}"')


def _pod(pod: Object, port: str, runtime: Runtime) -> tuple[str, int]:
    address = runtime.address(pod)
    if address is None:
        raise ServiceUnavailable(f'error trying to reach service: pod "{pod["metadata"]["name"]}" does not run')
    known = [p for c in pod["spec"].get("containers") or [] for p in c.get("ports") or []]
    if port.isdecimal():
        return address, int(port)
    number = next((p["containerPort"] for p in known if not port or p.get("name") == port), None)
    if number is None and port:
        raise BadRequest(f'invalid port "{port}": pod "{pod["metadata"]["name"]}" has no port of this name')
    return address, number or 80


def _endpoint(store: Store, service: Object, port: str) -> tuple[str, int]:
    """A ready endpoint, at random as upstream. Raises ServiceUnavailable."""
    meta, ports = service["metadata"], service["spec"].get("ports") or []
    wanted = next(
        (p for p in ports if port in (p.get("name") or "", str(p["port"])) or (not port and len(ports) == 1)), None
    )
    if wanted is None:
        raise ServiceUnavailable(f'no service port "{port}" found for service "{meta["name"]}"')
    found: list[tuple[str, int]] = []
    for piece in store.list("endpointslices", meta.get("namespace")):
        if (piece["metadata"].get("labels") or {}).get("kubernetes.io/service-name") != meta["name"]:
            continue
        at = next(
            (p["port"] for p in piece.get("ports") or [] if (p.get("name") or "") == (wanted.get("name") or "")), None
        )
        for endpoint in piece.get("endpoints") or []:
            if at is not None and (endpoint.get("conditions") or {}).get("ready", True):
                found += [(address, at) for address in endpoint["addresses"]]
    if not found:
        raise ServiceUnavailable(f'no endpoints available for service "{meta["name"]}"')
    return random.choice(found)


async def _fetch(target: str, headers: Mapping[str, str], where: str) -> Answer:
    timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_read=ANSWER_S)
    session = aiohttp.ClientSession(
        timeout=timeout, auto_decompress=False, skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding")
    )
    try:
        answer = await session.get(yarl.URL(target, encoded=True), headers=headers, allow_redirects=False, ssl=False)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        await session.close()
        raise ServiceUnavailable(f"error trying to reach service: dial tcp {where}: {_cause(error)}") from None
    except (asyncio.CancelledError, ApiError):
        await session.close()
        raise
    passed = tuple((k.lower().encode(), v.encode("latin-1")) for k, v in answer.headers.items()
                   if k.lower() not in _NOT_PASSED and k.lower() != "content-type")  # fmt: skip
    content_type = answer.headers.get("content-type", "application/octet-stream")
    return Stream(_body(session, answer), answer.status, content_type, passed)


def _cause(error: BaseException) -> str:
    system: Any = getattr(error, "os_error", None) or error
    if isinstance(system, ConnectionRefusedError):
        return "connect: connection refused"
    if isinstance(error, TimeoutError):
        return "i/o timeout"
    return str(error) or type(error).__name__


async def _body(session: aiohttp.ClientSession, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.content.iter_chunked(CHUNK):
            yield chunk
    finally:
        answer.close()
        await session.close()
