"""A small real server that speaks the shop's public API and misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

Mode = Literal["ok", "stall", "drop", "error", "drip"]
PRODUCTS = [{"sku": f"sku-{n:03d}", "name": f"Article {n}", "price_cents": n, "available": 9} for n in range(1, 21)]


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    connection: int


@dataclass
class Server:
    """Serves on a loopback port from a thread of its own; `mode` may change at any time, a stall ends when it does."""

    mode: Mode = "ok"
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    orders: dict[str, str] = field(default_factory=dict)  # idempotency key to order id
    connections: int = 0
    drop_checkouts: bool = False

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="server")
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def set(self, mode: Mode, after_s: float) -> None:
        """Change the mode later."""
        self._loop.call_soon_threadsafe(self._loop.call_later, after_s, setattr, self, "mode", mode)

    def close(self) -> None:
        """Refuse from now on."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(5)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
            self._loop.close()

    async def _open(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1000)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        connection = self.connections
        try:
            while await self._serve(reader, writer, connection):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> bool:
        head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = head.split()
        self.seen.append(Seen(method, path, headers, connection))
        if self.mode == "stall":
            while self.mode == "stall":  # noqa: ASYNC110  (the mode is set from another thread)
                await asyncio.sleep(0.005)
        mode = self.mode
        if mode == "drop" or (self.drop_checkouts and path == "/checkout"):
            return False
        status, answer = (500, {}) if mode == "error" else self._answer(method, path, headers, body)
        text = json.dumps(answer).encode()
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n".encode()
        )
        if mode == "drip":
            for byte in text:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.2)
        else:
            writer.write(text)
        await writer.drain()
        return True

    def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, object]:
        if path == "/products":
            return 200, {"products": PRODUCTS}
        if path.startswith("/products/"):
            return 200, PRODUCTS[0]
        if path == "/carts" and json.loads(body)["items"]:
            return 201, {"cart_id": str(uuid.uuid4())}
        if path == "/checkout" and json.loads(body)["cart_id"]:
            order = self.orders.setdefault(headers["idempotency-key"], str(uuid.uuid4()))
            return 201, {"order_id": order, "state": "paid"}
        return 404, {}
