"""One client of a small HTTP/1.1 server: bounded in every way, and what it cannot read ends the connection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

import httptools

HEADERS_MAX, HEADER_BYTES_MAX, URL_MAX = 64, 16_384, 2_048
BODY_MAX = 8_000_000
CONNECTIONS_MAX = 512
IDLE_S = 60.0
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 409: "Conflict",
            413: "Content Too Large", 415: "Unsupported Media Type", 503: "Service Unavailable"}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """One whole request; header names are in lower case."""

    method: bytes
    path: bytes
    query: bytes
    headers: dict[bytes, bytes]
    body: bytes


class Hall(Protocol):
    """What the connections of one server share."""

    connections: set[Connection]
    content_type: str

    def answer(self, request: Request) -> tuple[int, bytes]:
        """Status and body; quick, since everybody waits."""

    def refused(self) -> None:
        """A request was refused before it was whole."""


class Connection(asyncio.Protocol):
    """One exporter's connection; also the callbacks of its HTTP parser."""

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        self._parser = httptools.HttpRequestParser(self)  # type: ignore[no-untyped-call, unused-ignore]
        self._transport: asyncio.Transport | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._begin()

    def _begin(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._size = 0
        self._body = bytearray()
        self._refusal: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if len(self._hall.connections) >= CONNECTIONS_MAX:
            transport.abort()
            return
        self._hall.connections.add(self)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """It went away."""
        self._hall.connections.discard(self)
        if self._idle is not None:
            self._idle.cancel()

    def data_received(self, data: bytes) -> None:
        """Feed the parser; what it cannot read ends the connection."""
        self._watch()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._answer(400, b"bad request", close=True)

    def on_message_begin(self) -> None:
        """A request starts."""
        self._begin()

    def on_url(self, url: bytes) -> None:
        """Part of the request's target."""
        self._url += url
        if len(self._url) > URL_MAX:
            self._refuse(400)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._size += len(name) + len(value)
        if len(self._headers) >= HEADERS_MAX or self._size > HEADER_BYTES_MAX:
            self._refuse(400)
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The body follows; a length that is too large is refused before it comes."""
        length = self._headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > BODY_MAX:
            self._refuse(413)

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        self._body += body
        if len(self._body) > BODY_MAX:
            self._refuse(413)

    def on_message_complete(self) -> None:
        """Answer."""
        if self._refusal is not None:
            return
        path, _, query = self._url.partition(b"?")
        request = Request(self._parser.get_method(), path, query, self._headers, bytes(self._body))
        status, content = self._hall.answer(request)
        self._answer(status, content, close=not self._parser.should_keep_alive())

    def _refuse(self, status: int) -> None:
        if self._refusal is None:
            self._refusal = status
            self._hall.refused()
            self._answer(status, b"too large", close=True)

    def _answer(self, status: int, content: bytes, *, close: bool) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: {self._hall.content_type}\r\n"
            f"content-length: {len(content)}\r\n{'connection: close' if close else 'connection: keep-alive'}\r\n\r\n"
        )
        transport.write(head.encode() + content)
        if close:
            transport.close()

    def _watch(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self.end)

    def end(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()
