"""Proofs of faults between services, by measuring the way that their calls take. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aftershock.chain import Rules, Seen, Step
from aftershock.slo import Interval

if TYPE_CHECKING:
    from aftershock.observe.reach import Hop

SHARE = 0.6  # of the asked latency must be measured; what is left of it after the undo may be 1 - SHARE
LOSS_SHARE = 0.3  # of the asked loss must show as calls without an answer or unusually slow ones
UNANSWERED_MAX = 0.05  # of the calls before the fault
CALLS_MIN = 5
_BUCKET_US = 500_000


def _hops(seen: Seen) -> list[tuple[str, str]]:
    """The pairs of services whose calls a network fault must show in."""
    near, far = set(seen.fault.aim.asked.get("services") or ()), set(seen.fault.aim.asked.get("far_services") or ())
    pairs = [
        (a, b) for a, b in seen.calls if (a in near and (b in far or not far)) or (b in near and (a in far or not far))
    ]
    return pairs or [(a, b) for a in sorted(far) for b in sorted(near)]


def _slower(seen: Seen) -> Step | None:
    """The way between two services takes longer by most of what was asked for, or so long that callers give up before an answer."""
    asked = float(seen.fault.aim.asked.get("latency_ms") or 0)
    if not asked or seen.hop is None:
        return None
    span = Interval(seen.run.time_us + seen.run.duration_us, seen.during.to_us)
    best: tuple[float, str] | None = None
    for caller, callee in _hops(seen):
        before, during = seen.hop(caller, callee, seen.baseline), seen.hop(caller, callee, span)
        was, now = _disturbed(before, float("inf")), _disturbed(during, float("inf"))
        if was is not None and now is not None and now >= SHARE and was < UNANSWERED_MAX:
            text = f"{caller} -> {callee}: {now:.0%} of {len(during.ms) + during.unmatched} calls got no answer in time, {was:.0%} before"
            return Step(span.from_us, "spans", text, _chaos_events(seen), round(now, 4), "ratio")
        if len(before.ms) < CALLS_MIN or len(during.ms) < CALLS_MIN or before.ms_p50 is None or during.ms_p50 is None:
            continue
        added = during.ms_p50 - before.ms_p50
        if best is None or added > best[0]:
            best = added, (f"{caller} -> {callee} took {during.ms_p50:.0f} ms instead of {before.ms_p50:.0f} ms"
                           f" ({len(during.ms)} calls; {asked:g} ms were asked for)")  # fmt: skip
    if best is None or best[0] < SHARE * asked:
        return None
    return Step(span.from_us, "spans", best[1], _chaos_events(seen), round(best[0], 3), "ms")


def _fast_again(seen: Seen) -> Step | None:
    """The first half second after the undo in which every hop that had been slowed is as it was before."""
    asked = float(seen.fault.aim.asked.get("latency_ms") or 0)
    if not asked or seen.hop is None or _slower(seen) is None:
        return None
    before = {pair: seen.hop(*pair, seen.baseline) for pair in _hops(seen)}
    watched = {pair: hop.ms_p50 for pair, hop in before.items() if len(hop.ms) >= CALLS_MIN and hop.ms_p50 is not None}
    since = seen.undone.time_us if seen.undone else seen.after.from_us
    for at in range(since, seen.after.to_us, _BUCKET_US):
        now = {pair: seen.hop(*pair, Interval(at, at + _BUCKET_US)) for pair in watched}
        measured = {
            pair: hop.ms_p50 for pair, hop in now.items() if hop.ms_p50 is not None and hop.unmatched <= len(hop.ms)
        }
        if measured and all(ms - watched[pair] <= (1 - SHARE) * asked for pair, ms in measured.items()):
            text = ", ".join(f"{a} -> {b} {ms:.0f} ms" for (a, b), ms in measured.items())
            return Step(min(at + _BUCKET_US, seen.after.to_us), "spans", f"as before: {text}")
    return None


def _disturbed(hop: Hop, slow_ms: float) -> float | None:
    total = len(hop.ms) + hop.unmatched
    return (hop.unmatched + sum(ms > slow_ms for ms in hop.ms)) / total if total >= CALLS_MIN else None


def _lossy(seen: Seen) -> Step | None:
    """Loss shows as calls without an answer, or slow by a retransmission; a partition as (nearly) all of them."""
    asked = float(
        seen.fault.aim.asked.get("loss_percent") or (100.0 if seen.fault.action == "network-partition" else 0.0)
    )
    if not asked or seen.hop is None:
        return None
    span = Interval(seen.run.time_us + seen.run.duration_us, seen.during.to_us)
    wanted = (0.9 if seen.fault.action == "network-partition" else LOSS_SHARE) * asked / 100
    best: tuple[float, str] | None = None
    for caller, callee in _hops(seen):
        before, during = seen.hop(caller, callee, seen.baseline), seen.hop(caller, callee, span)
        slow_ms = max(100.0, 3 * max(before.ms, default=0.0))
        was, now = _disturbed(before, slow_ms), _disturbed(during, slow_ms)
        if was is not None and now is not None and (best is None or now - was > best[0]):
            best = now - was, f"{caller} -> {callee}: {now:.0%} of calls lost or late, {was:.0%} before"
    if best is None or best[0] < wanted:
        return None
    return Step(span.from_us, "spans", best[1], _chaos_events(seen), round(best[0], 4), "ratio")


def _whole_again(seen: Seen) -> Step | None:
    if seen.hop is None or seen.undone is None or _lossy(seen) is None:
        return None
    for at in range(seen.undone.time_us, seen.after.to_us, _BUCKET_US):
        now = {pair: seen.hop(*pair, Interval(at, at + _BUCKET_US)) for pair in _hops(seen)}
        answered = {pair: hop for pair, hop in now.items() if hop.ms}
        if answered and all(not hop.unmatched for hop in answered.values()):
            text = ", ".join(f"{a} -> {b}" for a, b in answered)
            return Step(min(at + _BUCKET_US, seen.after.to_us), "spans", f"every call answered again: {text}")
    return None


def _chaos_events(seen: Seen) -> tuple[str, ...]:
    return tuple(e.id for e in seen.of("NetworkChaos", seen.during))


def _chaos_gone(seen: Seen) -> Step | None:
    """The journal saw it gone; the watch's own record of that is added where there is one."""
    if seen.undone is None:
        return None
    gone = [e for e in seen.of("NetworkChaos", seen.later) if e.type == "DELETED"]
    return Step(seen.undone.time_us, seen.undone.source, seen.undone.summary, tuple(e.id for e in gone))


NETWORK_RULES: dict[str, Rules] = {
    "network-delay": Rules(_slower, _chaos_gone, _fast_again),
    "network-loss": Rules(_lossy, _chaos_gone, _whole_again),
    "network-partition": Rules(_lossy, _chaos_gone, _whole_again),
}
