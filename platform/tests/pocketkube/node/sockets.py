"""Small servers, and waiting with a deadline."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import uvloop

DEADLINE_S = 10.0


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine, with a deadline."""

    async def bounded() -> None:
        try:
            async with asyncio.timeout(2 * DEADLINE_S):
                await work
        finally:
            await asyncio.sleep(0.01)  # closed transports say goodbye

    uvloop.run(bounded())


async def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true answer. Fails with what it waited for."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while not (found := condition()):
        assert loop.time() < deadline, f"not within {DEADLINE_S} s: {what}"
        await asyncio.sleep(0.01)
    return found


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody has at this address now, and that no connection gets by itself (below the ephemeral range)."""
    while True:
        port = random.randint(20000, 29999)
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(serve: Serve, address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[tuple[str, int]]:
    """A TCP server; its address."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    made = await asyncio.start_server(one, address, port)
    try:
        yield made.sockets[0].getsockname()
    finally:
        made.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, at once."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def named(name: bytes) -> Serve:
    """A server that says its name and ends."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name)

    return serve
