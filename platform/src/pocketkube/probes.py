"""Startup, readiness and liveness probes, and the handlers that lifecycle hooks share: httpGet, tcpSocket, exec.

Semantics and messages follow the kubelet. One deviation: until a container is first started (and first ready) it is asked every
100 ms instead of every period, and a "no" counts as a failure once a period at most; so it is ready when it is, not up to a period later.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

EAGER_S = 0.1
BODY_MOST = 10 << 10

Exec = Callable[[list[str]], Awaitable[tuple[int, str]]]


@dataclass(frozen=True)
class Target:
    """Where probes of one container go; `source` is the node's address, `exec` runs a program in the container."""

    address: str
    source: str
    ports: dict[str, int]
    exec: Exec

    def port(self, value: int | str) -> int:
        """A port by number or by its name in the container; 0 if there is none."""
        if isinstance(value, int) or value.isdigit():
            return int(value)
        return self.ports.get(value, 0)


@dataclass(frozen=True)
class Result:
    """What one probe said; `message` says why not."""

    success: bool
    message: str = ""


async def check(handler: dict[str, Any], target: Target, timeout_s: float) -> Result:
    """Ask once."""
    try:
        async with asyncio.timeout(timeout_s):
            if (http := handler.get("httpGet")) is not None:
                return await _http(http, target)
            if (tcp := handler.get("tcpSocket")) is not None:
                return await _tcp(tcp, target)
            if (program := handler.get("exec")) is not None:
                status, output = await target.exec(list(program.get("command") or []))
                return Result(True) if status == 0 else Result(False, output.strip() or f"exit code {status}")
    except TimeoutError:
        return Result(False, _late(handler, target, timeout_s))
    return Result(False, f"no handler among {sorted(handler)}")


async def _http(http: dict[str, Any], target: Target) -> Result:
    host, port, path = http.get("host") or target.address, target.port(http["port"]), http.get("path") or "/"
    secure = (http.get("scheme") or "HTTP").upper() == "HTTPS"
    url = f"{'https' if secure else 'http'}://{host}:{port}{path}"
    context = None
    if secure:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # as the kubelet does
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=context, local_addr=(target.source, 0))
    except OSError as error:
        return Result(False, f'Get "{url}": dial tcp {host}:{port}: connect: {_why(error)}')
    try:
        headers = {"Host": f"{host}:{port}", "User-Agent": "kube-probe/1.34", "Accept": "*/*", "Connection": "close"}
        headers |= {h["name"]: h["value"] for h in http.get("httpHeaders") or []}
        text = f"GET {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
        writer.write(text.encode())
        status = (await reader.readline()).split()
    except OSError as error:
        return Result(False, f'Get "{url}": {_why(error)}')
    finally:
        writer.close()
    if len(status) < 2 or not status[1].isdigit():
        return Result(False, f'Get "{url}": EOF')
    code = int(status[1])
    return Result(True) if 200 <= code < 400 else Result(False, f"HTTP probe failed with statuscode: {code}")


async def _tcp(tcp: dict[str, Any], target: Target) -> Result:
    host, port = tcp.get("host") or target.address, target.port(tcp["port"])
    try:
        _, writer = await asyncio.open_connection(host, port, local_addr=(target.source, 0))
    except OSError as error:
        return Result(False, f"dial tcp {host}:{port}: connect: {_why(error)}")
    writer.close()
    return Result(True)


def _why(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return (
        "connection reset by peer"
        if isinstance(error, ConnectionResetError)
        else (error.strerror or str(error)).lower()
    )


def _late(handler: dict[str, Any], target: Target, timeout_s: float) -> str:
    if (http := handler.get("httpGet")) is not None:
        where = f"http://{http.get('host') or target.address}:{target.port(http['port'])}{http.get('path') or '/'}"
        return f'Get "{where}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)'
    if (tcp := handler.get("tcpSocket")) is not None:
        return f"dial tcp {tcp.get('host') or target.address}:{target.port(tcp['port'])}: i/o timeout"
    return f"command timed out after {timeout_s:g} s"


@dataclass(frozen=True)
class Report:
    """The verdict of a probe changed, or it failed (then `failure` is its message)."""

    kind: str  # startup, readiness or liveness
    success: bool | None  # None: no verdict yet, thresholds not reached
    failure: str = ""


async def watch(
    kind: str, probe: dict[str, Any], target: Target, tell: Callable[[Report], None], *,
    disturbed: Callable[[], Awaitable[bool]] | None = None,
) -> None:  # fmt: skip
    """Probe for ever, telling each failure and each verdict; a startup probe ends with its first success.

    `disturbed` waits as long as a network fault holds the probe's packets up; True means that they do not arrive in time.
    """
    period_s = float(probe.get("periodSeconds") or 10)
    timeout_s = float(probe.get("timeoutSeconds") or 1)
    needed = {True: int(probe.get("successThreshold") or 1), False: int(probe.get("failureThreshold") or 3)}
    loop = asyncio.get_running_loop()
    await asyncio.sleep(float(probe.get("initialDelaySeconds") or 0))
    verdict: bool | None = None
    run, last = 0, None
    eager = kind != "liveness"
    counted = -period_s
    while True:
        begun = loop.time()
        if disturbed is not None and await disturbed():
            result = Result(False, _late(probe, target, timeout_s))
        else:
            result = await check(probe, target, timeout_s)
        if result.success or not eager or begun - counted >= period_s - 0.01:
            counted = begun
            run = run + 1 if result.success == last else 1
            last = result.success
            if not result.success:
                tell(Report(kind, None, result.message))
            if run >= needed[result.success] and verdict != result.success:
                verdict = result.success
                tell(Report(kind, verdict, "" if verdict else result.message))
            if verdict and kind == "startup":
                return
            if verdict:
                eager = False
        await asyncio.sleep(max(0.0, (min(EAGER_S, period_s) if eager else period_s) - (loop.time() - begun)))
