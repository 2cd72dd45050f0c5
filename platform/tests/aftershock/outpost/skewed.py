"""An outpost on a machine whose clock is `AHEAD_US` ahead, with a generator that prints a short load by that clock: for tests.

`python skewed.py AHEAD_US RUN STEP_US SECONDS`: once the load has begun the clock is set by STEP_US more.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from aftershock.outpost.spool import Spool
from aftershock.outpost.station import Generator, Station, serve

RATE = 40.0


def generate(ahead_us: int, seconds: float) -> None:
    """Arrivals, one request each, as a scenario would print them."""
    begun_us = time.time_ns() // 1000 + ahead_us
    for n in range(int(seconds * RATE)):
        intended_us = begun_us + round(n / RATE * 1e6)
        time.sleep(max(0.0, (intended_us - ahead_us) / 1e6 - time.time()))
        start_us = time.time_ns() // 1000 + ahead_us
        for line in (
            ["b", n, begun_us, intended_us, start_us],
            ["s", n, "browse", "products", intended_us, start_us, start_us + 900, 900, 200, None, None, None, None],
            ["e", n, None],
        ):
            print(json.dumps(line, separators=(",", ":")), flush=True)


def main() -> None:
    """The station."""
    ahead_us, run, step_us = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    seconds = float(sys.argv[4])

    def clock() -> int:
        return time.time_ns() // 1000 + ahead_us + (step_us if station.begun.is_set() else 0)

    folder = Path(os.environ["AFTERSHOCK_SPOOL"])
    argv = [sys.executable, __file__, "generate", str(ahead_us), str(seconds)]
    generator = Generator(argv, folder / "words", lambda: {"requests": int(seconds * RATE)})
    station = Station(run, Spool(folder / "spool", 1_000_000), generator=generator, clock=clock)
    asyncio.run(serve(station, "127.0.0.1", 0))


if __name__ == "__main__":
    if sys.argv[1] == "generate":
        generate(int(sys.argv[2]), float(sys.argv[3]))
    else:
        main()
