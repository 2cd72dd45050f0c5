"""The command line of the PostgreSQL image."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocketkube.postgres_image import Server, command

SERVER = Server("shop", "secret", "shop", Path("/data"), "127.9.0.1", 6432)


@pytest.mark.parametrize("arguments", [["-c", "max_connections=200"], ["postgres", "-c", "max_connections=200"]])
def test_arguments_go_to_the_server_and_have_the_last_word(arguments: list[str]) -> None:
    made = command(SERVER, arguments)
    assert made[-2:] == ["-c", "max_connections=200"]
    assert made[: len(command(SERVER))] == command(SERVER)
    assert "secret" not in " ".join(made)
