"""Whoever words a postmortem contacts the server that the user named, or loopback, and nobody else: watched in a network of its own."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aftershock.folder import RunFolder

GOLDEN = Path(__file__).parents[1] / "golden/payments-pod-kill"
UNSHARE = ("unshare", "--user", "--map-root-user", "--net", "--")


def alone(reports: Path, server: str) -> tuple[RunFolder, dict[str, Any]]:
    """The golden run's postmortem by `ollama:small` in a network namespace, and what was seen there."""
    run = reports / "payments-pod-kill/20260301T120000Z-0a1b2c"
    shutil.copytree(GOLDEN, run)
    environment = {"PATH": "/usr/bin:/bin:/sbin", "PYTHONPATH": ":".join(filter(None, sys.path)), "HOME": str(reports)}
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-m", "tests.aftershock.models.alone", str(reports), str(run), server],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert seen["code"] == 0, done.stderr
    assert seen["control"]["out"] == [False, False], "the namespace is no wall"
    assert seen["control"]["counted"] >= 1, "the kernel does not count what has no route"
    return RunFolder(run), seen


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    try:
        possible = subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=10, check=False).returncode == 0
    except OSError:
        possible = False
    if not possible:
        pytest.skip("this machine lets nobody make a network namespace of his own")


def contacted(seen: dict[str, Any]) -> set[Any]:
    """Whom Python connected to; a number is "looked up" without asking anybody, and nothing else may happen."""
    events = {(event, ast.literal_eval(what)) for event, what in seen["seen"]}
    assert {event for event in events if event[0] != "socket.connect"} <= {("socket.getaddrinfo", seen["at"][0])}, (
        events
    )
    return {to for event, to in events if event == "socket.connect"}


def test_only_the_named_server_is_contacted(tmp_path: Path) -> None:
    folder, seen = alone(tmp_path, "up")
    assert contacted(seen) == {tuple(seen["at"])}
    assert (seen["no_way_out"], seen["trap"]) == (0, 0)
    header = folder.read("postmortem.json")["language"]["en"]["header"]
    assert seen["asked"] >= header["sentences_by_model"] > 10


def test_a_server_that_is_another_machine_is_named_in_all_four_files(tmp_path: Path) -> None:
    folder, seen = alone(tmp_path, "away")
    assert contacted(seen) == {tuple(seen["at"])}
    assert (seen["no_way_out"], seen["trap"]) == (0, 0)
    said = f"sent to {seen['at'][0]}:{seen['at'][1]}"
    for name in ("postmortem.md", "postmortem.ko.md", "postmortem.json", "report.html"):
        assert said in folder.read_text(name), name


def test_without_a_name_loopback_is_tried_and_nothing_else(tmp_path: Path) -> None:
    folder, seen = alone(tmp_path, "absent")
    assert contacted(seen) == {("127.0.0.1", 11434)}
    assert (seen["no_way_out"], seen["trap"], seen["asked"]) == (0, 0, 0)
    header = folder.read("postmortem.json")["language"]["en"]["header"]
    assert header["model_trouble"] == "no Ollama answers at 127.0.0.1:11434"
