"""pods/log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from pocketkube.api.call import Call
from pocketkube.api.runtime import Runtime
from pocketkube.api.tables import seconds_since
from pocketkube.api.wire import Answer, Stream
from pocketkube.errors import BadRequest
from pocketkube.storage import Object, Store

FIRST_S = 0.2  # how long an error may come instead of the first line


async def logs(store: Store, runtime: Runtime, call: Call) -> Answer:
    """The log of one container. Raises NotFound, BadRequest, or what the runtime raises at once."""
    pod = store.get("pods", call.namespace, call.name or "")
    container = container_of(pod, call.query.get("container"))
    follow, previous = call.flag("follow"), call.flag("previous")
    _started(pod, container, previous)
    since_s = call.number("sinceSeconds")
    if since_s is None and (age := seconds_since(call.query.get("sinceTime"))) is not None:
        since_s = max(0, int(age) + 1)
    lines = runtime.logs(pod, container, follow=follow, tail=call.number("tailLines"), since_s=since_s, previous=previous,
                         timestamps=call.flag("timestamps"))  # fmt: skip
    first: asyncio.Task[bytes] = asyncio.ensure_future(_next(lines))
    await asyncio.wait({first}, timeout=FIRST_S)
    if first.done() and (error := first.exception()) is not None and not isinstance(error, StopAsyncIteration):
        raise error
    return Stream(_limited(_joined(first, lines), call.number("limitBytes")), content_type="text/plain")


async def _next(lines: AsyncIterator[bytes]) -> bytes:
    async for line in lines:
        return line
    return b""


async def _joined(first: asyncio.Task[bytes], lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        if head := await first:
            yield head
        async for line in lines:
            yield line
    finally:
        first.cancel()
        close = getattr(lines, "aclose", None)
        if close is not None:
            await close()


async def _limited(lines: AsyncIterator[bytes], limit: int | None) -> AsyncIterator[bytes]:
    left = limit
    try:
        async for line in lines:
            if left is not None:
                line, left = line[:left], left - len(line)
            yield line
            if left is not None and left <= 0:
                return
    finally:
        close = getattr(lines, "aclose", None)
        if close is not None:
            await close()


def container_of(pod: Object, asked: str | None) -> str:
    """The container meant; a pod with several needs a name. Raises BadRequest."""
    names = [c["name"] for c in pod["spec"].get("containers") or []]
    pod_name = pod["metadata"]["name"]
    if asked:
        if asked not in names:
            raise BadRequest(f"container {asked} is not valid for pod {pod_name}")
        return asked
    if len(names) != 1:
        raise BadRequest(f"a container name must be specified for pod {pod_name}, choose one of: [{' '.join(names)}]")
    return str(names[0])


def _started(pod: Object, container: str, previous: bool) -> None:
    """Raises BadRequest when there is no log yet, as a kubelet words it."""
    status = next((s for s in (pod.get("status") or {}).get("containerStatuses") or [] if s["name"] == container), None)
    waiting = ((status or {}).get("state") or {}).get("waiting")
    ended = ((status or {}).get("lastState") or {}).get("terminated")
    where = f'in pod "{pod["metadata"]["name"]}"'
    if previous and ended is None:
        raise BadRequest(f'previous terminated container "{container}" {where} not found')
    if (status is None or waiting is not None) and ended is None:
        reason = (waiting or {}).get("reason") or "ContainerCreating"
        raise BadRequest(f'container "{container}" {where} is waiting to start: {reason}')
