"""The collector's own process: OTLP/HTTP in, traces.parquet out. `python -m aftershock.observe.receiver --listen HOST:PORT --folder F`

Prints one JSON line when it listens and one with its counts when it has finished, which it does on SIGTERM or at the end of its stdin.
After that it stays until no span came for `QUIET_S`, since exporters flush what they still hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
import stat
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httptools

from aftershock.errors import FolderError
from aftershock.folder import RunFolder, TableWriter
from aftershock.observe import otlp

HEADERS_MAX, HEADER_BYTES_MAX, URL_MAX = 64, 16_384, 2_048
BODY_MAX, UNPACKED_MAX = 8_000_000, 32_000_000
CONNECTIONS_MAX = 512
IDLE_S = 60.0
SPANS_MAX = 3_000_000
QUIET_S, LINGER_S = 0.3, 0.6
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 413: "Content Too Large",
            415: "Unsupported Media Type", 503: "Service Unavailable"}  # fmt: skip


@dataclass
class Counts:
    """What happened; `odd` spans had no usable id or time, `dropped` came after the file was full."""

    spans: int = 0
    requests: int = 0
    rejected: int = 0
    odd: int = 0
    dropped: int = 0
    last_us: int | None = None
    error: str | None = None


class Sink:
    """Where exports go; counts them."""

    def __init__(self, writer: TableWriter) -> None:
        self.counts = Counts()
        self.token = secrets.token_hex(8)  # what /healthz answers, so that whoever asks knows that it is this process
        self.connections: set[Connection] = set()
        self._writer = writer

    def export(self, body: bytes, encoding: bytes) -> None:
        """Take one export. Raises otlp.BadExport."""
        if encoding == b"gzip":
            body = otlp.gunzip(body, UNPACKED_MAX)
        elif encoding not in (b"", b"identity"):
            raise otlp.BadExport("unknown content encoding")
        rows, odd = otlp.rows(body)
        counts = self.counts
        room = max(0, SPANS_MAX - counts.spans)
        counts.odd, counts.dropped = counts.odd + odd, counts.dropped + max(0, len(rows) - room)
        if rows[:room]:
            self._writer.append(rows[:room])
            counts.spans += len(rows[:room])
            counts.last_us = time.time_ns() // 1000


class Connection(asyncio.Protocol):
    """One exporter's connection; also the callbacks of its HTTP parser."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
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
        if len(self._sink.connections) >= CONNECTIONS_MAX:
            transport.abort()
            return
        self._sink.connections.add(self)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """It went away."""
        self._sink.connections.discard(self)
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
        status, content = self._handle()
        self._answer(status, content, close=not self._parser.should_keep_alive())

    def _handle(self) -> tuple[int, bytes]:
        path, method = self._url.partition(b"?")[0], self._parser.get_method()
        if path == b"/healthz":
            return 200, self._sink.token.encode()
        if path != b"/v1/traces":
            return 404, b"only /v1/traces"
        if method != b"POST":
            return 405, b"only POST"
        counts = self._sink.counts
        counts.requests += 1
        if self._headers.get(b"content-type", b"").partition(b";")[0].strip() != b"application/x-protobuf":
            counts.rejected += 1
            return 415, b"only application/x-protobuf"
        try:
            self._sink.export(bytes(self._body), self._headers.get(b"content-encoding", b"").strip().lower())
        except otlp.BadExport as error:
            counts.rejected += 1
            return 400, str(error).encode()
        except FolderError as error:
            counts.error = str(error)
            return 503, b"cannot be written"
        return 200, b""

    def _refuse(self, status: int) -> None:
        if self._refusal is None:
            self._refusal = status
            self._sink.counts.rejected += 1
            self._answer(status, b"too large", close=True)

    def _answer(self, status: int, content: bytes, *, close: bool) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/x-protobuf\r\n"
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


async def serve(host: str, port: int, sink: Sink) -> None:
    """Listen, say so, and receive until told to finish."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    if stat.S_ISFIFO(os.fstat(0).st_mode) or stat.S_ISSOCK(os.fstat(0).st_mode):
        loop.add_reader(0, _until_end, loop, told)
    server = await loop.create_server(lambda: Connection(sink), host, port)
    address = server.sockets[0].getsockname()
    print(json.dumps({"host": address[0], "port": address[1], "token": sink.token}), flush=True)
    await told.wait()
    ends, seen, quiet_since = time.monotonic() + LINGER_S, sink.counts.spans, time.monotonic()
    while time.monotonic() < min(ends, quiet_since + QUIET_S):
        await asyncio.sleep(QUIET_S / 10)
        if sink.counts.spans != seen:
            seen, quiet_since = sink.counts.spans, time.monotonic()
    server.close()
    for connection in list(sink.connections):
        connection.end()


def _until_end(loop: asyncio.AbstractEventLoop, told: asyncio.Event) -> None:
    if not os.read(0, 4096):
        loop.remove_reader(0)
        told.set()


def main(arguments: list[str] | None = None) -> int:
    """Entry of the process; 0 if the file is whole."""
    parser = argparse.ArgumentParser(prog="aftershock.observe.receiver")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--folder", required=True, type=Path)
    given = parser.parse_args(arguments)
    host, _, port = given.listen.rpartition(":")
    try:
        with RunFolder(given.folder).writer("traces.parquet") as writer:
            sink = Sink(writer)
            asyncio.run(serve(host, int(port), sink))
    except (FolderError, OSError) as error:
        print(f"receiver: {error}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(sink.counts)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
