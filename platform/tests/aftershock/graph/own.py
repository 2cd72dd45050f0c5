"""A Neo4j that belongs to the tests alone: it can be killed, and its disk filled.

$AFTERSHOCK_TEST_NEO4J is a program that runs it. It reads one command a line and answers each with one line: `start` (URI, user and
password, once it serves), `kill` (with SIGKILL), `fill` and `free` (the disk of its data). At the end of its input nothing is left.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from aftershock.settings import settings


class Own:
    """The server behind the program; it is not running before `start`."""

    def __init__(self, program: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._program, self._monkeypatch = program, monkeypatch

    def start(self) -> str:
        """Start it, once more too; its URL, and its user and password in the environment."""
        url, user, password = self._ask("start").split()
        for name, value in (("NEO4J_URI", url), ("NEO4J_USER", user), ("NEO4J_PASSWORD", password)):
            self._monkeypatch.setenv(name, value)
        settings.cache_clear()
        return url

    def kill(self) -> None:
        """As a machine that loses its power does."""
        self._ask("kill")

    def fill(self) -> None:
        """Leave no byte free on the disk of its data."""
        self._ask("fill")

    def free(self) -> None:
        """Give the disk back what `fill` took."""
        self._ask("free")

    def _ask(self, command: str) -> str:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(f"{command}\n")
        self._program.stdin.flush()
        answer = self._program.stdout.readline()
        if not answer:
            pytest.fail(f"the program of AFTERSHOCK_TEST_NEO4J ended at {command!r}", pytrace=False)
        return answer.strip()


@contextmanager
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Own]:
    """A server for one test; skipped without a program for it, which is red in CI."""
    path = os.environ.get("AFTERSHOCK_TEST_NEO4J")
    if not path:
        pytest.skip("AFTERSHOCK_TEST_NEO4J names no program that runs a Neo4j for the tests alone")
    program = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Own(program, monkeypatch)
    finally:
        program.communicate(timeout=150)
        settings.cache_clear()
