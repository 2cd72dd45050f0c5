"""What containers write: one pipe each, kept in files of bounded size with the time of each line.

A line of a file is `TIME stdout F TEXT`, as container runtimes write it (CRI). Standard output and error share a pipe, so that their
order is true.
"""

from __future__ import annotations

import asyncio
import datetime
import os
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

from pocketkube.storage import now

FILE_MOST = 10 << 20  # bytes of one file; one older file is kept beside it
LINE_MOST = 16 << 10
CHUNK = 1 << 16


class ContainerLog:
    """The log of one run of a container; `write_end` is given to the process and closed here after."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._size = 0
        self._rest = b""
        self._more = asyncio.Event()
        self.closed = False
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._read_end, self._readable)

    def started(self) -> None:
        """The process has its copy of the write end: close ours, so that its end is seen."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def close(self) -> None:
        """Keep what is in the pipe and stop; what still holds the other end gets SIGPIPE."""
        if self.closed:
            return
        self.started()
        while not self.closed and self._readable():
            pass
        self._end()

    def _readable(self) -> bool:
        try:
            data = os.read(self._read_end, CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._end()
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_MOST:
            lines.append(self._rest)
            self._rest = b""
        self._write(lines)
        return True

    def _write(self, lines: list[bytes]) -> None:
        if not lines:
            return
        at = now(micro=True).encode()
        data = b"".join(at + b" stdout F " + line[:LINE_MOST] + b"\n" for line in lines)
        if self._size + len(data) > FILE_MOST:
            self._file.close()
            self._path.replace(older(self._path))
            self._file = self._path.open("ab", buffering=0)
            self._size = 0
        self._file.write(data)
        self._size += len(data)
        self._wake()

    def _end(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._read_end)
        os.close(self._read_end)
        if self._rest:
            self._write([self._rest])
        self._file.close()
        self._wake()

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()

    async def grown(self) -> None:
        """Wait until there is more, or the end."""
        if not self.closed:
            await self._more.wait()


def older(path: Path) -> Path:
    """Where the part before this file is."""
    return path.with_suffix(".older.log")


async def read(
    path: Path, live: ContainerLog | None, *, follow: bool, tail: int | None, since_s: int | None, timestamps: bool
) -> AsyncIterator[bytes]:
    """Lines of a log, with `follow` until the container ends."""
    after = ""
    if since_s is not None:
        begun = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=since_s)
        after = begun.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    lines: deque[bytes] = deque(maxlen=tail)
    position = 0
    for part in (older(path), path):
        if part.exists():
            with part.open("rb") as file:
                lines.extend(line for line in file if line.split(b" ", 1)[0].decode() >= after)
                position = file.tell()
    if lines:
        yield b"".join(_shown(line, timestamps) for line in lines)
    while follow and live is not None:
        ended = live.closed
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < position:
                position = 0  # rotated
            file.seek(position)
            data = file.read()
            position += len(data)
        if data:
            yield b"".join(_shown(line, timestamps) for line in data.splitlines(keepends=True))
        if ended:
            return
        await live.grown()


def _shown(line: bytes, timestamps: bool) -> bytes:
    at, _, _, text = line.split(b" ", 3)
    return at + b" " + text if timestamps else text
