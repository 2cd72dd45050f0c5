"""How far the API server's clock is from this machine's, from the Date header (RFC 9110: whole seconds), bounded by round trips."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from aftershock.cluster import Cluster
from aftershock.errors import ClusterUnreachable
from aftershock.events import now_us

SECOND_US = 1_000_000
PAUSE_S = 0.05


@dataclass(frozen=True)
class Reading:
    """One answer: sent, received (this machine's clock), and the second that the server named."""

    sent_us: int
    received_us: int
    date_us: int


@dataclass(frozen=True)
class Clock:
    """Server time minus local time; None where it could not be measured."""

    offset_us: int | None
    source: str

    def as_run(self) -> dict[str, Any]:
        """The entry of run.json."""
        return {"offset_us": self.offset_us, "source": self.source}


def offset(readings: Iterable[Reading]) -> tuple[int, int] | None:
    """Lowest and highest offset that agrees with every reading; None if none does (a clock was set) or there are none.

    The server read its clock between sending and receiving, and it showed `date` up to one second more.
    """
    bounds = [(r.date_us - r.received_us, r.date_us + SECOND_US - r.sent_us) for r in readings]
    if not bounds:
        return None
    low, high = max(b[0] for b in bounds), min(b[1] for b in bounds)
    return (low, high) if low <= high else None


def measure(cluster: Cluster, duration_s: float = 1.2) -> Clock:
    """Compare clocks; on pocketkube there is only one. Never raises for a silent server: it says so."""
    if cluster.identity.kind == "pocket":
        return Clock(0, "one machine, one clock")
    readings: list[Reading] = []
    ends = time.monotonic() + duration_s
    while time.monotonic() < ends:
        sent_us = now_us()
        try:
            said = cluster.date()
        except ClusterUnreachable as error:
            return Clock(None, f"not measured: {error}")
        received_us = now_us()
        try:
            date_us = int(parsedate_to_datetime(said or "").timestamp()) * SECOND_US
        except ValueError:
            return Clock(None, "not measured: the API server sends no Date")
        readings.append(Reading(sent_us, received_us, date_us))
        time.sleep(PAUSE_S)
    bounds = offset(readings)
    if bounds is None:
        return Clock(None, "not measured: a clock was set meanwhile")
    middle, half = (bounds[0] + bounds[1]) // 2, (bounds[1] - bounds[0]) // 2
    return Clock(middle, f"Date of the API server, {len(readings)} answers, +-{half / 1000:.0f} ms")
