"""The relay of a port-forward against a small server of the other side, which answers, refuses, breaks off and speaks nonsense."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftershock.observe.forward import BINARY, CLOSE, PING, Relay, _frame, frame

PORT = struct.pack("<H", 7070)
Then = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def plain(opcode: int, data: bytes, first: int = 0x80) -> bytes:
    """An unmasked frame, as a server sends it."""
    length = len(data)
    head = bytes([first | opcode])
    return head + (bytes([length]) if length < 126 else b"\x7e" + struct.pack(">H", length)) + data


async def unmasked(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """One frame of a client."""
    first, second = await reader.readexactly(2)
    assert second & 0x80, "a client must mask"
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", await reader.readexactly(2))
    mask = await reader.readexactly(4)
    data = await reader.readexactly(length)
    return first & 0x0F, bytes(b ^ mask[n % 4] for n, b in enumerate(data))


class Far:
    """An API server that upgrades, and then does what a test wants."""

    def __init__(self, then: Then, answer: bytes = b"HTTP/1.1 101 Switching Protocols\r\n\r\n") -> None:
        self.then, self.answer, self.heads, self.port = then, answer, [], 0  # type: ignore[var-annotated]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(self.answer)
        if b" 101 " in self.answer:
            writer.write(plain(BINARY, b"\0" + PORT) + plain(BINARY, b"\1" + PORT))
            await self.then(reader, writer)
        writer.close()

    def wire(self) -> tuple[str, int, None, dict[str, str]]:
        """What a cluster says of itself."""
        return "127.0.0.1", self.port, None, {"authorization": "Bearer secret-token"}


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back, with a ping before it."""
    while True:
        opcode, data = await unmasked(reader)
        if opcode == CLOSE:
            return
        if opcode == BINARY:
            writer.write(plain(PING, b"?") + plain(BINARY, data))


async def fails(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The pod refuses."""
    await unmasked(reader)
    writer.write(plain(BINARY, b"\1connection refused"))


async def fragments(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What Go's library never does."""
    await unmasked(reader)
    writer.write(plain(BINARY, b"\0half", first=0))


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Gone in the middle."""
    await unmasked(reader)


def asked(
    far: Far, sent: bytes, customers: int = 1, ready: Callable[[], list[tuple[str, int]]] | None = None
) -> list[bytes | str]:
    """What customers of a relay got for what they sent, or the name of their error."""

    async def customer(port: int) -> bytes | str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(sent)
            return await asyncio.wait_for(reader.readexactly(len(sent)), 5)
        except (OSError, asyncio.IncompleteReadError) as error:
            return type(error).__name__
        finally:
            writer.close()

    async def all_of_them() -> list[bytes | str]:
        server = await asyncio.start_server(far.serve, "127.0.0.1", 0)
        far.port = server.sockets[0].getsockname()[1]
        relay: Any = Relay(far, "shop", ready or (lambda: [("a", 7070), ("b", 7070)]))  # type: ignore[arg-type]
        near = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
        try:
            return [await customer(near.sockets[0].getsockname()[1]) for _ in range(customers)]
        finally:
            near.close()
            server.close()
            async with asyncio.timeout(5):
                while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110  (both sides see that the customer has gone)
                    await asyncio.sleep(0.005)

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("size", [1, 125, 126, 20_000])
def test_bytes_go_there_and_back(size: int) -> None:
    sent = bytes(n % 251 for n in range(size))
    assert asked(Far(echo), sent) == [sent]


def test_ready_pods_take_turns_and_credentials_are_shown_to_the_server_only() -> None:
    far = Far(echo)
    assert asked(far, b"x", customers=4) == [b"x"] * 4
    pods = [head.split("/pods/")[1].split("/")[0] for head in far.heads]
    assert sorted(pods) == ["a", "a", "b", "b"]
    assert all("portforward?ports=7070 HTTP/1.1" in head for head in far.heads)
    assert all("authorization: Bearer secret-token" in head for head in far.heads)
    assert all("Sec-WebSocket-Protocol: v4.channel.k8s.io" in head for head in far.heads)


@pytest.mark.parametrize("then", [fails, fragments, hangs_up])
def test_what_breaks_on_the_way_is_a_reset_and_no_answer(then: Then, capfd: pytest.CaptureFixture[str]) -> None:
    assert asked(Far(then), b"hello") == ["ConnectionResetError"]
    assert "forward: " in capfd.readouterr().err


def test_a_server_that_does_not_forward_is_a_reset(capfd: pytest.CaptureFixture[str]) -> None:
    assert asked(Far(echo, b"HTTP/1.1 403 Forbidden\r\n\r\n"), b"x") == ["ConnectionResetError"]
    assert "403 Forbidden" in capfd.readouterr().err
    assert asked(Far(echo), b"x", ready=list) == ["ConnectionResetError"]


@given(st.binary(max_size=70_000), st.sampled_from([BINARY, CLOSE]))
def test_every_frame_can_be_read_again(data: bytes, opcode: int) -> None:
    sent = frame(opcode, data)
    at = {True: 2, False: 4 if len(data) < 1 << 16 else 10}[len(data) < 126]
    mask, body = sent[at : at + 4], sent[at + 4 :]
    bare = bytes([sent[0], sent[1] & 0x7F]) + sent[2:at] + bytes(b ^ mask[n % 4] for n, b in enumerate(body))

    async def read() -> tuple[int, bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(bare)
        return await _frame(reader)

    assert asyncio.run(read()) == (opcode, data)
