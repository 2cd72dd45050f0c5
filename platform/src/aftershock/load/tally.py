"""What a generator sends, line by line, turned into sample rows and counts. Pure: lines in, rows out.

A line is a JSON array; everything else that a scenario prints is ignored:

    ["b", iteration, schedule_start_us, intended_us, start_us]         an iteration began
    ["s", iteration, journey, step, intended_us, start_us, end_us, latency_us, status, error, order_id, idempotency_key, trace_id]
    ["e", iteration, error]                                            it ended; `error` is the scenario's own, else null
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aftershock.load.plan import ON_TIME_S

COLUMNS = ("iteration", "journey", "step", "intended_us", "start_us", "end_us", "latency_us", "status", "error",
           "order_id", "idempotency_key", "trace_id")  # fmt: skip
UNRESOLVED = "unresolved"  # error of a request whose host has no address
BROKEN_RATIO_MAX = 0.05  # share of iterations in which the scenario itself may fail before the load counts as broken
TEXT_MAX = 300

Row = dict[str, Any]


@dataclass
class _Open:
    journey: str
    intended_us: int
    start_us: int
    end_us: int  # of its last request
    failed: bool = False


class Tally:
    """Counts of one run; memory grows only with the iterations under way at one time."""

    def __init__(self, scheduled: int) -> None:
        self.scheduled = scheduled
        self.schedule_start_us: int | None = None
        self.begun = 0
        self.on_time = 0
        self.late_max_us = 0
        self.ended = 0
        self.failed = 0
        self.samples = 0
        self.unresolved = 0
        self.broken = 0
        self.broken_text: str | None = None
        self._open: dict[int, _Open] = {}

    def feed(self, line: bytes, ahead_us: int = 0) -> Row | None:
        """Take one line; a row if it was a sample or a failure that has none. Raises ValueError for a line of ours that is malformed.

        `ahead_us` is by how much the generator's clock is ahead of ours; its times are brought onto ours.
        """
        if not line.startswith(b'["'):
            return None
        try:
            kind, iteration, *rest = json.loads(line)
            if kind == "s":
                return self._sample(iteration, rest, ahead_us)
            if kind == "b":
                self._begun(iteration, *(int(at_us) - ahead_us for at_us in rest))
            elif kind == "e":
                return self._ended(iteration, *rest)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{error}: {line[:200]!r}") from None
        return None

    @property
    def under_way(self) -> Sequence[int]:
        """Iterations that began and have not ended."""
        return tuple(self._open)

    def unfinished(self, now_us: int) -> Iterator[Row]:
        """A failed sample for each journey that began and never ended, so that none is lost."""
        for iteration, journey in self._open.items():
            yield _failed(iteration, journey, "unfinished", now_us, "unfinished when the load ended")
        self._open.clear()

    def complaint(self) -> str | None:
        """Why these counts are no load, if they are none."""
        if not self.begun:
            return "no arrival was started"
        if self.broken > BROKEN_RATIO_MAX * self.begun:
            return f"the scenario itself failed in {self.broken} of {self.begun} iterations: {self.broken_text}"
        if not self.samples:
            return "the scenario sent no request"
        if self.unresolved == self.samples:
            return "the target's name has no address"
        return None

    def _begun(self, iteration: int, schedule_start_us: int, intended_us: int, start_us: int) -> None:
        if self.schedule_start_us is None:
            self.schedule_start_us = int(schedule_start_us)
        late_us = int(start_us) - int(intended_us)
        self.begun += 1
        self.on_time += late_us <= ON_TIME_S * 1e6
        self.late_max_us = max(self.late_max_us, late_us)
        self._open[int(iteration)] = _Open("unknown", int(intended_us), int(start_us), int(start_us))

    def facts(self, exit_code: int | None, error: str | None) -> dict[str, Any]:
        """`evidence.json.load`; `error` is what went wrong beside these counts."""
        error = error or self.complaint()
        return {
            "offered": error is None, "scheduled": self.scheduled, "started_on_time": self.on_time,
            "late_max_us": self.late_max_us, "dropped": max(0, self.scheduled - self.begun), "exit_code": exit_code, "error": error,
        }  # fmt: skip

    def _sample(self, iteration: int, rest: list[Any], ahead_us: int) -> Row:
        row: Row = dict(zip(COLUMNS, (int(iteration), *rest), strict=True))
        for name in ("intended_us", "start_us", "end_us") if ahead_us else ():
            row[name] -= ahead_us
        if isinstance(row["error"], str):
            row["error"] = row["error"][:TEXT_MAX]
            self.unresolved += row["error"] == UNRESOLVED
        journey = self._open[int(iteration)]
        journey.journey, journey.end_us = row["journey"], max(journey.end_us, row["end_us"])
        journey.failed |= row["error"] is not None or row["status"] is None or row["status"] >= 400
        self.samples += 1
        return row

    def _ended(self, iteration: int, error: str | None) -> Row | None:
        """A scenario that stumbles over a failed request is no fault of its own; over a good one it is, and the journey failed."""
        journey = self._open.pop(int(iteration))
        self.ended += 1
        self.failed += journey.failed or error is not None
        if error is None or journey.failed:
            return None
        self.broken += 1
        self.broken_text = self.broken_text or error[:TEXT_MAX]
        return _failed(iteration, journey, "scenario", journey.end_us, f"scenario: {error[:TEXT_MAX]}")


def _failed(iteration: int, journey: _Open, step: str, end_us: int, error: str) -> Row:
    """A sample for what was no request but must count as failed."""
    return dict.fromkeys(COLUMNS) | {
        "iteration": iteration, "journey": journey.journey, "step": step, "intended_us": journey.intended_us,
        "start_us": journey.start_us, "end_us": end_us, "latency_us": max(0, end_us - journey.start_us), "error": error,
    }  # fmt: skip
