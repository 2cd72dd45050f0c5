"""How far other clocks are from this machine's, bounded by round trips: the server answered between our asking and its answer's coming.

The API server tells whole seconds (Date, RFC 9110); pods of ours tell microseconds twice an answer, as in NTP (RFC 5905).
"""

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
FIRM = 8  # exchanges after which an offset is held to; later ones only confirm it or not
STEP_US_MAX = 50_000  # a later exchange that disagrees by more: one of the clocks was set, or runs wrong


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
    uncertainty_us: int | None = None

    def as_run(self) -> dict[str, Any]:
        """The entry of run.json."""
        return {"offset_us": self.offset_us, "uncertainty_us": self.uncertainty_us, "source": self.source}


@dataclass(frozen=True)
class Exchange:
    """One question and its answer: sent and back by our clock, received and answered by the other's."""

    sent_us: int
    received_us: int
    answered_us: int
    back_us: int

    @property
    def bounds(self) -> tuple[int, int]:
        """Lowest and highest offset of the other clock that agrees with it."""
        return self.answered_us - self.back_us, self.received_us - self.sent_us


class Comparison:
    """Another clock less ours, from many exchanges: the first `FIRM` fix it, the rest tell whether it held."""

    def __init__(self) -> None:
        self.exchanges = 0
        self.disagreement_us = 0  # how far beyond its bounds any later exchange was
        self._low = self._high = 0

    def take(self, exchange: Exchange) -> None:
        """Count one exchange."""
        low, high = exchange.bounds
        self.exchanges += 1
        if self.exchanges == 1:
            self._low, self._high = low, high
        elif self.exchanges <= FIRM and max(low, self._low) <= min(high, self._high):
            self._low, self._high = max(low, self._low), min(high, self._high)
        else:
            self.disagreement_us = max(self.disagreement_us, low - self.offset_us, self.offset_us - high)

    @property
    def offset_us(self) -> int:
        """The middle of what all agree on."""
        return (self._low + self._high) // 2

    @property
    def uncertainty_us(self) -> int | None:
        """How far the truth may be from `offset_us`; None before the first exchange."""
        return max((self._high - self._low + 1) // 2, self.disagreement_us) if self.exchanges else None

    def trouble(self, uncertainty_us_max: int) -> str | None:
        """Why times of the other clock cannot be brought onto ours, if they cannot."""
        if self.uncertainty_us is None:
            return "its clock was never compared with ours"
        if self.disagreement_us > STEP_US_MAX:
            return f"its clock went {self.disagreement_us / 1000:.0f} ms from where it was, against ours"
        if self.uncertainty_us > uncertainty_us_max:
            return (f"its clock is known to {self.uncertainty_us / 1000:.0f} ms only,"
                    f" {uncertainty_us_max / 1000:.0f} ms are needed")  # fmt: skip
        return None

    def as_run(self, of: str, node: str | None) -> dict[str, Any]:
        """An entry of `clocks` in run.json."""
        return {"of": of, "node": node, "offset_us": self.offset_us if self.exchanges else None,
                "uncertainty_us": self.uncertainty_us, "measured": self.exchanges, "source": "send and receive times"}  # fmt: skip


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
        return Clock(0, "one machine, one clock", 0)
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
    return Clock(middle, f"Date of the API server, {len(readings)} answers, +-{half / 1000:.0f} ms", half)
