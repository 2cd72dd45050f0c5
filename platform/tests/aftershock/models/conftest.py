"""A run, what is known of it, and a small Ollama."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.aftershock.models.small_ollama import SmallOllama, serving


@pytest.fixture
def small() -> Iterator[SmallOllama]:
    with serving() as server:
        yield server


@pytest.fixture
def closed() -> Iterator[str]:
    """An address of loopback where nobody listens, and nobody else can begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"
