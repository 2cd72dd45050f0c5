"""Locust as master and workers: the master deals the arrivals of one seeded schedule out, and adds up what the workers say they made.

Locust's own runners connect, beat and report; its closed loop is never started. Each worker prints its own samples.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHARE, DONE = "aftershock-share", "aftershock-done"
GATHER_S, BEGIN_IN_S, SHARE_S, REPORT_S = 30.0, 0.5, 60.0, 6.0
POLL_S = 0.05
Sleep = Callable[[float], object]


class Scattered(Exception):
    """The crew is not whole; the message says who is missing."""


def lead(environment: Any, host: str, port: int, workers: int, work_s: float, sleep: Sleep, counts: Path) -> None:
    """The master: wait for its workers, deal, wait until all are done, and write how many requests they reported.

    Raises Scattered if a worker does not come, goes, or does not end within `work_s`.
    """
    master = environment.create_master_runner(host, port)
    done: dict[str, int] = {}
    master.register_message(DONE, lambda environment, msg, **_: done.update({msg.node_id: int(msg.data["requests"])}))
    _until(lambda: len(master.clients.ready) >= workers, GATHER_S, sleep,
           lambda: f"{len(master.clients.ready)} of {workers} workers came within {GATHER_S:g} s")  # fmt: skip
    crew = sorted(client.id for client in master.clients.ready)[:workers]
    for index, client in enumerate(crew):
        master.send_message(SHARE, {"index": index, "of": workers, "in_s": BEGIN_IN_S}, client)

    def whole() -> bool:
        if lost := [c for c in crew if c not in done and (c not in master.clients or c in _missing(master))]:
            raise Scattered(f"worker {lost[0].partition('_')[0]} is gone")
        return len(done) == workers

    _until(whole, work_s, sleep, lambda: f"{workers - len(done)} workers had not ended after {work_s:g} s")
    ends = time.monotonic() + REPORT_S
    while master.stats.total.num_requests < sum(done.values()) and time.monotonic() < ends:
        sleep(POLL_S)  # Locust's workers report every three seconds
    counts.write_text(json.dumps({"requests": master.stats.total.num_requests}))
    master.quit()


def follow(environment: Any, host: str, port: int, sleep: Sleep, work: Callable[[int, int, float], None]) -> None:
    """A worker: `work(index, of, in_s)` once the master has dealt. Raises Scattered if it never does."""
    dealt: list[dict[str, Any]] = []
    made = {"requests": 0}

    def count(**_: Any) -> None:
        made["requests"] += 1

    environment.events.request.add_listener(count)
    # A worker that comes before its master is there waits five seconds before it tries again.
    _until(
        lambda: _listens(host, port), SHARE_S, sleep, lambda: f"no master listens at {host}:{port} within {SHARE_S:g} s"
    )
    worker = environment.create_worker_runner(host, port)
    worker.register_message(SHARE, lambda environment, msg, **_: dealt.append(msg.data))
    _until(lambda: bool(dealt), SHARE_S, sleep, lambda: f"the master at {host} dealt nothing within {SHARE_S:g} s")
    work(int(dealt[0]["index"]), int(dealt[0]["of"]), float(dealt[0]["in_s"]))
    worker.send_message(DONE, made)
    worker.greenlet.join(timeout=REPORT_S + POLL_S)  # until the master says to quit


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1.0).close()
    except OSError:
        return False
    return True


def _missing(master: Any) -> set[str]:
    return {client.id for client in master.clients.missing}


def _until(met: Callable[[], bool], deadline_s: float, sleep: Sleep, seen: Callable[[], str]) -> None:
    ends = time.monotonic() + deadline_s
    while not met():
        if time.monotonic() > ends:
            raise Scattered(seen())
        sleep(POLL_S)
