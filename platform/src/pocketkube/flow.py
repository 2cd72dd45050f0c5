"""One direction of a proxied connection, and what a network fault does to the bytes in it.

Faults act as `tc netem` does below TCP, seen from a byte stream: a delay holds bytes back and keeps their order; a lost segment is a
retransmission after the timeout (RFC 6298: 200 ms on Linux, doubled each time), behind which everything waits; a partition lets nothing
pass. What is held is bounded: beyond it the sender is no longer read, as with a full window.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

SEGMENT = 1448
RTO_S, SYN_RTO_S, RETRIES = 0.2, 1.0, 6
CLOCK_S = 0.001  # uvloop counts milliseconds; a delay is never shorter than it says
HELD_MOST, HELD_FEW = 1 << 20, 1 << 18  # bytes


@dataclass(frozen=True)
class Rule:
    """One fault in one direction; `sources` and `targets` are pods by uid, None is anybody, outside the cluster included."""

    id: str
    action: str  # delay, loss or partition
    sources: frozenset[str] | None
    targets: frozenset[str] | None
    latency_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0  # probability
    correlation: float = 0.0

    def covers(self, source: str | None, target: str | None) -> bool:
        """True if bytes from source to target are hit."""
        return (self.sources is None or source in self.sources) and (self.targets is None or target in self.targets)


class Disturbance:
    """All rules that hit one direction of one pair; remembers its last draws for the correlation."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules
        self.blocked = any(r.action == "partition" or (r.action == "loss" and r.loss >= 1) for r in rules)
        self._random = random.Random("/".join(r.id for r in rules))
        self._last: dict[str, float] = {}

    def hold_s(self, size: int) -> float:
        """How long this chunk arrives later than without the fault."""
        return self._hold_s(-(-size // SEGMENT), RTO_S)

    def handshake_s(self) -> float:
        """The same for the one segment of a handshake."""
        return self._hold_s(1, SYN_RTO_S)

    def _hold_s(self, segments: int, timeout_s: float) -> float:
        held = 0.0
        for rule in self.rules:
            if rule.action == "delay":
                held += max(0.0, rule.latency_s + rule.jitter_s * (2 * self._draw(rule) - 1))
            elif rule.action == "loss":
                missing, wait = segments, timeout_s
                for _ in range(RETRIES):
                    missing = sum(self._draw(rule) < rule.loss for _ in range(missing))
                    if not missing:
                        break
                    held += wait
                    wait *= 2
        return held

    def _draw(self, rule: Rule) -> float:
        fresh = self._random.random()
        last = self._last.get(rule.id, fresh)
        self._last[rule.id] = drawn = rule.correlation * last + (1 - rule.correlation) * fresh
        return drawn


class Flow:
    """Bytes from a source to a sink. `ended` is called once the end of the stream has been passed on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ended: Callable[[], None]) -> None:
        self._loop = loop
        self._told = ended
        self._source: asyncio.Transport | None = None
        self._sink: asyncio.Transport | None = None
        self._disturbance: Disturbance | None = None
        self._held: deque[tuple[float, bytes]] = deque()  # due time; b"" is the end of the stream
        self._size = 0
        self._last_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._sink_full = False
        self._reading = True
        self._broken = False
        self.finished = False  # the source said that nothing follows
        self.ended = False  # and the sink was told

    def attach(self, source: asyncio.Transport | None = None, sink: asyncio.Transport | None = None) -> None:
        """Set an end; bytes wait until there is a sink, and are on their way only from then on."""
        self._source = source or self._source
        if sink is not None:
            self._sink = sink
            waited, self._held, self._size, self._last_due = self._held, deque(), 0, 0.0
            for _, data in waited:
                self._hold(data)

    def disturb(self, disturbance: Disturbance | None) -> None:
        """Put under these faults from now on; without any, what is held goes out at once."""
        before, self._disturbance = self._disturbance, disturbance
        if before is None and disturbance is None:
            return
        if self._broken:
            self._break()
            return
        if disturbance is None:
            self._last_due = 0.0
            self._held = deque((0.0, data) for _, data in self._held)
        self._release()

    def feed(self, data: bytes) -> None:
        """Bytes from the source."""
        if self._disturbance is None and not self._held and self._sink is not None:
            if not self._sink.is_closing():
                self._sink.write(data)
        else:
            self._hold(data)

    def finish(self) -> None:
        """The source has sent its last byte."""
        self.finished = True
        self._hold(b"")

    def reset(self) -> None:
        """The source broke off: what is under way is lost, and the sink sees a reset."""
        self.finished = self.ended = self._broken = True
        self._held.clear()
        self._size = 0
        self._stop_timer()
        self._break()

    def _break(self) -> None:
        if self._sink is not None and self._disturbance is None:
            abort(self._sink)
        elif self._sink is not None and self._disturbance is not None and not self._disturbance.blocked:
            self._loop.call_later(self._disturbance.hold_s(1), abort, self._sink)

    def sink_full(self, full: bool) -> None:
        """The sink's buffer is full, or has room again."""
        self._sink_full = full
        self._throttle()

    def _hold(self, data: bytes) -> None:
        due = self._loop.time()
        if self._disturbance is not None and not self._disturbance.blocked:
            due += self._disturbance.hold_s(len(data) or 1) + CLOCK_S
        self._last_due = due = max(due, self._last_due)
        self._held.append((due, data))
        self._size += len(data)
        self._throttle()
        self._release()

    def _release(self) -> None:
        self._stop_timer()
        if self._sink is None or (self._disturbance is not None and self._disturbance.blocked):
            return
        now = self._loop.time()
        while self._held and self._held[0][0] <= now:
            _, data = self._held.popleft()
            self._size -= len(data)
            if not data:
                self._end()
            elif not self._sink.is_closing():
                self._sink.write(data)
        self._throttle()
        if self._held:
            self._timer = self._loop.call_at(self._held[0][0], self._release)

    def _end(self) -> None:
        self.ended = True
        if self._sink is not None and not self._sink.is_closing():
            self._sink.write_eof()
        self._told()

    def _throttle(self) -> None:
        limit = HELD_MOST if self._reading else HELD_FEW
        wanted = not self._sink_full and self._size <= limit
        if wanted == self._reading or self._source is None or self._source.is_closing():
            return
        self._reading = wanted
        if wanted:
            self._source.resume_reading()
        else:
            self._source.pause_reading()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def abort(transport: asyncio.Transport) -> None:
    """Close with a reset, not an end of stream."""
    if transport.is_closing():
        return
    found = transport.get_extra_info("socket")
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    transport.abort()
