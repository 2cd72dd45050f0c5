"""A TCP proxy that a test puts between two services, and that misbehaves on demand."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

Mode = Literal["pass", "refuse", "drop_answers", "hold_answers"]


@dataclass
class Proxy:
    """Forwards `127.0.0.1:port` to (host, to_port) from a thread of its own.

    `refuse` closes what comes and what is there; `drop_answers` lets a request through and closes instead of answering (`drops` counts
    down, then all passes again); `hold_answers` lets requests through and keeps the answers until the mode changes.
    """

    host: str
    to_port: int
    mode: Mode = "pass"
    drops: int = 1_000_000
    requests: int = 0
    port: int = 0

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def set(self, mode: Mode, drops: int = 1_000_000) -> None:
        """Misbehave from now on; `refuse` also ends the connections that are there."""
        self.mode, self.drops = mode, drops
        if mode == "refuse":
            self._do(self._cut())

    def _do(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(5)  # type: ignore[arg-type]

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _shut(self) -> None:
        self._server.close()
        await self._cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if self.mode == "refuse":
                return
            back, forth = await asyncio.open_connection(self.host, self.to_port)
            self._writers.add(forth)
            await asyncio.gather(self._pump(reader, forth, answers=False), self._pump(back, writer, answers=True))
        except (ConnectionError, OSError, asyncio.CancelledError):
            pass
        finally:
            with contextlib.suppress(UnboundLocalError):
                forth.transport.abort()
                self._writers.discard(forth)
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _pump(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await source.read(65536):
            self.requests += not answers
            if answers and self.mode == "drop_answers" and self.drops > 0:
                self.drops -= 1
                raise ConnectionResetError
            while answers and self.mode == "hold_answers":  # noqa: ASYNC110  (the mode is set from another thread)
                await asyncio.sleep(0.005)
            to.write(data)
            await to.drain()
        raise ConnectionResetError  # one side closed: so does the other
