"""The process in the pod: a spool, a clock, and for load the generator; answers small GETs, since pods/proxy is all the way there is.

    GET /healthz             the run's id
    GET /clock               {"received_us", "sent_us"}: when this machine got the request and when it answered, by its own clock
    GET /begin               start the generator, once; it does not start by itself, so that nothing is sent before somebody listens
    GET /spool?from=OFFSET   a line of JSON {"received_us", "sent_us", "from", "size", "dropped", "ended"}, then bytes from there on
    POST /v1/traces          (collector) one export, kept as it came

It ends when everything after the end was fetched, and by itself when nobody asks any more: a dead run must not leave load behind.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from aftershock.observe import otlp
from aftershock.observe.connection import Connection, Request
from aftershock.outpost.spool import Spool

LOAD_BYTES_MAX, TRACES_BYTES_MAX = 512_000_000, 256_000_000
DESERTED_S = 90.0  # longer than an API server may be away, shorter than anybody's patience with load of unknown origin
TICK_S, PARTING_S = 0.1, 0.2
CHUNK = 1 << 16
FRAME = struct.Struct(">I?")  # length of an export's body, and whether it is gzip
LINE = b'["'  # how a line of ours begins, see load/tally.py


def wall_us() -> int:
    """This machine's clock."""
    return time.time_ns() // 1000


@dataclass(frozen=True)
class Generator:
    """What to start at /begin; `made` reads the tool's own count of requests from what it left."""

    argv: Sequence[str]
    words: Path
    made: Callable[[], Mapping[str, int] | None]


class Station:
    """One pod's work; `clock` is what every answer is stamped with."""

    def __init__(
        self, run: str, spool: Spool, *, content_type: str = "application/octet-stream", generator: Generator | None = None,
        clock: Callable[[], int] = wall_us,
    ) -> None:  # fmt: skip
        self.content_type = content_type
        self.connections: set[Connection] = set()
        self.asked = time.monotonic()
        self.begun = asyncio.Event()
        self.fetched = asyncio.Event()  # the end, and all before it
        self.ended: dict[str, Any] | None = None
        self.generator = generator
        self._run, self._spool, self._clock = run, spool, clock
        self._lines, self._rest = 0, b""

    def answer(self, request: Request) -> tuple[int, bytes]:
        """As in the module's docstring."""
        received_us = self._clock()
        if request.path == b"/v1/traces":
            return self._export(request)
        if request.method != b"GET":
            return 405, b"only GET"
        if request.path == b"/healthz":
            return 200, self._run.encode()
        self.asked = time.monotonic()
        if request.path == b"/clock":
            return 200, json.dumps({"received_us": received_us, "sent_us": self._clock()}).encode()
        if request.path == b"/begin":
            self.begun.set()
            return 200, b"{}"
        if request.path == b"/spool":
            return self._piece(request.query, received_us)
        return 404, b"no such thing"

    def refused(self) -> None:
        """An export that was too large is one that is missing."""
        self._spool.dropped += 1

    def keep(self, chunk: bytes) -> bool:
        """Keep what the generator says, and count its lines. False if there is no room any more."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._lines += sum(line.startswith(LINE) for line in lines)
        self._rest = self._rest[: 2 * CHUNK]
        return self._spool.append(chunk)

    def end(self, exit_code: int | None, error: str | None, said: str, made: Mapping[str, int] | None) -> None:
        """Say how it ended; nothing is kept after this."""
        self.ended = {"exit_code": exit_code, "error": error, "said": said, "lines": self._lines, "bytes": self._spool.size,
                      "made": None if made is None else dict(made)}  # fmt: skip

    def _export(self, request: Request) -> tuple[int, bytes]:
        if self.content_type != otlp.CONTENT_TYPE:
            return 404, b"no collector"
        if (refusal := otlp.refusal_of(request)) is not None:
            return refusal
        encoding = otlp.encoding_of(request)
        if encoding not in (b"", b"identity", b"gzip"):
            return 400, b"unknown content encoding"
        kept = self._spool.append(FRAME.pack(len(request.body), encoding == b"gzip") + request.body)
        return (200, b"") if kept else (503, b"no room")

    def _piece(self, query: bytes, received_us: int) -> tuple[int, bytes]:
        try:
            start = int(parse_qs(query.decode("ascii"))["from"][0])
            piece = self._spool.read(start)
        except (KeyError, ValueError, UnicodeDecodeError) as error:
            return 400, str(error).encode()
        if self.ended is not None and start == self._spool.size:
            self.fetched.set()
        told = {"received_us": received_us, "sent_us": self._clock(), "from": start, "size": self._spool.size,
                "dropped": self._spool.dropped, "ended": self.ended}  # fmt: skip
        return 200, json.dumps(told).encode() + b"\n" + piece


async def serve(station: Station, host: str, port: int, deserted_s: float = DESERTED_S) -> None:
    """Answer until all was fetched, nobody asks for `deserted_s`, or SIGTERM; the generator ends with it."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    server = await loop.create_server(lambda: Connection(station), host, port)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    work = asyncio.ensure_future(_generate(station)) if station.generator else None
    try:
        while not told.is_set() and time.monotonic() - station.asked < deserted_s:
            if station.fetched.is_set():
                await asyncio.sleep(PARTING_S)  # the answer is still on its way
                break
            if work is not None and work.done():
                work.result()
            await asyncio.sleep(TICK_S)
    finally:
        if work is not None:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        server.close()
        for connection in list(station.connections):
            connection.end()


async def _generate(station: Station) -> None:
    """Run the generator once somebody says so, and keep what it prints."""
    generator = station.generator
    assert generator is not None
    await station.begun.wait()
    try:
        child = await asyncio.create_subprocess_exec(*generator.argv, stdout=asyncio.subprocess.PIPE)
    except OSError as error:
        station.end(None, f"{generator.argv[0]}: cannot be started: {error}", "", None)
        return
    assert child.stdout is not None
    trouble = None
    try:
        while chunk := await child.stdout.read(CHUNK):
            if not station.keep(chunk):
                trouble = "no room for more samples in the pod"
                child.kill()
                break
        code = await child.wait()
        station.end(code, trouble, _last_line(generator.words), generator.made())
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


def _last_line(words: Path) -> str:
    try:
        lines = words.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1][:500] if lines else "it said nothing"


def folder() -> Path:
    """Where the pod may write."""
    return Path(os.environ["AFTERSHOCK_SPOOL"])
