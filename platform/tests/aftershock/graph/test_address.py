"""A server is named without its secret, and the secret comes from where only its owner can read it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aftershock import cli, settings
from aftershock.errors import BadInput
from aftershock.graph import address
from aftershock.graph.address import Login

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("neo4j://graph.example", "neo4j://graph.example"),
        ("neo4j+s://graph.example:7688/", "neo4j+s://graph.example:7688"),
        ("bolt+ssc://127.0.0.1:7687", "bolt+ssc://127.0.0.1:7687"),
        ("BOLT://[::1]:7687", "bolt://[::1]:7687"),
    ],
)
def test_urls(text: str, shown: str) -> None:
    assert address.is_server(text)
    assert address.checked(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        f"neo4j://neo4j:{SECRET}@graph.example",
        f"bolt://{SECRET}@graph.example:7687",
        f"http://neo4j:{SECRET}@graph.example",
        f"neo4j://graph.example?password={SECRET}",
        f"neo4j://graph.example/#{SECRET}",
        f"neo4j://graph.example:{SECRET}",
        f"neo4j://u:p@{SECRET}@graph.example",
        "http://graph.example:7474",
        "neo4j://",
        "neo4j://graph.example/sales",
        "bolt://graph.example:99999",
        "bolt://[::1",
    ],
)
def test_urls_that_are_refused_and_never_repeated(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        address.checked(text)
    assert caught.value.hint
    assert SECRET not in f"{caught.value} {caught.value.hint}"


def test_a_path_is_no_server() -> None:
    assert not address.is_server("reports/graph.lbug")
    assert not address.is_server(":memory:")


def login(**environment: str) -> Login:
    return Login.of(settings.read({"HOME": "/", **environment}))


def test_the_login_comes_from_the_environment() -> None:
    assert login() == Login(None, None)
    assert login(NEO4J_PASSWORD=SECRET) == Login("neo4j", SECRET)
    assert login(NEO4J_USER="gate", NEO4J_PASSWORD=SECRET, NEO4J_DATABASE="runs") == Login("gate", SECRET, "runs")
    with pytest.raises(BadInput, match="no password"):
        login(NEO4J_USER="gate")


def test_nothing_that_holds_the_password_shows_it() -> None:
    environment = {"HOME": "/", "NEO4J_PASSWORD": SECRET}
    assert SECRET not in repr(settings.read(environment)) + repr(Login.of(settings.read(environment)))


def test_the_password_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o600)
    assert login(NEO4J_PASSWORD_FILE=str(file)).password == SECRET
    with pytest.raises(BadInput, match="both"):
        login(NEO4J_PASSWORD_FILE=str(file), NEO4J_PASSWORD="other")


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o602, 0o666])
def test_a_password_file_that_others_can_read_is_refused(mode: int, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    file.chmod(mode)
    with pytest.raises(BadInput, match="others can read") as caught:
        login(NEO4J_PASSWORD_FILE=str(file))
    assert caught.value.hint == f"chmod 600 {file}"


@pytest.mark.parametrize("content", [b"", b"\n", b"one\ntwo", b"x" * 5000, b"\xff\xfe"])
def test_a_password_file_that_holds_no_password(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(BadInput, match="NEO4J_PASSWORD_FILE"):
        login(NEO4J_PASSWORD_FILE=str(file))
    with pytest.raises(BadInput, match="No such file"):
        login(NEO4J_PASSWORD_FILE=str(tmp_path / "none"))


@pytest.mark.parametrize("command", ["run experiments/payments-pod-kill.yaml", "graph sync", "demo"])
def test_no_command_takes_or_repeats_a_secret(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main([*command.split(), "--graph", f"bolt://neo4j:{SECRET}@127.0.0.1:1", "--reports", str(tmp_path)])
    assert code == cli.BAD_INPUT
    assert SECRET not in "".join(capsys.readouterr())
    assert not list(tmp_path.iterdir())


def test_a_path_needs_no_driver(tmp_path: Path) -> None:
    code = (
        "import sys; from aftershock import graph; "
        f"graph.open({str(tmp_path / 'graph.lbug')!r}).close(); assert 'neo4j' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
