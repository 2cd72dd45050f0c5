"""One direction of a connection under faults, on a clock that only the test moves."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkube.flow import HELD_MOST, RTO_S, Disturbance, Flow, Rule


class Clock:
    """What a flow uses of an event loop."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, int, Timer]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Any, *arguments: Any) -> Timer:
        timer = Timer(callback, arguments)
        heapq.heappush(self._timers, (when, len(self._timers), timer))
        return timer

    def call_later(self, delay: float, callback: Any, *arguments: Any) -> Timer:
        return self.call_at(self.now + delay, callback, *arguments)

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            self.now, _, timer = heapq.heappop(self._timers)
            timer.fire()
        self.now = until


class Timer:
    def __init__(self, callback: Any, arguments: tuple[Any, ...]) -> None:
        self._callback, self._arguments, self.cancelled = callback, arguments, False

    def cancel(self) -> None:
        self.cancelled = True

    def fire(self) -> None:
        if not self.cancelled:
            self._callback(*self._arguments)


class Pipe:
    """A transport that remembers."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.received: list[tuple[float, bytes]] = []
        self.ended = False
        self.aborted = False
        self.reading = True

    def write(self, data: bytes) -> None:
        assert not self.ended, "bytes after the end"
        self.received.append((self._clock.now, data))

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def get_extra_info(self, name: str) -> None:
        return None

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    @property
    def data(self) -> bytes:
        return b"".join(data for _, data in self.received)


def made() -> tuple[Clock, Pipe, Pipe, Flow]:
    clock = Clock()
    source, sink = Pipe(clock), Pipe(clock)
    flow = Flow(cast("asyncio.AbstractEventLoop", clock), lambda: None)
    flow.attach(source=cast("asyncio.Transport", source), sink=cast("asyncio.Transport", sink))
    return clock, source, sink, flow


def delay(latency_s: float, jitter_s: float = 0.0, correlation: float = 0.0) -> Disturbance:
    return Disturbance(
        (Rule("d", "delay", None, None, latency_s=latency_s, jitter_s=jitter_s, correlation=correlation),)
    )


def loss(probability: float) -> Disturbance:
    return Disturbance((Rule("l", "loss", None, None, loss=probability),))


PARTITION = Disturbance((Rule("p", "partition", None, None),))


def test_without_faults_bytes_pass_at_once() -> None:
    _, _, sink, flow = made()
    flow.feed(b"a")
    assert sink.received == [(0.0, b"a")]


def test_delay_holds_each_chunk_for_the_latency_and_the_end_too() -> None:
    clock, _, sink, flow = made()
    flow.disturb(delay(0.3))
    flow.feed(b"a")
    clock.advance(0.1)
    flow.feed(b"b")
    flow.finish()
    clock.advance(0.15)
    assert sink.received == []
    clock.advance(1)
    assert [(round(at, 2), data) for at, data in sink.received] == [(0.3, b"a"), (0.4, b"b")]
    assert sink.ended


def test_lifting_the_fault_releases_what_is_held_in_order() -> None:
    clock, _, sink, flow = made()
    flow.disturb(delay(5))
    flow.feed(b"a")
    flow.disturb(None)
    flow.feed(b"b")
    assert sink.data == b"ab"
    clock.advance(10)
    assert sink.data == b"ab"


@pytest.mark.parametrize("block", [PARTITION, loss(1.0)])
def test_a_partition_lets_nothing_pass_until_it_is_lifted(block: Disturbance) -> None:
    clock, _, sink, flow = made()
    flow.disturb(block)
    flow.feed(b"a")
    flow.finish()
    clock.advance(1000)
    assert not sink.received
    assert not sink.ended
    flow.disturb(None)
    assert sink.data == b"a"
    assert sink.ended


def test_loss_waits_for_retransmissions_and_no_loss_does_not() -> None:
    holds = [loss(0.3).hold_s(1) for _ in range(1)] + [d for d in _holds(loss(0.3), 400) if d]
    assert all(any(abs(h - RTO_S * total) < 1e-9 for total in (0, 1, 3, 7, 15, 31, 63)) for h in holds)
    share = len([h for h in _holds(loss(0.3), 2000) if h]) / 2000
    assert 0.25 < share < 0.35
    assert not any(_holds(loss(0.0), 100))


def test_jitter_spreads_and_correlation_ties_draws_together() -> None:
    plain, tied = _holds(delay(0.1, 0.05), 500), _holds(delay(0.1, 0.05, correlation=0.95), 500)
    assert min(plain) >= 0.05
    assert max(plain) <= 0.15
    assert max(plain) - min(plain) > 0.08
    assert _step(tied) < _step(plain) / 3


def test_what_is_held_is_bounded_by_not_reading() -> None:
    clock, source, sink, flow = made()
    flow.disturb(PARTITION)
    while source.reading:
        flow.feed(b"x" * 65536)
    assert HELD_MOST < 17 * 65536 + 1
    flow.disturb(None)
    clock.advance(1)
    assert source.reading
    assert len(sink.data) > HELD_MOST


def test_a_full_sink_stops_the_source() -> None:
    _, source, _, flow = made()
    flow.sink_full(True)
    assert not source.reading
    flow.sink_full(False)
    assert source.reading


def test_a_reset_drops_what_is_under_way_and_arrives_when_it_can() -> None:
    clock, _, sink, flow = made()
    flow.disturb(PARTITION)
    flow.feed(b"a")
    flow.reset()
    clock.advance(10)
    assert not sink.aborted
    flow.disturb(None)
    assert sink.aborted
    assert not sink.received


FAULTS = st.sampled_from([None, "delay", "jitter", "loss", "partition"])


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=50), FAULTS, st.floats(0, 0.7)), max_size=40))
def test_whatever_happens_no_byte_is_lost_doubled_or_out_of_order(steps: list[bytes | str | float | None]) -> None:
    clock, _, sink, flow = made()
    kinds = {"delay": delay(0.2), "jitter": delay(0.2, 0.2), "loss": loss(0.4), "partition": PARTITION}
    sent = b""
    for step in steps:
        if isinstance(step, bytes):
            flow.feed(step)
            sent += step
        elif isinstance(step, float):
            clock.advance(step)
        else:
            flow.disturb(kinds[step] if step else None)
        assert sent.startswith(sink.data)
    flow.finish()
    flow.disturb(None)
    clock.advance(100)
    assert sink.data == sent
    assert sink.ended


def _holds(disturbance: Disturbance, count: int) -> list[float]:
    return [disturbance.hold_s(1000) for _ in range(count)]


def _step(values: list[float]) -> float:
    return sum(abs(a - b) for a, b in itertools.pairwise(values)) / len(values)
