"""`python -m aftershock.outpost load|collector`: the entry of the runner's image. Everything else it learns from its environment."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from aftershock.load import engines
from aftershock.observe import otlp
from aftershock.outpost.spool import Spool
from aftershock.outpost.station import LOAD_BYTES_MAX, TRACES_BYTES_MAX, Generator, Station, folder, serve


def main(arguments: list[str] | None = None) -> int:
    """Entry of the process."""
    parser = argparse.ArgumentParser(prog="aftershock.outpost")
    parser.add_argument("role", choices=("load", "collector"))
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--run", required=True)
    given = parser.parse_args(arguments)
    host, _, port = given.listen.rpartition(":")
    asyncio.run(_serve(given.role, given.run, host, int(port)))
    return 0


async def _serve(role: str, run: str, host: str, port: int) -> None:
    load = role == "load"
    spool = Spool(folder() / "spool", LOAD_BYTES_MAX if load else TRACES_BYTES_MAX)
    content_type = "application/octet-stream" if load else otlp.CONTENT_TYPE
    await serve(Station(run, spool, content_type=content_type, generator=_generator() if load else None), host, port)


def _generator() -> Generator:
    tool, words = os.environ["AFTERSHOCK_TOOL"], folder() / "words"
    scenario = Path(os.environ["AFTERSHOCK_SCENARIO"])
    command = engines.k6_counted if tool == "k6" else engines.ENGINES[tool]
    counts = words.with_suffix(".json")
    return Generator(command(scenario, words), words, lambda: _made(tool, counts))


def _made(tool: str, counts: Path) -> Mapping[str, int] | None:
    """How many requests the tool itself says it made; None where it does not say."""
    try:
        told = json.loads(counts.read_text())
        return {
            "requests": int(
                told["metrics"].get("http_reqs", {"count": 0})["count"] if tool == "k6" else told["requests"]
            )
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


if __name__ == "__main__":
    sys.exit(main())
