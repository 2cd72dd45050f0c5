"""One writer at a time: an advisory lock beside the graph file, with a deadline, that the kernel frees when its holder dies."""

from __future__ import annotations

import fcntl
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO

from aftershock.errors import GraphError

POLL_S = 0.02


class WriterLock:
    """Held from construction to `release`; raises GraphError that names the holder when the deadline passes."""

    def __init__(self, graph: Path, deadline_s: float) -> None:
        self.path = graph.with_name(f"{graph.name}.lock")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115  held open on purpose
        until = time.monotonic() + deadline_s
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    holder = self._holder()
                    self._file.close()
                    raise GraphError(
                        f"{graph} was not free within {deadline_s:g} s: it is being written by {holder}",
                        hint="wait for that process, or end it; the graph can be rebuilt with `aftershock graph rebuild`",
                    ) from None
                time.sleep(POLL_S)
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"process {os.getpid()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
        self._file.flush()

    def _holder(self) -> str:
        self._file.seek(0)
        return self._file.read(200).strip() or "a process that has not said its name yet"

    def release(self) -> None:
        """Free the lock; the file stays, since deleting it would let two writers lock different files."""
        if not self._file.closed:
            self._file.seek(0)
            self._file.truncate()
            self._file.close()

    def __enter__(self) -> WriterLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
