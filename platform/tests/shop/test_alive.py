"""The image's HEALTHCHECK: yes only while the service of this container answers."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from shop.alive import alive


class Service(BaseHTTPRequestHandler):
    """Answers with the status that its server was given."""

    def do_GET(self) -> None:
        self.send_response(self.server.status if self.path == "/healthz" else 404)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@contextmanager
def serving(status: int) -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        server.status = status  # type: ignore[attr-defined]
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "expected"), [(200, True), (503, False)])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_it_asks_where_the_service_listens(status: int, expected: bool, host: str) -> None:
    with serving(status) as port:
        assert alive({"SHOP_LISTEN_HOST": host, "SHOP_LISTEN_PORT": str(port)}) is expected


def test_nobody_there_is_not_alive() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        environment = {"SHOP_LISTEN_HOST": "127.0.0.1", "SHOP_LISTEN_PORT": str(held.getsockname()[1])}
        assert not alive(environment)
        done = subprocess.run([sys.executable, "-m", "shop.alive"], env=environment, check=False)
        assert done.returncode == 1
