"""From what was seen to the chain of each fault: requested -> accepted -> observed -> undone -> recovered. Pure, standard library only.

An answer of an API is `accepted` and never more. `observed` takes a rule of the fault's kind: watch events of exactly the targets, or a
measured figure. What no rule can prove stays null.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from aftershock.chain import HopFunction, Seen, Step
from aftershock.proofs import RULES, UNKNOWN, targets_hit
from aftershock.slo import Interval

if TYPE_CHECKING:
    from aftershock.activities import ActivityRun
    from aftershock.events import Event
    from aftershock.faults import Planned
    from aftershock.observe.observer import ObserverReport
    from aftershock.undo import Entry

_REFUSALS = {"400", "403", "405", "409", "422", "429"}


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
    steady: Mapping[str, tuple[bool | None, str]], load: Mapping[str, Any], stopped: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`evidence.json`, with `chains` as its faults; `steady` maps `before` and `after` to (held, why).

    `stopped` has why and hint of a run that ended before its time.
    """
    before, after = steady.get("before", (None, "not looked at")), steady.get("after", (None, "not looked at"))
    return {
        "faults": list(faults), "activities": [r.evidence() for r in runs], "observers": [o.as_evidence() for o in observers],
        "steady": {"before": before[0], "after": after[0], "why": f"before: {before[1]}; after: {after[1]}"},
        "load": dict(load), "stopped": stopped,
        "undo": {"pending": sum(e.state != "done" for e in entries), "entries": [e.evidence() for e in entries]},
    }  # fmt: skip


def _chain(seen: Seen) -> dict[str, Any]:
    fault, run = seen.fault, seen.run
    rules = RULES.get(fault.action, UNKNOWN)
    given = ", ".join(f"{key}={value}" for key, value in fault.activity.arguments.items())
    requested = Step(run.time_us, "aftershock", f"{fault.activity.target}({given})"[:300])
    accepted = (
        Step(run.time_us + run.duration_us, "api", f"answered {json.dumps(run.output)[:200]}")
        if run.succeeded
        else None
    )
    observed = rules.observed(seen)
    undone = rules.undone(seen)
    recovered = _not_before(observed, rules.recovered(seen) if observed or accepted else None, run.time_us)
    steps = {
        "requested": requested,
        "accepted": accepted,
        "observed": observed,
        "undone": undone,
        "recovered": recovered,
    }
    return {
        "id": fault.id, "activity": fault.activity.name, "action": fault.action,
        "targets": [asdict(t) for t in targets_hit(seen)],
        "steps": {name: step.document() if step else None for name, step in steps.items()},
        "refused": None if accepted else refusal(run.error),
    }  # fmt: skip


def _not_before(observed: Step | None, recovered: Step | None, begun_us: int) -> Step | None:
    """Nothing has recovered before the fault was there whole, although replacements may be ready before the last target is gone."""
    if observed is None or recovered is None or recovered.time_us >= observed.time_us:
        return recovered
    value = (observed.time_us - begun_us) / 1e6 if recovered.unit == "s" else recovered.value
    return replace(recovered, time_us=observed.time_us, value=value)


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
