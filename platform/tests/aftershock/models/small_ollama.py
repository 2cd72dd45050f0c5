"""A small real server that speaks as much of Ollama's API as aftershock uses, and, if told to, speaks it badly."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DIGEST = "ab" * 32
Body = dict[str, Any]


def obliging(body: Body) -> str:
    """The answer of a model that does as it is told: the first letter, or the sentence as it was."""
    form = body["format"]["properties"]
    if "choice" in form:
        return json.dumps({"choice": form["choice"]["enum"][0]})
    return json.dumps({"sentence": body["messages"][-1]["content"].rpartition("Sentence: ")[2]})


class Handler(BaseHTTPRequestHandler):
    """One request; the connection ends with the answer."""

    server: Server

    def do_GET(self) -> None:
        self.server.small.seen.append((self.path, {}))
        small = self.server.small
        if small.tags is not None:
            small.tags(self)
        else:
            self.send_json({"models": small.models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.small.seen.append((self.path, body))
        self.server.small.chat(self, body)

    def head(self, status: int = 200, kind: str = "application/x-ndjson", /, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def send_json(self, document: Any, status: int = 200) -> None:
        self.head(status, "application/json")
        self.wfile.write(json.dumps(document).encode())

    def send_raw(self, data: bytes, **headers: str) -> None:
        """Whatever these bytes are."""
        self.head(**headers)
        self.wfile.write(data)

    def hang_up(self) -> None:
        """End the connection with a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def part(self, text: str, done: bool = False) -> None:
        """One line of a stream, as Ollama writes it."""
        message = {"role": "assistant", "content": text}
        line = {"model": "small", "created_at": "2026-03-01T12:00:00Z", "message": message, "done": done}
        self.wfile.write(json.dumps(line).encode() + b"\n")
        self.wfile.flush()

    def say(self, text: str) -> None:
        """A whole answer."""
        self.head()
        for start in range(0, len(text), 200):
            self.part(text[start : start + 200])
        self.part("", done=True)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    small: SmallOllama

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""


class SmallOllama:
    """What the server has and how it behaves; `seen` is every request in order."""

    def __init__(self, address: str) -> None:
        self.address, self.port = address, 0
        self.models: list[Body] = [self.model("small:latest")]
        self.tags: Callable[[Handler], None] | None = None
        self.chat: Callable[[Handler, Body], None] = lambda handler, body: handler.say(obliging(body))
        self.seen: list[tuple[str, Body]] = []
        self.release = threading.Event()  # what hangs, hangs until then

    @staticmethod
    def model(name: str, size: int = 100_000_000, digest: str = DIGEST) -> Body:
        return {"name": name, "model": name, "size": size, "digest": digest, "details": {"format": "gguf"}}

    @property
    def host(self) -> str:
        """For OLLAMA_HOST."""
        return f"{self.address}:{self.port}"

    @property
    def questions(self) -> list[Body]:
        """Bodies of what was asked of the model."""
        return [body for path, body in self.seen if path == "/api/chat"]


@contextmanager
def serving(host: str = "127.0.0.1") -> Iterator[SmallOllama]:
    """The server, on a free port."""
    small = SmallOllama(host)
    server = Server((host, 0), Handler)
    server.small, small.port = small, server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield small
    finally:
        small.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
