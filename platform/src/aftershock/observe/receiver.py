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

from aftershock.errors import FolderError
from aftershock.folder import RunFolder, TableWriter
from aftershock.observe import otlp
from aftershock.observe.connection import Connection, Request

UNPACKED_MAX = 32_000_000
SPANS_MAX = 3_000_000
QUIET_S, LINGER_S = 0.3, 0.6


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

    content_type = otlp.CONTENT_TYPE

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

    def answer(self, request: Request) -> tuple[int, bytes]:
        """Take an export, or say who this is."""
        if request.path == b"/healthz":
            return 200, self.token.encode()
        if (refusal := otlp.refusal_of(request)) is not None:
            self.counts.rejected += request.method == b"POST" and request.path == b"/v1/traces"
            return refusal
        self.counts.requests += 1
        try:
            self.export(request.body, otlp.encoding_of(request))
        except otlp.BadExport as error:
            self.counts.rejected += 1
            return 400, str(error).encode()
        except FolderError as error:
            self.counts.error = str(error)
            return 503, b"cannot be written"
        return 200, b""

    def refused(self) -> None:
        """Count it."""
        self.counts.rejected += 1


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
