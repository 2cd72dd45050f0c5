"""uvicorn, set up for the API: TLS, WebSocket, long watches, and no hands on the process's signals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn

from pocketkube.api.wire import ASGIApp
from pocketkube.certificates import Identity

BACKLOG = 256
IDLE_S = 120  # longer than clients keep a connection in their pools


class Listener(uvicorn.Server):
    """A server that leaves signals to the process it runs in; `await serve(sockets=[...])`, stop with `should_exit = True`."""

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until `should_exit`."""
        # asyncio sets TCP_NODELAY only on sockets that name their protocol; without it each answer waits 40 ms for an ACK.
        for listening in sockets or ():
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await super().serve(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close all connections; those whose client does not answer TLS's goodbye are cut."""
        await super().shutdown(sockets)
        self.cut()
        await asyncio.sleep(0)

    def cut(self) -> None:
        """Break all connections off."""
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing is captured."""
        yield


class Serving:
    """The API at its address; it can go away for a while, and the rest of the cluster goes on."""

    def __init__(self, app: ASGIApp, identity: Identity, bound: socket.socket, compact: Callable[[], None]) -> None:
        self._app, self._identity, self._bound, self._compact = app, identity, bound, compact
        self._server = listener(app, identity)
        self._down_s: float | None = None
        self._forgets = False

    async def run(self) -> None:
        """Serve until `stop`."""
        while True:
            await self._server.serve(sockets=[self._bound.dup()])
            if self._down_s is None:
                return
            await asyncio.sleep(self._down_s)
            if self._forgets:
                self._compact()
            self._down_s, self._server = None, listener(self._app, self._identity)
            self._bound.listen(BACKLOG)

    def restart(self, down_s: float, compact: bool) -> None:
        """Cut all connections, be away for so long, and come back; with `compact` a watch cannot resume what it missed."""
        if self._down_s is None and not self._server.should_exit:
            self._down_s, self._forgets = down_s, compact
            for server in self._server.servers:
                server.close()
            # Still bound, so that the address stays ours, but who connects is refused.
            self._bound.shutdown(socket.SHUT_RDWR)
            self._server.cut()
            self._server.should_exit = True

    def stop(self) -> None:
        """Serve no more."""
        self._down_s, self._server.should_exit = None, True


def listener(app: ASGIApp, identity: Identity, host: str = "127.0.0.1", port: int = 0) -> Listener:
    """A server for `app` with the cluster's certificate; host and port do not matter when it is given sockets."""
    return Listener(uvicorn.Config(
        app, host=host, port=port,
        loop="none", interface="asgi3", proxy_headers=False, http="httptools",
        ws="websockets-sansio", lifespan="off", access_log=False, log_config=None,
        ssl_certfile=str(identity.certificate), ssl_keyfile=str(identity.key), timeout_keep_alive=IDLE_S, timeout_graceful_shutdown=1,
        server_header=False, date_header=False, ws_max_size=4 * 1024 * 1024,
    ))  # fmt: skip
