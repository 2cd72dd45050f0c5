"""What the API needs of the nodes: where pods listen, what they wrote, and a way to run something in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from pocketkube.storage import Object
from pocketkube.usage import Usage


class Reader(Protocol):
    """The reading half of `asyncio.StreamReader`."""

    async def read(self, n: int = -1) -> bytes:
        """Up to n bytes, b"" at the end."""


class Writer(Protocol):
    """The writing half of `asyncio.StreamWriter`."""

    def write(self, data: bytes) -> None:
        """Queue bytes."""

    async def drain(self) -> None:
        """Wait until the queue is short."""

    def close(self) -> None:
        """No more bytes follow."""


class ExecSession(Protocol):
    """One program started in a pod; with a terminal there is no stderr."""

    @property
    def stdin(self) -> Writer | None:
        """None if it was not asked for."""

    @property
    def stdout(self) -> Reader:
        """What it prints."""

    @property
    def stderr(self) -> Reader | None:
        """None with a terminal."""

    async def wait(self) -> int:
        """Its exit code, 128 + signal number if a signal ended it."""

    def resize(self, columns: int, rows: int) -> None:
        """The client's terminal has another size; nothing without a terminal."""

    async def close(self) -> None:
        """The client is gone: end the program if it still runs, release everything."""


class Runtime(Protocol):
    """Supplied by the node part; raises `pocketkube.errors.ApiError` for what a client must be told."""

    def address(self, pod: Object) -> str | None:
        """The pod's IP; None if it is not running."""

    def service_address(self, service: Object) -> str | None:
        """The Service's address as this process reaches it."""

    def usage(self, obj: Object) -> Usage | None:
        """What a pod or node uses; None while that is not known."""

    async def power(self, node: str, on: bool) -> None:
        """Switch a node off or on."""

    def logs(
        self, pod: Object, container: str, *, follow: bool, tail: int | None, since_s: int | None, previous: bool,
        timestamps: bool,
    ) -> AsyncIterator[bytes]:  # fmt: skip
        """The container's log in pieces (an async generator); with `follow` until the container ends."""

    async def exec(self, pod: Object, container: str, argv: list[str], *, stdin: bool, tty: bool) -> ExecSession:
        """Start a program in the container's surroundings."""
