"""A load under way: one child, one thread that streams its samples to disk, and the facts at the end."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from aftershock import processes
from aftershock.errors import DeadlineExceeded, FolderError, LoadError
from aftershock.load import engines, plan
from aftershock.load.plan import LoadPlan
from aftershock.load.tally import Row, Tally

if TYPE_CHECKING:
    from aftershock.folder import RunFolder, TableWriter

PIPE_BYTES = 1 << 20  # about 20 s of samples: a reader that is held up must not hold the generator up
READ_BYTES = 1 << 16
LINE_BYTES_MAX = 1 << 16
READER_S = 5.0  # for what is still in the pipe when the child has ended
GRACE_S = 1.0


def start(asked: LoadPlan, folder: RunFolder, scratch: Path) -> RunningLoad:
    """Start the generator; from the main thread only.

    Raises Refused for a load of nothing, BadInput for a wrong scenario or address, LoadError if the tool is missing.
    """
    plan.check(asked)
    words = scratch / f"{asked.tool}.log"
    command = engines.ENGINES[asked.tool](asked.scenario, words)
    writer = folder.writer("samples.parquet")
    try:
        child = processes.spawn(
            command, name=f"load-{asked.tool}", scratch=scratch, env=plan.environment(asked, os.environ), stdout=subprocess.PIPE
        )  # fmt: skip
    except OSError as error:
        writer.discard()
        raise LoadError(
            f"{command[0]}: cannot be started: {error}", hint="make setup installs the load tools"
        ) from None
    assert child.stdout is not None
    return RunningLoad(asked, child, child.stdout, writer, words)


class RunningLoad:
    """One generator at work; `finish` or `stop` must be called, from the thread that started it."""

    def __init__(
        self, asked: LoadPlan, child: subprocess.Popen[bytes], pipe: IO[bytes], writer: TableWriter, words: Path
    ) -> None:
        self._plan = asked
        self._child = child
        self._pipe = pipe
        self._writer = writer
        self._words = words
        self._tally = Tally(asked.scheduled)
        self._begun = threading.Event()
        self._trouble: str | None = None
        self._facts: dict[str, Any] | None = None
        try:
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:  # an administrator's lower limit: the pipe stays as it is
            pass
        self._reader = threading.Thread(target=self._read, name="samples", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The generator's process."""
        return self._child.pid

    @property
    def started(self) -> int:
        """Arrivals that have begun so far, for progress."""
        return self._tally.begun

    @property
    def served(self) -> tuple[int, int]:
        """Journeys that have ended so far, and how many of them failed."""
        return self._tally.ended, self._tally.failed

    def begun_us(self, deadline_s: float) -> int:
        """Wait for the first arrival; the wall clock at the schedule's beginning.

        Raises LoadError if the generator ends before, DeadlineExceeded if nothing arrives within `deadline_s`.
        """
        ends = time.monotonic() + deadline_s
        while not self._begun.wait(0.05):
            if not self._reader.is_alive():
                raise LoadError(self.failed() or "the generator ended before its first arrival", hint=self._hint())
            if time.monotonic() > ends:
                raise DeadlineExceeded(f"no arrival within {deadline_s:g} s from {self._plan.tool}", hint=self._hint())
        assert self._tally.schedule_start_us is not None
        return self._tally.schedule_start_us

    def failed(self) -> str | None:
        """Why this load is worth nothing any more, if it is known already; the shop's failures are none."""
        if self._trouble:
            return self._trouble
        code = self._child.poll()
        if code:
            return f"{self._plan.tool} ended with {code} after {self._tally.begun} of {self._plan.scheduled} arrivals: {self._last_words()}"
        if code is not None and not self._reader.is_alive():
            return self._tally.complaint()
        return None

    def finish(self, deadline_s: float) -> dict[str, Any]:
        """Wait for the schedule's end and the journeys under way, close `samples.parquet`; `evidence.json.load`.

        What is not over after `deadline_s` is ended and kept as a failed sample.
        """
        if self._facts is None:
            error = None
            try:
                self._child.wait(deadline_s)
            except subprocess.TimeoutExpired:
                error = f"{self._plan.tool} had not ended after {deadline_s:g} s"
            self._facts = self._close(error)
        return self._facts

    def stop(self) -> dict[str, Any]:
        """End the generator now; what was measured is kept. Idempotent, also after `finish`."""
        if self._facts is None:
            early = "stopped before the schedule's end" if self._child.poll() is None else None
            self._facts = self._close(early)
        return self._facts

    def _close(self, error: str | None) -> dict[str, Any]:
        error = error or self.failed()  # before it is ended by us
        if self._child.poll() is None:
            self._child.kill()  # before `end`, which closes the pipe that the reader must empty
        self._reader.join(READER_S)
        if self._reader.is_alive():
            error = error or "the samples could not be read to their end"
        code = processes.end(self._child, GRACE_S)
        error = error or self._trouble
        self._reader.join(GRACE_S)
        try:
            self._writer.append(list(self._tally.unfinished(time.time_ns() // 1000)))
            self._writer.close()
        except FolderError as broken:
            error = error or str(broken)
        return self._tally.facts(code, error)

    def _read(self) -> None:
        rest = b""
        try:
            while chunk := os.read(self._pipe.fileno(), READ_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                self._writer.append([row for line in lines if (row := self._take(line))])
                if len(rest) > LINE_BYTES_MAX:
                    raise ValueError(f"a line of more than {LINE_BYTES_MAX} bytes")
        except (ValueError, OSError, FolderError) as error:
            self._trouble = f"samples: {error}"
            self._child.kill()  # nobody empties its pipe any more

    def _take(self, line: bytes) -> Row | None:
        row = self._tally.feed(line)
        if self._tally.begun and not self._begun.is_set():
            self._begun.set()
        return row

    def _last_words(self) -> str:
        try:
            lines = self._words.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1][:500] if lines else "it said nothing"

    def _hint(self) -> str:
        return f"{self._plan.tool} said: {self._last_words()}"
