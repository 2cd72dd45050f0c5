"""pods/exec over WebSocket, subprotocols v4 and v5.channel.k8s.io (KEP-4006): the first byte of each message is its channel."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from pocketkube.api.call import Call
from pocketkube.api.logs import container_of
from pocketkube.api.runtime import ExecSession, Reader, Runtime
from pocketkube.api.wire import Receive, Scope, Send, encode
from pocketkube.errors import ApiError, BadRequest
from pocketkube.storage import Store

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
CHUNK = 32 * 1024


async def execute(store: Store, runtime: Runtime, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one exec to its end. Raises NotFound, BadRequest before the connection is accepted."""
    argv = [value for name, value in call.arguments if name == "command"]
    if not argv:
        raise BadRequest("you must specify at least one command for the container")
    protocol = next((p for p in PROTOCOLS if p in scope.get("subprotocols", ())), None)
    if protocol is None:
        raise BadRequest(
            f"unable to negotiate protocol: client supports {scope.get('subprotocols')}, server accepts {list(PROTOCOLS)}"
        )
    pod = store.get("pods", call.namespace, call.name or "")
    container = container_of(pod, call.query.get("container"))
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        raise ApiError(f"cannot exec into a container in a completed pod; current phase is {pod['status']['phase']}")
    tty = call.flag("tty")
    session = await runtime.exec(pod, container, argv, stdin=call.flag("stdin"), tty=tty)
    channels = _Channels(session, send, call)
    try:
        await send({"type": "websocket.accept", "subprotocol": protocol})
        await channels.serve(receive, argv)
    finally:
        await session.close()


class _Channels:
    def __init__(self, session: ExecSession, send: Send, call: Call) -> None:
        self._session = session
        self._send = send
        self._wants = {STDOUT: call.flag("stdout"), STDERR: call.flag("stderr")}

    async def serve(self, receive: Receive, argv: list[str]) -> None:
        if self._wants[STDOUT]:
            await self._message(STDOUT, b"")  # tells the client that the connection stands, as upstream does
        output = asyncio.ensure_future(self._outputs())
        client = asyncio.ensure_future(self._inputs(receive))
        try:
            await asyncio.wait({output, client}, return_when=asyncio.FIRST_COMPLETED)
            if not output.done():
                return  # the client is gone
            await self._message(ERROR, encode(_status(output.result(), argv)))
            await self._send({"type": "websocket.close", "code": 1000})
        finally:
            for task in (output, client):
                task.cancel()
            await asyncio.gather(output, client, return_exceptions=True)

    async def _outputs(self) -> int:
        await asyncio.gather(self._copy(STDOUT, self._session.stdout), self._copy(STDERR, self._session.stderr))
        return await self._session.wait()

    async def _copy(self, channel: int, reader: Reader | None) -> None:
        while reader is not None and (data := await reader.read(CHUNK)):
            if self._wants[channel]:
                await self._message(channel, data)

    async def _message(self, channel: int, data: bytes) -> None:
        await self._send({"type": "websocket.send", "bytes": bytes((channel,)) + data})

    async def _inputs(self, receive: Receive) -> None:
        """Until the client goes."""
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            if message["type"] != "websocket.receive":
                continue
            data: bytes = message.get("bytes") or (message.get("text") or "").encode()
            if data:
                await self._take(data[0], data[1:])

    async def _take(self, channel: int, data: bytes) -> None:
        stdin = self._session.stdin
        if channel == STDIN and stdin is not None:
            try:
                stdin.write(data)
                await stdin.drain()
            except (ConnectionError, RuntimeError):
                pass  # the program closed its input; what it still prints is read on
        elif channel == CLOSE and data[:1] == bytes((STDIN,)) and stdin is not None:
            stdin.close()
        elif channel == RESIZE:
            try:
                size = json.loads(data)
                self._session.resize(int(size["Width"]), int(size["Height"]))
            except (ValueError, KeyError, TypeError):
                pass  # a size that cannot be read changes nothing


def _status(code: int, argv: list[str]) -> dict[str, Any]:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: error executing command [{' '.join(argv)}], exit code {code}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }  # fmt: skip
