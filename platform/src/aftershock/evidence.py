"""From what was seen to the chain of each fault: requested -> accepted -> observed -> undone -> recovered. Pure, standard library only.

An answer of an API is `accepted` and never more. `observed` takes a rule of the fault's kind: watch events of exactly the targets, or a
measured figure. What no rule can prove stays null.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from aftershock.slo import Interval

if TYPE_CHECKING:
    from aftershock.activities import ActivityRun
    from aftershock.events import Event
    from aftershock.faults import Planned, Target
    from aftershock.observe.observer import ObserverReport
    from aftershock.observe.reach import Hop
    from aftershock.undo import Entry

HopFunction = Callable[[str, str, Interval], "Hop"]  # caller, callee, when the call started
SHARE = 0.6  # of the asked latency must be measured; what is left of it after the undo may be 1 - SHARE
LOSS_SHARE = 0.3  # of the asked loss must show as calls without an answer or unusually slow ones
UNANSWERED_MAX = 0.05  # of the calls before the fault
CALLS_MIN = 5
_BUCKET_US = 500_000
_EVENTS_MAX = 50
_REFUSALS = {"400", "403", "405", "409", "422", "429"}


@dataclass(frozen=True)
class Step:
    """One step of the chain, as in `evidence.json`."""

    time_us: int
    source: str
    summary: str
    events: tuple[str, ...] = ()
    value: float | None = None
    unit: str | None = None

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "events": list(dict.fromkeys(self.events))[:_EVENTS_MAX]}


@dataclass(frozen=True)
class Seen:
    """All that the rules may look at; times in microseconds."""

    fault: Planned
    run: ActivityRun
    events: Sequence[Event]  # by time
    baseline: Interval
    during: Interval  # from the request to the undo
    after: Interval  # from the undo to the end
    hop: HopFunction | None = None
    calls: Sequence[tuple[str, str]] = ()
    undone: Step | None = None

    def of(self, kind: str, span: Interval | None = None) -> list[Event]:
        """Events of a kind, within a span of time if given."""
        return [e for e in self.events if e.kind == kind and (span is None or span.holds(e.time_us))]

    @property
    def later(self) -> Interval:
        """From the request to the end."""
        return Interval(self.during.from_us, self.after.to_us)


@dataclass(frozen=True)
class Rules:
    """How the steps of one kind of fault are proven; each None where nothing proves it."""

    observed: Callable[[Seen], Step | None]
    undone: Callable[[Seen], Step | None] = field(default=lambda seen: seen.undone)
    recovered: Callable[[Seen], Step | None] = field(default=lambda seen: seen.undone)


def chains(
    planned: Sequence[Planned], runs: Sequence[ActivityRun], events: Sequence[Event], windows: Mapping[str, Mapping[str, int]],
    entries: Sequence[Entry] = (), *, undone_us: int | None = None, ended_us: int | None = None, hop: HopFunction | None = None,
    calls: Sequence[tuple[str, str]] = (),
) -> list[dict[str, Any]]:  # fmt: skip
    """`evidence.json`.faults: one chain per fault that was requested.

    `undone_us` is when undoing began (default: start of the recovery window), `ended_us` the last moment that observers saw.
    `hop` measures the way between two services in an interval, `calls` are the pairs that talk to each other.
    """
    ordered = sorted(events, key=lambda e: e.time_us)
    recovery = windows.get("recovery") or {}
    last = ordered[-1].time_us + 1 if ordered else 0
    ends = max(ended_us or 0, int(recovery.get("to_us", 0)), last)
    by_name = {r.name: r for r in runs if r.phase == "method"}
    result = []
    for fault in planned:
        run = by_name.get(fault.activity.name)
        if run is None:
            continue
        undo = undone_us or int(recovery.get("from_us", 0)) or ends
        base = windows.get("baseline") or {"from_us": 0, "to_us": run.time_us}
        seen = Seen(
            fault, run, ordered, Interval(base["from_us"], min(base["to_us"], run.time_us)),
            Interval(run.time_us, max(undo, run.time_us + run.duration_us)), Interval(undo, ends), hop, calls,
            _journal_step(fault, entries),
        )  # fmt: skip
        result.append(_chain(seen))
    return result


def build(
    faults: Sequence[Mapping[str, Any]], runs: Sequence[ActivityRun], entries: Sequence[Entry], *, observers: Sequence[ObserverReport],
    steady: Mapping[str, tuple[bool | None, str]], load: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """`evidence.json`, with `chains` as its faults; `steady` maps `before` and `after` to (held, why)."""
    before, after = steady.get("before", (None, "not looked at")), steady.get("after", (None, "not looked at"))
    return {
        "faults": list(faults), "activities": [r.evidence() for r in runs], "observers": [o.as_evidence() for o in observers],
        "steady": {"before": before[0], "after": after[0], "why": f"before: {before[1]}; after: {after[1]}"},
        "load": dict(load),
        "undo": {"pending": sum(e.state != "done" for e in entries), "entries": [e.evidence() for e in entries]},
    }  # fmt: skip


def _chain(seen: Seen) -> dict[str, Any]:
    fault, run = seen.fault, seen.run
    rules = RULES.get(fault.action, _UNKNOWN)
    given = ", ".join(f"{key}={value}" for key, value in fault.activity.arguments.items())
    requested = Step(run.time_us, "aftershock", f"{fault.activity.target}({given})"[:300])
    accepted = (
        Step(run.time_us + run.duration_us, "api", f"answered {json.dumps(run.output)[:200]}")
        if run.succeeded
        else None
    )
    observed = rules.observed(seen)
    undone = rules.undone(seen)
    recovered = rules.recovered(seen) if observed or accepted else None
    steps = {
        "requested": requested,
        "accepted": accepted,
        "observed": observed,
        "undone": undone,
        "recovered": recovered,
    }
    return {
        "id": fault.id, "activity": fault.activity.name, "action": fault.action,
        "targets": [asdict(t) for t in _hit(seen)],
        "steps": {name: step.document() if step else None for name, step in steps.items()},
        "refused": None if accepted else refusal(run.error),
    }  # fmt: skip


def refusal(error: str | None) -> str | None:
    """The API's reason, if an error is its refusal (a 4xx that says no); None for anything else that went wrong."""
    if not error:
        return None
    codes = re.findall(r"(?<!\d)(4\d\d)(?!\d)", error)
    if not codes or codes[0] not in _REFUSALS:
        return None
    told = re.search(r'"message":\s*"((?:[^"\\]|\\.)*)"', error)
    return f"{codes[0]} {json.loads(chr(34) + told.group(1) + chr(34))}" if told else error


def _journal_step(fault: Planned, entries: Sequence[Entry]) -> Step | None:
    """Undone as the journal saw it: every entry of this action is done, each after a look at the cluster."""
    own = [e for e in entries if e.action in (fault.activity.name, fault.action) and e.inverse.kind != "none"]
    if not own or any(e.state != "done" or e.changed_us is None for e in own):
        return None
    what = "; ".join(e.inverse.what for e in own)
    return Step(max(e.changed_us or 0 for e in own), "journal", f"{what}: seen to have worked"[:300])


def _hit(seen: Seen) -> list[Target]:
    """The targets that the action itself says it took; all that were planned where it does not say."""
    targets = seen.fault.aim.targets
    if seen.fault.aim.count >= len(targets) or not isinstance(seen.run.output, list):
        return list(targets)
    names = {str(name) for name in seen.run.output}
    return [t for t in targets if t.name in names] or list(targets)


# Pods


def _dying(event: Event) -> bool:
    return event.type == "DELETED" or bool(event.detail.get("deletionTimestamp"))


def _restarts(event: Event) -> int:
    return sum(int(c.get("restarts") or 0) for c in event.detail.get("containers") or [])


def _deaths(seen: Seen, uids: Iterable[str | None], span: Interval) -> dict[str, Event]:
    """First event by uid that shows a pod deleted or one of its containers dead."""
    wanted = {uid for uid in uids if uid}
    restarts: dict[str, int] = {}
    found: dict[str, Event] = {}
    for event in seen.of("Pod"):
        if event.uid not in wanted or event.uid is None:
            continue
        if span.holds(event.time_us) and event.uid not in found:
            died = any(c.get("state") == "terminated" for c in event.detail.get("containers") or [])
            if _dying(event) or died or _restarts(event) > restarts.get(event.uid, _restarts(event)):
                found[event.uid] = event
        restarts[event.uid] = max(restarts.get(event.uid, 0), _restarts(event))
    return found


def _pods_killed(seen: Seen) -> Step | None:
    hit = [t for t in _hit(seen) if t.kind == "Pod"]
    wanted = {t.uid for t in hit if t.uid}
    deaths = _deaths(seen, (t.uid for t in seen.fault.aim.targets), seen.during)
    if not wanted or len(wanted) != seen.fault.aim.count or set(deaths) != wanted:
        return None  # fewer died than were asked for, or others too: then this fault did not do just that
    last = max(deaths.values(), key=lambda e: e.time_us)
    names = ", ".join(sorted(t.name for t in hit))
    return Step(last.time_us, "watch", f"{len(deaths)} pod(s) died: {names}", tuple(e.id for e in deaths.values()),
                float(len(deaths)), "pods")  # fmt: skip


def _replaced(seen: Seen, pods: Sequence[Target], elsewhere: str | None = None) -> Step | None:
    """Every pod has a replacement of the same owner that was not there before and is Ready, or is Ready again itself."""
    first: dict[str, int] = {}
    owners: dict[str, str] = {}
    for event in seen.of("Pod"):
        if event.uid:
            first.setdefault(event.uid, event.time_us)
            owners[event.uid] = str(event.detail.get("owner") or event.service)
    begun = seen.during.from_us
    gone = _deaths(seen, (p.uid for p in pods), seen.later)
    used: list[Event] = []
    for pod in pods:
        if pod.uid not in owners or pod.uid not in gone:
            return None
        taken = {u.uid for u in used}
        for event in seen.of("Pod", Interval(gone[pod.uid].time_us, seen.after.to_us)):
            fresh = event.uid != pod.uid and first.get(event.uid or "", begun) >= begun and event.uid not in taken
            same = event.uid == pod.uid and not _dying(gone[pod.uid])
            owned = owners.get(event.uid or "") == owners[pod.uid]
            up = bool(event.detail.get("ready")) and not _dying(event)
            placed = event.node != elsewhere or seen.after.holds(
                event.time_us
            )  # a node takes pods again after the undo
            if (fresh or same) and owned and up and placed:
                used.append(event)
                break
        else:
            return None
    if not used:
        return None
    last = max(used, key=lambda e: e.time_us)
    took_s = (last.time_us - begun) / 1e6
    names = ", ".join(str(e.name) for e in used)
    return Step(last.time_us, "watch", f"Ready again: {names}", tuple(e.id for e in used), took_s, "s")


# Nodes


def _node_state(seen: Seen, span: Interval, good: Callable[[Event], bool]) -> list[Event] | None:
    """For every node that was aimed at, its first event in a span that is as wanted; None if one has none."""
    found = []
    for target in (t for t in seen.fault.aim.targets if t.kind == "Node"):
        event = next(
            (e for e in seen.of("Node", span) if e.name == target.name and e.type != "DELETED" and good(e)), None
        )
        if event is None:
            return None
        found.append(event)
    return found or None


def _cordoned(seen: Seen) -> Step | None:
    found = _node_state(seen, seen.during, lambda e: bool(e.detail.get("unschedulable")))
    return (found and Step(found[-1].time_us, "watch", f"unschedulable: {', '.join(str(e.name) for e in found)}",
                          tuple(e.id for e in found), float(len(found)), "nodes")) or None  # fmt: skip


def _uncordoned(seen: Seen) -> Step | None:
    changed = _node_state(seen, seen.during, lambda e: bool(e.detail.get("unschedulable")))
    if changed is None:
        return seen.undone  # it was so before, and nothing had to be given back
    found = _node_state(
        seen, Interval(changed[-1].time_us, seen.after.to_us), lambda e: not e.detail.get("unschedulable")
    )
    return (found and Step(found[-1].time_us, "watch", f"schedulable again: {', '.join(str(e.name) for e in found)}",
                          tuple(e.id for e in found))) or None  # fmt: skip


def _drained(seen: Seen) -> Step | None:
    cordoned = _cordoned(seen)
    pods = [t for t in seen.fault.aim.targets if t.kind == "Pod"]
    gone = {e.uid: e for e in seen.of("Pod", seen.during) if e.type == "DELETED"}
    if cordoned is None or not pods or any(p.uid not in gone for p in pods):
        return None
    events = [gone[p.uid] for p in pods]
    last = max(events, key=lambda e: e.time_us)
    return Step(max(last.time_us, cordoned.time_us), "watch", f"{cordoned.summary}; its {len(pods)} pod(s) are gone",
                (*cordoned.events, *(e.id for e in events)), float(len(pods)), "pods")  # fmt: skip


def _moved(seen: Seen) -> Step | None:
    pods = [t for t in seen.fault.aim.targets if t.kind == "Pod"]
    nodes = [t.name for t in seen.fault.aim.targets if t.kind == "Node"]
    return _replaced(seen, pods, nodes[0] if len(nodes) == 1 else None)


# Workloads


def _workload(kind: str) -> Callable[[Seen, Interval, Callable[[Event], bool]], list[Event] | None]:
    def find(seen: Seen, span: Interval, good: Callable[[Event], bool]) -> list[Event] | None:
        found = []
        for target in seen.fault.aim.targets:
            names = [
                e for e in seen.of(kind, span) if (e.service if kind == "EndpointSlice" else e.name) == target.name
            ]
            event = next((e for e in names if good(e)), None)
            if event is None:
                return None
            found.append(event)
        return found or None

    return find


_deployments, _slices = _workload("Deployment"), _workload("EndpointSlice")


def _step(found: list[Event] | None, text: str, value: float | None = None, unit: str | None = None) -> Step | None:
    if not found:
        return None
    return Step(max(e.time_us for e in found), "watch", f"{text}: {', '.join(str(e.name) for e in found)}",
                tuple(e.id for e in found), value, unit)  # fmt: skip


def _scaled(seen: Seen) -> Step | None:
    wanted, before = int(seen.fault.aim.asked.get("replicas", -1)), seen.fault.aim.asked.get("before")
    if wanted == before:
        return None
    found = _deployments(
        seen, seen.during, lambda e: e.detail.get("replicas") == wanted and e.detail.get("ready") == wanted
    )
    return _step(found, f"{wanted} replica(s)", float(wanted), "replicas")


def _scaled_back(ready: bool) -> Callable[[Seen], Step | None]:
    def rule(seen: Seen) -> Step | None:
        before = seen.fault.aim.asked.get("before")
        found = _deployments(seen, seen.after, lambda e: e.detail.get("replicas") == before
                             and (not ready or e.detail.get("ready") == before))  # fmt: skip
        return _step(found, f"{before} replica(s) {'ready' if ready else 'wanted'} again")

    return rule


def _restarted(seen: Seen) -> Step | None:
    """A rolling restart: pods of the workload die and the newest version counts no ready pods at first."""
    return _step(_deployments(seen, seen.during, lambda e: e.type == "MODIFIED" and 0 <= int(e.detail.get("updated") or 0)
                              < int(e.detail.get("replicas") or 0)), "rolling")  # fmt: skip


def _all_updated(seen: Seen) -> Step | None:
    begun = _restarted(seen)
    if begun is None:
        return None
    span = Interval(begun.time_us, seen.after.to_us)
    return _step(_deployments(seen, span, lambda e: e.detail.get("replicas") == e.detail.get("updated") == e.detail.get("ready")
                              == e.detail.get("available")), "all updated and ready")  # fmt: skip


def _deleted(
    find: Callable[[Seen, Interval, Callable[[Event], bool]], list[Event] | None],
) -> Callable[[Seen], Step | None]:
    return lambda seen: _step(find(seen, seen.during, lambda e: e.type == "DELETED"), "deleted")


def _ready_again(
    find: Callable[[Seen, Interval, Callable[[Event], bool]], list[Event] | None],
) -> Callable[[Seen], Step | None]:
    def good(event: Event) -> bool:
        ready = int(event.detail.get("ready") or 0)
        return event.type != "DELETED" and ready > 0 and ready >= int(event.detail.get("replicas") or 0)

    return lambda seen: _step(find(seen, seen.after, good), "ready again")


def _members_gone(seen: Seen) -> Step | None:
    """For a StatefulSet, which is not watched itself: enough of its pods were deleted."""
    aim = seen.fault.aim
    wanted = int(aim.asked["before"]) - int(aim.asked["replicas"]) if "before" in aim.asked else aim.pods
    owners = {f"StatefulSet/{t.name}" for t in aim.targets}
    gone = [e for e in seen.of("Pod", seen.during) if e.type == "DELETED" and e.detail.get("owner") in owners]
    return (
        _step(gone, f"{len(gone)} pod(s) gone", float(len(gone)), "pods")
        if wanted > 0 and len(gone) >= wanted
        else None
    )


def _members_back(seen: Seen) -> Step | None:
    gone = _members_gone(seen)
    if gone is None:
        return None
    owners = {f"StatefulSet/{t.name}" for t in seen.fault.aim.targets}
    missing = {e.name for e in seen.of("Pod", seen.during) if e.id in gone.events}
    back = {e.name: e for e in reversed(seen.of("Pod", seen.after))
            if e.detail.get("owner") in owners and e.detail.get("ready") and not _dying(e)}  # fmt: skip
    return _step([back[name] for name in sorted(missing, key=str)], "ready again") if missing <= set(back) else None


# Network


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


# Anything else


def _unknown(seen: Seen) -> Step | None:
    """Only what watch events prove of a target that the action itself names."""
    pods = [t for t in seen.fault.aim.targets if t.kind == "Pod"]
    deaths = _deaths(seen, (p.uid for p in pods), seen.during)
    if deaths:
        return _step(
            sorted(deaths.values(), key=lambda e: e.time_us), f"{len(deaths)} pod(s) died", float(len(deaths)), "pods"
        )
    down = _node_state(
        seen, seen.during, lambda e: e.detail.get("ready") != "True" or bool(e.detail.get("unschedulable"))
    )
    return _step(down, "not Ready, or unschedulable", float(len(down)) if down else None, "nodes")


def _unknown_recovered(seen: Seen) -> Step | None:
    pods = [t for t in seen.fault.aim.targets if t.kind == "Pod"]
    if deaths := _deaths(seen, (p.uid for p in pods), seen.during):
        return _replaced(seen, [p for p in pods if p.uid in deaths])
    if _unknown(seen) is None:
        return None
    return _step(_node_state(seen, seen.after, lambda e: e.detail.get("ready") == "True" and not e.detail.get("unschedulable")),
                 "Ready again")  # fmt: skip


def _nothing(seen: Seen) -> None:
    return None


_UNKNOWN = Rules(_unknown, _nothing, _unknown_recovered)
RULES: dict[str, Rules] = {
    "pod-kill": Rules(_pods_killed, _nothing, lambda seen: _replaced(seen, [t for t in _hit(seen) if t.kind == "Pod"])),
    "node-drain": Rules(_drained, _uncordoned, _moved),
    "node-cordon": Rules(_cordoned, _uncordoned, _uncordoned),
    "deployment-scale": Rules(_scaled, _scaled_back(ready=False), _scaled_back(ready=True)),
    "deployment-rollout": Rules(_restarted, _nothing, _all_updated),
    "deployment-delete": Rules(_deleted(_deployments), recovered=_ready_again(_deployments)),
    "service-delete": Rules(_deleted(_slices), recovered=_ready_again(_slices)),
    "statefulset-scale": Rules(_members_gone, recovered=_members_back),
    "statefulset-delete": Rules(_members_gone, recovered=_members_back),
    "network-delay": Rules(_slower, _chaos_gone, _fast_again),
    "network-loss": Rules(_lossy, _chaos_gone, _whole_again),
    "network-partition": Rules(_lossy, _chaos_gone, _whole_again),
}
